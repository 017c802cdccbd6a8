"""What ftdoctor says: findings, their evidence and fixes, and the diagnosis that holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["error", "warning", "info"]
Role: TypeAlias = Literal["cause", "cascade", "symptom"]
Verdict: TypeAlias = Literal["failing", "suspicious", "healthy", "unknown"]
OutcomeKind: TypeAlias = Literal["fired", "quiet", "not_evaluated", "crashed"]
EvidenceKind: TypeAlias = Literal["log", "metric", "gpu", "config", "fact", "exit", "stack", "output"]

SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Something the reader can go and see. Lines are 1-based; 0 means the whole file.

    `focus` is the part of the excerpt that counts: what a face keeps when it has to cut.
    """

    kind: EvidenceKind
    path: str = ""
    line_first: int = 0
    line_last: int = 0
    excerpt: str = ""
    focus: str = ""


@dataclass(frozen=True, slots=True)
class Fix:
    """One remedy. `config_patch` maps dotted keys (`axolotl.bf16`, `deepspeed.zero_optimization.stage`) to
    the new value; None removes the key. `config_before` has the present value of those keys that are set.
    `safe_to_retry`: the change leaves what is learned as it is, so a run may be restarted with it unasked.
    """

    title: str
    config_patch: dict[str, object] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    command: str = ""
    note: str = ""
    cost: str = ""
    config_before: dict[str, object] = field(default_factory=dict)
    safe_to_retry: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One failure mode seen in this run. `order` places it in time; see `events.Origin.order`.

    `rank` wrote the first evidence; `ranks` are all that showed the failure and said who they are.
    """

    id: str
    severity: Severity
    role: Role
    title: str
    message: str
    why: str = ""
    rank: int | None = None
    node: str | None = None
    step: float | None = None
    time: float | None = None
    order: int = 0
    count: int = 1
    state: Literal["active", "survived"] = "active"
    evidence: tuple[Evidence, ...] = ()
    fixes: tuple[Fix, ...] = ()
    explained_by: str | None = None
    ranks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """What became of one rule on this run."""

    id: str
    outcome: OutcomeKind
    missing: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The few facts about the run that every face prints."""

    stage: str | None = None
    world_size: int | None = None
    first_step: float | None = None
    last_step: float | None = None
    total_steps: float | None = None
    last_metrics: dict[str, float] = field(default_factory=dict)
    exit: int | None = None
    saved: bool | None = None
    sources: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The immutable result that every face receives. `findings` are causes first."""

    run: RunSummary
    verdict: Verdict
    root_cause: Finding | None
    findings: tuple[Finding, ...]
    outcomes: tuple[RuleOutcome, ...]

    def exit_code(self, fail_on: str) -> int:
        """0 healthy, 1 a finding at or above `fail_on` (a severity, or `never`), 3 nothing could be judged."""
        limit = -1 if fail_on == "never" else [*SEVERITIES].index(fail_on)  # type: ignore[arg-type]
        if any(SEVERITIES.index(f.severity) <= limit for f in self.findings):
            return 1
        return 3 if self.verdict == "unknown" else 0
