"""Profiles: the kind of training stated by the user, and thresholds overridden by name.

    # configs/profiles/dpo.yaml
    task: dpo                      # lora | qlora | full | dpo | rl | classification | asr
    thresholds:
      grad-norm-high: {above: 20.0}    # numbers of the rule's detectors, by name

Without a profile the kind is read from the configuration or guessed from the metrics' names.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError
from ftdoctor.ruleset.load import shipped_dir
from ftdoctor.ruleset.types import Rule, RuleSet

TASKS = ("lora", "qlora", "full", "dpo", "rl", "classification", "asr")


@dataclass(frozen=True, slots=True)
class Profile:
    """What a profile file says."""

    task: str | None = None
    thresholds: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def names() -> list[str]:
    """Profiles that ship with ftdoctor."""
    return sorted(path.stem for path in (shipped_dir("configs") / "profiles").glob("*.yaml"))


def load_profile(name: str) -> Profile:
    """A shipped profile by name, or a YAML file.

    Raises:
        InputError: no such profile, or it does not say what a profile says.
    """
    import yaml

    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped_dir("configs") / "profiles" / f"{name}.yaml"
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError:
        raise InputError(
            f"no profile `{name}`", "--profile", f"use one of {', '.join(names())}, or a YAML file"
        ) from None
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML: {error}", name, "see configs/profiles/ for examples") from None
    task = data.get("task") if isinstance(data, dict) else None
    thresholds = data.get("thresholds", {}) if isinstance(data, dict) else None
    if not isinstance(thresholds, dict) or (task is not None and task not in TASKS):
        raise InputError(
            "not a profile", name, f"`task` is one of {', '.join(TASKS)}; `thresholds` maps rules to numbers"
        )
    return Profile(task, thresholds)


def apply_profile(rules: RuleSet, profile: Profile) -> RuleSet:
    """The rules with the profile's numbers.

    Raises:
        InputError: a rule or a number of that name does not exist.
    """
    known = rules.by_id()
    for rule_id, numbers in profile.thresholds.items():
        if rule_id not in known:
            raise InputError(
                f"the profile names rule `{rule_id}`, which does not exist", "--profile", "see `ftdoctor rules list`"
            )
        if not isinstance(numbers, Mapping) or not all(_is_number(v) for v in numbers.values()):
            raise InputError(
                f"`{rule_id}` in the profile needs numbers by name", "--profile", "for example {above: 10.0}"
            )
    return dataclasses.replace(
        rules, rules=tuple(_override(rule, profile.thresholds.get(rule.id, {})) for rule in rules.rules)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _override(rule: Rule, numbers: Mapping[str, float]) -> Rule:
    if not numbers:
        return rule
    tunable = [
        spec for spec in rule.detect if spec.kind not in ("log_signature", "condition", "traceback", "exit_status")
    ]
    if not tunable:
        raise InputError(
            f"rule `{rule.id}` has no thresholds", "--profile", "only rules on metrics, GPUs and time have"
        )
    specs = tuple(
        dataclasses.replace(spec, options={**spec.options, **numbers}) if spec in tunable else spec
        for spec in rule.detect
    )
    return dataclasses.replace(rule, detect=specs)
