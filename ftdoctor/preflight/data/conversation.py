"""A raw row as the conversation that somebody will hold with the model: the messages before an answer, and the answer.

found = conversation({"instruction": "Name a colour.", "input": "", "output": "Blue"}, declare(dataset))
found.messages[-1]["content"] == "Blue"
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftdoctor.preflight.data.declared import Declared


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns with the template's own names for roles, the answer last; `tools` as the row has them."""

    messages: tuple[dict[str, Any], ...]
    tools: Any = None

    @property
    def answer(self) -> str:
        """The text that is trained last."""
        return str(self.messages[-1]["content"])

    @property
    def question(self) -> str:
        """The last user turn before the answer."""
        return next((str(m["content"]) for m in reversed(self.messages[:-1]) if m["role"] == "user"), "")


def conversation(row: Mapping[str, Any], declared: Declared, dataset: Mapping[str, Any]) -> Conversation | None:
    """None for a row, or a type, in which nobody asks anything: continued text, segments, broken rows."""
    if declared.kind == "columns" and declared.prompted:
        return _columns(row, declared)
    if declared.kind == "messages":
        return _messages(row, declared, dataset)
    return None


def _columns(row: Mapping[str, Any], declared: Declared) -> Conversation | None:
    """Instruction and input are what a person would type; a `system` column is the system turn."""
    answer = row.get(declared.answer)
    asked = [c for c in (*declared.required, *declared.optional) if c != declared.answer]
    system = [c for c in asked if c.startswith("system")]
    parts = [str(row[c]) for c in asked if c not in system and isinstance(row.get(c), str) and row[c].strip()]
    if not isinstance(answer, str) or not answer.strip() or not parts:
        return None
    turns = [{"role": "system", "content": str(row[c])} for c in system if row.get(c)]
    turns.append({"role": "user", "content": "\n".join(parts)})
    return Conversation((*turns, {"role": "assistant", "content": answer}))


def _messages(row: Mapping[str, Any], declared: Declared, dataset: Mapping[str, Any]) -> Conversation | None:
    given = row.get(declared.messages)
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except (ValueError, RecursionError):
            return None
    if not isinstance(given, list) or not all(isinstance(turn, Mapping) for turn in given):
        return None
    mapping = dataset.get("message_property_mappings")
    names = dict(mapping) if isinstance(mapping, Mapping) and mapping else {"reasoning_content": "reasoning_content"}
    names |= {"role": declared.role, "content": declared.content}
    turns = []
    for turn in given:
        made = {str(name): turn[column] for name, column in names.items() if turn.get(column) is not None}
        made["role"] = declared.roles.get(str(made.get("role")), str(made.get("role")))
        content = made.get("content")
        if isinstance(content, list) or not (content or turn.get("tool_calls")):
            return None  # parts with weights, images, or nothing: what inference would send is not told by the row
        made |= {k: turn[k] for k in ("tool_calls", "tool_call_id", "name") if k not in made and turn.get(k)}
        turns.append(made)
    system = row.get(str(dataset.get("field_system") or "system"))
    if turns and turns[0]["role"] != "system" and isinstance(system, str) and system:
        turns.insert(0, {"role": "system", "content": system})
    if dataset.get("drop_system_message") and turns and turns[0]["role"] == "system":
        turns = turns[1:]
    while turns and turns[-1]["role"] not in declared.trained:
        turns.pop()
    if len(turns) < 2 or not isinstance(turns[-1].get("content"), str):
        return None
    return Conversation(tuple(turns), row.get(str(dataset.get("field_tools") or "tools")))
