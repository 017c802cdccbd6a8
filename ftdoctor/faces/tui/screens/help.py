"""All keys on one page."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from ftdoctor.faces.tui.theme import palette

KEYS = (
    ("Views", (("1", "overview"), ("2", "plots"), ("3", "GPUs"), ("4", "log"), ("tab", "next pane"))),
    (
        "Findings",
        (
            ("↑ ↓ / j k", "choose"),
            ("enter, o", "go to the log line; again: the next evidence"),
            ("y", "copy the fix"),
            ("Y", "copy the whole finding"),
        ),
    ),
    (
        "Log",
        (
            ("/", "search"),
            ("n  N", "next, previous hit"),
            ("f, end", "follow"),
            ("e", "errors only"),
            ("r", "filter by rank"),
            ("[  ]", "previous, next file"),
            ("esc", "clear search and filters"),
        ),
    ),
    ("Anywhere", (("ctrl+p", "commands"), ("t", "dark, light"), ("?", "this page"), ("q", "leave; the run goes on"))),
)


class HelpScreen(ModalScreen[None]):
    """Closes with any of its keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,question_mark,q,enter", "dismiss", "close")]

    def compose(self) -> ComposeResult:
        """The page."""
        with VerticalScroll(id="help"):
            yield Static(self._page())

    def _page(self) -> Text:
        colors, out = palette(self.app), Text()
        for title, keys in KEYS:
            out.append(f"{title}\n", f"bold {colors.accent}")
            for key, text in keys:
                out.append(f"  {key:<12}", "bold")
                out.append(f"{text}\n", colors.text)
            out.append("\n")
        out.rstrip()
        return out
