"""The diagnosis as SARIF 2.1.0, for code scanning and editors.

One result per finding: level error, warning or note; the first quoted line as its location, the others as related
locations; a fingerprint that stays when line numbers move. Rules that could not be judged and inputs that were
skipped are notifications.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ftdoctor.faces import patch, story
from ftdoctor.faces.json_face import as_dict, dump
from ftdoctor.faces.terminal import printable
from ftdoctor.findings import Diagnosis, Evidence, Finding
from ftdoctor.version import __version__

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
LEVELS = {"error": "error", "warning": "warning", "info": "note"}
MAX_SNIPPET = 4000


def render(diagnosis: Diagnosis, fixes: bool = True) -> str:
    """The log file as text."""
    return dump(as_sarif(diagnosis, fixes))


def as_sarif(diagnosis: Diagnosis, fixes: bool = True) -> dict[str, Any]:
    """The log file as an object."""
    ids = list(dict.fromkeys(finding.id for finding in diagnosis.findings))
    rules = [_rule(next(f for f in diagnosis.findings if f.id == rule_id), fixes) for rule_id in ids]
    root = diagnosis.root_cause
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "ftdoctor",
                        "version": __version__,
                        "semanticVersion": __version__,
                        "rules": rules,
                    }
                },
                "originalUriBaseIds": {
                    "SRCROOT": {"description": {"text": "The folder that ftdoctor was started in."}}
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(f, ids.index(f.id), diagnosis, fixes) for f in diagnosis.findings],
                "invocations": [_invocation(diagnosis)],
                "properties": {
                    "verdict": diagnosis.verdict,
                    "rootCause": root.id if root else None,
                    "run": as_dict(diagnosis)["run"],
                },
            }
        ],
    }


def message(text: str) -> str:
    """Plain text of a SARIF message; what looks like a link is made not to be one."""
    text = printable(text)
    return re.sub(r"([\\\[\]])", r"\\\1", text) if "](" in text else text


def uri(path: str) -> tuple[str, bool]:
    """The path as a URI, and whether it is relative to the working folder."""
    if path in ("<stdin>", ""):
        return "stdin", True
    absolute = os.path.abspath(path)
    relative = os.path.relpath(absolute)
    if relative.startswith(".." + os.sep) or relative == "..":
        return Path(absolute).as_uri() if _encodable(absolute) else "file://" + quote(absolute, errors="replace"), False
    return quote(relative.replace(os.sep, "/"), errors="replace"), True


def _encodable(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeError:
        return False
    return True


def _rule(finding: Finding, fixes: bool) -> dict[str, Any]:
    advice = [_advice(finding)] if fixes and finding.fixes else []
    text = "\n\n".join([finding.why or finding.title, *advice])
    return {
        "id": finding.id,
        "name": "".join(part.capitalize() for part in finding.id.split("-")),
        "shortDescription": {"text": message(finding.title)},
        "fullDescription": {"text": message(finding.why or finding.title)},
        "help": {"text": message(text)},
        "defaultConfiguration": {"level": LEVELS[finding.severity]},
        "properties": {"role": finding.role},
    }


def _advice(finding: Finding) -> str:
    lines = []
    for fix in finding.fixes:
        lines.append(f"Fix: {fix.title}")
        for name, diff in patch.diff(fix):
            lines += [f"  {name}:", *(f"  {line.sign} {line.text}" for line in diff)]
        lines += [f"  export {key}={value}" for key, value in fix.env.items()]
        lines += [f"  {text}" for text in (fix.command, fix.note) if text]
    return "\n".join(lines)


def _result(finding: Finding, index: int, diagnosis: Diagnosis, fixes: bool) -> dict[str, Any]:
    text = f"{finding.title}: {finding.message}"
    if fixes and finding.fixes:
        text += f" Fix: {finding.fixes[0].title.rstrip('.')}."
    sources = diagnosis.run.sources
    evidence = list(finding.evidence) or [Evidence("log", sources[0] if sources else "")]
    result: dict[str, Any] = {
        "ruleId": finding.id,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": {"text": message(text)},
        "locations": [_location(evidence[0])],
        "partialFingerprints": {"ftdoctorFinding/v1": fingerprint(finding)},
        "occurrenceCount": max(1, finding.count),
        "properties": {
            "role": finding.role,
            "state": finding.state,
            "ranks": list(finding.ranks),
            "explainedBy": finding.explained_by,
            "rootCause": diagnosis.root_cause is not None and diagnosis.root_cause.id == finding.id,
        },
    }
    if len(evidence) > 1:
        result["relatedLocations"] = [{"id": number, **_location(item)} for number, item in enumerate(evidence[1:], 1)]
    return result


def fingerprint(finding: Finding) -> str:
    """The same for the same failure in the same file, whatever the line, the time and the numbers in the text."""
    first = finding.evidence[0] if finding.evidence else Evidence("log")
    shape = re.sub(r"\d+", "0", first.excerpt)[:400]
    parts = (finding.id, str(finding.rank), os.path.basename(first.path), first.kind, shape)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:32]


def _location(item: Evidence) -> dict[str, Any]:
    address, relative = uri(item.path)
    artifact: dict[str, Any] = {"uri": address}
    if relative:
        artifact["uriBaseId"] = "SRCROOT"
    physical: dict[str, Any] = {"artifactLocation": artifact}
    region: dict[str, Any] = {"startLine": max(1, item.line_first)}
    if item.line_last > item.line_first:
        region["endLine"] = item.line_last
    if item.excerpt:
        region["snippet"] = {"text": printable(item.excerpt[: 4 * MAX_SNIPPET])[:MAX_SNIPPET]}
    physical["region"] = region
    return {"physicalLocation": physical}


def _invocation(diagnosis: Diagnosis) -> dict[str, Any]:
    notes = [
        _note("note", f"{o.id} was not judged: {o.reason or 'no input for it'}")
        for o in diagnosis.outcomes
        if o.outcome == "not_evaluated"
    ]
    notes += [_note("error", f"{o.id} crashed: {o.reason}") for o in story.crashed(diagnosis.outcomes)]
    notes += [_note("warning", f"skipped: {text}") for text in diagnosis.run.skipped]
    return {"executionSuccessful": not story.crashed(diagnosis.outcomes), "toolExecutionNotifications": notes}


def _note(level: str, text: str) -> dict[str, Any]:
    return {"level": level, "message": {"text": message(text)}}
