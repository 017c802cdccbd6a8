"""Where the ranks stand while a run is silent, and which of them did not arrive: pure reading of facts.

Facts of one look, from `launch.forensics` (N is the rank):
    stack.N          the telling frame of its main thread, or what the kernel says of the process
    stack_kind.N     collective, data, save, load, compile, download, stopped, ... (`upstream/pyspy.py`)
    stack_phase.N    what the run was about there: backward, forward, optimizer, save, eval, data
    stack_moved.N    True when it stood elsewhere at the look before
    stack_still.N    True when it stood at the same place before and used next to no CPU in between
    behind.ranks     ranks that NCCL's RAS or the flight recorder count behind, "1,3"; behind.by says who counted
A look that is older than the run's last sign of life says nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftdoctor.findings import Evidence
from ftdoctor.run_model.run import Run
from ftdoctor.upstream.pyspy import WORDS

SLOW = ("save", "load", "compile", "download")  # work that may take minutes and is no hang by itself
MAX_EVIDENCE = 8
_MANY = {"is": "are", "has": "have"}
_ELSEWHERE = ("end", "save", "eval", "data")  # a collective there is not the one of a training step


@dataclass(frozen=True, slots=True)
class Stand:
    """One rank at the last look."""

    rank: int
    frame: str
    kind: str
    phase: str
    moved: bool
    still: bool
    path: str

    @property
    def words(self) -> str:
        """`is in the data loader, in read_rows (rows.py:12)`."""
        if self.kind in ("stopped", "held", "dead", "gone", "disk"):
            return WORDS[self.kind]
        if self.kind == "collective":
            return f"waits in {self.frame}{_of(self.phase)}"
        said = WORDS.get(self.kind)
        if said:
            return f"{said}, in {self.frame}"
        return f"stands in {self.frame}{_of(self.phase)}"


@dataclass(frozen=True, slots=True)
class Culprit:
    """The ranks that did not arrive, words for all sides, and how sure that is."""

    ranks: tuple[int, ...]
    words: str
    kind: str
    firm: bool


def stands(run: Run) -> list[Stand]:
    """The last look, by rank; empty when the run has moved since."""
    after = run.last_sign.order if run.last_sign is not None else 0
    found: list[Stand] = []
    for name, fact in run.facts.items():
        number = name.removeprefix("stack.")
        if number is name or not number.isdigit() or fact.origin.order <= after:
            continue
        kind, phase = (str(run.fact(f"{part}.{number}") or "") for part in ("stack_kind", "stack_phase"))
        moved = run.fact(f"stack_moved.{number}") is True
        still = run.fact(f"stack_still.{number}") is True
        found.append(Stand(int(number), str(fact.value), kind, phase, moved, still, fact.origin.path))
    return sorted(found, key=lambda s: s.rank)


def culprit(run: Run) -> Culprit | None:
    """The ranks that differ from those that wait; None when all stand at one place or nobody looked."""
    seen = stands(run)
    counted = _counted(run)
    if len(seen) < 2:
        return None
    odd = _odd(seen)
    if not odd and counted:
        odd = [s for s in seen if s.rank in counted]
    if not odd or len(odd) == len(seen):
        return None
    others = [s for s in seen if s not in odd]
    said, waiting = _plural(odd[0].words, len(odd)), _plural(others[0].words, len(others))
    words = f"{_ranks(odd)} {said}, while {_ranks(others)} {waiting}"
    if len({s.kind for s in odd}) > 1:
        words = "; ".join(f"rank {s.rank} {s.words}" for s in odd) + f", while {_ranks(others)} {waiting}"
    if counted:
        listed = ", ".join(map(str, counted))
        words += f" ({run.fact('behind.by')} counts rank{'s' if len(counted) > 1 else ''} {listed} behind)"
    kinds = {s.kind for s in odd}
    certain = (
        bool(kinds & {"data", "stopped", "held", "dead", "gone"})
        or bool(counted)
        or all(s.still or s.phase == "end" for s in odd)
    )
    return Culprit(
        tuple(s.rank for s in odd),
        words,
        odd[0].kind,
        certain and not any(s.moved for s in odd if s.kind != "data"),
    )


def shared(run: Run) -> str:
    """Words for a place where all ranks stand; empty when they differ or nobody looked."""
    seen = stands(run)
    if len(seen) < 2 or len({(s.kind, _place(s)) for s in seen}) != 1:
        return ""
    return f"all {len(seen)} ranks: {seen[0].words}"


def evidence(run: Run) -> tuple[Evidence, ...]:
    """The stacks, culprits first, one for each place."""
    seen = stands(run)
    found = culprit(run)
    first = set(found.ranks) if found is not None else set()
    groups: dict[tuple[bool, str, str], list[Stand]] = {}
    for stand in seen:
        groups.setdefault((stand.rank not in first, stand.kind, _place(stand)), []).append(stand)
    return tuple(
        Evidence("stack", members[0].path, 0, 0, f"{_ranks(members)}: {members[0].frame}{_phase(members[0])}")
        for _, members in sorted(groups.items(), key=lambda g: (g[0][0], g[1][0].rank))[:MAX_EVIDENCE]
    )


def _odd(seen: list[Stand]) -> list[Stand]:
    """Who is not where the others are: not in a collective, or in one of another phase, or at a rarer place."""
    halted = [s for s in seen if s.kind in ("stopped", "held", "dead", "gone")]
    if halted:
        return halted
    waiting = [s for s in seen if s.kind == "collective"]
    outside = [s for s in seen if s.kind != "collective"]
    if waiting and outside:
        return outside
    if waiting:
        elsewhere = [s for s in waiting if s.phase in _ELSEWHERE]
        if elsewhere and len(elsewhere) < len(waiting):
            return elsewhere
    places: dict[str, list[Stand]] = {}
    for stand in seen:
        places.setdefault(f"{stand.kind} {_place(stand)} {stand.phase}", []).append(stand)
    ordered = sorted(places.values(), key=len)
    if len(ordered) < 2 or len(ordered[-1]) == len(ordered[-2]):
        return []  # no majority: which side is late cannot be told
    return [s for group in ordered[:-1] for s in group]


def _place(stand: Stand) -> str:
    """The frame without its line, so that a loop's two lines are one place."""
    return stand.frame.rpartition(":")[0] or stand.frame


def _of(phase: str) -> str:
    """A rank that ran out of batches waits in the collective that follows its training loop."""
    if phase == "end":
        return " after its training loop has ended"
    return f" of the {phase} phase" if phase else ""


def _phase(stand: Stand) -> str:
    return f" ({stand.phase})" if stand.phase else ""


def _counted(run: Run) -> list[int]:
    fact = run.facts.get("behind.ranks")
    after = run.last_sign.order if run.last_sign is not None else 0
    if fact is None or fact.origin.order <= after:
        return []
    return [int(part) for part in str(fact.value).split(",") if part.strip().isdigit()]


def _ranks(group: list[Stand]) -> str:
    return f"rank{'s' if len(group) > 1 else ''} {', '.join(str(s.rank) for s in group)}"


def _plural(words: str, count: int) -> str:
    if count == 1:
        return words
    verb, _, rest = words.partition(" ")
    return f"{_MANY.get(verb, verb.removesuffix('s'))} {rest}"
