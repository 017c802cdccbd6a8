"""Read rules: from the generated index (fast) or from the YAML files (always right).

The index holds what the YAML files say, with anchors already derived; it carries a digest of
the files it was made from and is ignored when they differ. All errors of all files are collected before any is
reported, each with `path:line`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ftdoctor.detectors.base import DetectorSpec, Pattern
from ftdoctor.errors import InputError, RuleError
from ftdoctor.ruleset.anchors import anchors
from ftdoctor.ruleset.types import FixSpec, Rule, RuleSet

INDEX = "index.json"
KEYS = {
    "id", "title", "severity", "role", "stages", "needs", "detect", "explains", "message", "why",
    "fixes", "false_positives", "references", "generic", "survivable",
}  # fmt: skip
REQUIRED = ("id", "title", "severity", "role", "stages", "detect", "message", "why", "fixes")
KINDS = (
    "log_signature",
    "numeric",
    "condition",
    "exit_status",
    "gpu_snapshot",
    "gpu_trace",
    "traceback",
    "silence",
    "cadence",
    "straggler",
)


def shipped_dir(name: str = "rules") -> Path:
    """The folder `rules` (or `configs`) of this installation: inside the wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "data" / name
    return inside if inside.is_dir() else package.parent / name


def rule_files(folder: Path) -> list[Path]:
    """Every rule.yaml below `folder`, in a stable order."""
    return sorted(folder.glob("*/*/rule.yaml")) or sorted(folder.glob("**/rule.yaml"))


