"""Fill `{name}` and `{name|default}` in a rule's message from what a detector measured."""

from __future__ import annotations

import re
from collections.abc import Mapping

_FIELD = re.compile(r"\{(?P<name>[A-Za-z_]\w*)(?:\|(?P<default>[^{}]*))?\}")


def fill(template: str, values: Mapping[str, object]) -> str:
    """The template with its fields replaced; an unknown field without default reads `unknown`."""

    def value(found: re.Match[str]) -> str:
        known = values.get(found["name"])
        if known is None or known == "":
            return found["default"] if found["default"] is not None else "unknown"
        if isinstance(known, float):
            return f"{known:.4g}"
        return str(known)

    return re.sub(r"\s+", " ", _FIELD.sub(value, template)).strip()


def fields(template: str) -> set[str]:
    """Names a template asks for without giving a default."""
    return {m["name"] for m in _FIELD.finditer(template) if m["default"] is None}
