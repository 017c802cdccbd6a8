"""NaN, infinite and exactly zero losses and gradients.

HF's Trainer replaces a NaN loss by an average before it logs (`logging_nan_inf_filter`), so a NaN run shows as
`grad_norm` nan, as a loss of exactly 0.0, or in eval_loss only. Under fp16 scaling a single infinite grad_norm is
normal: the step is skipped. Measured on 183 public runs: "any NaN or inf" alarms on 4 of 151 healthy ones, the rules
here on none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ftdoctor.detectors.numeric.stats import last_attempt, longest_run, paired, tail_run
from ftdoctor.detectors.numeric.types import TOO_FEW, Judgement, Missing, Numbers, NumericContext, Result
from ftdoctor.run_model.series import Series

NON_FINITE = {"grad_nan_run": 3, "grad_inf_run": 8, "loss_run": 2, "evals": 2, "step_run": 3}
ZERO_LOSS = {"points": 3, "share": 0.5, "tail_share": 0.3}
ZERO_GRAD = {"points": 3, "share": 0.5}


_WORDS = {"step_loss": "a rank's own loss, before the Trainer's NaN filter,", "step_grad_norm": "the exact grad_norm"}


def non_finite(context: NumericContext, numbers: Numbers) -> Result:
    """Loss or gradients are NaN or infinite and stay so.

    Fires on: `loss_run` non-finite losses in a row; `grad_nan_run` NaN (or `grad_inf_run` infinite) gradient norms in
    a row; one NaN gradient after which the logged loss is exactly 0; a last point whose gradient is NaN and whose loss
    is NaN or exactly 0; all evaluation losses NaN (`evals` of them at least); a NaN average at the end.

    Heartbeats show each rank's own loss and norm at every step, before the filter (`step_loss`, `step_grad_norm`):
    `step_run` losses in a row that are not finite, or gradients as above.
    """
    n = {**NON_FINITE, **numbers}
    series = context.series
    if not {"loss", "grad_norm", "eval_loss", "step_loss", "train_loss"} & series.keys():
        return Missing(("loss",))
    loss = series.get("loss")
    if loss is not None and loss.nonfinite:
        flags = [not math.isfinite(v) for v in loss.values]
        start, length = longest_run(flags)
        if length >= n["loss_run"] or (length and tail_run(flags) == len(flags) <= 2):
            return _judgement("loss", loss, start, start + length - 1, length)
    grad = series.get("grad_norm")
    if grad is not None and grad.nonfinite:
        found = _gradients(grad, loss, n)
        if found is not None:
            return found
    if loss is not None and grad is not None and len(loss) and len(grad) and math.isnan(grad.values[-1]):
        last = paired(grad, loss).get(len(grad) - 1)
        if last is not None and (last == 0.0 or math.isnan(last)):
            return _judgement("grad_norm", grad, len(grad) - 1, len(grad) - 1, 1)
    average = series.get("train_loss")
    if average is not None and average.nonfinite and math.isnan(average.values[-1]):
        return _judgement("train_loss", average, len(average) - 1, len(average) - 1, 1)
    own = series.get("step_loss")
    if own is not None and own.nonfinite:
        start, length = longest_run([not math.isfinite(v) for v in own.values])
        if length >= n["step_run"]:
            return _judgement("step_loss", own, start, start + length - 1, length)
    exact = series.get("step_grad_norm")
    if exact is not None and exact.nonfinite:
        found = _gradients(exact, None, n, "step_grad_norm")
        if found is not None:
            return found
    evals = series.get("eval_loss")
    if evals is not None and evals.nonfinite and not _nothing_learned(series):
        flags = [not math.isfinite(v) for v in evals.values]
        tail = tail_run(flags)
        if tail >= n["evals"] or (tail == len(flags) and loss is not None and len(loss) >= 1):
            return _judgement("eval_loss", evals, len(flags) - tail, len(flags) - 1, tail)
    return None


def _nothing_learned(series: Mapping[str, Series]) -> bool:
    """Loss and gradients exactly 0 throughout: no label is trained, which makes an evaluation 0/0."""
    loss, grad = series.get("loss"), series.get("grad_norm")
    return bool(loss and grad and len(loss) >= 3 and len(grad) >= 3 and not any(loss.values) and not any(grad.values))


def nothing_to_learn(context: NumericContext, numbers: Numbers) -> Result:
    """Every label is masked.

    Loss and gradients are exactly 0 from the first step on and the evaluation loss is NaN (0/0).
    """
    evals = context.series.get("eval_loss")
    if evals is None or "loss" not in context.series:
        return Missing(("loss and eval_loss",))
    if not _nothing_learned(context.series) or evals.nonfinite < len(evals):
        return None
    loss = context.series["loss"]
    return Judgement("error", {"points": len(loss), "evals": len(evals)}, "loss", 0, len(loss) - 1)


def _gradients(grad: Series, loss: Series | None, n: Numbers, name: str = "grad_norm") -> Judgement | None:
    nan = [math.isnan(v) for v in grad.values]
    start, length = longest_run(nan)
    if length >= n["grad_nan_run"]:
        return _judgement(name, grad, start, start + length - 1, length)
    infinite = [not math.isfinite(v) for v in grad.values]
    start, length = longest_run(infinite)
    if length >= n["grad_inf_run"] and (tail_run(infinite) >= n["grad_inf_run"] or length > len(grad) / 2):
        return _judgement(name, grad, start, start + length - 1, length)
    first = nan.index(True) if True in nan else -1
    if first >= 0 and loss is not None:
        losses = paired(grad, loss)
        after = [losses[i] for i in range(first + 1, len(nan)) if i in losses]
        if len(after) >= 2 and sum(v == 0.0 for v in after) >= 0.5 * len(after):
            return _judgement(name, grad, first, len(nan) - 1, sum(nan))
    return None


def _judgement(name: str, series: Series, first: int, last: int, count: int) -> Judgement:
    step = series.steps[first]
    value = series.values[first]
    values: dict[str, object] = {
        "metric": _WORDS.get(name, name),
        "value": "NaN" if math.isnan(value) else "infinite",
        "step": None if step != step else f"{step:g}",
        "points": count,
        "total": len(series),
    }
    return Judgement("error", values, name, first, last)


def exact_zero_loss(context: NumericContext, numbers: Numbers) -> Result:
    """The loss is exactly 0.0 step after step and no gradient flows.

    Fires when at least `share` of the points, or an unbroken tail of `tail_share` of them (`points` at least), is
    exactly zero and the gradient norm there is zero, NaN or not logged. Zero losses with live gradients (memorised
    sets rounded to four digits, RL) stay quiet.
    """
    n = {**ZERO_LOSS, **numbers}
    loss = context.series.get("loss")
    if loss is None:
        return _zero_average(context) or Missing(("loss",))
    if len(loss) < n["points"]:
        return TOO_FEW
    zero = [v == 0.0 for v in loss.values]
    tail = tail_run(zero)
    enough_tail = tail >= max(n["points"], n["tail_share"] * len(zero))
    if sum(zero) < max(n["points"], n["share"] * len(zero)) and not enough_tail:
        return None
    grad = context.series.get("grad_norm")
    first = len(zero) - tail if enough_tail else zero.index(True)
    if grad is not None:
        norms = paired(loss, grad)
        alive = [
            i for i in range(first, len(zero)) if zero[i] and math.isfinite(norms.get(i, math.nan)) and norms[i] > 1e-8
        ]
        if len(alive) > 0.2 * sum(zero[first:]):
            return None
    elif context.task == "rl":
        return None
    values: dict[str, object] = {"zeros": sum(zero), "total": len(zero), "step": _step(loss, first)}
    return Judgement("error", values, "loss", first, len(zero) - 1)


def _zero_average(context: NumericContext) -> Judgement | None:
    """The Trainer's last line alone: an average of exactly 0 over a minute of training and more.

    A run that resumes at its own end prints 0.0 as well, after a moment.
    """
    average, runtime = context.series.get("train_loss"), context.series.get("train_runtime")
    if not average or not runtime or average.values[-1] != 0.0 or runtime.values[-1] < 60 or context.task == "rl":
        return None
    return Judgement("error", {"zeros": 1, "total": 1, "step": None}, "train_loss", len(average) - 1, len(average) - 1)


def grad_norm_zero(context: NumericContext, numbers: Numbers) -> Result:
    """The gradient norm is exactly 0 step after step: nothing is trained.

    In RL a batch whose answers all earn the same reward has no gradient; that is a warning there, not an error.
    """
    n = {**ZERO_GRAD, **numbers}
    grad = context.series.get("grad_norm")
    if grad is None:
        return Missing(("grad_norm",))
    start = last_attempt(grad)
    zero = [v == 0.0 for v in grad.values[start:]]
    if len(zero) < n["points"]:
        return TOO_FEW
    tail = tail_run(zero)
    if sum(zero) < max(n["points"], n["share"] * len(zero)) and tail < max(n["points"], 0.5 * len(zero)):
        return None
    first = start + zero.index(True)
    values: dict[str, object] = {"zeros": sum(zero), "total": len(zero), "step": _step(grad, first)}
    return Judgement("warning" if context.task == "rl" else "error", values, "grad_norm", first, len(grad) - 1)


def _step(series: Series, index: int) -> str | None:
    step = series.steps[index]
    return None if step != step else f"{step:g}"
