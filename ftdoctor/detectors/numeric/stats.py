"""Small robust statistics on logged series: windows, levels, trends. Plain Python, O(n)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean, median

from ftdoctor.run_model.series import Series


def last_attempt(series: Series) -> int:
    """Index where the last attempt starts: a restart makes the step go back."""
    start = 0
    steps = series.steps
    for i in range(1, len(steps)):
        if steps[i] < steps[i - 1]:
            start = i
    return start


def finite(series: Series, start: int = 0) -> list[tuple[int, float]]:
    """(index, value) of the finite samples from `start` on."""
    values = series.values
    return [(i, values[i]) for i in range(start, len(values)) if math.isfinite(values[i])]


def window_means(values: Sequence[float], width: int) -> list[float]:
    """Means of consecutive, non-overlapping windows; the last one may be up to twice as long."""
    if width <= 0 or not values:
        return []
    count = max(1, len(values) // width)
    edges = [i * width for i in range(count)] + [len(values)]
    return [fmean(values[a:b]) for a, b in pairwise(edges)]


def moving_median(values: Sequence[float], width: int) -> list[float]:
    """Median of the last `width` values at each place."""
    return [median(values[max(0, i - width + 1) : i + 1]) for i in range(len(values))]


def significance(first: Sequence[float], last: Sequence[float]) -> float:
    """How many standard errors the mean of `last` lies below that of `first` (Welch); 0 when it cannot be told."""
    if len(first) < 3 or len(last) < 3:
        return 0.0
    m1, m2 = fmean(first), fmean(last)
    v1 = sum((x - m1) ** 2 for x in first) / (len(first) - 1)
    v2 = sum((x - m2) ** 2 for x in last) / (len(last) - 1)
    error = math.sqrt(v1 / len(first) + v2 / len(last))
    if error == 0:
        return 0.0 if m1 == m2 else math.copysign(99.0, m1 - m2)
    return (m1 - m2) / error


def tail_run(flags: Sequence[bool]) -> int:
    """How many of the last flags are true without a break."""
    count = 0
    for flag in reversed(flags):
        if not flag:
            break
        count += 1
    return count


def longest_run(flags: Iterable[bool]) -> tuple[int, int]:
    """(start, length) of the longest unbroken stretch of true flags."""
    best_start = best = start = length = 0
    for i, flag in enumerate(flags):
        if flag:
            if length == 0:
                start = i
            length += 1
            if length > best:
                best_start, best = start, length
        else:
            length = 0
    return best_start, best


def bounded(value: float) -> float:
    """The value, kept in a range where squares and sums stay finite."""
    return max(-1e150, min(1e150, value))


def paired(left: Series, right: Series) -> dict[int, float]:
    """Values of `right` on the lines (or steps) of `left`, by index in `left`."""
    same_source = left.path == right.path and len(left) and left.lines[-1] > 0
    a = left.lines if same_source else left.steps
    b = right.lines if same_source else right.steps
    known = {key: value for key, value in zip(b, right.values, strict=True) if key == key}
    return {i: known[key] for i, key in enumerate(a) if key in known}
