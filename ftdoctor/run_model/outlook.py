"""How fast the run goes and when it will end: what a screen shows of a run that is going on.

Pure functions of the run; times are seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ftdoctor.run_model.run import Run

RECENT = 100  # steps over which the speed is taken: long enough to hold an evaluation, short enough to follow a change
TOKEN_RATES = ("tokens/train_per_sec_per_gpu", "train_tokens_per_second", "tokens_per_second_per_gpu")


@dataclass(frozen=True, slots=True)
class Outlook:
    """Progress now; None where it is not known. `tokens_per_second` counts all GPUs."""

    step: float | None = None
    total: float | None = None
    seconds_per_step: float | None = None
    seconds_left: float | None = None
    tokens_per_second: float | None = None


def outlook(run: Run) -> Outlook:
    """Where the run stands. No seconds are left when it said that it finished."""
    step, total = run.last_step, run.total_steps
    pace = _pace(run)
    left = None
    if pace is not None and step is not None and total is not None and total >= step and not run.fact("finished"):
        left = (total - step) * pace
    return Outlook(step, total, pace, left, _tokens(run))


def _pace(run: Run) -> float | None:
    """Mean seconds of the last steps: bars count whole seconds, so that a median of fast steps would be 0."""
    series = run.series.get("seconds_per_step")
    if series is None or not len(series):
        return None
    recent = [v for v in series.values[-RECENT:] if math.isfinite(v)]
    mean = sum(recent) / len(recent) if recent else 0.0
    return mean or None


def _tokens(run: Run) -> float | None:
    for name in TOKEN_RATES:
        series = run.series.get(name)
        if series is not None and len(series) and math.isfinite(series.values[-1]):
            return series.values[-1] * ((run.world_size or 1) if name.endswith("per_gpu") else 1)
    return None
