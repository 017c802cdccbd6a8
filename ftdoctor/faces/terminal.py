"""Text for a terminal: nothing raw, known width, colour only where wanted.

Whatever comes from a log passes `printable` before it is shown: no control or format character, no bidirectional
override, no lone surrogate and no pile of combining marks reaches the terminal. Widths are cells: 2 for wide
characters, 0 for combining marks.
"""

from __future__ import annotations

import os
import re
import shutil
import unicodedata
from collections.abc import Iterator, Mapping
from typing import TextIO

from ftdoctor.parsing.text import strip_escapes

MIN_WIDTH, DEFAULT_WIDTH, MAX_WIDTH = 60, 80, 100
MAX_MARKS = 3
STYLES = {
    "bad": "1;31", "warn": "1;33", "good": "1;32", "strong": "1", "dim": "2", "path": "36",
    "removed": "31", "added": "32", "error": "31", "warning": "33", "info": "36",
}  # fmt: skip
_PLAIN_ASCII = re.compile(r"[\x20-\x7e\n]*\Z")
_TO_ASCII = {
    "–": "-", "—": "-", "−": "-", "‘": "'", "’": "'", "‚": ",", "“": '"', "”": '"', "…": "...", "×": "x", "·": "-",
    "•": "*", "→": "->", "←": "<-", "↳": "->", "≥": ">=", "≤": "<=", "≠": "!=", "±": "+-", "µ": "u", "μ": "u",
    "°": " deg", "█": "#", "▉": "#", "▊": "#", "▋": "#", "▌": "#", "▍": "#", "▎": "#", "▏": "#", "│": "|", "┃": "|",
    "║": "|", "─": "-", "━": "-", "═": "=", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "┌": "+", "┐": "+", "└": "+",
    "┘": "+", "├": "+", "┤": "+", "✓": "v", "✔": "v", "✗": "x", "✘": "x",
}  # fmt: skip


def printable(text: str) -> str:
    """The text without anything that a terminal would act on; tabs become spaces, lines stay."""
    if _PLAIN_ASCII.match(text):
        return text
    text = strip_escapes(text.replace("\t", "    ").replace("\r\n", "\n"))
    if _PLAIN_ASCII.match(text):
        return text
    out: list[str] = []
    marks = 0
    for char in text:
        category = unicodedata.category(char)
        if char == "\n":
            out.append(char)
        elif category in ("Mn", "Me"):
            marks += 1
            if marks <= MAX_MARKS and not "\ufe00" <= char <= "\ufe0f":
                out.append(char)
            continue
        elif category in ("Zl", "Zp"):
            out.append("\n")
        elif category == "Zs":
            out.append(" ")
        elif category in ("Cs", "Co", "Cn"):
            out.append("\ufffd")
        elif category not in ("Cc", "Cf"):
            out.append(char)
        marks = 0
    return "".join(out)


