"""The screen of `ftdoctor launch`: that of `watch`, over a run that is ours to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.message import Message

from ftdoctor.faces.terminal import printable
from ftdoctor.faces.tui.app import DoctorApp, FrameTaken, while_running
from ftdoctor.faces.tui.poller import Poller
from ftdoctor.faces.tui.screens.leave import LeaveScreen
from ftdoctor.live import LiveSession

INTERVAL = 0.25  # longest wait between looks, seconds


class Said(Message):
    """A line of ftdoctor's own."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


class LaunchApp(DoctorApp):
    """Ends with the run. `answer`: `ended`, `background`, `plain`."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "leave", "leave"),
        Binding("ctrl+c", "stop", "stop", priority=True),
        Binding("ctrl+q", "leave", "leave", show=False, priority=True),
    ]

    def __init__(self, title: str, poller: Poller | None, stop: Callable[[], None]) -> None:
        """`stop` asks for a gentle end; asked again it hurries."""
        super().__init__(title, poller=poller)
        self._stop = stop
        self.answer = "ended"

    @on(FrameTaken)
    @while_running
    def _over(self, message: FrameTaken) -> None:
        if message.frame is not None and message.frame.ended:
            self.exit()

    @on(Said)
    @while_running
    def _said(self, message: Said) -> None:
        self.notify(printable(message.text), title="ftdoctor", timeout=8, markup=False)

    def action_leave(self) -> None:
        """Ask what becomes of the run."""
        if not isinstance(self.screen, LeaveScreen):
            self.push_screen(LeaveScreen(), self._answered)

    def action_stop(self) -> None:
        """End the run gently; again: at once."""
        self._stop()

    def leave(self, answer: str) -> None:
        """Close the screen, from any thread or a signal's handler."""
        self.answer = answer
        self.post_message(FrameTaken(None))

    def terminal_gone(self) -> None:
        """The run goes on without the screen."""
        self._answered("plain")

    def _answered(self, answer: str | None) -> None:
        if answer == "stop":
            self._stop()
        elif answer in ("background", "plain"):
            self.answer = answer
            self.exit()


class LaunchScreen:
    """The screen for one run. `say` may be called by any thread while it is shown."""

    def __init__(self, live: LiveSession, title: str, stop: Callable[[], None]) -> None:
        """`live` steps the run as well: nobody else may touch it until `show` returns."""
        self._poller = Poller(live, INTERVAL)
        self._app = LaunchApp(title, self._poller, stop)

    def show(self) -> str:
        """Until the run has ended or the user leaves: `ended`, `background` or `plain`.

        Raises:
            Exception: whatever reading the run raised.
        """
        try:
            self._app.run()
        finally:
            self._poller.stop()
        if self._poller.error is not None:
            raise self._poller.error
        return self._app.answer

    def say(self, text: str) -> None:
        """A line of ftdoctor's own, for a few seconds."""
        if self._app.is_running:
            self._app.post_message(Said(text))

    def leave(self) -> None:
        """The terminal has gone."""
        threading.Thread(target=self._app.leave, args=("plain",), daemon=True).start()
