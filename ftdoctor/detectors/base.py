"""What every detector kind gets and gives.

A detector is a pure function of the run: `evaluate(spec, run) -> Result`. It never reads a clock or a file. It gives
hits (the rule fires), `Missing` (it could not judge, and what was missing) or an empty list (quiet).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ftdoctor.events import Origin
from ftdoctor.findings import Evidence, Severity
from ftdoctor.run_model.run import Run


@dataclass(frozen=True, slots=True)
class Pattern:
    """One regular expression of a signature; `anchors` are literals of which a match holds at least one."""

    id: int
    regex: str
    anchors: tuple[tuple[bytes, bool], ...]


@dataclass(frozen=True, slots=True)
class DetectorSpec:
    """One entry under `detect`. `patterns` is filled for log signatures; `message`, `severity` override the rule's."""

    kind: str
    options: Mapping[str, Any]
    patterns: tuple[Pattern, ...] = ()
    message: str = ""
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """The detector fired: where, with which numbers for the message, and what proves it.

    `final` hits judge the run as a whole and are never taken back because it went on.
    """

    origin: Origin | None
    values: Mapping[str, object]
    evidence: tuple[Evidence, ...]
    rank: int | None = None
    step: float | None = None
    count: int = 1
    severity: Severity | None = None
    message: str = ""
    final: bool = False


@dataclass(frozen=True, slots=True)
class Missing:
    """The rule could not be judged: `names` are the inputs that were not there."""

    names: tuple[str, ...]


Result: TypeAlias = "list[Hit] | Missing"


class Detector(Protocol):
    """One kind of detector."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """Judge the run."""


__all__ = ["Detector", "DetectorSpec", "Evidence", "Hit", "Missing", "Pattern", "Result"]
