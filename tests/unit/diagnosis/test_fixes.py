"""Fixes are written for this run: values computed from its configuration, remedies that do not apply left out."""

from __future__ import annotations

import pytest

from ftdoctor.diagnosis.fixes import resolve
from ftdoctor.diagnosis.template import fields, fill
from ftdoctor.events import ConfigSeen, Origin
from ftdoctor.ruleset.types import FixSpec
from ftdoctor.run_model.run import Run


def run(**config: object) -> Run:
    result = Run()
    result.apply(ConfigSeen(Origin("c.yml"), "axolotl", dict(config)))
    return result


@pytest.mark.parametrize(
    ("operator", "before", "after"),
    [
        ({"halve": True}, 4, 2),
        ({"double": True}, 3, 6),
        ({"divide": 10}, "2e-4", 2e-5),
        ({"multiply": 5}, 2e-5, 1e-4),
        ({"remove": True}, 4, None),
        ({"device": "cpu"}, 4, {"device": "cpu"}),
        ("auto", 4, "auto"),
    ],
)
def test_values(operator: object, before: object, after: object) -> None:
    (fix,) = resolve((FixSpec("t", {"axolotl.x": operator}),), run(x=before), {})
    assert fix.config_patch["axolotl.x"] == (pytest.approx(after) if isinstance(after, float) else after)


def test_a_fix_that_changes_nothing_is_not_offered() -> None:
    assert resolve((FixSpec("t", {"axolotl.x": {"halve": True}}),), run(x=1), {}) == ()


def test_without_the_current_value_the_patch_is_in_words() -> None:
    (fix,) = resolve((FixSpec("t", {"axolotl.x": {"halve": True}}),), Run(), {})
    assert fix.config_patch["axolotl.x"] == "half the current value"


def test_only_if() -> None:
    spec = FixSpec("t", note="n", only_if=({"key": "axolotl.x", "above": 1},))
    assert resolve((spec,), run(x=2), {})
    assert not resolve((spec,), run(x=1), {})


def test_without_a_configuration_a_remedy_is_kept_in_words() -> None:
    spec = FixSpec("t", {"axolotl.x": {"halve": True}}, only_if=({"key": "axolotl.x", "above": 1},))
    (fix,) = resolve((spec,), Run(), {})
    assert fix.config_patch == {"axolotl.x": "half the current value"}
    assert not resolve((FixSpec("t", only_if=({"key": "deepspeed.zero_optimization.stage", "equals": 3},)),), Run(), {})


def test_templates() -> None:
    assert (
        fill("{who} asked for {size|memory} at {step|?}", {"who": "Rank 3", "step": 0.5})
        == "Rank 3 asked for memory at 0.5"
    )
    assert fill("{missing}", {}) == "unknown"
    assert fill("{x}", {"x": "{who}", "who": "no"}) == "{who}"
    assert fields("{a} {b|c}") == {"a"}
