"""The line that names the views."""

from __future__ import annotations

from rich.text import Text
from textual import events
from textual.message import Message

from ftdoctor.faces.tui.theme import palette
from ftdoctor.faces.tui.widgets.lines import Lines

NAMES = {"overview": "Overview", "plots": "Plots", "gpus": "GPUs", "log": "Log"}
GAP = 3


class ViewTabs(Lines):
    """Names of the views with their keys; a click chooses."""

    class Chosen(Message):
        """A view was clicked."""

        def __init__(self, view: str) -> None:
            super().__init__()
            self.view = view

    def __init__(self, views: tuple[str, ...]) -> None:
        super().__init__(id="tabs")
        self._views, self._current = views, views[0]

    def show(self, view: str) -> None:
        """Mark another view."""
        self._current = view
        self.changed()

    def rows(self, width: int, height: int) -> list[Text]:
        """One line."""
        colors, out = palette(self.app), Text(" ", no_wrap=True)
        for number, view in enumerate(self._views, 1):
            here = view == self._current
            out.append(f"{number} ", colors.accent)
            out.append(NAMES.get(view, view), f"bold underline {colors.text}" if here else colors.dim)
            out.append(" " * GAP)
        return [out]

    def on_click(self, event: events.Click) -> None:
        """The view whose name is there."""
        at = 1
        for number, view in enumerate(self._views, 1):
            end = at + len(f"{number} {NAMES.get(view, view)}")
            if at <= event.x < end:
                self.post_message(self.Chosen(view))
            at = end + GAP
