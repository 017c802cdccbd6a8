"""Widgets that draw rows of text. Only rows that changed are drawn again: that is most of what a screen costs.

They draw their margin and the rule above them themselves: Textual asks every widget between the first and the last
changed row for all its lines, and going through borders and padding costs more than the few rows that are new.
"""

from __future__ import annotations

import itertools

from rich.segment import Segment
from rich.style import Style
from rich.text import Span, Text
from textual.color import Color
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget


class Lines(Widget):
    """Call `changed` when there may be something new to see; `rows` says what is seen."""

    MARGIN = 0  # cells left and right of the rows

    def __init__(self, *, name: str | None = None, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._rows: list[Text] | None = None
        self._strips: dict[int, Strip] = {}
        self._drawn_at = (0, 0)
        self._base: tuple[Style, Color] | None = None

    def rows(self, width: int, height: int) -> list[Text]:
        """What is shown in so many cells; each text is one row. Longer rows are cut."""
        raise NotImplementedError

    @property
    def ruled(self) -> bool:
        """A rule above the rows parts the widget from what is there."""
        return False

    def changed(self) -> None:
        """Draw the rows that differ from those on the screen; a hidden widget waits until it is seen."""
        if self._rows is None:
            self.refresh()
            return
        if not self.seen:
            self.redraw()
            return
        before, self._rows = self._rows, self._made(*self._drawn_at)  # another size draws everything in any case
        most, width = max(len(before), len(self._rows)), self._drawn_at[0]
        dirty = [y for y in range(most) if before[y : y + 1] != self._rows[y : y + 1] or _styles(before, self._rows, y)]
        for y in dirty:
            self._strips.pop(y, None)
        if dirty:
            self.refresh(*(Region(0, y, width, 1) for y in dirty))

    def redraw(self) -> None:
        """Draw everything anew, when it is seen next."""
        self._rows = None
        self.refresh()

    @property
    def seen(self) -> bool:
        """Part of the view that is shown."""
        return all(node.display for node in self.ancestors_with_self if isinstance(node, Widget))

    def notify_style_update(self) -> None:
        """Other colours."""
        self._rows = self._base = None
        super().notify_style_update()

    def render_lines(self, crop: Region) -> list[Strip]:
        """The rows of a region: those that did not change are the same objects as before."""
        if self.gutter:
            return super().render_lines(crop)  # a border: Textual draws it, and asks `render_line` for the rest
        size = self._prepared()
        lines = [self._strips.get(y) or self._strip(y, size[0]) for y in crop.line_range]
        if crop.column_span != (0, size[0]):
            return [line.crop(*crop.column_span) for line in lines]
        return lines

    def render_line(self, y: int) -> Strip:
        """One row."""
        size = self._prepared()
        return self._strips.get(y) or self._strip(y, size[0])

    def _prepared(self) -> tuple[int, int]:
        """The size; rows are made again when it is another one than before."""
        now = self.size
        size = (now.width, now.height)
        if self._rows is None or size != self._drawn_at:
            self._rows, self._drawn_at = self._made(*size), size
            self._strips.clear()
        return size

    def _made(self, width: int, height: int) -> list[Text]:
        if not self.ruled:
            return self.rows(width - 2 * self.MARGIN, height)
        rule = Text("─" * (width - 2 * self.MARGIN), self.app.theme_variables.get("border", ""))
        return [rule, *self.rows(width - 2 * self.MARGIN, height - 1)]

    def _strip(self, y: int, width: int) -> Strip:
        if self._base is None:
            self._base = (self.visual_style.rich_style, self.background_colors[1])
        base, background = self._base
        if self._rows is None or y >= len(self._rows):
            line = Strip.blank(width, base)
        else:
            line = strip(self._rows[y], base, self.MARGIN).adjust_cell_length(width, base)
        if not self.gutter:
            for each in self.get_line_filters():  # NO_COLOR, and terminals that know few colours
                line = line.apply_filter(each, background)
        self._strips[y] = line
        return line


def _styles(before: list[Text], after: list[Text], y: int) -> bool:
    """Rows of the same words in other colours: `Text` compares the words and the spans, but not its own style."""
    return y < len(before) and y < len(after) and before[y].style != after[y].style


def strip(text: Text, base: Style, margin: int = 0) -> Strip:
    """A text of one line as a strip, behind `margin` spaces. Faster than `Text.render`, which wraps, justifies and
    asks a console.
    """
    plain, spans = text.plain, text.spans
    segments = [Segment(" " * margin, base)] if margin else []
    if text.style:
        base = base + _style(text.style)
    if not spans:
        segments.append(Segment(plain, base))
        return Strip(segments)
    edges = sorted({0, len(plain), *(e for s in spans for e in (s.start, s.end) if 0 < e < len(plain))})
    for start, end in itertools.pairwise(edges):
        style = base
        for span in spans:
            if span.start <= start and end <= span.end:
                style = style + _style(span.style)
        segments.append(Segment(plain[start:end], style))
    return Strip(segments)


def _style(style: str | Style) -> Style:
    return Style.parse(style) if isinstance(style, str) else style


def spanned(*parts: tuple[str, str]) -> Text:
    """A row of (words, style), as `Text.assemble` makes it, for rows that are made every second."""
    plain, spans, at = "".join(words for words, _ in parts), [], 0
    for words, style in parts:
        if style and words:
            spans.append(Span(at, at + len(words), style))
        at += len(words)
    return Text(plain, no_wrap=True, spans=spans)
