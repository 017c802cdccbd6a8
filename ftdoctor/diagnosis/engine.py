"""Run every rule on the run: one outcome per rule, findings for those that fired."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftdoctor.detectors.base import Detector, DetectorSpec, Hit, Missing
from ftdoctor.detectors.cadence import CadenceRule
from ftdoctor.detectors.condition import Condition
from ftdoctor.detectors.exit_status import ExitStatus
from ftdoctor.detectors.gpu_snapshot import GpuSnapshot
from ftdoctor.detectors.gpu_trace import GpuTrace
from ftdoctor.detectors.log_signature import LogSignature
from ftdoctor.detectors.numeric_rule import NumericRule
from ftdoctor.detectors.silence import Silence
from ftdoctor.detectors.straggler import Straggler
from ftdoctor.detectors.traceback import Traceback
from ftdoctor.diagnosis.fixes import resolve
from ftdoctor.diagnosis.template import fill
from ftdoctor.findings import SEVERITIES, Evidence, Finding, RuleOutcome, Severity
from ftdoctor.ruleset.types import Rule, RuleSet
from ftdoctor.run_model.run import Run

DETECTORS: dict[str, Detector] = {
    "log_signature": LogSignature(),
    "condition": Condition(),
    "exit_status": ExitStatus(),
    "traceback": Traceback(),
    "numeric": NumericRule(),
    "gpu_snapshot": GpuSnapshot(),
    "gpu_trace": GpuTrace(),
    "silence": Silence(),
    "cadence": CadenceRule(),
    "straggler": Straggler(),
}
MAX_EVIDENCE = 5
WORDS = {"log_signature", "condition", "exit_status", "traceback"}  # kinds that judge what was said, not numbers


class Memory:
    """Outcomes without a finding of rules that judge words: they stay until `run.told` says that more was said.

    Beside a run nearly every judgement follows a line of metrics, and most rules need not be asked again.
    """

    def __init__(self) -> None:
        self._told = -1
        # by the rule itself: a preflight judges each detector as a rule of its own, under one id
        self._outcomes: dict[int, RuleOutcome] = {}
        self._words: dict[int, bool] = {}

    def open(self, run: Run) -> None:
        """Forget everything when the run said something."""
        if run.told != self._told:
            self._told = run.told
            self._outcomes.clear()

    def get(self, rule: Rule) -> RuleOutcome | None:
        """The outcome that still holds."""
        return self._outcomes.get(id(rule))

    def keep(self, rule: Rule, outcome: RuleOutcome) -> None:
        """Remember an outcome without a finding, when the rule judges words alone."""
        words = self._words.get(id(rule))
        if words is None:
            words = all(spec.kind in WORDS and not _counts(spec.options) for spec in rule.detect)
            self._words[id(rule)] = words
        if words:
            self._outcomes[id(rule)] = outcome


def _counts(options: Mapping[str, Any]) -> bool:
    """True when a condition looks at the length of a series."""
    return any(
        str(test.get("key", "")).startswith("series.")
        or any(str(value).startswith("series.") for name, value in test.items() if name.endswith("_key"))
        for group in ("all", "any", "none")
        for test in options.get(group, ())
        if isinstance(test, Mapping)
    )


def evaluate(rules: RuleSet, run: Run, memory: Memory | None = None) -> tuple[list[Finding], list[RuleOutcome]]:
    """Findings in rule order and one outcome per rule. A rule that raises is `crashed`; the others go on.

    With a `memory` of this run, rules are asked again only where the answer may differ.
    """
    memory = memory or Memory()
    memory.open(run)
    findings: list[Finding] = []
    outcomes: list[RuleOutcome] = []
    for rule in rules.rules:
        known = memory.get(rule)
        if known is not None:
            outcomes.append(known)
            continue
        try:
            outcome, finding = judge(rule, run)
        except Exception as error:
            outcome, finding = RuleOutcome(rule.id, "crashed", (), f"{type(error).__name__}: {error}"), None
        outcomes.append(outcome)
        if finding is not None:
            findings.append(finding)
        else:
            memory.keep(rule, outcome)
    return findings, outcomes


def judge(rule: Rule, run: Run) -> tuple[RuleOutcome, Finding | None]:
    """One rule on the run."""
    hits: list[tuple[DetectorSpec, Hit]] = []
    missing: list[str] = []
    judged = False
    for spec in rule.detect:
        result = DETECTORS[spec.kind].evaluate(spec, run)
        if isinstance(result, Missing):
            missing += [name for name in result.names if name not in missing]
            continue
        judged = True
        hits += [(spec, hit) for hit in result]
    if hits:
        return RuleOutcome(rule.id, "fired"), _finding(rule, run, hits)
    if judged:
        return RuleOutcome(rule.id, "quiet"), None
    return RuleOutcome(rule.id, "not_evaluated", tuple(missing), "needs " + ", ".join(missing)), None


def _severity(rule: Rule, spec: DetectorSpec, hit: Hit) -> Severity:
    return hit.severity or spec.severity or rule.severity


def _survived(rule: Rule, run: Run, hit: Hit) -> bool:
    return rule.survivable and not hit.final and hit.origin is not None and run.went_on_after(hit.origin)


def _finding(rule: Rule, run: Run, hits: list[tuple[DetectorSpec, Hit]]) -> Finding:
    ranked = sorted(
        hits,
        key=lambda pair: (
            _survived(rule, run, pair[1]),
            SEVERITIES.index(_severity(rule, *pair)),
            pair[1].origin.order if pair[1].origin else 0,
        ),
    )
    spec, first = ranked[0]
    severity = _severity(rule, spec, first)
    survived = _survived(rule, run, first)
    if survived and severity == "error":
        severity = "warning"
    who = "A process" if first.rank is None else f"Rank {first.rank}"
    values: dict[str, Any] = {"who": who, "rank": first.rank, "step": first.step, "count": first.count, **first.values}
    same = [hit for other, hit in ranked if hit.message == first.message and (first.message or other is spec)]
    message = fill(first.message or spec.message or rule.message, values)
    message = _joined(message, _others(first, same))
    if survived:
        message = _joined(message, "The run went on afterwards.")
    origin = first.origin
    return Finding(
        id=rule.id,
        severity=severity,
        role=rule.role,
        title=rule.title,
        message=message,
        why=rule.why,
        rank=first.rank,
        node=origin.node if origin else None,
        step=first.step,
        time=origin.time if origin else None,
        order=origin.order if origin else 0,
        count=max(first.count, len({(hit.rank, hit.origin) for hit in same})),
        state="survived" if survived else "active",
        evidence=_evidence([hit for _, hit in ranked]),
        fixes=resolve(rule.fixes, run, values),
        ranks=tuple(sorted({hit.rank for _, hit in hits if hit.rank is not None})),
    )


def _joined(sentence: str, more: str) -> str:
    """Two sentences; the first may be a quoted log line without a full stop."""
    if not more:
        return sentence
    return f"{sentence}{'' if sentence.endswith(('.', '!', '?')) else '.'} {more}"


def _others(first: Hit, hits: list[Hit]) -> str:
    ranks = sorted({hit.rank for hit in hits if hit.rank is not None and hit.rank != first.rank})
    if not ranks:
        return ""
    shown = ", ".join(map(str, ranks[:8])) + (", ..." if len(ranks) > 8 else "")
    return f"Also on rank{'s' if len(ranks) > 1 else ''} {shown}."


def _evidence(hits: list[Hit]) -> tuple[Evidence, ...]:
    unique: dict[tuple[str, int, str], Evidence] = {}
    for hit in hits:
        for item in hit.evidence:
            unique.setdefault((item.path, item.line_first, item.excerpt if not item.line_first else ""), item)
    return tuple(unique.values())[:MAX_EVIDENCE]


def kinds() -> Mapping[str, Detector]:
    """Detector kinds by name."""
    return DETECTORS
