"""Which rule patterns matched which lines, in bounded memory.

Counts are exact; of the matching lines the first `KEEP` of each pattern are kept, the first one of every rank, and
the last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ftdoctor.events import LogRecord, Origin

KEEP = 40
MAX_RANKS = 2048


@dataclass(frozen=True, slots=True)
class Match:
    """One line that matched; `captures` are the named groups of the pattern, `matched` is the text it took.

    Of a long line `raw` holds the part around `matched`.
    """

    origin: Origin
    raw: str
    text: str
    role: str
    captures: dict[str, str]
    matched: str = ""


@dataclass(slots=True)
class PatternHits:
    """All matches of one pattern."""

    kept: list[Match] = field(default_factory=list)
    ranks: set[int | None] = field(default_factory=set)
    count: int = 0
    last: Match | None = None


class SignatureIndex:
    """Tries the patterns a record names and remembers what matched."""

    def __init__(self, regexes: Mapping[int, str]) -> None:
        """`regexes` by pattern id, as the scanner's vocabulary numbers them."""
        self._regex = dict(regexes)
        self._compiled: dict[int, re.Pattern[str]] = {}
        self.hits: dict[int, PatternHits] = {}

    def add(self, record: LogRecord) -> bool:
        """True when at least one pattern matched."""
        matched = False
        for pattern_id in record.hits:
            regex = self._compiled.get(pattern_id)
            if regex is None:
                regex = self._compiled[pattern_id] = re.compile(self._regex[pattern_id])
            found = regex.search(record.text, 0, 16_384)
            if found is None:
                continue
            matched = True
            captures = {k: v for k, v in found.groupdict().items() if v is not None}
            raw = _around(record.raw, found[0])
            match = Match(record.origin, raw, record.text[:4000], record.role, captures, found[0][:400])
            hits = self.hits.setdefault(pattern_id, PatternHits())
            hits.count += 1
            hits.last = match
            rank = record.origin.rank
            if len(hits.kept) < KEEP or (rank not in hits.ranks and len(hits.ranks) < MAX_RANKS):
                hits.kept.append(match)
            hits.ranks.add(rank)
        return matched


def _around(raw: str, matched: str, limit: int = 2000) -> str:
    """The first `limit` characters, or those around the match when it lies beyond them."""
    if len(raw) <= limit:
        return raw
    at = raw.find(matched[:limit])
    start = max(0, at - limit // 4) if at + len(matched) > limit else 0
    return raw[start : start + limit]
