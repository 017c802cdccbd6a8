"""Fires on how processes ended.

Options:
    signals:       names (SIGKILL, ...) or numbers; an exit code of 128 + n or -n counts
    codes:         plain exit codes, or `any` for each that is not 0
    by:            who said so (`torch elastic`, `deepspeed launcher`, `srun`, `launcher`, ...); default: anybody
    first:         true: only when the first process that failed ended this way (default false)
    if_facts:      quiet unless all of these facts are known
    unless_facts:  quiet when one of these facts is known

The first rank to end this way gives the rank; ranks that ended with SIGTERM are the launcher's doing and do not count
unless SIGTERM is asked for and no other code is there.
"""

from __future__ import annotations

import signal

from ftdoctor.detectors.base import DetectorSpec, Hit, Missing, Result
from ftdoctor.events import ExitSeen
from ftdoctor.findings import Evidence
from ftdoctor.run_model.run import Run

LATER = "a later failure"  # in `by`: the launcher itself says that another process failed before


def signal_number(name: object) -> int:
    """Number of a signal given by name or number."""
    return int(signal.Signals[str(name)]) if str(name).startswith("SIG") else int(str(name))


def died_of(event: ExitSeen) -> int | None:
    """The signal that ended the process, None when it exited by itself."""
    if event.code < 0:
        return -event.code if -event.code < 65 else None
    return event.code - 128 if 128 < event.code < 160 else None


class ExitStatus:
    """See the module."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """One hit, on the first process that ended this way."""
        if not run.exits:
            return Missing(("exit status",))
        options = spec.options
        if any(run.fact(name) is not None for name in options.get("unless_facts", ())):
            return []
        if any(run.fact(name) is None for name in options.get("if_facts", ())):
            return []
        wanted = {signal_number(s) for s in options.get("signals", ())}
        failed = [e for e in run.exits if e.code != 0]
        hits = [e for e in failed if _fits(e, wanted, options.get("codes", ()), options.get("by", ()))]
        if not hits:
            return []
        if 15 in wanted and any(died_of(e) not in wanted for e in failed):
            return []
        leading = [e for e in failed if LATER not in e.by and (died_of(e) != 15 or 15 in wanted)] or failed
        if options.get("first") and leading[0] not in hits:
            return []
        return [_hit(next((e for e in leading if e in hits), hits[0]), hits, failed)]


def _fits(event: ExitSeen, wanted: set[int], codes: object, by: object) -> bool:
    if by and not any(name in event.by for name in by):  # type: ignore[attr-defined]
        return False
    number = died_of(event)
    if number is not None:
        return number in wanted
    return codes == "any" or event.code in codes  # type: ignore[operator]


def _hit(first: ExitSeen, hits: list[ExitSeen], failed: list[ExitSeen]) -> Hit:
    number = died_of(first)
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    rank = next((e.rank for e in reversed(failed) if e.pid is not None and e.pid == first.pid), first.rank)
    ranks = sorted({e.rank for e in hits if e.rank is not None})
    values = {
        "code": first.code,
        "signal": name if number is not None else "",
        "ended": name if number is not None else f"exit code {first.code}",
        "pid": first.pid if first.pid is not None else "unknown",
        "ranks": ", ".join(map(str, ranks)) or "unknown",
        "by": first.by,
    }
    line = first.origin.line
    text = f"exit code {first.code}" + (f" ({name})" if number is not None else "")
    text += f", rank {rank}" if rank is not None else ""
    values["line"] = text
    return Hit(first.origin, values, (Evidence("exit", first.origin.path, line, line, text),), rank, count=len(hits))
