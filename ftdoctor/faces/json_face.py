"""The diagnosis as one JSON object; `diagnosis.schema.json` beside this file describes it.

Non-finite numbers are written as the strings "NaN", "Infinity" and "-Infinity": JSON has no others. Control and
format characters are written as escapes, so that printing the object to a terminal is safe.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from ftdoctor.findings import Diagnosis, Evidence, Finding, Fix
from ftdoctor.version import __version__

SCHEMA_VERSION = 1
_UNSAFE = re.compile(
    "[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


def as_dict(diagnosis: Diagnosis, fixes: bool = True) -> dict[str, Any]:
    """The object that is printed."""
    run = diagnosis.run
    return {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "verdict": diagnosis.verdict,
        "root_cause": None if diagnosis.root_cause is None else finding_dict(diagnosis.root_cause, fixes),
        "findings": [finding_dict(f, fixes) for f in diagnosis.findings],
        "outcomes": [
            {"id": o.id, "outcome": o.outcome, "missing": list(o.missing), "reason": o.reason}
            for o in diagnosis.outcomes
        ],
        "run": {
            "stage": run.stage,
            "world_size": run.world_size,
            "first_step": finite(run.first_step),
            "last_step": finite(run.last_step),
            "total_steps": finite(run.total_steps),
            "last_metrics": {k: finite(v) for k, v in run.last_metrics.items()},
            "exit": run.exit,
            "finished": run.finished,
            "saved": run.saved,
            "sources": list(run.sources),
            "skipped": list(run.skipped),
        },
    }


def finding_dict(finding: Finding, fixes: bool = True) -> dict[str, Any]:
    """One finding."""
    return {
        "id": finding.id,
        "severity": finding.severity,
        "role": finding.role,
        "state": finding.state,
        "title": finding.title,
        "message": finding.message,
        "why": finding.why,
        "rank": finding.rank,
        "ranks": list(finding.ranks),
        "node": finding.node,
        "step": finite(finding.step),
        "time": finite(finding.time),
        "count": finding.count,
        "explained_by": finding.explained_by,
        "evidence": [_evidence(e) for e in finding.evidence],
        "fixes": [_fix(f) for f in finding.fixes] if fixes else [],
    }


def _evidence(item: Evidence) -> dict[str, Any]:
    return {
        "kind": item.kind,
        "path": item.path,
        "line_first": item.line_first,
        "line_last": item.line_last,
        "excerpt": item.excerpt,
    }


def _fix(fix: Fix) -> dict[str, Any]:
    return {
        "title": fix.title,
        "config_patch": jsonable(fix.config_patch),
        "config_before": jsonable(fix.config_before),
        "env": dict(fix.env),
        "command": fix.command,
        "note": fix.note,
        "cost": fix.cost,
    }


def finite(value: float | None) -> float | int | str | None:
    """A number JSON can hold; integers without a fraction."""
    if value is None:
        return None
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return int(value) if value == int(value) and abs(value) < 1e15 else value


def jsonable(value: Any) -> Any:
    """A value from YAML as JSON can hold it: dates become text, keys become strings, NaN becomes "NaN"."""
    if isinstance(value, bool) or value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else finite(value)
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(item) for item in value]
    return str(value)


def dump(value: Any) -> str:
    """JSON text that is safe to print; non-ASCII letters stay readable."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def render(diagnosis: Diagnosis, fixes: bool = True) -> str:
    """The object as text."""
    return dump(as_dict(diagnosis, fixes))
