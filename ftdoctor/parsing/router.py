"""One source's bytes to events: scanner, clean-up, parsers, in one place.

Rules add nothing here but anchors: a line that holds an anchor of a rule becomes a
`LogRecord` naming the patterns to try. Whether a pattern matches is decided in the run model.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ftdoctor.events import Event, FactLearned, LogRecord, Origin
from ftdoctor.parsing.lines import LineFinder, RawLine
from ftdoctor.parsing.scanner import Anchors
from ftdoctor.parsing.text import CleanLine, clean
from ftdoctor.parsing.tracebacks import BARE, FRAME, START, TracebackParser
from ftdoctor.upstream.axolotl import ConfigDump, Milestones, Samples
from ftdoctor.upstream.base import LineParser
from ftdoctor.upstream.deepspeed import LossScale, Report
from ftdoctor.upstream.hf_trainer import Bars, Metrics, TaggedMetrics
from ftdoctor.upstream.nvidia import SmiTable
from ftdoctor.upstream.pytorch import Exits, broken_off

PARSERS: tuple[type[LineParser], ...] = (
    Metrics,
    TaggedMetrics,
    Milestones,
    ConfigDump,
    Samples,
    Exits,
    SmiTable,
    LossScale,
    Report,
)
GAP_SECONDS = 300.0  # shorter silences are normal: model load, evaluation, checkpoint
BARS = len(PARSERS)
TRACEBACK = len(PARSERS) + 1
TAIL = 256  # bytes of the end of a source that are kept to see how it breaks off


@dataclass(frozen=True, slots=True)
class Wanted:
    """Who asked for an anchor: parsers by index, rule patterns by id."""

    parsers: tuple[int, ...]
    patterns: tuple[int, ...]


class Vocabulary:
    """Every anchor of parsers and rules, compiled once and shared by all sources of a session."""

    def __init__(self, pattern_anchors: Sequence[Sequence[tuple[bytes, bool]]]) -> None:
        """`pattern_anchors[i]` are the literals of rule pattern `i`: (text, caseless)."""
        parsers: dict[tuple[bytes, bool], list[int]] = {}
        patterns: dict[tuple[bytes, bool], list[int]] = {}
        for index, parser in enumerate(PARSERS):
            for text in parser.anchors:
                parsers.setdefault((text, False), []).append(index)
        for text in Bars.anchors:
            parsers.setdefault((text, False), []).append(BARS)
        for mark in (START, FRAME, *BARE):
            parsers.setdefault((mark.encode(), False), []).append(TRACEBACK)
        for index, literals in enumerate(pattern_anchors):
            for text, caseless in literals:
                key = (text.lower(), True) if caseless else (text, False)
                patterns.setdefault(key, []).append(index)
        keys = sorted(set(parsers) | set(patterns))
        self.anchors = Anchors(keys)
        self.wanted = [Wanted(tuple(parsers.get(k, ())), tuple(patterns.get(k, ()))) for k in keys]


class Router:
    """Feed chunks of one source; get its events. `order` continues the session's sequence."""

    def __init__(
        self,
        path: str,
        vocabulary: Vocabulary,
        orders: Iterator[int],
        rank: int | None = None,
        node: str | None = None,
        year: int | None = None,
    ) -> None:
        """`orders` numbers the events of the whole session; `rank` and `node` are what the file's name says;
        `year` completes glog stamps, which have none.
        """
        self.path = path
        self._orders = orders
        self._rank = rank
        self._node = node
        self._year = year
        self._wanted = vocabulary.wanted
        self._finder = LineFinder(vocabulary.anchors)
        self._parsers: list[LineParser] = [parser() for parser in PARSERS]
        self._bars = Bars()
        self._tracebacks = TracebackParser()
        self._time: float | None = None
        self._tail = b""

    @property
    def bytes_read(self) -> int:
        """Bytes seen so far."""
        return self._finder.bytes_read

    @property
    def clipped(self) -> int:
        """Lines judged by their beginning only, because they are longer than the scanner's limit."""
        return self._finder.clipped

    @property
    def lines(self) -> int:
        """Number of the line the reader is on."""
        return self._finder.line

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Events that `chunk` completes."""
        self._tail = (self._tail + chunk if len(chunk) < TAIL else chunk)[-TAIL:]
        for line in self._finder.feed(chunk):
            yield from self._line(line)

    def flush(self, quiet: bool = False) -> Iterator[Event]:
        """Events that were held back because more of the same kind might follow (progress bars).

        `quiet`: nothing was written for a while, so a traceback that has its exception is complete too.
        """
        yield from self._bars.take()
        if quiet:
            yield from self._tracebacks.settle()

    def finish(self) -> Iterator[Event]:
        """The source ended."""
        for line in self._finder.finish():
            yield from self._line(line)
        yield from self._bars.take()
        yield from self._tracebacks.finish()
        for parser in self._parsers:
            yield from parser.finish()
        mark = broken_off(self._tail)
        if mark:
            origin = Origin(self.path, self._finder.line, self._rank, self._node, self._time, next(self._orders))
            yield FactLearned(origin, "broken_off", mark)

    def _line(self, line: RawLine) -> Iterator[Event]:
        parsers: set[int] = set()
        patterns: set[int] = set()
        for hit in line.hits:
            wanted = self._wanted[hit]
            parsers.update(wanted.parsers)
            patterns.update(wanted.patterns)
        before = clean(line.previous, self._year).time if line.previous else None
        if before is not None:  # a full stamp is a better witness of the year than the file's own date
            self._year = time.gmtime(before).tm_year
        cleaned = clean(line.data, self._year)
        if cleaned.time is not None:
            self._year = time.gmtime(cleaned.time).tm_year
        origin = self._origin(line, cleaned)
        if BARS in parsers and self._bars.feed(cleaned.text, origin) and len(parsers) == 1 and not patterns:
            return
        yield from self._bars.take()
        yield from self._gap(before, cleaned, origin)
        role, text, tracebacks = self._traceback(cleaned, origin, TRACEBACK in parsers, line.previous)
        yield from tracebacks
        for index, parser in enumerate(self._parsers):
            if index in parsers or parser.open:
                yield from parser.feed(cleaned.text, origin)
        if patterns and text:
            yield LogRecord(origin, text, cleaned.raw, role, tuple(sorted(patterns)))
        self._finder.window = self._tracebacks.open or any(parser.open for parser in self._parsers)

    def _traceback(
        self, line: CleanLine, origin: Origin, starts: bool, before: bytes
    ) -> tuple[str, str, Iterable[Event]]:
        text = line.text.rstrip()
        if starts or self._tracebacks.open:
            return self._tracebacks.feed(text, line.stream, origin, before.decode("utf-8", "replace") if starts else "")
        return "line", text, ()

    def _gap(self, before: float | None, cleaned: CleanLine, origin: Origin) -> Iterator[Event]:
        """A long time between this line's stamp and the one of the line before it."""
        if cleaned.time is None or before is None:
            return
        if cleaned.time - before >= GAP_SECONDS:
            yield FactLearned(origin, "gap_seconds", cleaned.time - before)

    def _origin(self, line: RawLine, cleaned: CleanLine) -> Origin:
        rank = self._rank if cleaned.rank is None else cleaned.rank
        if cleaned.time is not None:
            self._time = cleaned.time  # lines without a stamp follow the one before them
        return Origin(self.path, line.number, rank, cleaned.node or self._node, self._time, next(self._orders))
