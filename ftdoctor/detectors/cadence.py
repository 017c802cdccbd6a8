"""Fires when a live run has been silent for longer than its own rhythm allows.

Options (seconds, or multiples of this run's usual pause):
    minimum:    never before this much silence (default 30)
    times:      nor before so many usual pauses (default 15)
    longest:    nor before so many times the longest pause the run survived (default 2)
    firm:       silence, as a multiple of the limit, at which suspicion becomes certainty (default 4)
    patience:   silence allowed while the run loads, evaluates without a bar, or saves (default 900)
    spinning:   minimum when the GPUs show the signature of a stuck collective (full utilisation at idle power), or when
        stacks or process states name the rank that did not arrive (default 15)
    early:      minimum before the rhythm is known, when stacks name such a rank (default 120)

Needs ticks, so a log file alone is never judged by this; `silence` judges time stamps there.
"""

from __future__ import annotations

from ftdoctor.detectors import standing
from ftdoctor.detectors.base import DetectorSpec, Hit, Missing, Result
from ftdoctor.detectors.gpu_snapshot import IDLE_MIB, spinning, tables
from ftdoctor.events import GpuSample
from ftdoctor.findings import Evidence
from ftdoctor.run_model.run import Run

DEFAULTS = {
    "minimum": 30.0,
    "times": 15.0,
    "longest": 2.0,
    "firm": 4.0,
    "patience": 900.0,
    "spinning": 15.0,
    "early": 120.0,
}


class CadenceRule:
    """See the module."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """At most one hit."""
        numbers = {**DEFAULTS, **{k: float(v) for k, v in spec.options.items() if isinstance(v, (int, float))}}
        cadence = run.cadence
        silence = cadence.silence
        if silence is None:
            return Missing(("a live run",))
        if run.fact("saved") or run.fact("finished") or cadence.phase == "end":
            return []
        if run.exits:  # it ended, but in the middle of a silence that was a hang already
            recorded = _recorded(run)
            if recorded is None:
                return []
            silence = recorded
        usual = cadence.usual
        stuck = _spinning(run)
        found = standing.culprit(run)
        odd = _odd_process(run)
        culprit = (found.ranks[0], found.words, found.firm) if found else (*odd, True) if odd else None
        halted = _halted(run)
        if halted is not None and cadence.signs:
            limit = numbers["spinning"]  # whatever the run was doing, with this rank it cannot go on
        elif cadence.phase != "train" or (found is not None and found.kind in standing.SLOW):
            limit = numbers["patience"]
        elif usual is None:  # the first steps compile and allocate: only a rank that stands apart says more
            limit = numbers["early"] if found is not None and found.firm else numbers["patience"]
        else:
            floor = numbers["spinning"] if stuck or culprit else numbers["minimum"]
            limit = max(floor, numbers["times"] * usual, numbers["longest"] * cadence.longest)
        if silence < limit:
            return []
        firm = stuck or (culprit is not None and culprit[2]) or silence >= numbers["firm"] * limit
        values: dict[str, object] = {
            "seconds": f"{silence:.0f}",
            "usual": f"{usual:.1f} s" if usual is not None else "unknown",
            "phase": cadence.phase,
            "last_step": run.last_step,
            "gpus": " The GPUs run at full utilisation with idle power: they wait in a collective." if stuck else "",
        }
        origin = run.last_sign
        text = f"no sign of life for {silence:.0f} s; the usual pause is {values['usual']}"
        where = culprit[1] if culprit is not None else standing.shared(run)
        text += f"; {where}" if where else ""
        if stuck:
            text += "; the GPUs run at full utilisation with idle power, as in a collective that waits"
        values["line"] = text
        path, line = (origin.path, origin.line) if origin else ("", 0)
        hit = Hit(
            origin,
            values,
            (Evidence("log", path, line, line, text), *standing.evidence(run)),
            rank=culprit[0] if culprit is not None else None,
            severity="error" if firm else "warning",
            final=True,
        )
        return [hit]


SPIN_SECONDS = 10.0
SPIN_POWER = 0.35  # share of the limit; measured on an H200: 127 W of 700 W waiting, 691 W computing, 402 W copying
STATES = {"T": "is stopped (SIGSTOP, or a debugger)", "t": "is held by a debugger", "Z": "has died", "gone": "has gone"}


def _recorded(run: Run) -> float | None:
    """Seconds of silence when a hang was found after the last sign of life; None when none was."""
    fact = run.facts.get("hang.seconds")
    after = run.last_sign.order if run.last_sign is not None else 0
    return float(fact.value) if fact and fact.origin.order > after and isinstance(fact.value, (int, float)) else None


def _spinning(run: Run) -> bool:
    """Every GPU that holds the run shows full utilisation at idle power, for `SPIN_SECONDS` (or in five tables)."""
    if run.gpu_history:
        recent = []
        for history in run.gpu_history.values():
            end = history[-1].origin.time or 0.0
            recent.append([s for s in history if (s.origin.time or 0.0) >= end - SPIN_SECONDS])
        busy = [samples for samples in recent if (samples[-1].memory_used or 0.0) > IDLE_MIB]
        return bool(busy) and all(len(samples) >= 5 and all(map(_waits, samples)) for samples in busy)
    found = [t for t in tables(run)[-12:] if len(t) >= 2]
    return len(found) >= 5 and all(spinning(table, {}, run) is not None for table in found[-5:])


def _waits(sample: GpuSample) -> bool:
    if sample.utilization is None or sample.power is None or not sample.power_limit:
        return False
    return sample.utilization >= 95 and sample.power <= SPIN_POWER * sample.power_limit


def _halted(run: Run) -> tuple[int, str] | None:
    """The first rank whose process is stopped or dead, and words for it."""
    known = [s for s in run.processes.values() if s.origin.rank is not None and s.state in STATES]
    return min(((s.origin.rank or 0, STATES[s.state]) for s in known), default=None)


def _odd_process(run: Run) -> tuple[int, str] | None:
    """The rank whose process is stopped, dead, or idle while all the others spin: rank and words."""
    halted = _halted(run)
    if halted is not None:
        return halted[0], f"rank {halted[0]} {halted[1]}"
    known = [(s.origin.rank, s) for s in run.processes.values() if s.origin.rank is not None]
    busy = [rank for rank, s in known if (s.cpu or 0.0) >= 80]
    idle = [(rank, s) for rank, s in known if s.cpu is not None and s.cpu < 5]
    if len(known) >= 2 and len(idle) == 1 and len(busy) == len(known) - 1:
        rank, sample = idle[0]
        what = "waits for the disk" if sample.state == "D" else "uses no CPU while the others spin"
        return rank or 0, f"rank {rank} {what}"
    return None