def digest(files: Iterable[Path]) -> str:
    """Content hash of the rule files, by which an index knows that it is current."""
    total = hashlib.sha256()
    for path in files:
        total.update(path.parent.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def load(extra: Iterable[Path] = (), folder: Path | None = None) -> RuleSet:
    """The shipped rules plus those in `extra` folders; a rule there replaces the shipped one of the same id.

    Raises:
        RuleError: one or more rules are broken.
        InputError: an extra folder holds no rule.
    """
    return build(raw_rules(extra, folder))


def raw_rules(extra: Iterable[Path] = (), folder: Path | None = None) -> list[dict[str, Any]]:
    """The same rules as plain data."""
    raw = {entry["id"]: entry for entry in _shipped(folder or shipped_dir())}
    for place in extra:
        files = rule_files(place)
        if not files:
            raise InputError(
                "no rule.yaml in this folder",
                str(place),
                "point --rules at a folder of <stage>/<failure-mode>/rule.yaml",
            )
        raw.update({entry["id"]: entry for entry in read_yaml(files)})
    return list(raw.values())


def _shipped(folder: Path) -> list[dict[str, Any]]:
    files = rule_files(folder)
    try:
        index = json.loads((folder / INDEX).read_bytes())
        if index.get("digest") == digest(files):
            rules: list[dict[str, Any]] = index["rules"]
            return rules
    except (OSError, ValueError, KeyError):
        pass
    return read_yaml(files)


def read_yaml(files: Iterable[Path]) -> list[dict[str, Any]]:
    """Rule files as plain data with anchors derived.

    Raises:
        RuleError: every problem of every file.
    """
    import yaml

    problems: list[str] = []
    entries: list[dict[str, Any]] = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            problems.append(
                f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {getattr(error, 'problem', error)}"
            )
            continue
        found = _check(path, text, data)
        problems.extend(found)
        if not found:
            data["path"] = f"{path.parent.parent.name}/{path.parent.name}"
            for entry in data["detect"]:
                _derive(entry)
            entries.append(data)
    if problems:
        raise RuleError(problems)
    return entries


def _line(text: str, key: str) -> int:
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*-?\s*['\"]?{re.escape(key)}['\"]?\s*:", line) or (len(key) > 12 and key in line):
            return number
    return 1


def _check(path: Path, text: str, data: object) -> list[str]:
    if not isinstance(data, dict):
        return [f"{path}:1: a rule is a mapping"]
    problems = [f"{path}:{_line(text, str(key))}: unknown key `{key}`" for key in data if key not in KEYS]
    problems += [f"{path}:1: `{key}` is missing" for key in REQUIRED if key not in data]
    if data.get("severity") not in ("error", "warning", "info"):
        problems.append(f"{path}:{_line(text, 'severity')}: severity is error, warning or info")
    if data.get("role") not in ("cause", "cascade", "symptom"):
        problems.append(f"{path}:{_line(text, 'role')}: role is cause, cascade or symptom")
    detect = data.get("detect")
    if not isinstance(detect, list) or not detect:
        problems.append(f"{path}:{_line(text, 'detect')}: `detect` is a list with at least one detector")
        return problems
    for entry in detect:
        kinds = [key for key in entry if key in KINDS] if isinstance(entry, dict) else []
        if len(kinds) != 1:
            problems.append(f"{path}:{_line(text, 'detect')}: each detector has one kind of {', '.join(KINDS)}")
            continue
        options = entry[kinds[0]]
        if not isinstance(options, dict):
            problems.append(f"{path}:{_line(text, kinds[0])}: `{kinds[0]}` needs its options")
            continue
        for regex in _regexes(options):
            try:
                re.compile(regex)
            except re.error as error:
                problems.append(f"{path}:{_line(text, regex)}: bad pattern: {error}: {regex}")
                continue
        if kinds[0] == "log_signature":
            for regex in options.get("any", []):
                try:
                    if not anchors(regex):
                        problems.append(
                            f"{path}:{_line(text, regex)}: no literal text of 4 characters or more in: {regex}"
                        )
                except re.error:
                    pass
    return problems


def _regexes(options: Mapping[str, Any]) -> list[str]:
    return [str(r) for key in ("any", "unless", "with", "without") for r in options.get(key, []) if isinstance(r, str)]


def _derive(entry: dict[str, Any]) -> None:
    if "log_signature" in entry:
        options = entry["log_signature"]
        entry["anchors"] = {
            regex: [[text.decode(), caseless] for text, caseless in anchors(regex)]
            for key in ("any", "with", "without")
            for regex in options.get(key, [])
        }


def build(entries: Iterable[Mapping[str, Any]]) -> RuleSet:
    """Typed rules out of plain data; numbers the patterns."""
    patterns: list[Pattern] = []
    rules: list[Rule] = []
    for entry in sorted(entries, key=lambda e: str(e["id"])):
        specs: list[DetectorSpec] = []
        for detector in entry["detect"]:
            kind = next(key for key in detector if key in KINDS)
            options = detector[kind]
            mine: list[Pattern] = []
            if kind == "log_signature":
                for key in ("any", "with", "without"):
                    for regex in options.get(key, []):
                        literals = tuple((t.encode(), bool(c)) for t, c in detector["anchors"][regex])
                        mine.append(Pattern(len(patterns), regex, literals))
                        patterns.append(mine[-1])
            specs.append(
                DetectorSpec(kind, options, tuple(mine), detector.get("message", ""), detector.get("severity"))
            )
        rules.append(_rule(entry, tuple(specs)))
    return RuleSet(tuple(rules), tuple(patterns))


def _rule(entry: Mapping[str, Any], specs: tuple[DetectorSpec, ...]) -> Rule:
    return Rule(
        id=entry["id"],
        title=entry["title"],
        severity=entry["severity"],
        role=entry["role"],
        stages=tuple(entry["stages"]),
        needs=tuple(entry.get("needs", ())),
        detect=specs,
        explains=tuple(entry.get("explains", ())),
        message=_flow(entry["message"]),
        why=_flow(entry["why"]),
        fixes=tuple(_fix(fix) for fix in entry["fixes"]),
        false_positives=_flow(entry.get("false_positives", "")),
        references=tuple(entry.get("references", ())),
        generic=bool(entry.get("generic", False)),
        survivable=bool(entry.get("survivable", True)),
        path=entry.get("path", ""),
    )


def _flow(text: str) -> str:
    return " ".join(str(text).split())


def _fix(entry: Mapping[str, Any]) -> FixSpec:
    return FixSpec(
        title=entry["title"],
        config_patch=dict(entry.get("config_patch", {})),
        env={k: str(v) for k, v in entry.get("env", {}).items()},
        command=entry.get("command", ""),
        note=_flow(entry.get("note", "")),
        cost=_flow(entry.get("cost", "")),
        only_if=tuple(entry.get("only_if", ())),
        safe_to_retry=bool(entry.get("safe_to_retry", False)),
    )
