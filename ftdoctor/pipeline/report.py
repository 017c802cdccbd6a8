"""One report for all stages: the stages as a table, then what an expert would say first.

Each stage keeps its diagnosis as JSON beside the state, so that a pipeline that was resumed reports on all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ftdoctor.faces import html_face, json_face, text
from ftdoctor.faces.curves import Curve
from ftdoctor.faces.page import Options, Page
from ftdoctor.faces.terminal import wrap
from ftdoctor.findings import SEVERITIES, Diagnosis, Evidence, Finding, Fix, RunSummary
from ftdoctor.launch import keeping
from ftdoctor.pipeline.state import STAGES, Record, State

NAMES = max(len(name) for name in STAGES)
_MARKS = {"done": ("healthy", "good"), "failed": ("failing", "bad")}
_WORDS = {"skipped": "left out, as asked", "absent": "", "": "not reached"}


@dataclass(frozen=True, slots=True)
class Line:
    """One stage of the table; `seconds` None where it did not run this time."""

    stage: str
    status: str
    told: str
    seconds: float | None


def keep(folder: Path, stage: str, diagnosis: Diagnosis) -> None:
    """The redacted diagnosis of a stage, for later.

    Raises:
        OSError: the disk refuses.
    """
    keeping.write(folder / f"{stage}.json", json_face.render(diagnosis))


def kept(folder: Path, stage: str) -> list[Finding]:
    """Findings of a stage as `keep` left them; none where it left nothing that can be read."""
    try:
        data = json.loads((folder / f"{stage}.json").read_text(encoding="utf-8"))
        return [_finding(item) for item in data["findings"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _finding(item: Mapping[str, Any]) -> Finding:
    names = Finding.__dataclass_fields__
    plain = {k: v for k, v in item.items() if k in names and k not in ("evidence", "fixes", "ranks", "step", "time")}
    return Finding(
        **plain,
        ranks=tuple(item.get("ranks", ())),
        step=_number(item.get("step")),
        time=_number(item.get("time")),
        evidence=tuple(_of(Evidence, e) for e in item.get("evidence", ())),
        fixes=tuple(_of(Fix, f) for f in item.get("fixes", ())),
    )


def _of(kind: Any, item: Mapping[str, Any]) -> Any:
    return kind(**{k: v for k, v in item.items() if k in kind.__dataclass_fields__})


def _number(value: object) -> float | None:
    return None if value is None else float(str(value))


def table(state: State, ran: Iterable[str]) -> list[Line]:
    """The stages in their order. `ran`: those that ran this time."""
    now, lines = set(ran), []
    for stage in STAGES:
        record = state.records.get(stage, Record(status=""))
        said = record.told or _WORDS.get(record.status, "")
        if record.status == "done" and stage not in now:
            said = f"{said} (done before)"
        lines.append(Line(stage, record.status, said, record.seconds if stage in now else None))
    return lines


def whole(state: State, run: RunSummary) -> Diagnosis:
    """One diagnosis of all stages. `run`: the training as it is known.

    The first stage that failed has the root cause; without one the first stage that has something to say.
    """
    findings: list[Finding] = []
    roots: list[tuple[bool, Finding]] = []
    for stage in STAGES:
        record = state.records.get(stage)
        if record is None or record.status not in ("done", "failed"):
            continue
        found = kept(state.folder, stage)
        root = next((f for f in found if f.id == record.root), None)
        if root is not None and root.severity != "info":
            roots.append((record.status != "failed", root))
        for finding in found:
            worse = SEVERITIES.index(finding.severity)
            same = next((n for n, f in enumerate(findings) if f.id == finding.id), None)
            if same is None:
                findings.append(finding)
            elif SEVERITIES.index(findings[same].severity) > worse:
                findings[same] = finding
    first = min(roots, key=lambda pair: (pair[0], SEVERITIES.index(pair[1].severity)), default=(False, None))[1]
    chosen = next((f for f in findings if first is not None and f.id == first.id), None)
    if chosen is not None:  # what another stage explained it by counts no more
        findings = [replace(f, explained_by=None) if f is chosen else f for f in findings]
        chosen = next(f for f in findings if f.id == chosen.id)
    findings.sort(key=lambda f: (f is not chosen, SEVERITIES.index(f.severity), f.explained_by is not None))
    failed = any(r.status == "failed" for r in state.records.values())
    severities = {f.severity for f in findings}
    verdict: Any = (
        "failing" if failed or "error" in severities else "suspicious" if "warning" in severities else "healthy"
    )
    if verdict == "healthy" and not any(r.status == "done" for r in state.records.values()):
        verdict = "unknown"
    return Diagnosis(run=run, verdict=verdict, root_cause=chosen, findings=tuple(findings), outcomes=())


def as_text(title: str, lines: Sequence[Line], diagnosis: Diagnosis, options: Options) -> str:
    """The table above the usual report."""
    page = Page(options)
    page.line((title, "strong"))
    page.gap()
    room = options.width - NAMES - 14
    for line in lines:
        mark, style = _MARKS.get(line.status, ("unknown", "dim"))
        sign = page.glyph(mark) if line.status in _MARKS else "-"
        took = f"{line.seconds:5.0f} s" if line.seconds is not None else " " * 7
        for number, part in enumerate(wrap(page.clean(line.told), room) or [""]):
            head = (
                (f"  {sign.ljust(2)} ", f"{line.stage.ljust(NAMES)}  ") if not number else (" " * 5, " " * (NAMES + 2))
            )
            page.line((head[0], style), (head[1], "strong" if not number else ""), (part.ljust(room), ""),
                      (took if not number else "", "dim"))  # fmt: skip
    return page.text() + "\n" + text.render(diagnosis, options)


def as_html(title: str, lines: Sequence[Line], diagnosis: Diagnosis, curves: Sequence[Curve]) -> str:
    """The usual page with the table in it."""
    rows = [(line.stage, line.status or "not reached", line.told) for line in lines]
    return html_face.render(diagnosis, curves, title, stages=rows)
