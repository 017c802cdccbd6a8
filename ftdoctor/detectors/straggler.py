"""Fires when one rank's heartbeats show that it holds every step of all ranks back.

Options:
    steps:    optimizer steps that all ranks reported, the last ones, to judge (default 32)
    seconds:  and they lasted at least so long together (default 30)
    share:    a part of the rank's step takes longer than the others' by this share of the step (default 0.3)
    times:    and by this factor (default 2)

Two parts tell: the wait for the next batch, which no other rank shares, and the forward pass, as far as no collective
makes the others wait in it as well (DDP; under ZeRO-3 they do, and the pass takes as long everywhere). The backward
pass never tells: that is where the others wait for the slow one. On a GPU these are the times of the Python code.
"""

from __future__ import annotations

from statistics import median

from ftdoctor.detectors.base import DetectorSpec, Hit, Missing, Result
from ftdoctor.events import Heartbeat
from ftdoctor.findings import Evidence
from ftdoctor.run_model.run import Run

MAX_RANKS = 256  # compared in one look
PARTS = {"data": "to get its next batch", "forward": "in the forward pass"}


class Straggler:
    """See the module."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """At most one hit: the rank that costs most."""
        if len(run.beats) < 2:
            return Missing(("heartbeats of several ranks",))
        least = int(spec.options.get("steps", 32))
        ranks = sorted(run.beats)[:MAX_RANKS]
        steps = {rank: {beat.step: beat for beat in run.beats[rank].recent} for rank in ranks}
        common = sorted(set.intersection(*(set(found) for found in steps.values())))[-2 * least :]
        taken = {rank: [found[step] for step in common] for rank, found in steps.items()}
        if len(common) < least or _seconds(taken) < float(spec.options.get("seconds", 30)):
            return Missing((f"{least} steps of every rank",))
        step = max(_usual(beats, "seconds") for beats in taken.values())
        share, times = float(spec.options.get("share", 0.3)), float(spec.options.get("times", 2))
        worst: tuple[float, int, str, float, float] | None = None
        for part in PARTS:
            usual = {rank: _usual(beats, part) for rank, beats in taken.items()}
            for rank, seconds in usual.items():
                others = median(value for other, value in usual.items() if other != rank)
                extra = seconds - others
                if extra >= share * step and seconds >= times * others and (worst is None or extra > worst[0]):
                    worst = (extra, rank, part, seconds, others)
        if worst is None:
            return []
        _, rank, part, seconds, others = worst
        text = (
            f"of every step of {step:.2g} s rank {rank} takes {seconds:.2g} s {PARTS[part]}, the others {others:.2g} s"
            f" (median of {len(common)} steps)"
        )
        last = taken[rank][-1]
        values: dict[str, object] = {"line": text, "slow": rank, "part": part}
        proof = Evidence("metric", last.origin.path, 0, 0, text)
        return [Hit(last.origin, values, (proof,), rank=rank, step=float(last.step), final=True)]


def _usual(beats: list[Heartbeat], part: str) -> float:
    values = [value for beat in beats if (value := getattr(beat, part)) is not None]
    return median(values) if values else 0.0


def _seconds(taken: dict[int, list[Heartbeat]]) -> float:
    """How long the steps lasted, by the rank that says most."""
    return max((sum(beat.seconds or 0.0 for beat in beats) for beats in taken.values()), default=0.0)
