"""The curves that a face draws: loss, gradient norm, learning rate; levels that rules look at, and evaluations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ftdoctor.diagnosis.limits import Limit, limits
from ftdoctor.ruleset.types import RuleSet
from ftdoctor.run_model.run import Run
from ftdoctor.run_model.series import Series

POINTS = 2000  # per curve handed to a face; no terminal has more dots in a row
MARKS = 200
METRICS = (("loss", "loss"), ("grad_norm", "gradient norm"), ("learning_rate", "learning rate"))


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric over the steps. `marks` are evaluations as (step, eval loss)."""

    name: str
    title: str
    xs: tuple[float, ...] = ()
    ys: tuple[float, ...] = ()
    limits: tuple[Limit, ...] = ()
    marks: tuple[tuple[float, float], ...] = ()


class Curves:
    """Makes the curves of a run; those that did not grow since the last call are the same objects."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._known: dict[str, tuple[tuple[object, ...], Curve]] = {}

    def of(self, run: Run) -> tuple[Curve, ...]:
        """One for each of METRICS, empty where nothing was logged."""
        levels = limits(self._rules, run)
        evals = run.series.get("eval_loss")
        out = []
        for name, title in METRICS:
            series = run.series.get(name)
            lines = tuple(level for level in levels if level.metric == name)
            size = len(series) if series else 0
            # a long curve is made anew when a point more can be seen, not with every step
            key = (size if size <= POINTS else size - size % (size // POINTS + 1), len(evals) if evals else 0, lines)
            known = self._known.get(name)
            if known is None or known[0] != key or series is None:
                known = self._known[name] = (key, _curve(name, title, series, lines, evals))
            out.append(known[1])
        return tuple(out)


def _curve(name: str, title: str, series: Series | None, lines: tuple[Limit, ...], evals: Series | None) -> Curve:
    if series is None:
        return Curve(name, title, limits=lines)
    xs, ys = thin(series.xs(), list(series.values))
    marks = tuple(zip(evals.xs(), evals.values, strict=True))[-MARKS:] if evals is not None else ()
    return Curve(name, title, xs, ys, lines, marks)


def thin(xs: list[float], ys: list[float], most: int = POINTS) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most `most` points: of each bucket the lowest and the highest, so that no spike is lost."""
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if len(points) > most:
        size = math.ceil(2 * len(points) / most)
        kept: list[tuple[float, float]] = []
        for at in range(0, len(points), size):
            bucket = points[at : at + size]
            kept += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
        points = kept
    return tuple(x for x, _ in points), tuple(y for _, y in points)
