"""Cut a byte stream into lines and hand out the wanted ones.

A segment ends at `\\n` or `\\r` (progress bars overwrite themselves with `\\r`); line numbers
count `\\n` only, as editors do. The result does not depend on how the bytes were cut into
chunks. A segment longer than `CLIP` bytes is judged by its first `CLIP` bytes.

Some things span many lines (a traceback, a config dump). While `window` is true every
segment is handed out, wanted or not; the consumer sets it between two lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ftdoctor.parsing.scanner import Anchors

CLIP = 128 * 1024
PREVIOUS = 120


@dataclass(frozen=True, slots=True)
class RawLine:
    """One segment: `number` is the 1-based line it lies on, `hits` the anchors found in it.

    `previous` is the segment before it (at most `PREVIOUS` bytes of its beginning).
    """

    number: int
    data: bytes
    hits: tuple[int, ...]
    previous: bytes = b""


class LineFinder:
    """Feed chunks of one stream, get wanted lines; call `finish` at the end of the stream."""

    def __init__(self, anchors: Anchors) -> None:
        self._anchors = anchors
        self._carry = b""
        self._overlong = False
        self._previous = b""
        self._newline = True
        self.line = 1
        self.window = False
        self.clipped = 0
        self.bytes_read = 0

    def feed(self, chunk: bytes) -> Iterator[RawLine]:
        """Wanted lines that `chunk` completes. The iterator must be run to its end before the next call."""
        self.bytes_read += len(chunk)
        if self._overlong:
            cut = _first_end(chunk)
            if cut < 0:
                return
            chunk = chunk[cut:]  # keeps the terminator, which ends the clipped segment
            self._overlong = False
        data = self._carry + chunk if self._carry else chunk
        cut = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        self._carry = data[cut:]
        if len(self._carry) > CLIP:
            self._carry = self._carry[:CLIP]
            self._overlong = True
            self.clipped += 1
        if cut:
            yield from self._complete(data if cut == len(data) else data[:cut])

    def finish(self) -> Iterator[RawLine]:
        """The last line, if the stream did not end with a newline."""
        data, self._carry, self._overlong = self._carry, b"", False
        if data:
            yield from self._complete(data + b"\n")

    def _complete(self, data: bytes) -> Iterator[RawLine]:
        hits = self._anchors.find(data)
        count, size = len(hits), len(data)
        at = 0  # next hit
        start = 0  # start of the segment not yet passed
        newline = -1  # next "\n" at or after `start`, once looked up
        counted = 0  # newlines before this offset are in self.line
        while start < size:
            if not self.window:
                if at >= count:
                    break
                inside = hits[at][0] - 1
                previous = data.rfind(b"\n", start, inside)
                start = max(start, previous + 1)
                carriage = data.rfind(b"\r", start, inside)
                start = max(start, carriage + 1)
            if newline < start:
                newline = data.find(b"\n", start)
                if newline < 0:
                    newline = size
            end = data.find(b"\r", start, newline)
            if end < 0:
                end = newline
            limit = start + CLIP
            wanted: list[int] = []
            while at < count and hits[at][0] <= end:
                if hits[at][0] <= limit and hits[at][1] not in wanted:
                    wanted.append(hits[at][1])
                at += 1
            if wanted or (self.window and (end > start or self._blank(data, start))):
                self.line += data.count(b"\n", counted, start)
                counted = start
                if end > limit:
                    self.clipped += 1
                yield RawLine(
                    self.line, data[start : min(end, limit)], tuple(sorted(wanted)), self._before(data, start)
                )
            start = end + 1
        self.line += data.count(b"\n", counted)
        self._previous = self._before(data, size)
        self._newline = data.endswith(b"\n")

    def _blank(self, data: bytes, start: int) -> bool:
        """True for the nothing between two newlines; the nothing in "\\r\\n" is no line."""
        return data[start : start + 1] == b"\n" and (data[start - 1 : start] == b"\n" if start else self._newline)

    def _before(self, data: bytes, start: int) -> bytes:
        """The last non-empty segment before `start`."""
        end = start
        while end > 0 and data[end - 1] in b"\r\n":
            end -= 1
        if end == 0:
            return self._previous
        begin = data.rfind(b"\n", 0, end) + 1
        begin = max(begin, data.rfind(b"\r", begin, end) + 1)
        return data[begin : min(end, begin + PREVIOUS)]


def _first_end(data: bytes) -> int:
    newline = data.find(b"\n")
    carriage = data.find(b"\r", 0, newline) if newline >= 0 else data.find(b"\r")
    return carriage if carriage >= 0 else newline
