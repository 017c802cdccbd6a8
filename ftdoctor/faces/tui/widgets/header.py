"""Two lines on top: how the run is, and how far it is."""

from __future__ import annotations

from rich.text import Text

from ftdoctor.faces.story import STAGES
from ftdoctor.faces.terminal import cut_end, cut_middle, printable
from ftdoctor.faces.tui.frame import EMPTY, Frame
from ftdoctor.faces.tui.theme import palette
from ftdoctor.faces.tui.widgets.lines import Lines
from ftdoctor.faces.words import bar, duration, short, steps

MARKS = {"failing": "✗", "suspicious": "!", "healthy": "✓", "unknown": "?"}


class Header(Lines):
    """Verdict, cause, run name; stage, steps, time left, tokens a second, last metrics."""

    def __init__(self, title: str) -> None:
        super().__init__(id="header")
        self._title = printable(title)
        self._frame = EMPTY

    def show(self, frame: Frame) -> None:
        """Draw another frame."""
        self._frame = frame
        self.changed()

    def rows(self, width: int, height: int) -> list[Text]:
        """Two lines, cut to the width."""
        width = max(20, width)
        return [self._first(width), self._second(width)]

    def _first(self, width: int) -> Text:
        colors, frame = palette(self.app), self._frame
        diagnosis = frame.diagnosis
        verdict = diagnosis.verdict
        color = colors.severity(verdict)
        badge = Text(f" {MARKS[verdict]} {verdict.upper()} ", f"bold reverse {color}")
        root = diagnosis.root_cause
        says = printable(root.title) if root is not None else self._quiet()
        name = cut_middle(self._title, max(8, width // 3))
        room = width - badge.cell_len - len(name) - 4
        line = Text.assemble(badge, "  ", (cut_end(says, max(4, room)), "bold" if root is not None else colors.dim))
        return _ends(line, Text(name, colors.dim), width)

    def _quiet(self) -> str:
        frame = self._frame
        if frame.diagnosis.verdict == "healthy":
            if not frame.ended:
                return "no failure so far"
            step, total = frame.outlook.step, frame.outlook.total
            early = step is not None and total is not None and step < total
            return "no failure found" + (f"; it stopped at step {steps(step)} of {steps(total)}" if early else "")
        if not frame.diagnosis.run.sources:
            return "waiting for the run to say something"
        return "it ended, and nothing here can be judged" if frame.ended else "nothing to judge yet"

    def _second(self, width: int) -> Text:
        colors, frame = palette(self.app), self._frame
        look, run = frame.outlook, frame.diagnosis.run
        stage = "ended" if frame.ended else STAGES.get(run.stage or "", run.stage or "–")
        step = steps(look.step) + (f"/{steps(look.total)}" if look.total is not None else "")
        parts = [("ETA", duration(look.seconds_left)), ("tok/s", short(look.tokens_per_second))]
        parts += [("s/step", short(look.seconds_per_step))] if width >= 100 else []
        parts += [("ranks", str(run.world_size))] if run.world_size and width >= 100 else []
        if frame.behind > 1 << 20:
            parts.append(("unread", f"{frame.behind >> 20} MiB"))
        elif frame.silence is not None and frame.silence >= 10 and not frame.ended:
            parts.append(("silent", duration(frame.silence)))
        right = Text("  ").join(Text.assemble((label + " ", colors.dim), value) for label, value in parts)
        left = Text.assemble(" ", (f"{stage:<10}", colors.accent), " ", ("step ", colors.dim), (step, "bold"), "  ")
        share = look.step / look.total if look.step is not None and look.total else None
        room = min(60, width - left.cell_len - right.cell_len - 8)
        if room >= 6 and share is not None:
            full, rest = bar(share, room)
            left.append_text(Text.assemble((full, colors.accent), (rest, colors.faint), f" {share:4.0%}"))
        return _ends(left, right, width)


def _ends(left: Text, right: Text, width: int) -> Text:
    """`left`, and `right` at the right edge; cut where they do not fit."""
    space = width - left.cell_len - right.cell_len - 1
    line = Text.assemble(left, " " * max(1, space), right)
    line.truncate(width)
    return line
