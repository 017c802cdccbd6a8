"""Which optimizer step a metric line belongs to.

Trainers print metric lines without a step. The training bar shows it, but a bar is redrawn a few times a second only
and lags behind on fast runs; the logging interval, where the configuration names it, counts exactly. So a line is one
interval after the one before it as long as that agrees with the bar, else it is where the bar is.
"""

from __future__ import annotations

import math

from ftdoctor.events import BarSeen


class StepClock:
    """Steps of one source."""

    __slots__ = ("_last", "bar")

    def __init__(self) -> None:
        self.bar: BarSeen | None = None
        self._last: float | None = None

    def move(self, event: BarSeen, total: float | None) -> float | None:
        """A bar without description moved. Gives seconds per step since it moved last, None for other bars.

        `total` is the planned number of steps; without it the longest bar is the training bar, evaluation bars are
        shorter.
        """
        current = self.bar
        if not self.training(event, total):
            return None
        self.bar = event
        if current is None or event.total != current.total or event.n <= current.n or event.elapsed < current.elapsed:
            return None
        return (event.elapsed - current.elapsed) / (event.n - current.n)

    def training(self, event: BarSeen, total: float | None) -> bool:
        """True for the bar of the training steps, as far as can be told; `total` as in `move`."""
        if total is not None:
            return event.total == total
        return self.bar is None or event.total >= self.bar.total

    def at(self, training: bool, interval: float | None) -> tuple[float | None, str]:
        """Step of a metric line and how it is known. `training` lines advance the clock, evaluation lines do not."""
        shown = self.bar.n if self.bar is not None else None
        if not training:
            return (shown, "bar") if self._last is None or (shown or 0) > self._last else (self._last, "bar")
        if interval is None or shown is None:
            self._last = shown
            return shown, "bar" if shown is not None else "none"
        if self._last is not None:
            counted = self._last + interval
        else:
            counted = max(interval, math.ceil(shown / interval) * interval)
        if abs(counted - shown) <= max(3.0, 2 * interval):
            self._last = counted
            return counted, "counted"
        self._last = shown
        return shown, "bar"
