"""Bridge from a rule to a judge of `detectors.numeric`.

Options `judge` (its name) and numbers that override its defaults.
"""

from __future__ import annotations

from collections.abc import Mapping

from ftdoctor.detectors.base import DetectorSpec, Hit, Missing, Result
from ftdoctor.detectors.condition import lookup
from ftdoctor.detectors.numeric import JUDGES, NumericContext, guess_task
from ftdoctor.detectors.numeric import Missing as NumericMissing
from ftdoctor.events import Origin
from ftdoctor.findings import Evidence
from ftdoctor.run_model.run import Run
from ftdoctor.run_model.series import Series

_FACTS = {
    "learning_rate": "axolotl.learning_rate",
    "adapter": "axolotl.adapter",
    "warmup_steps": "axolotl.warmup_steps",
    "fp16": "axolotl.fp16",
    "rl": "axolotl.rl",
    "vocab_size": "fact.vocab_size",
    "total_steps": "fact.total_steps",
    "finished": "fact.finished",
}


class NumericRule:
    """See the module."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """At most one hit."""
        numbers = {k: float(v) for k, v in spec.options.items() if k != "judge" and isinstance(v, (int, float))}
        context = context_of(run)
        result = JUDGES[str(spec.options["judge"])](context, numbers)
        if result is None:
            return []
        if isinstance(result, NumericMissing):
            return Missing(result.names)
        series = context.series[result.series]
        first, last = result.index_first, result.index_last
        line = series.lines[last]
        step = series.steps[first]
        origin = series.first
        assert origin is not None
        at = Origin(origin.path, series.lines[first], origin.rank, origin.node, None, origin.order + first)
        excerpt = window(series, first, last)
        evidence = Evidence("metric", series.path, series.lines[first], line, excerpt)
        return [
            Hit(
                at,
                result.values,
                (evidence,),
                None,
                None if step != step else step,
                severity=result.severity,
                final=True,
            )
        ]


def context_of(run: Run) -> NumericContext:
    """The run as the judges see it: for each metric the source with most samples."""
    best: dict[str, Series] = {}
    for key, series in run.series.items():
        name = key.partition("@")[0]
        if name not in best or _telling(name, series) > _telling(name, best[name]):
            best[name] = series
    facts = {}
    for name, key in _FACTS.items():
        found = lookup(key, run)
        if found:
            facts[name] = found[0]
    stated = run.fact("task")
    return NumericContext(best, str(stated) if stated else guess_task(best, facts), facts)


def _telling(name: str, series: Series) -> tuple[int, int]:
    """Of one metric's sources the longest; of the ranks' own losses the one that is not finite."""
    return (series.nonfinite if name.startswith("step_") else 0, len(series))


def window(series: Series, first: int, last: int, points: int = 8) -> str:
    """`step value` pairs of a window, thinned to a few points."""
    count = last - first + 1
    picks = (
        range(first, last + 1)
        if count <= points
        else [first + round(i * (count - 1) / (points - 1)) for i in range(points)]
    )
    pairs = []
    for i in picks:
        step = series.steps[i]
        place = f"step {step:g}" if step == step else f"#{i + 1}"
        pairs.append(f"{place}: {series.values[i]:.4g}")
    return f"{series.name.partition('@')[0]}  " + "  ".join(pairs)


def facts_used() -> Mapping[str, str]:
    """Which run keys feed the judges' facts."""
    return _FACTS
