"""Rules as data: what `rule.yaml` becomes once it is checked.

A rule names one failure mode and holds one or more detectors. A detector is a kind and its
options; `detectors/` has one module per kind. Nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftdoctor.detectors.base import DetectorSpec, Pattern
from ftdoctor.findings import Role, Severity


@dataclass(frozen=True, slots=True)
class FixSpec:
    """One remedy as written in the rule; `only_if` is a list of conditions on the run.

    `safe_to_retry`: its configuration change leaves what is learned as it is, so `launch --retry-with-fix` may make it.
    """

    title: str
    config_patch: Mapping[str, object] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    note: str = ""
    cost: str = ""
    only_if: tuple[Mapping[str, Any], ...] = ()
    safe_to_retry: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One failure mode.

    `generic` rules name a root cause only where no specific rule does. `survivable` findings lose their
    error severity when the run demonstrably went on afterwards.
    """

    id: str
    title: str
    severity: Severity
    role: Role
    stages: tuple[str, ...]
    needs: tuple[str, ...]
    detect: tuple[DetectorSpec, ...]
    explains: tuple[str, ...]
    message: str
    why: str
    fixes: tuple[FixSpec, ...]
    false_positives: str = ""
    references: tuple[str, ...] = ()
    generic: bool = False
    survivable: bool = True
    path: str = ""


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All rules of a session, in the order of their ids, and the pattern table of the scanner."""

    rules: tuple[Rule, ...]
    patterns: tuple[Pattern, ...]

    def by_id(self) -> dict[str, Rule]:
        """Rules by failure mode."""
        return {rule.id: rule for rule in self.rules}
