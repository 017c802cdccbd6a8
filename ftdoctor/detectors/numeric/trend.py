"""Where the loss goes: stuck, diverging, overfitting.

Levels are means of windows, never single points; drifts are compared with the run's own noise. See docs of each judge
for what 183 public runs say about its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

from ftdoctor.detectors.numeric.stats import bounded, finite, last_attempt, longest_run, significance, window_means
from ftdoctor.detectors.numeric.types import TOO_FEW, Judgement, Missing, Numbers, NumericContext, Result
from ftdoctor.run_model.series import Series

STUCK = {"points": 40, "few_points": 10, "drop": 0.015, "flat_drop": 0.004, "sigmas": 3.0, "plateau": 0.01}
DIVERGING = {"points": 5, "factor": 1.5, "rise": 0.4, "share": 0.05}
OVERFITTING = {
    "rise": 0.05,
    "rise_two": 0.08,
    "train_drop": 0.02,
    "gap": 4.0,
    "gap_least": 0.2,
    "epochs": 20.0,
    "heart": 0.05,
}


# class counts and vocabulary sizes (Llama, Qwen, Mistral, GPT-2, BERT, ...): ln of each is where a dead model sits
# fmt: off
COMMON_SIZES = (
    3, 4, 5, 6, 7, 8, 10, 20, 28, 77, 100, 150, 1000, 21128, 30522, 32000, 32001, 49152, 50257, 50265, 50304,
    64000, 100277, 128256, 151643, 151646, 151665, 151936, 152064, 250112, 250680, 256000, 262144,
)
# fmt: on


def loss_stuck(context: NumericContext, numbers: Numbers) -> Result:
    """The loss does not move.

    First fifth against last fifth of the last attempt: the mean falls by less than `drop` (measured: stuck runs at
    most 1.7 %, the slowest healthy run 2.0 %) and by less than `sigmas` standard errors, or by less than `flat_drop`
    at all. A level at ln(classes) or ln(vocabulary) within `plateau` makes fewer points (`few_points`) enough.
    Preference and RL losses are not judged: they start near a constant.
    """
    n = {**STUCK, **numbers}
    loss = context.series.get("loss")
    if loss is None:
        return Missing(("loss",))
    if context.task == "rl":
        return Missing(("a loss that is meant to fall (reinforcement learning)",))
    attempt = last_attempt(loss)
    points = finite(loss, attempt)
    values = [bounded(v) for _, v in points]
    level = median(values) if values else 0.0
    classes = _log_of_count(level, context) if values else None
    if classes is None and not _from_the_start(loss, attempt):
        return Missing(("the start of the training",))
    if len(values) < (n["few_points"] if classes else n["points"]):
        return TOO_FEW
    if level <= 1e-3 or (context.task == "dpo" and classes is None and level < 0.5):
        return None
    fifth = max(3, len(values) // 5)
    first, last = values[:fifth], values[-fifth:]
    start, end = fmean(first), fmean(last)
    if start <= 0:
        return None
    drop = (start - end) / start
    spread = (max(values) - min(values)) / level
    sigmas = significance(first, last)
    stuck = drop < n["flat_drop"] or (drop < n["drop"] and sigmas < n["sigmas"])
    if not stuck or drop < -0.1 or _evals_improve(context, n["drop"]):
        return None
    if classes is None and spread > 1.5 and drop > -0.004:
        return None  # the batches differ more than any trend could show
    error = classes is not None or len(values) >= 100 or _learning_rate_zero(context)
    found: dict[str, object] = {
        "first": start,
        "last": end,
        "drop": f"{100 * drop:.1f} %",
        "points": len(values),
        "plateau": f" The level is ln {classes}: the model answers as if by chance." if classes else "",
    }
    return Judgement("error" if error else "warning", found, "loss", points[0][0], points[-1][0])


def _from_the_start(loss: Series, attempt: int) -> bool:
    """False for a resumed run or the end of a log: a converged loss is flat, and that is no fault."""
    count = len(loss) - attempt
    if count < 3:
        return True
    epochs = loss.epochs
    if epochs[-1] == epochs[-1] and epochs[attempt] == epochs[attempt]:
        return epochs[attempt] <= 0.2 * epochs[-1]
    steps = loss.steps
    if steps[-1] == steps[-1] and steps[attempt] == steps[attempt]:
        return steps[attempt] <= max(0.2 * steps[-1], 3 * (steps[-1] - steps[attempt]) / (count - 1))
    return True


def _log_of_count(level: float, context: NumericContext) -> str | None:
    """The number of equally likely answers that this level would mean, when it is one a model is likely to have."""
    known = context.facts.get("vocab_size") or context.facts.get("num_labels")
    counts = [int(known)] if isinstance(known, (int, float)) else []
    counts += COMMON_SIZES
    if context.task not in ("dpo", "rl"):
        counts.append(2)
    for count in counts:
        target = math.log(count) if count > 1 else 0.0
        tolerance = 0.004 * target if count < 1000 else 0.002 * target
        if target and abs(level - target) <= tolerance:
            return f"{count}"
    return None


def _evals_improve(context: NumericContext, drop: float) -> bool:
    evals = context.series.get("eval_loss")
    if evals is None:
        return False
    values = [v for _, v in finite(evals)]
    return len(values) >= 2 and values[0] > 0 and (values[0] - min(values[1:])) / values[0] > drop


def _learning_rate_zero(context: NumericContext) -> bool:
    rates = context.series.get("learning_rate")
    return rates is not None and len(rates) >= 5 and all(v == 0.0 for v in rates.values)


def loss_diverging(context: NumericContext, numbers: Numbers) -> Result:
    """The loss climbed well above where it had been, and stays there.

    The level at the end (median of the last `share` of the points, at least 3) is `factor` times the best window
    before it and `rise` higher, and no less than half of what was reached is kept to the end. Preference losses need
    twice the factor: they bounce (measured: 1 false alarm in 104, a DPO run).
    """
    n = {**DIVERGING, **numbers}
    loss = context.series.get("loss")
    if loss is None:
        return Missing(("loss",))
    if context.task == "rl":
        return Missing(("a loss that is meant to fall (reinforcement learning)",))
    points = finite(loss)
    values = [bounded(v) for _, v in points]
    if len(values) < n["points"]:
        return TOO_FEW
    width = max(2, min(20, len(values) // 10)) if len(values) >= 10 else 1
    means = window_means(values, width)
    tail = max(3, math.ceil(n["share"] * len(values)))
    end = median(values[-tail:])
    held = max(1, math.ceil(tail / width))
    before = means[:-held] or means[:1]
    best = min(before)
    best_at = before.index(best) * width
    factor = n["factor"] * (2.0 if context.task == "dpo" else 1.0)
    if best <= 0 or end < factor * best or end < best + n["rise"]:
        return _excursion(loss, points, values, factor, n)
    after = values[best_at + width :]
    high = sum(v > best * (1 + (factor - 1) / 2) and v > best + n["rise"] / 2 for v in after)
    if (
        len(after) < 3
        or high < 0.5 * min(len(after), 4 * tail)
        or not all(v > best + n["rise"] / 2 for v in values[-min(tail, 3) :])
    ):
        return None
    peak = max(after)
    start = next((i for i in range(best_at + width, len(values)) if values[i] > best + n["rise"] / 2), best_at)
    step = loss.steps[points[start][0]]
    found: dict[str, object] = {
        "best": best,
        "last": end,
        "peak": peak,
        "step": None if step != step else f"{step:g}",
        "factor": f"{end / best:.1f}",
        "how": f"was {best:.4g} at its best and ended at {end:.4g} ({end / best:.1f} times)",
    }
    return Judgement("error", found, "loss", points[best_at][0], points[-1][0])


def _excursion(
    loss: Series, points: list[tuple[int, float]], values: list[float], factor: float, n: Numbers
) -> Judgement | None:
    """The loss left for a stretch (a tenth of the run, 10 points at least) and came back.

    A warning, the rate was too high.
    """
    level = fmean(values[: max(3, len(values) // 20)])
    limit = max(2 * factor * level, level + 2 * n["rise"])
    start, length = longest_run(v > limit for v in values)
    if level <= 0 or length < max(10, 0.1 * len(values)):
        return None
    step = loss.steps[points[start][0]]
    found: dict[str, object] = {
        "best": level,
        "last": values[-1],
        "peak": max(values),
        "step": None if step != step else f"{step:g}",
        "factor": f"{max(values) / level:.1f}",
        "how": f"left {level:.4g} for {max(values):.4g} over {length} points and came back to {values[-1]:.4g}",
    }
    return Judgement("warning", found, "loss", points[start][0], points[start + length - 1][0])


def overfitting(context: NumericContext, numbers: Numbers) -> Result:
    """Evaluation loss rises while training loss falls.

    The last evaluation is above the best by `rise` (with two evaluations: `rise_two`) and the training loss fell by
    `train_drop` since the best one. The evaluation before step 1 is the base model's and does not count. Measured:
    "above best" alone alarms on 41 % of healthy runs, 5 % on none of 34.
    """
    n = {**OVERFITTING, **numbers}
    evals = context.series.get("eval_loss")
    loss = context.series.get("loss")
    if evals is None:
        return _by_heart(context, n) or Missing(("eval_loss",))
    first_train = next((s for s in loss.steps if s == s), None) if loss is not None else None
    points = [
        (i, v)
        for i, v in finite(evals)
        if not (evals.steps[i] == 0 or (i == 0 and evals.epochs[i] == 0))
        and not (i == 0 and first_train is not None and evals.steps[i] < first_train)
        and not (i == 0 and _before_training(evals.lines[0], loss))
    ]
    if len(points) < 2:
        return TOO_FEW
    best_place = min(range(len(points)), key=lambda k: points[k][1])
    best_index, best = points[best_place]
    last_index, last = points[-1]
    rise = (last - best) / best if best > 0 else 0.0
    if rise < (n["rise_two"] if len(points) == 2 else n["rise"]):
        return _gap(context, last, last_index, n)
    if len(points) >= 4 and points[-2][1] < best * (1 + n["rise"] / 2):
        return None  # one bad evaluation at the end is not a trend
    if loss is not None and not _train_fell(context, best_index, n["train_drop"]):
        return None
    step = evals.steps[best_index]
    found: dict[str, object] = {
        "best": best,
        "last": last,
        "how": f"eval_loss was best at {best:.4g} (step {'unknown' if step != step else f'{step:g}'}) and is {last:.4g}"
        f" now, {100 * rise:.0f} % higher, while the training loss fell",
        "evals": len(points),
    }
    return Judgement("warning", found, "eval_loss", best_index, last_index)


def _gap(context: NumericContext, last: float, last_index: int, n: Numbers) -> Judgement | None:
    """The training loss fell to a fraction of the evaluation loss, before that one rises.

    Measured: the largest ratio of healthy public runs is 1.8, the smallest of overfitted ones 6.5.
    """
    loss = context.series.get("loss")
    values = [bounded(v) for _, v in finite(loss)] if loss is not None else []
    if len(values) < 10 or last < n["gap_least"] or context.task in ("dpo", "rl"):
        return None
    width = max(3, len(values) // 10)
    end = fmean(values[-width:])
    if end * n["gap"] > last or end > 0.3 * fmean(values[:width]):
        return None
    found: dict[str, object] = {
        "how": f"The training loss is down to {end:.3g} and eval_loss is {last:.3g}: the rows that were trained on are"
        " known by heart, those held out are not",
        "best": last,
        "last": last,
    }
    return Judgement("warning", found, "eval_loss", last_index, last_index)


def _by_heart(context: NumericContext, n: Numbers) -> Judgement | None:
    """Nothing was held out, the rows were read many times over, and hardly any loss is left."""
    loss = context.series.get("loss")
    if loss is None or context.task in ("dpo", "rl") or len(loss) < 20 or not loss.epochs[-1] >= n["epochs"]:
        return None
    points = finite(loss)
    values = [v for _, v in points]
    if len(values) < 20:
        return None
    width = max(5, len(values) // 10)
    start, end = fmean(values[:width]), fmean(values[-width:])
    if end > n["heart"] or end > 0.5 * start or end <= 1e-6:
        return None
    found: dict[str, object] = {
        "how": f"Every row was read {loss.epochs[-1]:.0f} times and the training loss is down to {end:.2g}: they are"
        " known by heart, and no evaluation says what became of others",
        "best": start,
        "last": end,
    }
    return Judgement("warning", found, "loss", points[-width][0], points[-1][0])


def _before_training(line: int, loss: object) -> bool:
    lines: Sequence[int] = getattr(loss, "lines", ())
    return len(lines) > 0 and 0 < line < lines[0]


def _train_fell(context: NumericContext, best_index: int, drop: float) -> bool:
    """Training loss around the best evaluation against the end."""
    loss, evals = context.series["loss"], context.series["eval_loss"]
    values = [bounded(v) for v in loss.values if math.isfinite(v)]
    if len(values) < 4:
        return True
    place = evals.steps[best_index]
    if place == place and loss.steps[-1] == loss.steps[-1]:
        at = sum(1 for s in loss.steps if s <= place)
    elif evals.lines[best_index] > 0 and loss.lines[-1] > 0:
        at = sum(1 for line in loss.lines if line <= evals.lines[best_index])
    else:
        at = len(values) // 2
    at = max(2, min(at, len(values) - 1))
    width = max(2, min(10, len(values) // 10))
    around = fmean(values[max(0, at - width) : at])
    end = fmean(values[-width:])
    return end < around * (1 - drop)
