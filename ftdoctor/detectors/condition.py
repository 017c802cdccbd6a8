"""Fires when configuration and facts are in a given state. A closed vocabulary, no expressions.

Options `all`, `any`, `none`: lists of tests. A test names a key and one comparison:

    {key: axolotl.learning_rate, above: 0.01}
    {key: deepspeed.zero_optimization.offload_optimizer.device, equals: cpu}
    {key: fact.sample.text, matches: '### Instruction:'}
    {key: axolotl.warmup_steps, at_least_key: fact.total_steps}
    {key: fact.dropped_long, at_least_key: fact.rows, times: 0.2}

Keys start with `axolotl.` (effective values where the log shows them, else the YAML), `yaml.` (the YAML as written),
`deepspeed.` or `fact.`; `unknown.axolotl` and `unknown.deepspeed` are the top-level keys of the YAML or JSON that no
schema names.

Comparisons: equals, not_equals, one_of, not_one_of, above, below, at_least, at_most, matches, not_matches, missing,
written (the key stands there, be it empty), at_least_key, above_key, not_equals_key (`times` multiplies the other key's
value). A comparison other than `missing`, `not_equals`, `not_one_of`, `not_matches` on an absent key is false.
`datasets[].type` tests every item; one that fits is enough.

`needs` in the options lists sources (`axolotl`, `deepspeed`, `fact.<name>`) without which the test cannot be judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ftdoctor.detectors.base import DetectorSpec, Hit, Missing, Result
from ftdoctor.events import Origin
from ftdoctor.findings import Evidence
from ftdoctor.run_model.config import ConfigView, coerce
from ftdoctor.run_model.run import Run
from ftdoctor.upstream.schema import Schema, axolotl_schema, deepspeed_keys, nearest

OPERATORS = (
    "equals", "not_equals", "one_of", "not_one_of", "above", "below", "at_least", "at_most", "matches",
    "not_matches", "missing", "written", "at_least_key", "above_key", "not_equals_key",
)  # fmt: skip


class Condition:
    """See the module."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """At most one hit; its evidence are the keys of the tests that held."""
        options = spec.options
        tests = [test for group in ("all", "any", "none") for test in options.get(group, ())]
        missing = _missing(options, tests, run)
        if missing:
            return Missing(missing)
        if not all(holds(test, run) for test in options.get("all", ())):
            return []
        anyof = options.get("any", ())
        if anyof and not any(holds(test, run) for test in anyof):
            return []
        if any(holds(test, run) for test in options.get("none", ())):
            return []
        met = [t for t in (*options.get("all", ()), *anyof) if holds(t, run) and _found(t["key"], run)]
        # that a key is there at all is a premise, not a proof; it is quoted only when there is nothing better
        shown = [t for t in met if ("missing" not in t and "written" not in t) or _is_difference(t["key"])] or met
        keys = [t["key"] for t in tests] + [str(v) for t in tests for op, v in t.items() if op.endswith("_key")]
        values = {_short(key): _said(key, run) for key in keys}
        values["values"] = ", ".join(f"{_bare(t['key'])}: {_shown(lookup(t['key'], run))}" for t in shown)
        evidence = tuple(item for test in shown for item in _evidence(test["key"], run))
        origin = next((o for t in shown if (o := _origin(t["key"], run))), None)
        return [Hit(origin, values, evidence, final=True)]


def lookup(key: str, run: Run) -> list[Any]:
    """Values of a key; empty when absent."""
    scope, _, rest = key.partition(".")
    if scope == "fact":
        value = run.fact(rest)
        if value is None and rest == "world_size":
            value = run.world_size
        return [] if value is None else [value]
    if scope == "series":
        return [len(run.series[rest])] if rest in run.series else []
    view = _view(scope, rest, run)
    if view is None:
        return []
    return list(_unknown(rest, view, run)) if scope == "unknown" else view.get(rest)


def _unknown(kind: str, view: ConfigView, run: Run) -> list[str]:
    if kind == "axolotl":
        return _schema(run).unknown(view.data)
    return [str(key) for key in view.data if str(key) not in deepspeed_keys()]


def _schema(run: Run) -> Schema:
    """That of the installed release when preflight has read it."""
    return axolotl_schema(str(run.fact("axolotl.schema") or ""))


def _view(scope: str, key: str, run: Run) -> ConfigView | None:
    if scope == "unknown":
        return run.configs.get(key)
    if scope == "yaml":
        return run.configs.get("axolotl")
    if scope == "deepspeed":
        return run.configs.get("deepspeed")
    effective, written = run.configs.get("effective"), run.configs.get("axolotl")
    if effective is not None and effective.get(key):
        return effective
    return written if written is not None else effective


def holds(test: Mapping[str, Any], run: Run) -> bool:
    """One test on the run."""
    found = lookup(test["key"], run)
    operator = next(op for op in OPERATORS if op in test)
    operand = test[operator]
    if operator == "missing":
        return (not found) == bool(operand)
    if operator == "written":
        scope, _, rest = test["key"].partition(".")
        view = _view(scope, rest, run)
        return (view is not None and view.has(rest)) == bool(operand)
    if operator in ("not_equals", "not_one_of", "not_matches"):
        return not any(_compare(operator[4:], value, operand) for value in found)
    if operator.endswith("_key"):
        other = _times(lookup(str(operand), run), test.get("times"))
        return bool(other) and any(_compare(operator[:-4], value, other[0]) for value in found)
    return any(_compare(operator, value, operand) for value in found)


def _compare(operator: str, value: Any, operand: Any) -> bool:
    if operator == "equals":
        return _same(value, operand)
    if operator == "not_equals":
        return not _same(value, operand)
    if operator == "one_of":
        return any(_same(value, option) for option in operand)
    if operator == "matches":
        return re.search(str(operand), str(value)) is not None
    left, right = coerce(value), coerce(operand)
    if isinstance(left, bool) or not isinstance(left, (int, float)) or not isinstance(right, (int, float)):
        return False
    if operator == "above":
        return left > right
    if operator == "below":
        return left < right
    return left >= right if operator == "at_least" else left <= right


def _times(values: list[Any], factor: Any) -> list[Any]:
    if factor is None or not values:
        return values
    number = coerce(values[0])
    return [number * factor] if isinstance(number, (int, float)) and not isinstance(number, bool) else []


def _same(value: Any, operand: Any) -> bool:
    if isinstance(value, bool) or isinstance(operand, bool):
        return value is operand
    return bool(coerce(value) == coerce(operand))


def _missing(options: Mapping[str, Any], tests: Sequence[Mapping[str, Any]], run: Run) -> tuple[str, ...]:
    needs = list(options.get("needs", ()))
    if not needs:
        scopes = {test["key"].partition(".")[0] for test in tests}
        needs = [s for s in ("axolotl", "yaml", "deepspeed") if s in scopes]
        needs += [{"axolotl": "yaml"}.get(t["key"][8:], t["key"][8:]) for t in tests if t["key"].startswith("unknown.")]
        needs += [t["key"] for t in options.get("all", ()) if t["key"].startswith("fact.") and "missing" not in t]
    absent = []
    for need in needs:
        if need.startswith("fact."):
            if not lookup(need, run):
                absent.append(need[5:])
        elif need == "axolotl":
            if not {"axolotl", "effective"} & run.configs.keys():
                absent.append("Axolotl config")
        elif {"yaml": "axolotl"}.get(need, need) not in run.configs:
            absent.append({"yaml": "Axolotl YAML", "deepspeed": "DeepSpeed JSON"}.get(need, need))
    return tuple(absent)


def _bare(key: str) -> str:
    return key.partition(".")[2]


def _short(key: str) -> str:
    if key.startswith("unknown."):
        return "unknown_keys"
    return key.replace("[]", "").rpartition(".")[2]


def _shown(values: list[Any]) -> object:
    if not values:
        return "unset"
    value = values[0] if len(values) == 1 else values
    if isinstance(value, list):
        return ", ".join(map(str, value))[:120]
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _is_difference(key: str) -> bool:
    """A difference is several lines that say nothing in part: it is quoted whole."""
    return key.startswith("fact.") and key.endswith(".diff")


def _found(key: str, run: Run) -> bool:
    return bool(lookup(key, run))


def _origin(key: str, run: Run) -> Origin | None:
    scope, _, rest = key.partition(".")
    if scope == "fact":
        fact = run.facts.get(rest)
        return fact.origin if fact else None
    view = _view(scope, rest, run)
    return view.origin if view else None


def _said(key: str, run: Run) -> object:
    """The value for the message; unknown keys with the real key that each most likely means."""
    if not key.startswith("unknown."):
        return _shown(lookup(key, run))
    schema = None if key.endswith("deepspeed") else _schema(run)
    told = []
    for name in lookup(key, run):
        plugin = schema.plugin_of(name) if schema else None
        real = schema.nearest(name) if schema else nearest(name, "deepspeed")
        if real:
            name += f" (did you mean {real}?)"
        elif plugin:
            name += f" (read by {plugin}, which `plugins` does not list)"
        told.append(name)
    return ", ".join(told)


def _evidence(key: str, run: Run) -> tuple[Evidence, ...]:
    scope, _, rest = key.partition(".")
    text = f"{rest}: {_shown(lookup(key, run))}"
    if scope == "fact":
        fact = run.facts.get(rest)
        if fact and _is_difference(key):
            text = str(fact.value)[:4000]
        line = fact.origin.line if fact else 0
        return (Evidence("fact", fact.origin.path if fact else "", line, line, text),)
    if scope == "unknown":
        view = _view(scope, rest, run)
        names = _unknown(rest, view, run) if view else []
        path = view.origin.path if view else ""
        lines = {name: view.line(name) for name in names} if view else {}
        return tuple(Evidence("config", path, line, line, f"unknown: {name}") for name, line in lines.items())
    written = run.configs.get("axolotl")
    view = (
        written if scope == "axolotl" and written and written.has(rest.replace("[]", "")) else _view(scope, rest, run)
    )
    line = view.line(rest.replace("[]", "")) if view else 0
    return (Evidence("config", view.origin.path if view else "", line, line, text),)
