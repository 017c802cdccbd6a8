"""Raw rows against their declared type, before anything is tokenised: what is wrong, how often, in which rows.

found = Judge(declare(dataset), "train.jsonl")
for item in read(path): found.take(item)
found.close()
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from ftdoctor.preflight.data.declared import Declared
from ftdoctor.preflight.data.rows import Cut, Flaw, Row, kind_of

SHOWN = 5
HASHED = 1_000_000  # rows whose hash is kept; about 100 MB
_PLACEHOLDER = re.compile(
    r"\s*(?:\{\{?\s*(?:[a-z_]+\.)?[a-z_]+\s*\}?\}|<(?:answer|output|response|completion)>)\s*", re.IGNORECASE
)
_SPACE = re.compile(r"\s+")


@dataclass(slots=True)
class Sighting:
    """One kind of problem in one file: `rows` are the first (row, line) pairs, `text` says what the first one is."""

    count: int = 0
    rows: list[tuple[int, int]] = field(default_factory=list)
    text: str = ""

    def add(self, row: int, line: int, text: str = "") -> None:
        """One more row."""
        self.count += 1
        if len(self.rows) < SHOWN:
            self.rows.append((row, line))
        self.text = self.text or text

    def where(self) -> str:
        """`row 3 (line 3)`, `rows 3, 8 and 12 more (lines 4, 9)`."""
        return places(self.rows, self.count)


def places(rows: list[tuple[int, int]], count: int) -> str:
    """The rows in words, with their lines where those are other numbers."""
    named = [row for row, _ in rows if row] or [line for _, line in rows]
    word = "row" if any(row for row, _ in rows) else "line"
    if not any(named):
        return f"{count} rows"
    more = f" and {count - len(named):,} more" if count > len(named) else ""
    told = f"{word}{'s' if count > 1 else ''} {', '.join(f'{n:,}' for n in named)}{more}"
    lines = [line for row, line in rows if row and line and line != row]
    return f"{told} (line{'s' if len(lines) > 1 else ''} {', '.join(f'{n:,}' for n in lines)})" if lines else told


class Judge:
    """The rows of one data set, one after the other; memory does not grow beyond the hashes of `HASHED` rows."""

    def __init__(self, declared: Declared, name: str) -> None:
        """`name` is the file's, for messages."""
        self.declared, self.name = declared, name
        self.rows = 0
        self.cut: Cut | None = None
        self.found: dict[str, Sighting] = {}
        self.columns: Counter[str] = Counter()
        self.hashes: dict[int, int] = {}
        self.tokenized = 0
        self._keys: Counter[str] = Counter()
        self._turns = 0
        self._unknown_roles: Counter[str] = Counter()

    def take(self, item: Row | Flaw | Cut) -> None:
        """One piece of the file."""
        if isinstance(item, Cut):
            self.cut = item
        elif isinstance(item, Flaw):
            self._seen(item.kind, 0, item.line, item.text)
        else:
            self._row(item)

    def _seen(self, kind: str, row: int, line: int, text: str = "") -> None:
        self.found.setdefault(kind, Sighting()).add(row, line, text)

    def _row(self, row: Row) -> None:
        self.rows += 1
        value, number, line = row.value, row.number, row.line
        self.columns.update(value.keys())
        if value.keys() >= {"input_ids", "labels", "attention_mask"}:
            self.tokenized += 1
            return
        if self.declared.kind == "columns":
            self._columns(value, number, line)
        elif self.declared.kind == "messages":
            self._messages(value, number, line)
        elif self.declared.kind == "segments":
            self._segments(value, number, line)
        self._twin(value, number, line)

    def _columns(self, value: Mapping[str, Any], row: int, line: int) -> None:
        declared = self.declared
        for column in declared.required:
            cell = value.get(column)
            if column != declared.answer and cell is None and column in value:
                self._seen("null", row, line, f"{column} is null")
            elif column == declared.answer and cell is not None and not isinstance(cell, str):
                self._seen("not_text", row, line, f"{column} is {kind_of(cell)}, where text is read")
            elif isinstance(cell, (list, dict)):
                self._seen("null", row, line, f"{column} is {kind_of(cell)}")
        answer = value.get(declared.answer)
        if answer is None or (isinstance(answer, str) and not answer.strip()):
            self._seen(
                "no_answer", row, line, f"{declared.answer} is {'null or absent' if answer is None else 'empty'}"
            )
        elif isinstance(answer, str) and _PLACEHOLDER.fullmatch(answer):
            self._seen("placeholder", row, line, f"{declared.answer} is {answer.strip()[:40]}")

    def _segments(self, value: Mapping[str, Any], row: int, line: int) -> None:
        segments = value.get("segments")
        if segments is None:
            if "segments" in value:
                self._seen("broken", row, line, "segments is null")
            return
        if not isinstance(segments, list) or not all(isinstance(s, Mapping) for s in segments):
            self._seen("broken", row, line, "segments is not a list of {label, text}")
            return
        if any("label" not in s or not isinstance(s.get("text"), str) for s in segments):
            self._seen("broken", row, line, "a segment lacks label or text")
            return
        if not any(s["label"] and s["text"].strip() for s in segments):
            self._seen("untrained", row, line, "no segment has label true and a text")

    def _messages(self, value: Mapping[str, Any], row: int, line: int) -> None:
        turns = value.get(self.declared.messages)
        if isinstance(turns, str):
            try:
                turns = json.loads(turns)
            except (ValueError, RecursionError):
                self._seen("broken", row, line, f"{self.declared.messages} is text that is no JSON")
                return
        if turns is None:
            if self.declared.messages in value or self.columns[self.declared.messages]:
                self._seen("broken", row, line, f"{self.declared.messages} is null or absent")
            return
        if not isinstance(turns, list):
            self._seen("broken", row, line, f"{self.declared.messages} is {kind_of(turns)}, not a list of turns")
            return
        if not turns:
            self._seen("untrained", row, line, f"{self.declared.messages} is empty")
            return
        if not all(isinstance(turn, Mapping) for turn in turns):
            self._seen("broken", row, line, "a turn is no object with role and content")
            return
        self._conversation(turns, row, line)

    def _conversation(self, turns: list[Mapping[str, Any]], row: int, line: int) -> None:
        declared = self.declared
        taught = False
        for turn in turns:
            self._turns += 1
            self._keys.update(turn.keys())
            role, content = turn.get(declared.role), turn.get(declared.content)
            if role is None:
                if self._keys[declared.role]:
                    self._seen("broken", row, line, f"a turn has no {declared.role}")
                continue
            mapped = declared.roles.get(str(role))
            if mapped is None:
                self._unknown_roles[str(role)] += 1
                self._seen("role", row, line, f'role "{role}"')
                mapped = str(role)
            if content is not None and not isinstance(content, (str, list)):
                self._seen("not_text", row, line, f"{declared.content} is {kind_of(content)}, where text is read")
            if mapped not in declared.trained:
                continue
            taught = True
            empty = content is None or content == [] or (isinstance(content, str) and not content.strip())
            if empty and not turn.get("tool_calls"):
                self._seen("no_answer", row, line, f"the {role} turn's {declared.content} is "
                                                   f"{'null or absent' if content is None else 'empty'}")  # fmt: skip
            elif isinstance(content, str) and _PLACEHOLDER.fullmatch(content):
                self._seen("placeholder", row, line, f"the {role} turn is {content.strip()[:40]}")
        if not taught and declared.trained and all(turn.get(declared.role) is not None for turn in turns):
            told = ", ".join(dict.fromkeys(str(turn.get(declared.role)) for turn in turns))[:80]
            self._seen("untrained", row, line, f"no turn of {' or '.join(declared.trained)} (roles: {told})")

    def _twin(self, value: Mapping[str, Any], row: int, line: int) -> None:
        if not any(value.get(c) for c in self.declared.columns or value):
            return
        key = fingerprint({c: value.get(c) for c in self.declared.columns} if self.declared.columns else value)
        first = self.hashes.get(key)
        if first is not None:
            self._seen("twin", row, line, f"row {row:,} repeats row {first:,}")
        elif len(self.hashes) < HASHED:
            self.hashes[key] = row

    def close(self) -> None:
        """Judge what only the whole file tells: columns that no row has."""
        if not self.rows or self.tokenized:
            return
        names = ", ".join(str(name) for name in list(self.columns)[:8])
        absent = [c for c in self.declared.required if not self.columns[c]]
        if absent:
            custom = self.declared.type == "custom" and absent == [self.declared.answer]
            self.found.pop("no_answer", None)
            told = f"no row has {', '.join(absent)} (columns: {names})"
            self._seen("columns", 1, 1, told + ("; Axolotl takes the answer as empty" if custom else ""))
        if self.declared.kind == "messages" and self._turns and not absent:
            keys = ", ".join(str(name) for name in list(self._keys)[:8])
            for needed in (self.declared.role, self.declared.content):
                if not self._keys[needed] and not (needed == self.declared.content and self._keys["tool_calls"]):
                    for kind in ("no_answer", "untrained"):
                        self.found.pop(kind, None)
                    self._seen("columns", 1, 1, f"no turn has {needed} (a turn's keys: {keys})")
                    break
        if "columns" in self.found:
            self.hashes.clear()
            for kind in ("role", "twin"):
                self.found.pop(kind, None)

    @property
    def judged(self) -> int:
        """Rows that were read, the broken ones included."""
        return self.rows + sum(self.found[k].count for k in ("json", "shape") if k in self.found)

    def unknown_roles(self) -> list[str]:
        """Roles that neither Axolotl's map nor `roles` knows, most frequent first."""
        return [role for role, _ in self._unknown_roles.most_common(6)]


def fingerprint(value: object) -> int:
    """64 bits of the row's text, without case and spacing, so that a copy with other blanks is still one."""
    text = _SPACE.sub(" ", " ".join(_texts(value))).strip().casefold()
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _texts(value: object, depth: int = 0) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key in value:
            yield from (*_texts(value[key], depth + 1), "\x1f") if depth < 20 else ()
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, depth + 1) if depth < 20 else ()
    elif value is not None:
        yield str(value)
