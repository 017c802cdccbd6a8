"""What a judge of logged numbers gets and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ftdoctor.findings import Severity
from ftdoctor.run_model.series import Series


@dataclass(frozen=True, slots=True)
class NumericContext:
    """The run's series by the trainer's own key, its kind, and the few facts that change a threshold.

    `task` is one of lora, qlora, full, dpo, rl, classification, asr, unknown.
    """

    series: Mapping[str, Series]
    task: str = "unknown"
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judge found something: window `index_first..index_last` of `series` shows it."""

    severity: Severity
    values: dict[str, object]
    series: str
    index_first: int
    index_last: int


@dataclass(frozen=True, slots=True)
class Missing:
    """The judge could not decide: which series or how many points are missing."""

    names: tuple[str, ...]


Result: TypeAlias = "Judgement | Missing | None"
Numbers: TypeAlias = Mapping[str, float]
Judge: TypeAlias = Callable[[NumericContext, Numbers], Result]
TOO_FEW = Missing(("more logged points",))
