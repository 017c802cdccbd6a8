"""Refuse rules that cannot be trusted.

Checked per rule: it loads; its folder bears its id and lies under the stage the vocabulary gives; words come from the
vocabulary; `explains` names known modes; message fields are captured by a pattern or measured by the detector; config
patches name real keys of Axolotl's and DeepSpeed's schema; at least one firing and one quiet case; no two rules share a
pattern. Problems carry `path:line`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftdoctor.detectors.condition import OPERATORS
from ftdoctor.diagnosis.template import fields
from ftdoctor.errors import RuleError
from ftdoctor.ruleset.anchors import anchors
from ftdoctor.ruleset.load import KINDS, read_yaml, rule_files, shipped_dir
from ftdoctor.upstream.schema import axolotl_keys, deepspeed_keys

TITLE_LENGTH = 62  # one line of the report at 80 columns
# what stands in line after line of a healthy log: a pattern that can only be searched for by this costs time
COMMON = (
    b"NCCL INFO ",
    b"AllReduce",
    b'  File "',
    b"site-packages/",
    b"torch/distributed/",
    b"[rank0]: ",
    b" [INFO] [",
)
MEASURED = {"absent", "who", "rank", "step", "count", "line", "values", "type", "text", "place", "exception"}


def lint(folder: Path) -> list[str]:
    """All problems of all rules below `folder`, sorted."""
    import yaml

    words = yaml.safe_load((shipped_dir() / "vocabulary.yaml").read_text(encoding="utf-8"))
    own = folder / "vocabulary.yaml"
    modes = {mode: stage for stage, entries in words["failure_modes"].items() for mode in entries}
    if own.is_file() and own != shipped_dir() / "vocabulary.yaml":
        extra = yaml.safe_load(own.read_text(encoding="utf-8")).get("failure_modes", {})
        modes.update({mode: stage for stage, entries in extra.items() for mode in entries})
    problems: list[str] = []
    seen: dict[str, str] = {}
    for path in rule_files(folder):
        try:
            entry = read_yaml([path])[0]
        except RuleError as error:
            problems += error.problems
            continue
        problems += [f"{path}:{line}: {text}" for line, text in _rule(path, entry, words, modes)]
        for regex in _patterns(entry):
            if regex in seen and seen[regex] != entry["id"]:
                problems.append(f"{path}:{_line(path, regex)}: pattern also in rule {seen[regex]}: {regex}")
            seen.setdefault(regex, entry["id"])
    return sorted(problems)


def _line(path: Path, text: str) -> int:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if text in line:
            return number
    return 1


def _patterns(entry: Mapping[str, Any]) -> list[str]:
    return [regex for d in entry["detect"] if "log_signature" in d for regex in d["log_signature"].get("any", [])]


def _rule(
    path: Path, entry: Mapping[str, Any], words: Mapping[str, Any], modes: Mapping[str, str]
) -> Iterator[tuple[int, str]]:
    rule_id = str(entry["id"])
    if path.parent.name != rule_id:
        yield 1, f"the folder is called {path.parent.name}, the rule {rule_id}"
    if rule_id not in modes:
        yield _line(path, "id:"), f"`{rule_id}` is not in rules/vocabulary.yaml"
    elif modes[rule_id] != path.parent.parent.name:
        yield 1, f"`{rule_id}` belongs to stage {modes[rule_id]}, not {path.parent.parent.name}"
    for key in ("stages", "needs"):
        for word in entry.get(key, ()):
            if word not in words[key]:
                yield _line(path, f"{key}:"), f"`{word}` is not one of {key}: {', '.join(words[key])}"
    for regex in _patterns(entry):
        for literal, _ in anchors(regex):
            if any(literal in common for common in COMMON):
                yield _line(path, regex), f"`{literal.decode()}` is in too many healthy lines to search for: {regex}"
    for other in entry.get("explains", ()):
        if other not in modes:
            yield _line(path, "explains:"), f"explains `{other}`, which is not in the vocabulary"
        if other == rule_id:
            yield _line(path, "explains:"), "a rule cannot explain itself"
    if len(str(entry["title"])) > TITLE_LENGTH:
        yield _line(path, "title:"), f"the title is longer than {TITLE_LENGTH} characters"
    yield from _fields(path, entry)
    yield from _conditions(path, entry)
    yield from _fixes(path, entry)
    yield from _cases(path, rule_id)


def _conditions(path: Path, entry: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    for fix in entry.get("fixes", ()):
        for test in fix.get("only_if", ()):
            if "key" not in test or not any(operator in test for operator in OPERATORS):
                yield _line(path, "only_if:"), f"only_if needs a key and one of {', '.join(OPERATORS)}: {test}"


def _fields(path: Path, entry: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    for detector in entry["detect"]:
        kind = next(k for k in detector if k in KINDS)
        if kind != "log_signature":
            continue
        message = detector.get("message") or entry["message"]
        for regex in detector[kind].get("any", []):
            groups = set(re.compile(regex).groupindex)
            for name in sorted(fields(message) - groups - MEASURED):
                yield (
                    _line(path, regex),
                    f"the message needs {{{name}}}, which this pattern does not capture: give a default or a group",
                )


def _fixes(path: Path, entry: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    known = {"axolotl": axolotl_keys(), "deepspeed": deepspeed_keys()}
    for fix in entry["fixes"]:
        if not any(fix.get(k) for k in ("config_patch", "env", "command", "note")):
            yield _line(path, str(fix.get("title", "fixes:"))), "a fix needs config_patch, env, command or note"
        if fix.get("safe_to_retry") and not fix.get("config_patch"):
            yield _line(path, "safe_to_retry:"), "safe_to_retry is about a config_patch, and this fix has none"
        for key in fix.get("config_patch", {}):
            scope, _, rest = str(key).partition(".")
            if scope not in known:
                yield _line(path, str(key)), f"`{key}`: a patch key starts with axolotl. or deepspeed."
                continue
            head = rest.split(".")[0].removesuffix("[]")
            if head not in known[scope]:
                yield _line(path, str(key)), f"`{head}` is no key of {scope}'s schema"


def _cases(path: Path, rule_id: str) -> Iterator[tuple[int, str]]:
    import yaml

    file = path.parent / "cases.yaml"
    if not file.is_file():
        yield 1, "no cases.yaml beside the rule"
        return
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    if data.get("rule") != rule_id:
        yield 1, f"cases.yaml is for `{data.get('rule')}`"
    outcomes = [case.get("expect", {}).get("outcome") for case in data.get("cases", [])]
    for wanted in ("fired", "quiet"):
        if wanted not in outcomes:
            yield 1, f"cases.yaml has no case that expects `{wanted}`"
