"""Name the first cause and fold the rest under it.

A finding explains another when its rule lists the other's id under `explains`. Explanations are followed to their
end, so a time-out explained by a crash explained by a full disk is folded under the full disk. Cascades and symptoms
explain only what came after them. What is left
unexplained and is an error competes for root cause in this order:

1. causes before cascades before symptoms,
2. specific rules before generic ones (a known reason beats "a rank died"),
3. earlier before later: by the log's own stamps where both have one, else by place in the input.

Without any error the first unexplained warning is the root cause; one with consequences among the findings goes
first. Findings that the run survived never are when an active one exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ftdoctor.findings import Finding, Verdict
from ftdoctor.ruleset.types import Rule

_ROLES = ("cause", "cascade", "symptom")
_SEVERITIES = ("error", "warning", "info")
FALLBACK = "unclassified-error"
END = "interrupted"  # the run was ended from outside


def attribute(
    findings: Iterable[Finding], rules: dict[str, Rule], stopped_for: str | None = None
) -> tuple[Finding | None, tuple[Finding, ...]]:
    """The root cause, and all findings with `explained_by` set, causes first.

    `stopped_for`: the finding because of which ftdoctor itself ended the run; the end is then no failure of its own.
    """
    pool = _drop_covered(list(findings))
    explained = {f.id: _explainer(f, pool, rules) for f in pool}
    if stopped_for is not None and stopped_for in explained and END in explained:
        explained[END] = stopped_for
    elif stopped_for is not None:
        told = f"ftdoctor ended the run because of {stopped_for}."
        pool = [replace(f, severity="info", message=told) if f.id == END else f for f in pool]
    pool = [replace(f, explained_by=_top(f.id, explained)) for f in pool]
    if stopped_for is not None and stopped_for not in explained:
        pool = [replace(f, severity="info") if f.explained_by == END else f for f in pool]
    with_consequences = {f.explained_by for f in pool}
    pool.sort(key=lambda f: _rank(f, rules, f.severity == "error" or f.id in with_consequences))
    free = [f for f in pool if f.explained_by is None and f.severity != "info"]
    root = free[0] if free else None
    return root, tuple(pool)


def verdict(findings: Iterable[Finding], judged: bool) -> Verdict:
    """Failing on an error, suspicious on a warning, healthy when something was judged, else unknown."""
    severities = {f.severity for f in findings}
    if "error" in severities:
        return "failing"
    if "warning" in severities:
        return "suspicious"
    return "healthy" if judged else "unknown"


def _rank(finding: Finding, rules: dict[str, Rule], telling: bool = True) -> tuple[object, ...]:
    rule = rules.get(finding.id)
    return (
        _SEVERITIES.index(finding.severity),
        finding.explained_by is not None,
        finding.state != "active",
        not telling,
        _ROLES.index(finding.role),
        bool(rule and rule.generic),
        finding.time if finding.time is not None else 0.0,
        finding.order,
        finding.id,
    )


def _explainer(finding: Finding, pool: list[Finding], rules: dict[str, Rule]) -> str | None:
    """The most eligible finding that explains this one."""
    candidates = [
        other
        for other in pool
        if other.id != finding.id
        and finding.id in rules[other.id].explains
        and _SEVERITIES.index(other.severity) <= _SEVERITIES.index(finding.severity)
        and (other.state == "active" or finding.state == "survived")
        and not _came_too_late(other, finding)
        and not (other.id in rules[finding.id].explains and _before(finding, other, rules))
    ]
    return min(candidates, key=lambda f: _rank(f, rules)).id if candidates else None


def _before(finding: Finding, other: Finding, rules: dict[str, Rule]) -> bool:
    """Which of two that explain each other comes first: the specific one, else the earlier one."""
    keys = [(rules[f.id].generic, f.state != "active", f.time or 0.0, f.order, f.id) for f in (finding, other)]
    return keys[0] < keys[1]


def _came_too_late(other: Finding, finding: Finding) -> bool:
    """A cascade or a symptom cannot explain what came before it; how a silence began is known only at its end."""
    if other.role == "cause" or finding.role == "symptom":
        return False
    if other.time is not None and finding.time is not None:
        return other.time > finding.time
    return _path(other) == _path(finding) and other.order > finding.order


def _path(finding: Finding) -> str:
    return finding.evidence[0].path if finding.evidence else ""


def _top(finding_id: str, explained: dict[str, str | None]) -> str | None:
    seen = {finding_id}
    current = explained[finding_id]
    last = None
    while current is not None and current not in seen:
        seen.add(current)
        last = current
        current = explained.get(current)
    return last


def _drop_covered(findings: list[Finding]) -> list[Finding]:
    """An exception that a named rule already quotes needs no finding of its own."""
    quoted = {
        (e.path, line)
        for f in findings
        if f.id != FALLBACK and f.severity != "info"
        for e in f.evidence
        for line in range(e.line_first, min(e.line_last, e.line_first + 50) + 1)
    }
    kept = []
    for finding in findings:
        if finding.id == FALLBACK and any(
            (e.path, line) in quoted for e in finding.evidence for line in range(e.line_first, e.line_last + 1)
        ):
            continue
        kept.append(finding)
    return kept
