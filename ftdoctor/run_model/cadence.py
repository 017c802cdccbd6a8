"""How often this run shows that it moves, in wall-clock time that the events brought.

Live, every event is as old as the last `Tick`. A pause is the time between two signs of life: a metric line, a bar
that moved, a milestone. What the run was doing when it last spoke (`phase`) says which pauses are normal.
"""

from __future__ import annotations

from array import array
from statistics import median

KEEP = 512


class Cadence:
    """Signs of life and the pauses between them. Times are seconds since the epoch."""

    __slots__ = ("_pauses", "last", "last_train", "longest", "now", "phase", "signs", "steps")

    def __init__(self) -> None:
        self.now: float | None = None
        self.last: float | None = None
        self.last_train: float | None = None
        self.phase = "start"
        self.longest = 0.0
        self.signs = 0
        self.steps = 0
        self._pauses = array("d")

    def tick(self, now: float) -> None:
        """Time passed."""
        self.now = now

    def alive(self, phase: str, seconds: float | None = None) -> None:
        """A sign of life; `phase` is what the run begins or goes on doing: load, train, eval, save, end.

        `seconds` is the pause before it where the sign says so itself: ticks are too coarse for steps below a second.
        """
        if self.now is None:
            return
        if self.last is not None and self.phase == phase == "train":
            pause = self.now - self.last if seconds is None else seconds
            if pause > 0:
                self.longest = max(self.longest, pause)
                self._pauses.append(pause)
                if len(self._pauses) > KEEP:
                    del self._pauses[: KEEP // 2]
        self.signs += 1
        if phase == "train":
            self.steps += 1
            self.last_train = self.now
        self.last = self.now
        self.phase = phase

    @property
    def silence(self) -> float | None:
        """Seconds since the last sign of life; None when there was none."""
        return None if self.now is None or self.last is None else self.now - self.last

    @property
    def usual(self) -> float | None:
        """Median pause between two training signs, in seconds; None below five."""
        return median(self._pauses) if len(self._pauses) >= 5 else None