def to_ascii(text: str) -> str:
    """The text in ASCII: known signs spelt, accents dropped, the rest `?`."""
    if text.isascii():
        return text
    spelt = "".join(_TO_ASCII.get(char, char) for char in text)
    plain = "".join(c for c in unicodedata.normalize("NFKD", spelt) if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode("ascii")


def cells(text: str) -> int:
    """Columns that the text takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_cell, text))


def _cell(char: str) -> int:
    if char < "\u0300":
        return 1
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def clusters(text: str) -> Iterator[str]:
    """Characters with the combining marks that follow them."""
    if text.isascii():
        yield from text
        return
    held = ""
    for char in text:
        if held and _cell(char) == 0:
            held += char
        else:
            if held:
                yield held
            held = char
    if held:
        yield held


def head(text: str, room: int) -> str:
    """As much of the start as fits into `room` cells."""
    if cells(text) <= room:
        return text
    used, out = 0, []
    for cluster in clusters(text):
        used += cells(cluster)
        if used > room:
            break
        out.append(cluster)
    return "".join(out)


def tail(text: str, room: int) -> str:
    """As much of the end as fits into `room` cells."""
    if cells(text) <= room:
        return text
    used, out = 0, []
    for cluster in reversed(list(clusters(text))):
        used += cells(cluster)
        if used > room:
            break
        out.append(cluster)
    return "".join(reversed(out))


def cut_end(text: str, room: int, dots: str = "…") -> str:
    """The text, or its start and dots; cut at a space where one is near."""
    if cells(text) <= room:
        return text
    kept = head(text, room - cells(dots))
    space = kept.rfind(" ")
    return (kept[:space] if space > len(kept) * 3 // 4 else kept).rstrip() + dots


def cut_middle(text: str, room: int, dots: str = "…", share: float = 0.5) -> str:
    """The text, or its start and its end; `share` of the room goes to the start. Cuts at spaces where they are near."""
    if cells(text) <= room:
        return text
    mark = f" {dots} "
    left = head(text, max(1, int((room - cells(mark)) * share)))
    right = tail(text, max(1, room - cells(mark) - cells(left)))
    if " " in left and " " not in right:
        return cut_end(text, room, dots)  # a piece of a long word says nothing
    left = left[: m.start()] if (m := re.search(r"\s+\S{0,15}$", left)) and m.start() > len(left) // 2 else left
    right = right[m.end() :] if (m := re.match(r"\S{0,15}\s+", right)) and m.end() < len(right) // 2 else right
    return f"{left.rstrip()}{mark}{right.lstrip()}"


def cut_around(text: str, room: int, focus: str, dots: str = "…") -> str:
    """The text cut so that `focus` stays: in the middle when it stands near the start, else a window around it."""
    at = text.find(focus) if focus else -1
    if cells(text) <= room or at < 0 or cells(text[: at + len(focus)]) <= room * 3 // 4:
        return cut_middle(text, room, dots, 0.8)
    lead = head(text, room // 5).rstrip()
    start = max(len(lead), at - room // 8)
    while start < at and text[start - 1] != " ":
        start += 1
    return f"{lead} {dots} " + cut_end(text[start:], room - cells(lead) - cells(dots) - 2, dots)


def cut_path(path: str, room: int, dots: str = "…") -> str:
    """The path, or dots and its end from a separator on."""
    if cells(path) <= room:
        return path
    end = tail(path, room - cells(dots))
    slash = end.find("/")
    return dots + (end[slash:] if 0 <= slash < len(end) - 12 else end)


def wrap(text: str, room: int, keep_spaces: bool = False, columns: bool = False) -> list[str]:
    """Lines of at most `room` cells, broken at spaces, inside a word only when it is longer than a line.

    `keep_spaces` is for quoted text, `columns` for text whose columns have two spaces between them.
    """
    piece_of = re.compile(r"\s*\S+(?: \S+)*" if columns else r"\s*\S+")
    lines: list[str] = []
    for paragraph in text.split("\n"):
        pieces = piece_of.findall(paragraph) if keep_spaces or columns else [" " + word for word in paragraph.split()]
        line, used, empty = "", 0, True
        for piece in pieces:
            if empty:
                piece = piece.lstrip() if lines or not keep_spaces else piece
            if used + cells(piece) <= room:
                line, used, empty = line + piece, used + cells(piece), False
                continue
            if not empty:
                lines.append(line)
                piece = piece.lstrip()
            while cells(piece) > room:
                part = head(piece, room) or piece[:1]
                lines.append(part)
                piece = piece[len(part) :]
            line, used, empty = piece, cells(piece), not piece
        if line or not pieces:
            lines.append(line)
    return lines


def use_color(stream: TextIO | None, choice: str = "auto", environ: Mapping[str, str] | None = None) -> bool:
    """Whether to colour. By the option, NO_COLOR, FORCE_COLOR, TERM=dumb, and whether `stream` is a terminal."""
    env = os.environ if environ is None else environ
    if choice != "auto":
        return choice == "always"
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR", "0") not in ("", "0", "false"):
        return True
    return env.get("TERM", "") not in ("", "dumb") and stream is not None and stream.isatty()


def use_unicode(stream: TextIO | None, needed: str) -> bool:
    """True when the stream's encoding holds all characters of `needed`."""
    try:
        needed.encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True


def width() -> int:
    """Columns to write: those of the terminal (or COLUMNS) between 60 and 100, else 80."""
    found = shutil.get_terminal_size((DEFAULT_WIDTH, 24)).columns
    return max(MIN_WIDTH, min(MAX_WIDTH, found))


def paint(text: str, style: str, color: bool) -> str:
    """The text in a style of STYLES."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if color and style and text else text
