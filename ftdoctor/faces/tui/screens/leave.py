"""The question of `ftdoctor launch` when its screen is left: what becomes of the run."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from ftdoctor.faces.tui.theme import palette

CHOICES = (
    ("b", "background", "leave it running; nobody watches it until `ftdoctor watch`"),
    ("p", "plain", "close the screen, watch on here in plain text"),
    ("s", "stop", "stop it gently: a checkpoint where it can, then SIGTERM"),
    ("esc", "stay", "back to the screen"),
)


class LeaveScreen(ModalScreen[str]):
    """Gives one of `background`, `plain`, `stop`, `stay`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(key, f"choose('{answer}')", answer) for key, answer, _ in CHOICES[:-1]),
        Binding("escape,q", "choose('stay')", "stay"),
    ]

    def compose(self) -> ComposeResult:
        """The question and its keys."""
        with VerticalScroll(id="leave"):
            yield Static(self._page())

    def action_choose(self, answer: str) -> None:
        """A key was pressed."""
        self.dismiss(answer)

    def _page(self) -> Text:
        colors, out = palette(self.app), Text()
        out.append("The run is still going on.\n\n", f"bold {colors.accent}")
        for key, _, text in CHOICES:
            out.append(f"  {key:<5}", "bold")
            out.append(f"{text}\n", colors.text)
        out.rstrip()
        return out
