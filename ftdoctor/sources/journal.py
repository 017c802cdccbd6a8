"""The journal: every event a session saw, as JSON lines, to be replayed with the same findings.

    {"ftdoctor_journal": 1, "tool_version": "0.1.0"}
    {"t": "MetricSample", "o": ["train.log", 12, 0, null, 1795474744.3, 88], "name": "loss", "value": 1.93, ...}

Append-only. A torn last line (the machine died) is ignored. Beyond `SEGMENT` bytes a new segment begins; the first
segment, which holds the run's configuration and start, and the newest `KEEP` segments stay.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ftdoctor import events as types
from ftdoctor.events import Event, Frame, GpuProcess, NvLinks, Origin, RemappedRows
from ftdoctor.version import __version__

FORMAT = 1
HEADER = b'{"ftdoctor_journal":'
SEGMENT = 64 << 20
KEEP = 3
FLUSH_SECONDS = 0.5
_TYPES: dict[str, Any] = {
    name: cls for name, cls in vars(types).items() if dataclasses.is_dataclass(cls) and name not in ("Origin", "Frame")
}


def encode(event: Event) -> str:
    """One event as a JSON line without its newline."""
    origin = event.origin
    record: dict[str, Any] = {
        "t": type(event).__name__,
        "o": [origin.path, origin.line, origin.rank, origin.node, origin.time, origin.order],
    }
    for field in dataclasses.fields(event):
        if field.name not in ("origin", "hits"):
            value = getattr(event, field.name)
            if value is None and field.default is None:
                continue
            record[field.name] = [dataclasses.astuple(item) for item in value] if field.name == "frames" else value
    return json.dumps(record, ensure_ascii=False, default=_plain)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def decode(line: str) -> Event | None:
    """The event of a line; None for anything that is not one (torn, newer format, damaged)."""
    try:
        record = json.loads(line)
        cls = _TYPES[record.pop("t")]
        origin = Origin(*record.pop("o"))
        names = {field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in record.items() if key in names
        }
        if "frames" in values:
            values["frames"] = tuple(Frame(*item) for item in values["frames"])
        if "processes" in values:
            values["processes"] = tuple(GpuProcess(**item) for item in values["processes"])
        if "remapped_rows" in values:
            values["remapped_rows"] = RemappedRows(**values["remapped_rows"])
        if "nvlinks" in values:
            values["nvlinks"] = NvLinks(**{**values["nvlinks"], "down": tuple(values["nvlinks"]["down"])})
        event: Event = cls(origin, **values)
        return event
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


class JournalWriter:
    """Appends events. `tick` writes them out: called at least every quarter of a second while `pending`, it makes sure
    that a kill loses no more than the last second.
    """

    def __init__(self, path: Path) -> None:
        """Start `path`; an existing journal there is moved aside, never overwritten.

        Raises:
            OSError: the file cannot be created.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            number = 1
            while (old := path.with_name(f"{path.name}.{number}.old")).exists():
                number += 1
            path.rename(old)
        self._segment = 0
        self._refused = False
        self._written = 0
        self._flushed = 0.0
        self.pending = False
        self._file: IO[str] | None = self._start(path)

    @property
    def failed(self) -> bool:
        """True once the disk refused; the session goes on without a journal."""
        return self._refused

    def write(self, event: Event) -> None:
        """Append one event."""
        if self._file is None:
            return
        line = encode(event)
        try:
            self._file.write(line + "\n")
            self._written += len(line) + 1
            self.pending = True
            if self._written > SEGMENT:
                self._rotate()
        except OSError:
            self._refuse()

    def tick(self, now: float) -> None:
        """Flush what is pending, at most every `FLUSH_SECONDS`; `now` is the caller's clock in seconds."""
        if self._file is not None and self.pending and now - self._flushed >= FLUSH_SECONDS:
            self._flushed, self.pending = now, False
            try:
                self._file.flush()
            except OSError:
                self._refuse()

    def close(self) -> None:
        """Flush and close."""
        if self._file is not None:
            try:
                self._file.close()
            except OSError:
                self._refused = True
            self._file = None

    def _refuse(self) -> None:
        """The disk is full: no more of it, but what was written stays."""
        self._refused, refused, self._file = True, self._file, None
        with contextlib.suppress(OSError):
            if refused is not None:
                refused.close()

    def _start(self, path: Path) -> IO[str]:
        handle = path.open("x", encoding="utf-8")
        handle.write(json.dumps({"ftdoctor_journal": FORMAT, "tool_version": __version__}) + "\n")
        handle.flush()
        self._written = 0
        return handle

    def _rotate(self) -> None:
        assert self._file is not None
        self._file.close()
        self._segment += 1
        self._file = self._start(segment_path(self.path, self._segment))
        stale = self._segment - KEEP
        if stale >= 1:
            segment_path(self.path, stale).unlink(missing_ok=True)


def segment_path(path: Path, number: int) -> Path:
    """File of a segment; 0 is the journal itself."""
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


def is_journal(path: str | os.PathLike[str]) -> bool:
    """True when the file begins as a journal does."""
    try:
        with open(path, "rb") as handle:
            return handle.read(len(HEADER)) == HEADER
    except OSError:
        return False


def read_journal(path: Path) -> Iterator[Event]:
    """Events of all segments of a journal, oldest first."""
    numbers = sorted(
        int(p.name.rpartition(".")[2])
        for p in path.parent.glob(f"{path.name}.*")
        if p.name.rpartition(".")[2].isdigit()
    )
    for number in [0, *numbers]:
        with segment_path(path, number).open(encoding="utf-8", errors="replace") as handle:
            for line in handle:
                if line.endswith("\n"):
                    event = decode(line)
                    if event is not None:
                        yield event
