"""Configurations as dotted keys, with the line each key stands on.

Axolotl reads YAML with PyYAML, for which `2e-5` is a string; numbers are coerced here, once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ftdoctor.events import Origin

_NUMBER = re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?$")


def coerce(value: object) -> Any:
    """A number written as text becomes a number; everything else stays."""
    if isinstance(value, str) and _NUMBER.match(value.strip()):
        return float(value)
    return value


@dataclass(frozen=True, slots=True)
class ConfigView:
    """One configuration. `lines` maps dotted keys to 1-based lines where the source has them."""

    data: Mapping[str, Any]
    origin: Origin
    lines: Mapping[str, int] = field(default_factory=dict)

    def get(self, key: str) -> list[Any]:
        """Values at a dotted key; `datasets[].type` gives one per list item. Empty when absent or null."""
        return [coerce(v) for v in _walk(self.data, key.split(".")) if v is not None]

    def has(self, key: str) -> bool:
        """True when the key is written, even as null."""
        node: Any = self.data
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return False
            node = node[part]
        return True

    def line(self, key: str) -> int:
        """Line of the key, else of its nearest parent, else 0."""
        while key:
            if key in self.lines:
                return self.lines[key]
            key = key.rpartition(".")[0]
        return 0


def _walk(node: Any, parts: list[str]) -> Iterator[Any]:
    if not parts:
        yield node
        return
    head, rest = parts[0], parts[1:]
    many = head.endswith("[]")
    name = head[:-2] if many else head
    if not isinstance(node, Mapping) or name not in node:
        return
    value = node[name]
    if not many:
        yield from _walk(value, rest)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, rest)
