"""Derive from a regular expression the literal text that every match must hold.

    >>> anchors(r"CUDA out of memory\\. Tried to allocate (?P<n>[\\d.]+ [KMG]iB)")
    [(b'CUDA out of memory. Tried to allocate ', False)]
    >>> anchors(r"(?:ModuleNotFound|Import)Error: No module")
    [(b'Error: No module', False)]

The scanner looks for these; Python's `re` then decides. A pattern without any usable literal is refused by
`rules lint`, because each line of the log would have to be tried.
"""

from __future__ import annotations

import importlib
import re
import sys
from typing import Any

# the names moved in Python 3.11
_NEW = sys.version_info >= (3, 11)
sre: Any = importlib.import_module("re._constants" if _NEW else "sre_constants")
parser: Any = importlib.import_module("re._parser" if _NEW else "sre_parse")

MIN_LENGTH = 4
MAX_ALTERNATIVES = 24

_Set = list[str]


def anchors(pattern: str) -> list[tuple[bytes, bool]]:
    """Literals of which at least one occurs in any match: (text, caseless). Empty if there are none."""
    tree = parser.parse(pattern)
    caseless = bool(tree.state.flags & re.IGNORECASE)
    best = _best(_candidates(tree))
    if best is None:
        return []
    return sorted({(text.encode(), caseless or _folds(pattern)) for text in best})


def _folds(pattern: str) -> bool:
    return "(?i:" in pattern


def _score(option: _Set) -> tuple[int, int]:
    return (min(len(text) for text in option), -len(option))


def _best(options: list[_Set]) -> _Set | None:
    usable = [o for o in options if o and min(map(len, o)) >= MIN_LENGTH and len(o) <= MAX_ALTERNATIVES]
    return max(usable, key=_score) if usable else None


def _candidates(tree: Any) -> list[_Set]:
    """Alternative anchor sets for a sequence; any one of them is sufficient."""
    options: list[_Set] = []
    run = ""

    def flush() -> None:
        nonlocal run
        if run:
            options.append([run])
        run = ""

    for op, value in tree:
        if op is sre.LITERAL and value not in (10, 13):
            run += chr(value)
            continue
        if op is sre.SUBPATTERN:
            inner = list(value[3])
            if all(o is sre.LITERAL for o, _ in inner):
                run += "".join(chr(v) for _, v in inner)
                continue
            flush()
            options.extend(_candidates(value[3]))
            continue
        flush()
        if op is sre.BRANCH:
            chosen = [_best(_candidates(branch)) for branch in value[1]]
            if all(c is not None for c in chosen):
                options.append(sorted({text for c in chosen if c for text in c}))
        elif op in (sre.MAX_REPEAT, sre.MIN_REPEAT) and value[0] >= 1:
            options.extend(_candidates(value[2]))
        elif op is getattr(sre, "ATOMIC_GROUP", None):
            options.extend(_candidates(value))
    flush()
    return options
