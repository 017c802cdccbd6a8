"""What every rank last said of itself, and how long its recent steps and their parts took. Bounded in memory."""

from __future__ import annotations

from collections import deque
from statistics import median

from ftdoctor.events import Heartbeat

KEEP = 64  # steps per rank
MAX_RANKS = 8192


class RankBeats:
    """One rank. `phase` since `since` (seconds since the epoch) in or after `step`; `time` of the last word."""

    __slots__ = ("peak", "phase", "recent", "resident", "since", "step", "time")

    def __init__(self) -> None:
        self.phase, self.step = "load", 0
        self.since: float | None = None
        self.time: float | None = None
        self.peak: float | None = None
        self.resident: float | None = None
        self.recent: deque[Heartbeat] = deque(maxlen=KEEP)

    def add(self, beat: Heartbeat) -> None:
        """Fold one heartbeat."""
        self.step, self.time = beat.step, beat.origin.time
        if beat.phase == "step":
            self.phase, self.since = "log", beat.origin.time
            self.recent.append(beat)
            self.peak = beat.memory_peak if beat.memory_peak is not None else self.peak
        else:
            self.phase, self.since = beat.phase, beat.since
        self.resident = beat.resident if beat.resident is not None else self.resident

    def usual(self, part: str) -> float | None:
        """Median seconds of `seconds`, `data`, `forward`, ... over the recent steps."""
        values = [value for beat in self.recent if (value := getattr(beat, part)) is not None]
        return median(values) if values else None
