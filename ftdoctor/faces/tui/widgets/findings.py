"""The findings, cause first; what a finding explains stands below it, indented."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from ftdoctor.faces.story import ordered, ranks
from ftdoctor.faces.terminal import cut_end, printable, wrap
from ftdoctor.faces.tui.frame import EMPTY, Frame
from ftdoctor.faces.tui.theme import Palette, palette
from ftdoctor.faces.words import age
from ftdoctor.findings import Finding

TITLE = 2  # lines of a title that is too long for one
WIDE = 100  # columns in which one line is enough
MARKS = {"error": "✗", "warning": "!", "info": "i"}


class FindingList(OptionList):
    """One line a finding: severity, title, ranks, count, age."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", "down", show=False),
        Binding("k", "cursor_up", "up", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(id="findings")
        self._frame = EMPTY
        self._drawn: list[str] = []
        self._prompts: list[Text] = []

    def show(self, frame: Frame) -> None:
        """Another frame; the highlighted finding stays highlighted."""
        self._frame = frame
        self._draw()

    def selected(self) -> str | None:
        """Id of the highlighted finding."""
        if self.highlighted is None or self.highlighted >= self.option_count:
            return None
        return self.get_option_at_index(self.highlighted).id

    def on_resize(self) -> None:
        """Lines are cut to the width."""
        self._draw()

    def _draw(self) -> None:
        rows = ordered(self._frame.diagnosis)
        ids = [finding.id for finding, _ in rows]
        colors = palette(self.app)
        lines = [self._line(finding, folded, colors) for finding, folded in rows]
        before, self._prompts = self._prompts, lines
        if ids == self._drawn:
            for number, (old, line) in enumerate(zip(before, lines, strict=True)):
                if old != line:
                    self.replace_option_prompt_at_index(number, line)
            return
        chosen, had = self.selected(), self._drawn
        self._drawn = ids
        self.clear_options()
        self.add_options([Option(line, id=name) for name, line in zip(ids, lines, strict=True)])
        if ids:
            # someone who reads the second finding goes on reading it; who stands on the first sees the new cause
            stays = chosen in ids and had and chosen != had[0]
            self.highlighted = ids.index(str(chosen)) if stays else 0

    def _line(self, finding: Finding, folded: bool, colors: Palette) -> Text:
        width = max(20, self.scrollable_content_region.width - 2)
        color = colors.severity(finding.severity)
        lead = Text.assemble(("  └ " if folded else "", colors.dim), (MARKS[finding.severity] + " ", f"bold {color}"))
        since = age(self._frame.now - self._frame.seen.get(finding.id, self._frame.now))
        who = ranks(finding) if width >= 56 else ""
        count = f"×{finding.count}" if finding.count > 1 else ""
        tail = Text.assemble((f"  {who}" if who else "", colors.dim), (f"  {count}" if count else "", colors.dim))
        tail.append(f" {since:>4}")
        room = max(6, width - lead.cell_len - tail.cell_len)
        style = colors.dim if folded else ""
        lines = wrap(printable(finding.title), room) if width < WIDE else [printable(finding.title)]
        if len(lines) > TITLE:
            lines = [*lines[: TITLE - 1], " ".join(lines[TITLE - 1 :])]
        out = Text(no_wrap=True)
        for number, line in enumerate(lines):
            title = Text(cut_end(line, room), style, no_wrap=True)
            title.truncate(room, pad=True)
            out.append_text(lead if not number else Text("\n" + " " * lead.cell_len))
            out.append_text(title)
            if not number:
                out.append_text(tail)
        return out
