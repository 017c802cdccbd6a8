"""From a rule's remedies to the values for this run.

A patch value is literal, or one of {halve, double, divide: n, multiply: n, remove}, which need the current value.
Without it the patch says so in words and cannot be applied by machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from ftdoctor.detectors.condition import holds, lookup
from ftdoctor.diagnosis.template import fill
from ftdoctor.findings import Fix
from ftdoctor.ruleset.types import FixSpec
from ftdoctor.run_model.run import Run

_WORDS = {"halve": "half the current value", "double": "twice the current value"}


def resolve(specs: tuple[FixSpec, ...], run: Run, values: Mapping[str, object]) -> tuple[Fix, ...]:
    """The remedies that apply to this run, in the rule's order.

    A condition on the Axolotl configuration of a run that shows none is no reason to keep a remedy back: it is then
    given in words. `known: true` in a condition asks for a configuration that shows it.
    """
    blind = not {"axolotl", "effective"} & run.configs.keys()
    fixes = (
        _one(spec, run, values)
        for spec in specs
        if all(
            holds(test, run) or (blind and test["key"].startswith("axolotl.") and not test.get("known"))
            for test in spec.only_if
        )
    )
    return tuple(fix for fix in fixes if not _is_so_already(fix))


def _is_so_already(fix: Fix) -> bool:
    """The configuration has every value that the fix would write."""
    return bool(fix.config_patch) and all(
        key in fix.config_before and fix.config_before[key] == value for key, value in fix.config_patch.items()
    )


def _one(spec: FixSpec, run: Run, values: Mapping[str, object]) -> Fix:
    return Fix(
        title=fill(spec.title, values),
        config_patch={key: _value(key, value, run) for key, value in spec.config_patch.items()},
        env=dict(spec.env),
        command=spec.command,
        note=fill(spec.note, values),
        cost=spec.cost,
        config_before={key: found[0] for key in spec.config_patch if len(found := lookup(key, run)) == 1},
        safe_to_retry=spec.safe_to_retry,
    )


def in_words(value: object) -> bool:
    """True when a patch value only says what to do, because the current value is not known."""
    return isinstance(value, str) and value.endswith(" the current value")


def _value(key: str, value: object, run: Run) -> object:
    if not isinstance(value, dict) or len(value) != 1:
        return value
    operator, operand = next(iter(value.items()))
    if operator == "remove":
        return None
    if operator not in ("halve", "double", "divide", "multiply"):
        return value
    factor = {"halve": 0.5, "double": 2.0}.get(operator) or (
        1 / float(operand) if operator == "divide" else float(operand)
    )
    current = lookup(key, run)
    if not current or isinstance(current[0], bool) or not isinstance(current[0], (int, float)):
        return _WORDS.get(
            operator,
            f"{'a ' + str(operand) + 'th of' if operator == 'divide' else str(operand) + ' times'} the current value",
        )
    result = current[0] * factor
    if isinstance(current[0], int):
        return max(1, int(result))
    return float(f"{result:.6g}")
