"""Reading answers: JSON lines of {"prompt", "output", "finish_reason", "template"}."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError
from ftdoctor.evaluation.text import Answer

_FINISH = {"eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop"}


def as_text(value: Any) -> str:
    """A prompt or an answer as text: a string, a message, or the last user turn of a list of messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return as_text(value.get("content", value.get("value", value.get("text", ""))))
    if isinstance(value, list):
        turns = [m for m in value if isinstance(m, dict)]
        user = [m for m in turns if m.get("role", m.get("from")) in ("user", "human")]
        if user:
            return as_text(user[-1])
        return "\n".join(as_text(part) for part in value)
    return "" if value is None else str(value)


def parse_row(row: Any, where: str) -> Answer:
    """One row.

    Raises:
        InputError: the row is no object or has no output.
    """
    if not isinstance(row, dict):
        raise InputError("a row that is no JSON object", where, 'give {"prompt": ..., "output": ...} on every line')
    output = next((row[k] for k in ("output", "answer", "response", "completion", "generated_text") if k in row), ...)
    if output is ...:
        raise InputError('a row without "output"', where, 'give {"prompt": ..., "output": ...} on every line')
    prompt = next((row[k] for k in ("prompt", "instruction", "question", "messages") if k in row), "")
    finish = str(row.get("finish_reason") or "").lower()
    return Answer(as_text(prompt), as_text(output), _FINISH.get(finish, finish), str(row.get("template") or ""))


def read_answers(path: str) -> Iterator[Answer]:
    """Answers of a file, in order.

    Raises:
        InputError: the file cannot be read, or a line is not as it should be.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"cannot be read: {getattr(error, 'strerror', None) or error}", path, "give a UTF-8 file of JSON lines"
        ) from None
    found = False
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        found = True
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"not JSON: {error}", f"{path}:{number}", "write one JSON object per line") from None
        yield parse_row(row, f"{path}:{number}")
    if not found:
        raise InputError("no answers in the file", path, "write one JSON object per line")
