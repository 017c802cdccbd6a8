"""One finding in full: what happened, where to see it, what to change, and why."""

from __future__ import annotations

import shlex
from typing import ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from ftdoctor.faces import patch, story
from ftdoctor.faces.terminal import cut_path, printable
from ftdoctor.faces.tui.frame import EMPTY, Frame
from ftdoctor.faces.tui.theme import Palette, palette
from ftdoctor.findings import Evidence, Finding, Fix

MOST_LINES = 12


class Detail(VerticalScroll):
    """The chosen finding, or what the run did when there is none."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "down", show=False),
        Binding("k", "scroll_up", "up", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(id="detail")
        self._frame = EMPTY
        self._text = Text()
        self.finding: Finding | None = None

    def compose(self) -> ComposeResult:
        """One text."""
        yield Static("", id="detail-text")

    def show(self, frame: Frame, name: str | None) -> None:
        """Show the finding with this id."""
        finding = next((f for f in frame.diagnosis.findings if f.id == name), None)
        if finding is not None and finding == self.finding and frame.diagnosis is self._frame.diagnosis:
            return
        moved = finding is None or self.finding is None or finding.id != self.finding.id
        self._frame, self.finding = frame, finding
        self._draw()
        if moved:
            self.scroll_home(animate=False)

    def on_resize(self) -> None:
        """Paths are cut to the width."""
        self._draw()

    def redraw(self) -> None:
        """Draw again, in other colours."""
        self._draw()

    def _draw(self) -> None:
        colors = palette(self.app)
        width = max(20, self.size.width - 4)
        if self.finding is None:
            text = quiet(self._frame, colors)
        else:
            text = page(self.finding, self._frame, colors, width)
        lines = text.plain.count("\n")
        if text != self._text or text.spans != self._text.spans:
            # another number of lines lays the whole screen out again; another number in a line does not
            self.query_one("#detail-text", Static).update(text, layout=lines != self._text.plain.count("\n"))
            self._text = text


def quiet(frame: Frame, colors: Palette) -> Text:
    """No finding: what was seen, and what could not be judged."""
    diagnosis = frame.diagnosis
    out = Text()
    if not diagnosis.run.sources:
        return waiting(frame, colors)
    rows = story.progress(diagnosis.run)
    rows += [("read" if not n else "", printable(p)) for n, p in enumerate(diagnosis.run.sources[:6])]
    absent = story.not_judged(diagnosis.outcomes)
    rows += [("not judged", absent)] if absent else []
    rows += [("skipped", printable(text)) for text in diagnosis.run.skipped[:4]]
    if not rows:
        rows = [("give it" if not n else "", advice) for n, advice in enumerate(story.ADVICE)]
    for label, value in rows:
        out.append(f"{label:<11} ", colors.dim)
        out.append(f"{value}\n")
    return out


def waiting(frame: Frame, colors: Palette) -> Text:
    """Nothing was read yet: what is looked at, and what comes next."""
    out = Text()
    out.append("Nothing was written yet.\n\n", "bold")
    for number, path in enumerate(frame.logs[:8]):
        out.append(f"{'watching' if not number else '':<11} ", colors.dim)
        out.append(printable(path) + "\n")
    out.append("\nA file or folder that does not exist yet is followed as soon as it is there.\n", colors.dim)
    out.append("Best is the trainer's own output: stdout and stderr of every rank, and the Axolotl YAML.\n", colors.dim)
    return out


def page(finding: Finding, frame: Frame, colors: Palette, width: int) -> Text:
    """The whole finding."""
    color = colors.severity(finding.severity)
    out = Text()
    out.append(printable(finding.title) + "\n", "bold")
    places = [part for part in story.place(finding, frame.diagnosis.run) if not part.endswith(" times")]  # in the list
    known = [finding.severity, finding.id, *places]
    if finding.explained_by:
        known.append(f"because of {finding.explained_by}")
    if finding.state == "survived":
        known.append("the run went on")
    out.append(known[0], f"bold {color}")
    out.append("".join(f" · {part}" for part in known[1:]) + "\n\n", colors.dim)
    out.append(printable(finding.message) + "\n")
    groups = story.alike(finding.evidence)
    if groups:
        _title(out, "seen", colors)
    for number, group in enumerate(groups[:6]):
        _evidence(out, group[0], finding.evidence.index(group[0]), colors, width)
        if len(group) > 1:
            lines = story.ranges(item.line_first for item in group[1:])
            out.append(f"  and the like in line {lines}\n", colors.dim)
        if number == 5 and len(groups) > 6:
            out.append(f"  and {len(groups) - 6} more\n", colors.dim)
    for number, fix in enumerate(finding.fixes):
        _title(out, "fix" if not number else "or", colors)
        _fix(out, fix, colors)
    if finding.why:
        _title(out, "why", colors)
        out.append(printable(finding.why) + "\n")
    out.rstrip()
    return out


def _title(out: Text, label: str, colors: Palette) -> None:
    out.append(f"\n{label}\n", f"bold {colors.accent}")


def _evidence(out: Text, item: Evidence, number: int, colors: Palette, width: int) -> None:
    place = story.location(item)
    if place:
        style = Style(color=colors.info, underline=bool(item.line_first))
        if item.line_first:
            style += Style.from_meta({"@click": f"app.jump({number})"})
        out.append(cut_path(printable(place), width), style)
        out.append("\n")
    lines = [line for line in printable(item.excerpt).split("\n") if line.strip()]
    for line in lines[:MOST_LINES]:
        out.append("│ ", colors.faint)
        shown = line if len(line) <= 600 else line[:600] + "…"
        focus = printable(item.focus)
        at = shown.find(focus) if focus else -1
        if at >= 0:
            out.append(shown[:at], colors.dim)
            out.append(focus, "bold")
            out.append(shown[at + len(focus) :] + "\n", colors.dim)
        else:
            out.append(shown + "\n", colors.dim)
    if len(lines) > MOST_LINES:
        out.append(f"│ … {len(lines) - MOST_LINES} more lines\n", colors.faint)


def _fix(out: Text, fix: Fix, colors: Palette) -> None:
    out.append(printable(fix.title) + "\n", "bold")
    for name, lines in patch.diff(fix):
        out.append(f"  # {name}\n", colors.dim)
        for line in lines:
            color = {"-": colors.bad, "+": colors.good}.get(line.sign, colors.dim)
            out.append(f"{line.sign} {printable(line.text)}\n", color)
    for command in _commands(fix):
        out.append("  $ ", colors.dim)
        out.append(printable(command) + "\n")
    for text in (fix.note, f"costs: {fix.cost}" if fix.cost else ""):
        if text:
            out.append(printable(text) + "\n", colors.dim)


def _commands(fix: Fix) -> list[str]:
    exports = [f"export {key}={shlex.quote(value)}" for key, value in fix.env.items()]
    return exports + [line for line in fix.command.split("\n") if line.strip()]


def fix_text(finding: Finding) -> str:
    """The first fix as it is pasted: new YAML or JSON lines, exports, commands; else its words."""
    if not finding.fixes:
        return ""
    fix = finding.fixes[0]
    lines = [line.text for _, group in patch.diff(fix) for line in group if line.sign != "-"]
    lines += _commands(fix)
    return printable("\n".join(lines) or "\n".join(t for t in (fix.title, fix.note) if t))


def finding_text(finding: Finding, frame: Frame) -> str:
    """The finding as plain text."""
    from ftdoctor.faces.tui.theme import DARK

    return page(finding, frame, DARK, 400).plain
