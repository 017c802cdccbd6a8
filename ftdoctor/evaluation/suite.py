"""The built-in prompts: what a chat model should manage after any fine-tune, chosen so that faults show.

Each is a list of messages. `kind` says what the prompt tries.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ftdoctor.errors import InputError
from ftdoctor.evaluation.markers import HEADERS, RESPONSE, TOKEN

Message = dict[str, str]
ROLES = ("user", "assistant", "system", "model", "human", "tool")


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of a suite. `seed` None asks for the most likely token; `reference` is the answer that the data gives;
    `ids` are the prompt's tokens as training saw them, for rows of the validation split.
    """

    kind: str
    messages: tuple[Message, ...]
    seed: int | None = None
    reference: str = ""
    ids: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The last user turn, without template text."""
        if self.ids:
            return last_turn(self.messages[-1]["content"])
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


def last_turn(text: str) -> str:
    """What was asked last in a prompt that holds its template's text."""
    for pattern in (TOKEN, HEADERS, RESPONSE):
        text = pattern.sub("\0", text)
    parts = [part.strip() for part in text.split("\0")]
    return next((part for part in reversed(parts) if part and part.lower() not in ROLES), text.strip("\0\n "))


def sampled(prompts: Sequence[Prompt], number: int, seed: int, greedy: bool = True) -> tuple[Prompt, ...]:
    """Every prompt greedily, and `number` times sampled, with the seeds `seed`, `seed` + 1, ..."""
    seeds: list[int | None] = [None] if greedy else []
    return tuple(replace(p, seed=s) for p in prompts for s in [*seeds, *range(seed, seed + number)])


def _ask(kind: str, *turns: str, system: str = "") -> Prompt:
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
    return Prompt(kind, tuple(messages))


SUITE: tuple[Prompt, ...] = (
    _ask("instruction", "Name the capital of France."),
    _ask("instruction", "Give three tips for staying healthy."),
    _ask("instruction", "Explain in two sentences why the sky is blue."),
    _ask("instruction", "Is 17 a prime number? Answer yes or no."),
    _ask("instruction", "Turn this into a question: The train leaves at noon."),
    _ask("format", 'Return a JSON object with the keys "name" and "age" for a person called Ada who is 36.'),
    _ask("format", "List five fruits, one per line."),
    _ask("code", "Write a Python function that reverses a string."),
    _ask("code", "What does `git rebase` do?"),
    _ask("multi-turn", "My name is Maria.", "Nice to meet you, Maria!", "What is my name?"),
    _ask("multi-turn", "Think of a colour.", "I chose green.", "Name two things of that colour."),
    _ask("system", "What is the best way to cook rice?", system="You are a cook. Answer in one short paragraph."),
    _ask("loop", "Tell me about rivers."),
    _ask("loop", "Write a short story about a lighthouse keeper."),
    _ask("language", "¿Cuál es la capital de España?"),
    _ask("language", "Erkläre kurz, was ein Computer ist."),
    _ask("language", "请用一句话介绍北京。"),
    _ask("long", "Describe the water cycle step by step and in detail."),
)


def read_prompts(path: str) -> tuple[Prompt, ...]:
    """Prompts of a file of JSON lines: strings, {"prompt"}, {"instruction", "input"}, {"messages"}, {"conversations"}.

    A last assistant turn, `output`, `answer`, `response` or `completion` is the reference.

    Raises:
        InputError: the file cannot be read or a row holds no prompt.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot be read: {error}", path, "give a UTF-8 file of JSON lines") from None
    found = [_row(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InputError("no prompts in the file", path, 'write {"prompt": ...} on every line')
    return tuple(found)


def _row(line: str, where: str) -> Prompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where, "write one JSON object per line") from None
    if isinstance(row, str):
        return _ask("own", row)
    if isinstance(row, dict):
        turns = row.get("messages", row.get("conversations"))
        if isinstance(turns, list):
            messages, reference = _messages(turns)
            if messages:
                return Prompt("own", messages, reference=reference)
        text = row.get("prompt", row.get("instruction", row.get("question")))
        if isinstance(text, str) and text.strip():
            more = row.get("input")
            asked = _ask("own", f"{text}\n\n{more}" if isinstance(more, str) and more.strip() else text)
            given = next((row[k] for k in ("output", "answer", "response", "completion") if row.get(k)), "")
            return replace(asked, reference=given if isinstance(given, str) else "")
    raise InputError("a row without a prompt", where, 'write {"prompt": ...} on every line')


def _messages(turns: list[object]) -> tuple[tuple[Message, ...], str]:
    names = {"human": "user", "gpt": "assistant"}
    rows = [t for t in turns if isinstance(t, dict)]
    messages = [
        {"role": names.get(str(r), str(r)), "content": str(c)}
        for t in rows
        if (r := t.get("role", t.get("from"))) and (c := t.get("content", t.get("value"))) is not None
    ]
    reference = ""
    while messages and messages[-1]["role"] == "assistant":
        reference = messages.pop()["content"]
    return tuple(messages), reference
