"""The line that names the keys. A click does what the key does.

Textual's own footer builds its widgets anew whenever the focus moves; that took more than half of the time from a
key to the screen.
"""

from __future__ import annotations

from rich.text import Text
from textual import events
from textual.message import Message

from ftdoctor.faces.tui.theme import palette
from ftdoctor.faces.tui.widgets.lines import Lines, spanned

# key as it is shown, its name for `Pressed`, what it does
EVERYWHERE = (("o", "o", "log line"), ("y", "y", "copy fix"), ("/", "slash", "search"))
IN_LOG = (("f", "f", "follow"), ("e", "e", "errors only"), ("r", "r", "rank"), ("/", "slash", "search"))
ALWAYS = (("?", "question_mark", "help"), ("q", "q", "quit"))
PALETTE = ("^p", "ctrl+p", "palette")
GAP = 2


class KeyBar(Lines):
    """Keys of the view that is shown; the palette's on the right."""

    MARGIN = 1

    class Pressed(Message):
        """A key was clicked."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def __init__(self) -> None:
        super().__init__(id="keys")
        self._view = ""

    def show(self, view: str) -> None:
        """The keys of another view."""
        self._view = view
        self.changed()

    def _places(self, width: int) -> list[tuple[int, tuple[str, str, str]]]:
        """Where each key begins, in cells."""
        places, at = [], 0
        end = width - len(" ".join(PALETTE[::2]))
        for item in (*(IN_LOG if self._view == "log" else EVERYWHERE), *ALWAYS):
            size = len(item[0]) + 1 + len(item[2])
            if at + size < end:
                places.append((at, item))
            at += size + GAP
        return [*places, (max(0, end), PALETTE)]

    def rows(self, width: int, height: int) -> list[Text]:
        """One line."""
        colors, parts, at = palette(self.app), [], 0
        for start, (shown, _, does) in self._places(width):
            parts += [(" " * (start - at), ""), (shown, f"bold {colors.accent}"), (f" {does}", colors.dim)]
            at = start + len(shown) + 1 + len(does)
        return [spanned(*parts)]

    def on_click(self, event: events.Click) -> None:
        """The key whose name is there."""
        for start, (shown, key, does) in self._places(self.size.width - 2 * self.MARGIN):
            if start <= event.x - self.MARGIN < start + len(shown) + 1 + len(does):
                self.post_message(self.Pressed(key))
