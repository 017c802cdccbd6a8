"""Widgets that draw rows of text. Only rows that changed are drawn again: that is most of what a screen costs."""

from __future__ import annotations

import itertools

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget


class Lines(Widget):
    """Call `changed` when there may be something new to see; `rows` says what is seen."""

    def __init__(self, *, name: str | None = None, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(name=name, id=id, classes=classes)
        self._rows: list[Text] | None = None
        self._drawn_at = (0, 0)

    def rows(self, width: int, height: int) -> list[Text]:
        """What is shown in so many cells; each text is one row. Longer rows are cut."""
        raise NotImplementedError

    def changed(self) -> None:
        """Draw the rows that differ from those on the screen; a hidden widget waits until it is seen."""
        if self._rows is None:
            self.refresh()
            return
        if not self.seen:
            self.redraw()
            return
        before, self._rows = self._rows, self.rows(*self._drawn_at)  # another size draws everything in any case
        most, width = max(len(before), len(self._rows)), self._drawn_at[0]
        dirty = [y for y in range(most) if before[y : y + 1] != self._rows[y : y + 1] or _styles(before, self._rows, y)]
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
        self._rows = None
        super().notify_style_update()

    def render_line(self, y: int) -> Strip:
        """One row."""
        size = (self.size.width, self.size.height)
        if self._rows is None or size != self._drawn_at:
            self._rows, self._drawn_at = self.rows(*size), size
        base = self.visual_style.rich_style
        if y >= len(self._rows):
            return Strip.blank(size[0], base)
        return strip(self._rows[y], base).adjust_cell_length(size[0], base)


def _styles(before: list[Text], after: list[Text], y: int) -> bool:
    """Rows of the same words in other colours: `Text` compares the words and the spans, but not its own style."""
    return y < len(before) and y < len(after) and before[y].style != after[y].style


def strip(text: Text, base: Style) -> Strip:
    """A text of one line as a strip. Faster than `Text.render`, which wraps, justifies and asks a console."""
    plain, spans = text.plain, text.spans
    if text.style:
        base = base + _style(text.style)
    if not spans:
        return Strip([Segment(plain, base)])
    edges = sorted({0, len(plain), *(e for s in spans for e in (s.start, s.end) if 0 < e < len(plain))})
    segments = []
    for start, end in itertools.pairwise(edges):
        style = base
        for span in spans:
            if span.start <= start and end <= span.end:
                style = style + _style(span.style)
        segments.append(Segment(plain[start:end], style))
    return Strip(segments)


def _style(style: str | Style) -> Style:
    return Style.parse(style) if isinstance(style, str) else style
