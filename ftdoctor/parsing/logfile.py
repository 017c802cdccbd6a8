"""A log as a reader scrolls through it: any line of a file of any size, and the lines that match, at once.

`LogFile.extend` indexes what is new (line numbers count `\\n`), `LogFile.read` gives lines by number, `Matches`
collects the numbers of lines of interest. All work in pieces, so that a 2 GB log never blocks whoever calls.
"""

from __future__ import annotations

import os
import re
from array import array

from ftdoctor.parsing.text import clean

STRIDE = 256  # lines between two known offsets
BLOCK = 1 << 20
LINE_BYTES = 4096  # of one line shown
READ_BYTES = 4 << 20  # most bytes looked at for one request
MAX_MATCHES = 1_000_000
ERRORS = re.compile(
    rb"(?i)\berror|error\b|exception|traceback|fatal|critical|\bfailed\b|\bfailure\b|panic|segfault|signal 9|\bXid\b"
)


class LogFile:
    """Line index of one file that may grow, be cut or be replaced. `lines` counts the unfinished last one too."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.generation = 0  # rises when the file began anew
        self.size = 0
        self.indexed = 0
        self._newlines = 0
        self._marks = array("q", [0])
        self._identity: tuple[int, int] | None = None
        self._tail = False

    @property
    def lines(self) -> int:
        """Lines indexed so far."""
        return self._newlines + self._tail

    def extend(self, budget: int = 8 * BLOCK) -> bool:
        """Index at most `budget` more bytes; True when something changed. A file that is not there has no lines."""
        try:
            status = os.stat(self.path)
        except OSError:
            self.size = self.indexed
            return False
        identity = (status.st_dev, status.st_ino)
        if self._identity is not None and (identity != self._identity or status.st_size < self.indexed):
            self.__init__(self.path)  # type: ignore[misc]
            self.generation += 1
        self._identity, self.size = identity, status.st_size
        changed = False
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self.indexed)
                while budget > 0 and (data := file.read(min(BLOCK, budget))):
                    self._index(data)
                    budget -= len(data)
                    changed = True
        except OSError:
            return changed
        return changed

    def _index(self, data: bytes) -> None:
        count = data.count(b"\n")
        next_mark = len(self._marks) * STRIDE
        if self._newlines + count >= next_mark:
            at, line = -1, self._newlines
            while (at := data.find(b"\n", at + 1)) >= 0:
                line += 1
                if line % STRIDE == 0:
                    self._marks.append(self.indexed + at + 1)
        self._newlines += count
        self.indexed += len(data)
        self._tail = not data.endswith(b"\n")

    def read(self, first: int, count: int) -> list[bytes]:
        """Lines `first` (1-based) to `first + count - 1`, each cut to `LINE_BYTES`, without their newline.

        Fewer where the file ends or lines are so long that `READ_BYTES` do not hold them.
        """
        if first < 1 or first > self.lines:
            return []
        mark = min((first - 1) // STRIDE, len(self._marks) - 1)
        skip = first - 1 - mark * STRIDE
        try:
            with open(self.path, "rb") as file:
                file.seek(self._marks[mark])
                left = READ_BYTES
                out: list[bytes] = []
                while left > 0 and len(out) < count:
                    line = file.readline(left)
                    if not line:
                        break
                    left -= len(line)
                    if skip:
                        skip -= line.endswith(b"\n")
                        continue
                    out.append(_last_segment(line))
                return out
        except OSError:
            return []


def _last_segment(line: bytes) -> bytes:
    """What a terminal would show of a line that overwrote itself: the last part that is not empty."""
    line = line.rstrip(b"\r\n")
    if b"\r" in line:
        line = line[line.rfind(b"\r") + 1 :]
    return line[:LINE_BYTES]


class Matches:
    """Numbers of the lines that hold `pattern` and, if given, were written by `rank`; collected piece by piece."""

    def __init__(self, log: LogFile, pattern: re.Pattern[bytes] | None, rank: int | None = None) -> None:
        self.log = log
        self.rank = rank
        self.numbers = array("q")
        self.offset = 0
        self.capped = False
        self._pattern = pattern
        self._generation = log.generation
        self._line = 1

    @property
    def done(self) -> bool:
        """True when all that is indexed was looked at."""
        return self.offset >= self.log.indexed or self.capped

    def step(self, budget: int = 2 * BLOCK) -> bool:
        """Look at `budget` more bytes; True when lines were found."""
        if self._generation != self.log.generation:
            self.__init__(self.log, self._pattern, self.rank)  # type: ignore[misc]
        before = len(self.numbers)
        try:
            with open(self.log.path, "rb", buffering=0) as file:
                file.seek(self.offset)
                while budget > 0 and not self.done:
                    data = file.read(min(BLOCK, self.log.indexed - self.offset))
                    cut = data.rfind(b"\n") + 1
                    if not cut:
                        if len(data) < BLOCK:
                            break  # an unfinished line
                        cut = len(data)
                    self._look(data[:cut])
                    self.offset += cut
                    budget -= cut
        except OSError:
            return False
        return len(self.numbers) != before

    def _look(self, data: bytes) -> None:
        at, line = 0, self._line
        pattern = self._pattern if self._pattern is not None else _rank_pattern(self.rank)
        found = 0
        while match := pattern.search(data, found):
            line += data.count(b"\n", at, match.start())
            at = match.start()
            start = data.rfind(b"\n", 0, at) + 1
            end = data.find(b"\n", at)
            end = len(data) if end < 0 else end
            if self.rank is None or clean(_last_segment(data[start:end])).rank == self.rank:
                if not self.numbers or self.numbers[-1] != line:
                    self.numbers.append(line)
                    if len(self.numbers) >= MAX_MATCHES:
                        self.capped = True
                        break
            found = end + 1
            if found > len(data):
                break
        self._line += data.count(b"\n")


def _rank_pattern(rank: int | None) -> re.Pattern[bytes]:
    """Lines that may be this rank's; `parsing.text.clean` has the last word."""
    return re.compile(rb"(?<!\d)%d(?!\d)" % rank if rank is not None else rb"^", re.MULTILINE)
