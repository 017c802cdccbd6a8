"""Gradient norms, loss scale, learning rate and speed."""

from __future__ import annotations

import math
from statistics import fmean, median

from ftdoctor.detectors.numeric.stats import bounded, finite, longest_run, tail_run
from ftdoctor.detectors.numeric.trend import loss_diverging, loss_stuck
from ftdoctor.detectors.numeric.types import TOO_FEW, Judgement, Missing, Numbers, NumericContext, Result

GRAD_HIGH = {"above": 5.0, "points": 5, "times_median": 10.0}
LOSS_SCALE = {"floor": 1.0, "streak": 12, "skipped_late": 0.3}
THROUGHPUT = {"points": 20, "factor": 2.0, "seconds": 0.5}
LR_LOW = {"below": 2.0e-5}
LR_HIGH = {"lora": 1.0e-3, "full": 2.0e-4}


def grad_norm_high(context: NumericContext, numbers: Numbers) -> Result:
    """The gradient norm stays above the guide's 5.0.

    Alone that says little: 15 % of healthy public runs do it (full fine-tunes 7 of 12, DPO 3 of 3). So it is info while
    the loss falls, a warning when the loss does not and it is `times_median` times the run's own median, and an error
    only together with a diverging loss.
    """
    n = {**GRAD_HIGH, **numbers}
    grad = context.series.get("grad_norm")
    if grad is None:
        return Missing(("grad_norm",))
    values = list(grad.values)
    if len(values) < n["points"]:
        return TOO_FEW
    high = [math.isfinite(v) and v > n["above"] for v in values]
    start, length = longest_run(high)
    if length < n["points"]:
        return None
    normal = median([v for v in values if math.isfinite(v)])
    before = [v for v in values[:start] if math.isfinite(v)]
    usual = median(before) if len(before) >= 5 else normal
    peak = max(v for v in values[start : start + length])
    level = median(values[start : start + length])
    found_diverging = loss_diverging(context, {})
    diverging = isinstance(found_diverging, Judgement) and found_diverging.severity == "error"
    far = not _loss_falls(context) and level > n["times_median"] * usual and tail_run(high) >= n["points"]
    severity = "error" if diverging and tail_run(high) >= 1 else "warning" if diverging or far else "info"
    step = grad.steps[start]
    found: dict[str, object] = {
        "above": n["above"],
        "points": length,
        "peak": peak,
        "median": normal,
        "step": None if step != step else f"{step:g}",
        "loss": "diverges with it" if diverging else "does not diverge",
    }
    return Judgement(severity, found, "grad_norm", start, start + length - 1)  # type: ignore[arg-type]


def _loss_falls(context: NumericContext) -> bool:
    loss = context.series.get("loss")
    values = [v for _, v in finite(loss)] if loss is not None else []
    fifth = max(2, len(values) // 5)
    return len(values) >= 5 and fmean(values[-fifth:]) < 0.98 * fmean(values[:fifth])


def loss_scale_collapse(context: NumericContext, numbers: Numbers) -> Result:
    """The fp16 loss scale runs to its floor.

    The first steps of every fp16 run overflow while the scale settles (from 2^32 that takes some twenty): a scale
    that settles above `floor` is healthy however many steps that took.
    """
    n = {**LOSS_SCALE, **numbers}
    scale = context.series.get("loss_scale")
    if scale is None or not len(scale):
        return Missing(("loss scale",))
    low = [v <= n["floor"] for v in scale.values]
    if not low[-1]:
        return None
    first = low.index(True)
    found: dict[str, object] = {"first": scale.values[0], "last": scale.values[-1], "skipped": len(scale)}
    return Judgement("error", found, "loss_scale", max(0, first - 4), len(scale) - 1)


def throughput_drop(context: NumericContext, numbers: Numbers) -> Result:
    """Steps take far longer than they did, and stay slow.

    Compares the median step time of the last fifth with that of the second fifth (the first holds warm-up and
    compilation); `factor` times as long, with no step of the last fifth as fast as the early median. Evaluation and
    saves are single slow samples and cannot do that.
    """
    n = {**THROUGHPUT, **numbers}
    series = context.series.get("seconds_per_step")
    if series is None:
        return Missing(("step times",))
    values = [v for _, v in finite(series) if v >= 0]
    if len(values) < n["points"]:
        return TOO_FEW
    fifth = len(values) // 5
    early, late = median(values[fifth : 2 * fifth]), median(values[-fifth:])
    if late < n["seconds"] or late < n["factor"] * max(early, 1e-3) or early <= 0:
        return None
    if fmean(values[-fifth:]) < n["factor"] * fmean(values[fifth : 3 * fifth]):
        return None
    if min(values[-fifth:]) < 1.3 * early:
        return None
    start = len(series) - fifth
    found: dict[str, object] = {"early": early, "late": late, "factor": f"{late / early:.1f}"}
    return Judgement("warning", found, "seconds_per_step", max(0, start), len(series) - 1)


def _peak_rate(context: NumericContext) -> float | None:
    logged = context.series.get("learning_rate")
    rates = [v for v in logged.values if math.isfinite(v)] if logged is not None else []
    if rates:
        return max(rates)
    configured = context.facts.get("learning_rate")
    return float(configured) if isinstance(configured, (int, float)) and not isinstance(configured, bool) else None


def lr_too_low(context: NumericContext, numbers: Numbers) -> Result:
    """The learning rate is too low to train, and the loss shows it.

    22 of 26 public runs at 2e-5 or below are healthy, so a low rate alone is no finding here; with a loss that does
    not move it is the likely cause.
    """
    n = {**LR_LOW, **numbers}
    rate = _peak_rate(context)
    if rate is None:
        return Missing(("learning_rate",))
    logged = context.series.get("learning_rate")
    if rate == 0.0 and logged is not None and len(logged) >= 5:
        if "loss" in context.series and all(v == 0.0 for v in context.series["loss"].values):
            return None  # exact_zero_loss names that
        return Judgement("error", {"rate": "0"}, "learning_rate", 0, len(logged) - 1)
    if rate <= 0 or rate > n["below"] or logged is None:
        return None
    if not isinstance(loss_stuck(context, {}), Judgement) or context.task not in ("lora", "qlora"):
        return None
    return Judgement("error", {"rate": f"{bounded(rate):g}"}, "learning_rate", 0, len(logged) - 1)


def lr_too_high(context: NumericContext, numbers: Numbers) -> Result:
    """The learning rate is far above what this kind of training tolerates, and the loss diverges."""
    n = {**LR_HIGH, **numbers}
    rate = _peak_rate(context)
    logged = context.series.get("learning_rate")
    if rate is None or logged is None or not len(logged):
        return Missing(("learning_rate",))
    limit = n["full"] if context.task == "full" else n["lora"]
    if rate <= limit or not isinstance(loss_diverging(context, {}), Judgement):
        return None
    at = max(range(len(logged)), key=lambda i: logged.values[i] if math.isfinite(logged.values[i]) else -1.0)
    return Judgement("warning", {"rate": f"{bounded(rate):g}", "limit": f"{limit:g}"}, "learning_rate", at, at)
