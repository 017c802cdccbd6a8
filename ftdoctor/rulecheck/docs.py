"""Generated files: rule index, JSON schema of rules, one page per rule, the list of rules.

Everything comes from the rule files and the vocabulary; `tools/generate.py --check` fails when a file is stale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftdoctor.ruleset.load import INDEX, KEYS, KINDS, REQUIRED, digest, read_yaml, rule_files

_KIND_TEXT = {
    "log_signature": "lines of the log",
    "condition": "configuration and facts",
    "exit_status": "how processes ended",
    "traceback": "Python tracebacks",
    "numeric": "logged metrics",
    "gpu_snapshot": "GPU state",
    "gpu_trace": "live GPU samples",
    "silence": "time stamps",
    "cadence": "the rhythm of a live run",
    "straggler": "the heartbeats of the ranks",
}


def generated(root: Path) -> dict[Path, str]:
    """Every generated file of the repository below `root` with its content."""
    import yaml

    folder = root / "rules"
    files = rule_files(folder)
    entries = read_yaml(files)
    words = yaml.safe_load((folder / "vocabulary.yaml").read_text(encoding="utf-8"))
    index = {"digest": digest(files), "rules": entries}
    pages: dict[Path, str] = {
        folder / INDEX: json.dumps(index, ensure_ascii=False, separators=(",", ":")) + "\n",
        folder / "schema.json": json.dumps(rule_schema(words), indent=2) + "\n",
        root / "docs" / "rules" / "README.md": overview(entries, words),
    }
    for entry in entries:
        pages[root / "docs" / "rules" / f"{entry['id']}.md"] = page(entry)
    return pages


def rule_schema(words: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of rule.yaml, for editors."""
    modes = sorted(mode for entries in words["failure_modes"].values() for mode in entries)
    text = {"type": "string", "minLength": 1}
    texts = {"type": "array", "items": text}
    fix = {
        "type": "object",
        "required": ["title"],
        "additionalProperties": False,
        "properties": {
            "title": text,
            "config_patch": {"type": "object", "propertyNames": {"pattern": "^(axolotl|deepspeed)\\."}},
            "env": {"type": "object"},
            "command": text,
            "note": text,
            "cost": text,
            "only_if": {"type": "array", "items": {"type": "object", "required": ["key"]}},
            "safe_to_retry": {"type": "boolean"},
        },
    }
    detector = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **{kind: {"type": "object", "description": _KIND_TEXT.get(kind, kind)} for kind in KINDS},
            "message": text,
            "severity": {"enum": words["severities"]},
        },
    }
    properties: dict[str, Any] = {
        "id": {"enum": modes},
        "title": text,
        "severity": {"enum": words["severities"]},
        "role": {"enum": words["roles"]},
        "stages": {"type": "array", "items": {"enum": words["stages"]}},
        "needs": {"type": "array", "items": {"enum": words["needs"]}},
        "detect": {"type": "array", "minItems": 1, "items": detector},
        "explains": {"type": "array", "items": {"enum": modes}},
        "message": text,
        "why": text,
        "fixes": {"type": "array", "minItems": 1, "items": fix},
        "false_positives": text,
        "references": texts,
        "generic": {"type": "boolean"},
        "survivable": {"type": "boolean"},
    }
    assert set(properties) == KEYS
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ftdoctor rule",
        "type": "object",
        "required": list(REQUIRED),
        "additionalProperties": False,
        "properties": properties,
    }


def overview(entries: list[dict[str, Any]], words: Mapping[str, Any]) -> str:
    """The table of all failure modes by stage; modes without a rule are listed as such."""
    known = {entry["id"]: entry for entry in entries}
    lines = ["# Failure modes", "", "Generated from `rules/` by `make docs`.", ""]
    for stage, modes in words["failure_modes"].items():
        lines += [f"## {stage}", "", "| failure mode | severity | what it is | read from |", "|---|---|---|---|"]
        for mode, entry in modes.items():
            rule = known.get(mode)
            if rule is None:
                lines.append(f"| {mode} | | {_cell(entry['what'])} | no rule yet |")
                continue
            kinds = sorted({_KIND_TEXT.get(k, k) for d in rule["detect"] for k in d if k in KINDS})
            lines.append(f"| [{mode}]({mode}.md) | {rule['severity']} | {_cell(entry['what'])} | {', '.join(kinds)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page(entry: Mapping[str, Any]) -> str:
    """One rule's page."""
    lines = [f"# {entry['id']}", "", f"**{entry['title']}** ({entry['severity']}, {entry['role']})", ""]
    lines += [" ".join(str(entry["why"]).split()), ""]
    if entry.get("explains"):
        lines += ["It explains: " + ", ".join(f"`{other}`" for other in entry["explains"]) + ".", ""]
    lines += ["## Fixes", ""]
    for fix in entry["fixes"]:
        lines.append(f"- **{fix['title']}**" + (f" Cost: {fix['cost']}" if fix.get("cost") else ""))
        for key, value in fix.get("config_patch", {}).items():
            lines.append(f"  - `{key}`: {_patch(value)}")
        for key, value in fix.get("env", {}).items():
            lines.append(f"  - `export {key}={value}`")
        if fix.get("command"):
            lines.append(f"  - `{fix['command']}`")
        if fix.get("note"):
            lines.append(f"  - {' '.join(str(fix['note']).split())}")
        if fix.get("safe_to_retry"):
            lines.append("  - `ftdoctor launch --retry-with-fix` may make this change by itself.")
    lines += ["", "## What it looks for", ""]
    for detector in entry["detect"]:
        kind = next(k for k in detector if k in KINDS)
        options = detector[kind]
        if kind == "log_signature":
            lines += ["Lines that match one of:", "", "```"] + [str(regex) for regex in options["any"]] + ["```", ""]
        else:
            lines += [
                f"{_KIND_TEXT.get(kind, kind).capitalize()}:",
                "",
                "```json",
                json.dumps(options, indent=1),
                "```",
                "",
            ]
    if entry.get("false_positives"):
        lines += ["## When it may be wrong", "", " ".join(str(entry["false_positives"]).split()), ""]
    if entry.get("references"):
        lines += ["## References", ""] + [f"- {ref}" for ref in entry["references"]] + [""]
    return "\n".join(lines)


def _patch(value: object) -> str:
    if isinstance(value, dict) and len(value) == 1:
        operator, operand = next(iter(value.items()))
        words = {"halve": "half of it", "double": "twice as much", "remove": "remove it"}
        if operator in words:
            return words[str(operator)]
        if operator in ("divide", "multiply"):
            return f"{operator} by {operand}"
    return f"`{json.dumps(value)}`"
