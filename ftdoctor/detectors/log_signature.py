"""Fires on lines that match a pattern.

Options:
    any:        regular expressions; one matching line is enough
    unless:     the line does not count when one of these matches it
    with:       at least one of these must match somewhere in the run as well
    without:    none of these may match anywhere in the run
    where:      roles of lines that count: `line`, `exception`, `frame` (default: line and exception)
    min_count:  matching lines needed (default 1)
    final:      true when the line states an end result that later progress does not undo
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from ftdoctor.detectors.base import DetectorSpec, Hit, Missing, Result
from ftdoctor.findings import Evidence
from ftdoctor.run_model.run import Run
from ftdoctor.run_model.signatures import Match

MAX_RANK_HITS = 64


class LogSignature:
    """See the module."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """One hit per rank; the earliest first."""
        if not run.paths:
            return Missing(("log",))
        options = spec.options
        if options.get("with") and not self._seen(spec, run, "with"):
            return []
        if options.get("without") and self._seen(spec, run, "without"):
            return []
        roles = options.get("where", ("line", "exception"))
        unless = [_compiled(regex) for regex in options.get("unless", ())]
        matches: list[Match] = []
        total = 0
        for pattern in spec.patterns:
            if pattern.regex not in options["any"]:
                continue
            hits = run.signatures.hits.get(pattern.id)
            if hits is None:
                continue
            kept = [m for m in hits.kept if m.role in roles and not any(u.search(m.text) for u in unless)]
            matches += kept
            total += hits.count if len(kept) == len(hits.kept) else len(kept)
        if not matches or total < int(options.get("min_count", 1)):
            return []
        matches.sort(key=lambda m: m.origin.order)
        by_rank: dict[int | None, Match] = {}
        for match in matches:
            by_rank.setdefault(match.origin.rank, match)
        first = matches[0]
        absent = _absent(run, by_rank)
        return [
            Hit(
                origin=match.origin,
                values={**_values(match, matches), "absent": absent},
                evidence=(_quote(match),),
                rank=match.origin.rank,
                count=total if match is first else 1,
                final=bool(options.get("final", False)),
            )
            for match in list(by_rank.values())[:MAX_RANK_HITS]
        ]

    def _seen(self, spec: DetectorSpec, run: Run, key: str) -> bool:
        wanted = spec.options[key]
        return any(p.regex in wanted and p.id in run.signatures.hits for p in spec.patterns)


def _absent(run: Run, heard: Mapping[int | None, Match]) -> str:
    """The ranks that did not print it, as the end of a sentence; empty when all or hardly any did."""
    world = run.world_size
    silent = [rank for rank in range(world or 0) if rank not in heard]
    if None in heard or not silent or len(silent) > max(1, len(heard)):
        return ""
    shown = ", ".join(map(str, silent[:8])) + (", ..." if len(silent) > 8 else "")
    return f"; rank{'s' if len(silent) > 1 else ''} {shown} did not say so: look there first"


# what loggers and progress bars put before a sentence
_PREAMBLE = re.compile(
    r"(?:[^|\n]{0,60}\d+%\|[^|]*\|\s*\S+/\S+ \[[^\]]*\]"  # a bar
    r"|\[?[IWEF]\d{3,4} [\d:.]+ (?:\d+ )?\S+:\d+\]"  # glog
    r"|\[?\d{4}[-/]\d\d[-/]\d\d[ T]\d\d:\d\d:\d\d[.,\d]*Z?(?:[+-]\d\d:?\d\d)?\]?(?: -)?"
    r"|\[?(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL)\]?(?::|\s-)?(?=\s)|(?:INFO|WARNING|ERROR|CRITICAL):[\w.]+:"
    r"|\[[\w./-]+(?::\d+)?(?::\w+)?\](?=\s)|\[(?:INFO|WARNING|ERROR)\|[^\]]*\]|>>)\s*"
)
MAX_SAID = 300


def said(text: str) -> str:
    """The sentence of a log line, without bar, stamp, level and logger name; cut at a word."""
    text = text.strip()
    at = 0
    while (found := _PREAMBLE.match(text, at)) is not None and found.end() < len(text):
        at = found.end()
    text = text[at:]
    if len(text) <= MAX_SAID:
        return text
    return text[:MAX_SAID].rsplit(" ", 1)[0] + " ..."


@lru_cache(maxsize=4096)
def _compiled(regex: str) -> re.Pattern[str]:
    return re.compile(regex)


def _values(match: Match, matches: list[Match]) -> dict[str, object]:
    """Captures of this line, completed from the others of the same rank."""
    values: dict[str, object] = {}
    for other in matches:
        if other.origin.rank == match.origin.rank:
            for key, value in other.captures.items():
                values.setdefault(key, value)
    values.update(match.captures)
    values["line"] = said(match.text)
    return values


def _quote(match: Match) -> Evidence:
    line = match.origin.line
    return Evidence("log", match.origin.path, line, line, match.raw.strip(), match.matched)
