"""Which levels of a metric the rules judge against, for the kind of training this run is: the lines in a plot."""

from __future__ import annotations

from dataclasses import dataclass

from ftdoctor.detectors.numeric_rule import context_of
from ftdoctor.ruleset.types import RuleSet
from ftdoctor.run_model.run import Run

_LEVELS = {"grad_norm_high": ("grad_norm", "above"), "lr_too_low": ("learning_rate", "below")}


@dataclass(frozen=True, slots=True)
class Limit:
    """A level of `metric` from which on `rule` looks closer; `side` is `above` or `below`."""

    metric: str
    value: float
    side: str
    rule: str


def limits(rules: RuleSet, run: Run) -> tuple[Limit, ...]:
    """Levels that hold for this run. The learning rate's depends on what is trained, so it may be unknown."""
    found: list[Limit] = []
    task = context_of(run).task
    for rule in rules.rules:
        for spec in rule.detect:
            judge = spec.options.get("judge") if spec.kind == "numeric" else None
            if judge == "lr_too_high":
                key = {"full": "full", "lora": "lora", "qlora": "lora"}.get(task)
                value, metric, side = spec.options.get(key or ""), "learning_rate", "above"
            elif judge in _LEVELS:
                metric, side = _LEVELS[judge]
                value = spec.options.get(side)
            else:
                continue
            if isinstance(value, (int, float)):
                found.append(Limit(metric, float(value), side, rule.id))
    return tuple(found)
