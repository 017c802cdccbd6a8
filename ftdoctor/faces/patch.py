"""A fix's configuration change as a diff, in the syntax of the file it belongs to.

    - micro_batch_size: 4
    + micro_batch_size: 2
      zero_optimization:            parents of a nested key are context lines
    +   stage3_gather_16bit_weights_on_model_save: true

Values are written so that PyYAML, which reads them for Axolotl, finds the same type: `2.0e-05`, because it takes
`2e-05` for a string.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ftdoctor.diagnosis.fixes import in_words
from ftdoctor.findings import Fix

FILES = {"axolotl": "Axolotl YAML", "deepspeed": "DeepSpeed JSON"}
# plain scalars that YAML 1.1 reads as something other than this string, or that cannot stand unquoted
_SPECIAL = re.compile(
    r"(?i)(?:|~|null|true|false|yes|no|on|off|y|n|[-+.]?\d[\d_.,:eE+-]*|[-+]?\.(?:inf|nan)|0[xob][\da-f_]+|\d{4}-\d\d?-\d\d?.*|=|<<)\Z"
)
_PLAIN = re.compile(r"[A-Za-z0-9_./~][^\x00-\x1f\x7f-\x9f:#\[\]{},&*!|>'\"%@`]*(?<! )\Z")


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line; `sign` is `-`, `+` or a space for context."""

    sign: str
    text: str


def diff(fix: Fix) -> list[tuple[str, list[DiffLine]]]:
    """For each file that changes its name in words and the lines."""
    files: dict[str, list[str]] = {}
    for key in fix.config_patch:
        files.setdefault(key.partition(".")[0], []).append(key)
    return [(FILES.get(scope, scope), _lines(fix, keys, scope == "deepspeed")) for scope, keys in files.items()]


def _lines(fix: Fix, keys: list[str], as_json: bool) -> list[DiffLine]:
    lines: list[DiffLine] = []
    open_parents: list[str] = []
    for key in keys:
        *parents, name = key.split(".")[1:] or [key]
        shared = 0
        while shared < min(len(parents), len(open_parents)) and parents[shared] == open_parents[shared]:
            shared += 1
        for depth in range(shared, len(parents)):
            lines.append(DiffLine(" ", "  " * depth + _parent(parents[depth], as_json)))
        open_parents = parents
        pad = "  " * len(parents) + (f'"{name}": ' if as_json else f"{name}: ")
        new = fix.config_patch[key]
        had = key in fix.config_before
        if had and fix.config_before[key] == new:
            lines.append(DiffLine(" ", pad + shown(new, as_json)))
            continue
        if had:
            lines.append(DiffLine("-", pad + shown(fix.config_before[key], as_json)))
        elif new is None:
            lines.append(DiffLine("-", pad.rstrip() + (" ..." if as_json else "")))
        if new is not None:
            lines.append(DiffLine("+", pad + shown(new, as_json)))
    return lines


def _parent(name: str, as_json: bool) -> str:
    each = "  # in each item" if name.endswith("[]") else ""
    name = name.removesuffix("[]")
    return f'"{name}": {{' if as_json else f"{name}:{each}"


def short(fix: Fix) -> str:
    """The change in one line: `micro_batch_size: 4 -> 2`."""
    parts = []
    for key, new in fix.config_patch.items():
        name = key.partition(".")[2] or key
        before = f"{shown(fix.config_before[key])} -> " if key in fix.config_before else ""
        parts.append(f"{name}: {before}{'(removed)' if new is None else shown(new)}")
    return ", ".join(parts)


def shown(value: object, as_json: bool = False) -> str:
    """The value as it stands in the file; what is only known in words in angle brackets."""
    if in_words(value):
        return f"<{value}>"
    return as_json_text(value) if as_json else as_yaml(value)


def as_json_text(value: object) -> str:
    """One line of JSON."""
    return json.dumps(value, ensure_ascii=False, default=str)


def as_yaml(value: object) -> str:
    """One line of YAML that PyYAML reads back as the same value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_yaml(str(k))}: {as_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_yaml(item) for item in value) + "]"
    text = str(value)
    if _PLAIN.match(text) and not _SPECIAL.match(text) and text.isprintable():
        return text
    return '"' + "".join(_escaped(char) for char in text) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _float(value: float) -> str:
    if math.isnan(value):
        return ".nan"
    if math.isinf(value):
        return ".inf" if value > 0 else "-.inf"
    mantissa, _, exponent = repr(value).partition("e")
    if not exponent:
        return mantissa
    sign = "" if exponent[0] in "+-" else "+"
    return f"{mantissa if '.' in mantissa else mantissa + '.0'}e{sign}{exponent}"
