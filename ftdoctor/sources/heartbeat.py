"""Heartbeat files of the ranks to events; see `launch/ftdoctor_heartbeat.py` for what writes them.

    beats = Heartbeats(Path("ftdoctor-runs/r/heartbeat"), session.orders)
    session.apply(beats.poll())

A torn last line waits for its rest; a damaged one is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftdoctor.events import Event, FactLearned, Heartbeat, Origin

NAME = re.compile(r"^heartbeat-rank(\d{1,5})\.jsonl$")
PART = 4 << 20  # bytes of one file in one look
_FIELDS = {
    "since": "since", "seconds": "dt", "loss": "loss", "grad_norm": "grad_norm", "data": "data", "forward": "forward",
    "backward": "backward", "optimizer": "optimizer", "memory": "mem", "memory_peak": "peak", "resident": "rss",
}  # fmt: skip


class HeartbeatFile:
    """One rank's file, read as it grows."""

    def __init__(self, path: Path, orders: Iterator[int]) -> None:
        found = NAME.match(path.name)
        self.path, self._orders = path, orders
        self._rank = int(found[1]) if found else None
        self._offset = self._line = 0

    def poll(self) -> Iterator[Event]:
        """Events of whole lines that are new, at most `PART` bytes of them."""
        try:
            with self.path.open("rb") as handle:
                handle.seek(self._offset)
                data = handle.read(PART)
        except OSError:
            return
        whole = data.rfind(b"\n") + 1
        self._offset += whole
        for line in data[:whole].splitlines():
            self._line += 1
            event = self._event(line)
            if event is not None:
                yield event

    def _event(self, line: bytes) -> Event | None:
        try:
            record = json.loads(line)
            origin = Origin(
                str(self.path), self._line, self._rank, time=_number(record.get("t")), order=next(self._orders)
            )
            if "ftdoctor_heartbeat" in record:
                return FactLearned(origin, "world_size", int(record["world_size"]))
            values = {name: _number(record[key]) for name, key in _FIELDS.items() if key in record}
            return Heartbeat(origin, str(record["p"])[:20], int(record["s"]), **values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None


def _number(value: Any) -> float | None:
    return None if value is None or isinstance(value, bool) else float(value)


class Heartbeats:
    """All ranks' files of a folder; those of other nodes that share it as well."""

    def __init__(self, folder: Path, orders: Iterator[int]) -> None:
        """`folder` need not exist yet."""
        self._folder, self._orders = folder, orders
        self._files: dict[str, HeartbeatFile] = {}

    def poll(self) -> list[Event]:
        """What is new."""
        try:
            names = sorted(p.name for p in self._folder.iterdir() if NAME.match(p.name))
        except OSError:
            return []
        for name in names:
            self._files.setdefault(name, HeartbeatFile(self._folder / name, self._orders))
        events = [event for name in names for event in self._files[name].poll()]
        return sorted(events, key=lambda event: event.origin.time or 0.0)


def read_heartbeat(path: Path, orders: Iterator[int]) -> Iterator[Event]:
    """One file whole."""
    reader = HeartbeatFile(path, orders)
    while events := list(reader.poll()):
        yield from events
