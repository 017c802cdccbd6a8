"""Run checks side by side, each with its own deadline; one that hangs or crashes is a result, and the others go on.

    results = run_checks([Check("gpus", "environment", 5.0, look), ...])

A check is a function without arguments that gives facts. It runs in a daemon thread, so that a call into a dead driver
or a stale NFS mount cannot keep the program from ending.
"""

from __future__ import annotations

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ftdoctor.events import Event, FactLearned, Origin, Scalar

SECTIONS = ("environment", "config", "data", "memory")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a check saw: `summary` for the reader, `facts` for the rules, `events` beyond facts (GPU samples).

    `state`: good | bad | note (worth reading, judged by nobody) | absent (could not be told here).
    """

    summary: str
    facts: dict[str, Scalar] = field(default_factory=dict)
    state: str = "good"
    remedy: str = ""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `seconds` is its deadline."""

    name: str
    section: str
    seconds: float
    look: Callable[[], Seen]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """A check that ended, or did not: `state` is one of `Seen.state`, `crashed` or `timed_out`."""

    name: str
    section: str
    state: str
    summary: str
    remedy: str = ""
    facts: dict[str, Scalar] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    seconds: float = 0.0


def run_checks(checks: Sequence[Check], done: Callable[[CheckResult], None] | None = None) -> list[CheckResult]:
    """Every check's result, in the order given. `done` is told of each as it ends, for progress."""
    results: dict[str, CheckResult] = {}
    for result in _as_they_end(checks):
        results[result.name] = result
        if done is not None:
            done(result)
    return [results[check.name] for check in checks]


def _as_they_end(checks: Sequence[Check]) -> Iterator[CheckResult]:
    ended: queue.Queue[CheckResult] = queue.Queue()
    start = time.monotonic()
    waiting = {check.name: check for check in checks}
    for check in checks:
        threading.Thread(target=lambda c=check: ended.put(_one(c)), daemon=True, name=f"check-{check.name}").start()
    while waiting:
        nearest = min(check.seconds for check in waiting.values()) + start - time.monotonic()
        try:
            result = ended.get(timeout=max(0.0, nearest))
        except queue.Empty:
            late = [c for c in waiting.values() if time.monotonic() - start >= c.seconds]
            for check in late:
                del waiting[check.name]
                yield _late(check, check.seconds)
            continue
        if waiting.pop(result.name, None) is not None:
            yield result


def _late(check: Check, seconds: float) -> CheckResult:
    return CheckResult(
        check.name, check.section, "timed_out", f"no answer within {seconds:g} s",
        "what it asks hangs: a driver, a network mount or a server; try it by hand",
        {f"silent.{check.name}": True}, (), seconds,
    )  # fmt: skip


def _one(check: Check) -> CheckResult:
    start = time.monotonic()
    try:
        seen = check.look()
    except subprocess.TimeoutExpired as error:
        return _late(check, error.timeout)
    except Exception as error:
        text = f"the check itself failed: {type(error).__name__}: {error}"[:300]
        return CheckResult(check.name, check.section, "crashed", text, "please report it", {}, (), _since(start))
    return CheckResult(
        check.name, check.section, seen.state, seen.summary, seen.remedy, seen.facts, seen.events, _since(start)
    )


def _since(start: float) -> float:
    return time.monotonic() - start


def events(results: Sequence[CheckResult], order: Callable[[], int]) -> Iterator[Event]:
    """The facts of all results, ready for the session."""
    for result in results:
        for event in result.events:
            yield event if event.origin.order else replace(event, origin=replace(event.origin, order=order()))
        for name, value in result.facts.items():
            yield FactLearned(Origin(f"{result.section}: {result.name}", order=order()), name, value)
