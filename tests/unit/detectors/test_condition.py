"""The closed vocabulary of configuration and fact tests."""

from __future__ import annotations

from typing import Any

import pytest

from ftdoctor.detectors.base import DetectorSpec, Missing
from ftdoctor.detectors.condition import Condition, holds
from ftdoctor.events import ConfigSeen, FactLearned, Origin
from ftdoctor.run_model.run import Run

HERE = Origin("config.yml")


def run_of(yaml: dict[str, Any] | None = None, deepspeed: dict[str, Any] | None = None, **facts: Any) -> Run:
    """A run that knows this much."""
    run = Run()
    if yaml is not None:
        run.apply(ConfigSeen(HERE, "axolotl", yaml, {key: line for line, key in enumerate(yaml, 1)}))
    if deepspeed is not None:
        run.apply(ConfigSeen(Origin("ds.json"), "deepspeed", deepspeed, {}))
    for name, value in facts.items():
        run.apply(FactLearned(Origin("train.log", 7), name, value))
    return run


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ({"key": "axolotl.learning_rate", "at_most": 2.0e-5}, True),
        ({"key": "axolotl.learning_rate", "above": 2.0e-5}, False),
        ({"key": "axolotl.adapter", "one_of": ["lora", "qlora"]}, True),
        ({"key": "axolotl.bf16", "equals": True}, True),
        ({"key": "axolotl.bf16", "equals": "true"}, False),
        ({"key": "axolotl.datasets[].type", "matches": "^alpaca"}, True),
        ({"key": "axolotl.datasets[].type", "not_equals": "alpaca"}, False),
        ({"key": "axolotl.absent", "missing": True}, True),
        ({"key": "axolotl.absent", "above": 0}, False),
        ({"key": "axolotl.absent", "not_equals": "x"}, True),
    ],
)
def test_comparisons(test: dict[str, Any], expected: bool) -> None:
    yaml = {
        "learning_rate": "2e-5",
        "adapter": "qlora",
        "bf16": True,
        "datasets": [{"type": "chat_template"}, {"type": "alpaca"}],
    }
    assert holds(test, run_of(yaml)) is expected


@pytest.mark.parametrize(("dropped", "expected"), [(19, False), (20, True), (None, False)])
def test_times_scales_the_other_key(dropped: int | None, expected: bool) -> None:
    run = run_of(rows=100, **({} if dropped is None else {"dropped_long": dropped}))
    assert holds({"key": "fact.dropped_long", "at_least_key": "fact.rows", "times": 0.2}, run) is expected


def test_times_of_something_that_is_no_number_holds_never() -> None:
    assert not holds({"key": "fact.a", "at_least_key": "fact.b", "times": 2}, run_of(a=1, b="many"))


def test_unknown_keys_are_those_no_schema_names() -> None:
    spec = DetectorSpec("condition", {"all": [{"key": "unknown.axolotl", "missing": False}]})
    run = run_of({"base_model": "m", "learningrate": 1, "fused_mlp": True, "seed": 1})
    [hit] = Condition().evaluate(spec, run)  # type: ignore[misc]
    assert hit.values["unknown_keys"] == "learningrate (did you mean learning_rate?), fused_mlp"
    assert hit.evidence[0].line_first == 2


def test_unknown_keys_without_the_file_cannot_be_judged() -> None:
    spec = DetectorSpec("condition", {"all": [{"key": "unknown.deepspeed", "missing": False}]})
    assert Condition().evaluate(spec, run_of({"base_model": "m"})) == Missing(("DeepSpeed JSON",))
    assert Condition().evaluate(spec, run_of(deepspeed={"zero_optimization": {}})) == []
    assert len(Condition().evaluate(spec, run_of(deepspeed={"zero_optimisation": {}}))) == 1  # type: ignore[arg-type]
