"""What each `datasets[].type` of Axolotl reads of a row, as its prompt strategies do (axolotl/prompt_strategies, 0.19).

declared = declare({"path": "a.jsonl", "type": "alpaca"})
declared.required == ("instruction", "output")
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ROLES = {
    "human": "user", "user": "user", "assistant": "assistant", "gpt": "assistant", "system": "system", "tool": "tool",
}  # fmt: skip
_INSTRUCTION = (("instruction", "output"), ("input",), "output")
_SYSTEM = (("instruction", "output", "system"), ("input",), "output")
_ORCA = (("question", "response", "system_prompt"), (), "response")
# type: columns that must be there, columns that may be, the column that is trained
_COLUMNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str]] = {
    "alpaca": _INSTRUCTION,
    "alpaca_instruct": _INSTRUCTION,
    "alpaca_instruct.load_no_prompt": _INSTRUCTION,
    "alpaca_chat": _INSTRUCTION,
    "alpaca_chat.load_concise": _INSTRUCTION,
    "alpaca_chat.load_no_prompt": _INSTRUCTION,
    "alpaca_chat.load_qa": (("question", "answer"), (), "answer"),
    "alpaca_chat.load_camel_ai": (("message_1", "message_2"), (), "message_2"),
    "alpaca_w_system": _SYSTEM,
    "alpaca_w_system.load_instruct": _SYSTEM,
    "alpaca_w_system.load_chat": _SYSTEM,
    "alpaca_w_system.load_open_orca": _ORCA,
    "alpaca_w_system.load_open_orca_chatml": _ORCA,
    "orcamini": _SYSTEM,
    "gpteacher": (("instruction", "response"), ("input",), "response"),
    "oasst": (("INSTRUCTION", "RESPONSE"), (), "RESPONSE"),
    "summarizetldr": (("article", "summary"), (), "summary"),
    "jeopardy": (("question", "category", "answer"), (), "answer"),
    "metharme": (("prompt", "generation"), (), "generation"),
    "context_qa": (("article", "question", "answer"), (), "answer"),
    "context_qa.load_v2": (("context", "question", "answer"), (), "answer"),
}


@dataclass(frozen=True, slots=True)
class Declared:
    """What is read of a row.

    `kind`: columns (text in columns) | messages (a list of turns) | segments (input_output) | unknown (not judged).
    `answer` is the column that is trained; for messages the turns of `trained` roles are. `roles` maps the data's roles
    to the template's. `mapped` is false when the role map is Axolotl's own.
    """

    type: str
    kind: str
    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    answer: str = ""
    messages: str = "messages"
    role: str = "role"
    content: str = "content"
    roles: Mapping[str, str] = field(default_factory=dict)
    trained: tuple[str, ...] = ("assistant",)
    mapped: bool = False
    prompted: bool = True  # false: a text to continue, there is no prompt and no answer

    @property
    def columns(self) -> tuple[str, ...]:
        """Everything that is read of a row."""
        return (*self.required, *self.optional) if self.kind == "columns" else self.required


def declare(dataset: Mapping[str, Any], preference: bool = False) -> Declared:
    """What `dataset` (an item of `datasets`) reads; `preference` for the data of `rl:`."""
    kind = dataset.get("type")
    if preference:
        return Declared(f"{kind}", "unknown")
    if isinstance(kind, Mapping):
        return _custom(kind)
    name = str(kind or "")
    base, _, style = name.partition(":")
    if base == "chat_template" or base.startswith("chat_template."):
        return _chat(name, dataset)
    if base == "completion":
        column = dataset.get("field")
        column = column if isinstance(column, str) and column else "text"
        return Declared(name, "columns", (column,), (), column, prompted=False)
    if base == "input_output":
        return Declared(name, "segments", ("segments",))
    known = _COLUMNS.get(base)
    if known is None or (style and base not in ("alpaca", "gpteacher", "oasst", "summarizetldr", "jeopardy")):
        return Declared(name, "unknown")
    return Declared(name, "columns", *known)


def _custom(given: Mapping[str, Any]) -> Declared:
    def named(key: str, default: str) -> str:
        value = given.get(key)
        return value if isinstance(value, str) and value else default

    instruction, answer = named("field_instruction", "instruction"), named("field_output", "output")
    # a column for the answer that is not there is no error in Axolotl: the answer is then empty, in every row
    optional = (named("field_input", "input"), named("field_system", "system"))
    return Declared("custom", "columns", (instruction, answer), optional, answer)


def _chat(name: str, dataset: Mapping[str, Any]) -> Declared:
    mapping = dataset.get("message_property_mappings")
    mapping = mapping if isinstance(mapping, Mapping) and mapping else {}
    given = dataset.get("roles")
    roles = dict(ROLES)
    if isinstance(given, Mapping) and given:
        roles = {
            str(source): str(target)
            for target, sources in given.items()
            for source in (sources if isinstance(sources, list) else [sources])
        }
    trained = dataset.get("roles_to_train")
    trained = tuple(roles.get(str(role), str(role)) for role in trained) if isinstance(trained, list) else None
    messages = dataset.get("field_messages")
    messages = messages if isinstance(messages, str) and messages else "messages"
    return Declared(
        name, "messages", (messages,), messages=messages, role=str(mapping.get("role") or "role"),
        content=str(mapping.get("content") or "content"), roles=roles, mapped=bool(given),
        trained=("assistant",) if trained is None else trained,
    )  # fmt: skip


def rows_of_split(dataset: Mapping[str, Any]) -> int | None:
    """N of `split: train[:N]`, None when the whole split is used."""
    found = re.search(r"\[:(\d+)\]\s*$", str(dataset.get("split") or ""))
    return int(found[1]) if found else None
