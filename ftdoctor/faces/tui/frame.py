"""What the screen shows at one moment: immutable, made in the thread that reads, drawn in the thread that draws."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

from ftdoctor.events import GpuSample
from ftdoctor.faces.curves import Curve, Curves
from ftdoctor.faces.redact import redacted
from ftdoctor.findings import Diagnosis, RuleOutcome, RunSummary
from ftdoctor.live import LiveSession
from ftdoctor.run_model.outlook import Outlook, outlook
from ftdoctor.run_model.run import Run

HISTORY = 120  # samples of a GPU's sparkline


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: its last sample, its rank where known, and its utilisation over the last minutes."""

    sample: GpuSample
    rank: int | None = None
    history: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """Everything on the screen. `now` and `seen` (when each finding appeared) are seconds on the watcher's clock."""

    diagnosis: Diagnosis
    outlook: Outlook = field(default_factory=Outlook)
    curves: tuple[Curve, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    gpu_reason: str = ""
    logs: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    silence: float | None = None
    behind: int = 0
    now: float = 0.0
    seen: dict[str, float] = field(default_factory=dict)
    ended: bool = False


EMPTY = Frame(Diagnosis(RunSummary(), "unknown", None, (), ()))


class Camera:
    """Takes frames of a live session; keeps what need not be made anew."""

    def __init__(self, live: LiveSession) -> None:
        self._live = live
        self._seen: dict[str, float] = {}
        self._raw: Diagnosis | None = None
        self._diagnosis = EMPTY.diagnosis
        self._outcomes: dict[RuleOutcome, RuleOutcome] = {}
        self._curves = Curves(live.session.rules)

    def take(self, now: float, ended: bool) -> Frame:
        """The present state."""
        live, run = self._live, self._live.session.run
        raw = live.diagnosis()
        if raw is not self._raw:
            self._raw, self._diagnosis = raw, self._clean(raw)
        present = {f.id for f in raw.findings}
        self._seen = {name: self._seen.get(name, now) for name in present}
        silence = run.cadence.silence
        return Frame(
            diagnosis=self._diagnosis,
            outlook=outlook(run),
            curves=self._curves.of(run),
            gpus=_gpus(run),
            gpu_reason=_gpu_reason(run),
            logs=live.logs,
            ranks=tuple(sorted(run.ranks)[:1024]),
            silence=silence,
            behind=live.behind,
            now=now,
            seen=dict(self._seen),
            ended=ended,
        )

    def _clean(self, raw: Diagnosis) -> Diagnosis:
        """Redacted; of 85 outcomes a second hardly one is new, and cleaning them all costs more than judging."""
        known = self._outcomes
        self._outcomes = {o: known.get(o) or redacted(o) for o in raw.outcomes}
        bare = redacted(replace(raw, outcomes=()))
        return replace(bare, outcomes=tuple(self._outcomes[o] for o in raw.outcomes))


def _gpus(run: Run) -> tuple[Gpu, ...]:
    ranks = {
        str(fact.value): int(name.rpartition(".")[2])
        for name, fact in run.facts.items()
        if name.startswith(("rank_gpu.", "rank_gpu_expected.")) and name.rpartition(".")[2].isdigit()
    }
    found = [
        Gpu(
            sample,
            ranks.get(sample.uuid or ""),
            tuple(s.utilization for s in _last(run.gpu_history.get(key, ()), HISTORY)),
        )
        for key, sample in list(run.gpu_latest.items())
    ]
    return tuple(sorted(found, key=lambda g: (g.sample.index, g.sample.parent or "", g.sample.uuid or "")))


def _last(samples: Collection[GpuSample], count: int) -> Iterator[GpuSample]:
    return itertools.islice(samples, max(0, len(samples) - count), None)


def _gpu_reason(run: Run) -> str:
    said = run.fact("nvml_error")
    if isinstance(said, str):
        return said
    count = run.number("gpu_count")
    if count == 0:
        return "the driver sees no GPU"
    return "nothing has looked at the GPUs yet" if count is None else "the first sample is on its way"
