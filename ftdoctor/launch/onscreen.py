"""A launch whose run is shown on a screen: the screen's thread reads the run, and with each look the launch acts."""

from __future__ import annotations

from collections.abc import Callable

from ftdoctor.live import LiveSession


class ShownSession(LiveSession):
    """A live session that lets its launch act after each look; it has ended when the launch says so."""

    act: Callable[[bool], None] | None = None  # gets whether something changed
    over: Callable[[], bool] | None = None

    def step(self, monotonic: float, wall: float) -> bool:
        """Read what is new, then act on it."""
        changed = super().step(monotonic, wall)
        if self.act is not None:
            self.act(changed)
        return changed

    def ended(self, monotonic: float) -> bool:
        """True when the process has ended, whatever the log says."""
        return self.over() if self.over is not None else super().ended(monotonic)

    @property
    def calm(self) -> bool:
        """A run of ours may end at any moment, without a word."""
        return False
