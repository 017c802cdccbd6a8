"""A page of the text report: lines of styled segments, cleaned and fitted to the width in one place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ftdoctor.faces.terminal import cells, clusters, cut_end, cut_path, head, paint, printable, to_ascii, wrap

INDENT = "  "
LABEL = 9
MAX_TEXT = 2000
UNICODE = {
    "failing": "✗", "suspicious": "!", "healthy": "✓", "unknown": "?", "info": "i",
    "bar": "│", "then": "↳", "dots": "…", "to": "→",
}  # fmt: skip
ASCII = {
    "failing": "x", "suspicious": "!", "healthy": "ok", "unknown": "?", "info": "i",
    "bar": "|", "then": "->", "dots": "...", "to": "->",
}  # fmt: skip
GLYPHS = "".join(UNICODE.values())

Segment = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Options:
    """How to write: columns, colour, characters, how much."""

    width: int = 80
    color: bool = False
    unicode: bool = True
    verbose: bool = False
    fixes: bool = True


class Page:
    """Lines of segments. Everything is cleaned and fitted here, so that no caller can forget it."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.margin = 0
        self._glyphs = UNICODE if options.unicode else ASCII
        self._lines: list[list[Segment]] = []

    @property
    def width(self) -> int:
        """Columns to the right of the margin."""
        return self.options.width - self.margin

    @contextmanager
    def indented(self, columns: int) -> Iterator[None]:
        """A wider margin for what is written inside."""
        self.margin += columns
        yield
        self.margin -= columns

    def glyph(self, name: str) -> str:
        """A sign in Unicode or ASCII."""
        return self._glyphs[name]

    def clean(self, text: str) -> str:
        """What may be shown of a text."""
        text = printable(text)
        return text if self.options.unicode else to_ascii(text)

    def gap(self) -> None:
        """An empty line, never two."""
        if self._lines and self._lines[-1]:
            self._lines.append([])

    def line(self, *segments: Segment) -> None:
        """Segments of text and style; cut at the width."""
        used: int = 0
        fitted: list[Segment] = [(" " * self.margin, "")] if self.margin else []
        for text, style in segments:
            text = head(self.clean(text).replace("\n", " "), self.width - used)
            used += cells(text)
            fitted.append((text, style))
        if any(text.strip() for text, _ in fitted):
            self._lines.append(fitted)
        else:
            self.gap()

    def labelled(self, label: str, text: str, style: str = "") -> None:
        """A label in the margin and wrapped text beside it."""
        if not text:
            return
        room = self.width - len(INDENT) - LABEL
        for number, line in enumerate(wrap(self.clean(text[: 2 * MAX_TEXT]), room)):
            self.line((INDENT, ""), ((label if not number else "").ljust(LABEL), "dim"), (line, style))

    def note(self, label: str, text: str, style: str) -> None:
        """`label: text` over the whole width."""
        room = self.width - 2 * len(INDENT)
        for number, line in enumerate(wrap(self.clean(f"{label}: {text[: 2 * MAX_TEXT]}"), room)):
            self.line((INDENT * 2 if number else INDENT, ""), (line, style))

    def labelled_path(self, label: str, path: str, style: str = "path") -> None:
        """A label and a path that keeps its end."""
        room = self.width - len(INDENT) - LABEL
        self.line(
            (INDENT, ""),
            (label.ljust(LABEL), "dim"),
            (cut_path(self.clean(path).replace("\n", " "), room, self.glyph("dots")), style),
        )

    def entry(self, mark: str, style: str, title: str, aside: str) -> None:
        """One line of a list: a mark, a title, and what is beside it in grey."""
        lead = INDENT * 2 + mark + " "
        room = self.width - cells(lead)
        title = cut_end(self.clean(title), room, self.glyph("dots"))
        left = room - cells(title) - 2
        aside = cut_end(self.clean(aside), left, self.glyph("dots")) if left > 8 else ""
        self.line((lead, style), (title, ""), (f"  {aside}" if aside else "", "dim"))

    def diff(self, sign: str, text: str) -> None:
        """A line of a diff; what is too long goes on under it, aligned."""
        pad = " " * (len(INDENT) + LABEL)
        style = {"-": "removed", "+": "added"}.get(sign, "dim")
        for number, line in enumerate(wrap(self.clean(text), self.width - len(pad) - 2, keep_spaces=True)):
            self.line((pad, ""), (f"{sign} " if not number else "  ", style), (line, style))

    def shell(self, commands: list[str], style: str = "strong") -> None:
        """Lines to copy into a shell; long ones are continued with a backslash between words."""
        for command in commands:
            command = self.clean(command).replace("\n", " ")
            words = _words(command)
            pad = " " * (len(INDENT) + LABEL)
            if any(cells(word) > self.width - len(pad) - 12 for word in words):
                pad = INDENT * 2
            room = self.width - len(pad)
            rows = [command if cells(command) <= room else ""]
            for word in () if rows[0] else words:
                if rows[-1].strip(" $") and cells(rows[-1]) + 1 + cells(word) > room - 2:
                    rows.append("    " + word)
                else:
                    rows[-1] += (" " if rows[-1].strip() else "") + word
            for number, row in enumerate(rows):
                end = " \\" if number < len(rows) - 1 else ""
                while cells(row) > room - len(end):
                    part = head(row, room - 1)
                    self.line((pad, ""), (part + "\\", style))
                    row, pad, room = (
                        row[len(part) :],
                        "",
                        self.width,
                    )  # the shell joins them: no blanks may come between
                self.line((pad, ""), (row + end, style))

    def text(self) -> str:
        """The page, with a newline at the end."""
        while self._lines and not self._lines[-1]:
            self._lines.pop()
        rows = [
            "".join(paint(text, style, self.options.color) for text, style in _trimmed(line)) for line in self._lines
        ]
        return "\n".join(rows) + "\n"


def _trimmed(line: list[Segment]) -> list[Segment]:
    """The line without trailing blanks."""
    kept = list(line)
    while kept and not kept[-1][0].rstrip():
        kept.pop()
    if kept:
        kept[-1] = (kept[-1][0].rstrip(), kept[-1][1])
    return kept


def _words(command: str) -> list[str]:
    """Split at blanks outside quotes; the words keep their quotes."""
    words, word, quote = [], "", ""
    for char in clusters(command):
        if char == " " and not quote:
            words.append(word)
            word = ""
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        word += char
    return [w for w in (*words, word) if w]
