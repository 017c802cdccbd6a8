"""The run, folded from events: what detectors, attribution and faces look at.

`Run` is the one mutable object. It never reads a clock; it has no opinion. Everything in it is bounded in memory.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ftdoctor.events import (
    BarSeen,
    ConfigSeen,
    Event,
    ExitSeen,
    FactLearned,
    GpuChanged,
    GpuSample,
    Heartbeat,
    LogRecord,
    MachineSample,
    MetricSample,
    Origin,
    ProcessSample,
    Scalar,
    SourceChanged,
    Tick,
    TracebackSeen,
    XidSeen,
)
from ftdoctor.run_model.beats import MAX_RANKS, RankBeats
from ftdoctor.run_model.cadence import Cadence
from ftdoctor.run_model.config import ConfigView
from ftdoctor.run_model.series import Series
from ftdoctor.run_model.signatures import SignatureIndex
from ftdoctor.run_model.steps import StepClock

MAX_TRACEBACKS = 256
MAX_EXITS = 4096
MAX_GPU_SAMPLES = 200_000
GPU_HISTORY = 1024  # live samples kept per GPU: 17 minutes at one a second
ROOM = 0.2  # with more than this share of the memory free nobody is killed for want of it
GPU_TABLE_SECONDS = 30.0  # of the live samples one table in so many seconds joins `Run.gpus`
MAX_GPU_EVENTS = 1024
MAX_PROCESSES = 4096
MAX_SERIES = 400
_BESIDE = (GpuSample, XidSeen, GpuChanged, MachineSample, ProcessSample)
_BEATS = {"load": "load", "eval": "eval", "save": "save", "end": "save"}  # phases of a rank that are long by nature
_PHASES = {
    "checkpoint": "save",
    "finished": "end",
    "saved": "end",
    "stage": "load",
    "total_steps": "load",
    "evaluating": "eval",
}

_RANK_LOG = re.compile(r"(?<![^/])ranks/rank\d+\.log$")
# facts that show that the stage went on to its end after whatever was printed before
ENDINGS = frozenset({"finished", "saved", "merged", "merge.applied", "preprocessed"})


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact and where it was read."""

    value: Scalar
    origin: Origin


@dataclass(slots=True)
class Progress:
    """Signs that one source's run went on: where each was last seen and how many there were."""

    metrics: int = 0
    last_metric: Origin | None = None
    finished: Origin | None = None
    marks: list[int] = field(default_factory=list)


def _family(path: str) -> str:
    """The logs of one launch tell of one run: RUN/ranks/rank3.log goes with RUN/train.log."""
    found = _RANK_LOG.search(path)
    return path[: found.start()] + "train.log" if found else path


class Run:
    """Everything known about one run."""

    def __init__(self, regexes: Mapping[int, str] | None = None) -> None:
        """`regexes` are the rule patterns to try on log records, by id."""
        self.signatures = SignatureIndex(regexes or {})
        self.series: dict[str, Series] = {}
        self.facts: dict[str, Fact] = {}
        self.configs: dict[str, ConfigView] = {}
        self.tracebacks: list[TracebackSeen] = []
        self.traceback_count = 0
        self.exits: list[ExitSeen] = []
        self.gpus: list[GpuSample] = []
        self.gpu_latest: dict[str, GpuSample] = {}
        self.gpu_history: dict[str, deque[GpuSample]] = {}
        self.gpu_changes: deque[GpuChanged] = deque(maxlen=MAX_GPU_EVENTS)
        self.xids: deque[XidSeen] = deque(maxlen=MAX_GPU_EVENTS)
        self.machine: MachineSample | None = None
        self.processes: dict[int, ProcessSample] = {}
        self.progress: dict[str, Progress] = {}
        self.paths: list[str] = []
        self.skipped: list[str] = []
        self.ranks: set[int] = set()
        self.last_origin: Origin | None = None
        self.longest_gap: tuple[float, Origin] | None = None
        self.beats: dict[int, RankBeats] = {}
        self.cadence = Cadence()
        self.last_sign: Origin | None = None
        self.records = 0
        self.told = 0  # changes of anything but numbers and time: lines that matched, facts, tracebacks, files
        self._table_time: float | None = None
        self._drawn: tuple[str, str, float, float] | None = None
        self._clocks: dict[str, StepClock] = {}
        self._oom_killed = False
        self._stepped: tuple[Origin, float | None, str] | None = None
        self._interval: float | None = None

    # -- reading -------------------------------------------------------------------------------------------------

    def fact(self, name: str) -> Scalar:
        """Value of a fact, None when unknown."""
        known = self.facts.get(name)
        return known.value if known else None

    def number(self, name: str) -> float | None:
        """A numeric fact, None when unknown or not a number."""
        value = self.fact(name)
        return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

    @property
    def rank_pids(self) -> dict[int, int]:
        """Rank -> process, of ranks that were seen on this machine."""
        found: dict[int, int] = {}
        for name, fact in self.facts.items():
            number = name.removeprefix("rank_pid.")
            if number is not name and number.isdigit() and isinstance(fact.value, int):
                found[int(number)] = fact.value
        return found

    @property
    def world_size(self) -> int | None:
        """Processes in the run: stated, or one more than the highest rank that spoke."""
        stated = self.number("world_size")
        seen = max(self.ranks) + 1 if self.ranks else None
        if stated is not None:
            return int(max(stated, seen or 0))
        return seen if seen is not None and seen > 1 else None

    @property
    def total_steps(self) -> float | None:
        """Optimizer steps planned."""
        return self.number("total_steps")

    @property
    def last_step(self) -> float | None:
        """Last optimizer step that a metric or the training bar showed."""
        steps = [s.steps[-1] for s in self.series.values() if len(s) and not math.isnan(s.steps[-1])]
        steps += [clock.bar.n for clock in self._clocks.values() if clock.bar is not None]
        return max(steps) if steps else None

    @property
    def stage(self) -> str | None:
        """Last stage the run was seen in."""
        stage = self.fact("stage")
        if isinstance(stage, str) and stage not in ("preprocess", "load", "save"):
            return stage
        if "loss" in self.series or "train_loss" in self.series:
            return "train"
        return stage if isinstance(stage, str) else None

    def went_on_after(self, origin: Origin, metrics: int = 3) -> bool:
        """True when the same source shows that training continued: finished, or `metrics` more metric lines."""
        progress = self.progress.get(_family(origin.path))
        if progress is None:
            return False
        if progress.finished is not None and progress.finished.order > origin.order:
            return True
        return sum(1 for order in progress.marks[-metrics:] if order > origin.order) >= metrics

    def forget(self, path: str) -> None:
        """Drop the series of one source that is about to be read again (a trainer_state.json that was rewritten)."""
        for name in [name for name, series in self.series.items() if series.path == path]:
            del self.series[name]

    # -- folding -------------------------------------------------------------------------------------------------

    def apply(self, event: Event) -> None:
        """Fold one event."""
        origin = event.origin
        if isinstance(event, Tick):
            if origin.time is not None:
                self.cadence.tick(origin.time)
            return
        if isinstance(event, _BESIDE) and getattr(event, "state", "") is not None:
            self.records += 1  # no word of the run itself: not its last sign, not its ranks
            self._beside(event)
            return
        if origin.rank is not None and origin.rank < 100_000 and origin.rank not in self.ranks:
            self.ranks.add(origin.rank)
            self.told += 1
        if not isinstance(event, SourceChanged):
            self.last_origin = origin
            self.records += 1
        if isinstance(event, LogRecord):
            self.told += self.signatures.add(event)
            return
        if isinstance(event, Heartbeat):
            self._beat(event)
            return
        if isinstance(event, MetricSample):
            self._metric(event)
            return
        if isinstance(event, BarSeen):
            self._on_bar(event)
            return
        self.told += 1
        if isinstance(event, FactLearned):
            self._fact(event)
        elif isinstance(event, TracebackSeen):
            self.traceback_count += 1
            if len(self.tracebacks) < MAX_TRACEBACKS:
                self.tracebacks.append(event)
        elif isinstance(event, ExitSeen):
            if len(self.exits) < MAX_EXITS:
                self.exits.append(event)
        elif isinstance(event, GpuSample):
            self._table(event)
        elif isinstance(event, ConfigSeen):
            self._config(event)
        elif isinstance(event, SourceChanged):
            self._source(event)

    def _table(self, event: GpuSample) -> None:
        if len(self.gpus) < MAX_GPU_SAMPLES:
            self.gpus.append(event)

    def _live_gpu(self, event: GpuSample) -> None:
        """The latest sample and a bounded history, by uuid; of GPUs that answer, a table joins `gpus` now and then."""
        key = event.uuid or f"{event.origin.path}#{event.index}"
        self.gpu_latest[key] = event
        if event.state != "ok":
            return
        self.gpu_history.setdefault(key, deque(maxlen=GPU_HISTORY)).append(event)
        time, last = event.origin.time or 0.0, self._table_time
        if event.parent is None and (last is None or time == last or time - last >= GPU_TABLE_SECONDS):
            self._table_time = time
            self._table(event)

    def _beside(self, event: GpuSample | XidSeen | GpuChanged | MachineSample | ProcessSample) -> None:
        """What happened to the GPUs, and the host's state."""
        if isinstance(event, GpuSample):
            self._live_gpu(event)
        elif isinstance(event, XidSeen):
            self.xids.append(event)
        elif isinstance(event, GpuChanged):
            self.gpu_changes.append(event)
        elif isinstance(event, MachineSample):
            before, self.machine = self.machine, event
            self._room(event, before)
        elif len(self.processes) < MAX_PROCESSES or event.pid in self.processes:
            self.processes[event.pid] = event

    def _room(self, now: MachineSample, before: MachineSample | None) -> None:
        """The fact `host.roomy`: at the last look memory was not short, and the kernel had killed nobody for it."""
        total, free = now.memory_total, now.memory_available
        if total is None or free is None:
            return
        limited = now.limit is not None and now.limit_used is not None and now.limit_used > (1 - ROOM) * now.limit
        self._oom_killed |= before is not None and (now.oom_kills or 0) > (before.oom_kills or 0)
        if free > ROOM * total and not limited and not self._oom_killed:
            self.facts["host.roomy"] = Fact(True, now.origin)
        else:
            self.facts.pop("host.roomy", None)

    def _beat(self, event: Heartbeat) -> None:
        """A rank's own word. The lowest rank's steps and changes of phase are signs of life of the run."""
        rank = event.origin.rank or 0
        beats = self.beats.get(rank)
        if beats is None:
            if len(self.beats) >= MAX_RANKS:
                return
            beats = self.beats[rank] = RankBeats()
        before = beats.phase
        beats.add(event)
        if rank == min(self.beats):
            if event.phase == "step":
                self._alive(event.origin, "train", event.seconds)
            elif event.phase != before and event.phase in _BEATS:
                self._alive(event.origin, _BEATS[event.phase])
            if event.grad_norm is not None:
                self._sample(event, "step_grad_norm@rank0", event.grad_norm)
        if event.loss is not None:
            self._sample(event, f"step_loss@rank{rank}", event.loss)

    def _sample(self, event: Heartbeat, name: str, value: float) -> None:
        self._append(MetricSample(event.origin, name, value, float(event.step), "stated"))

    def _alive(self, origin: Origin, phase: str, seconds: float | None = None) -> None:
        self.last_sign = origin
        self.cadence.alive(phase, seconds)

    def _source(self, event: SourceChanged) -> None:
        if event.change == "opened" and event.origin.path not in self.paths:
            self.paths.append(event.origin.path)
        elif event.change in ("skipped", "partial"):
            self.skipped.append(f"{event.origin.path}: {event.detail}")

    def _fact(self, event: FactLearned) -> None:
        phase = _PHASES.get(event.name)
        if phase is not None:
            self._alive(
                event.origin, str(event.value) if event.name == "stage" and event.value in ("save", "eval") else phase
            )
        if event.name in ENDINGS and event.value:
            self._progress(event.origin).finished = event.origin
        if event.name == "total_steps" and self._limited():
            return
        if event.name == "gap_seconds" and isinstance(event.value, float):
            if self.longest_gap is None or event.value > self.longest_gap[0]:
                self.longest_gap = (event.value, event.origin)
        self.facts[event.name] = Fact(event.value, event.origin)

    def _limited(self) -> bool:
        """True when the configuration sets max_steps."""
        effective = self.configs.get("effective")
        return effective is not None and bool(effective.get("max_steps")) and self.number("total_steps") is not None

    def _config(self, event: ConfigSeen) -> None:
        self.configs[event.kind] = ConfigView(event.data, event.origin, event.lines or {})
        if event.kind == "effective":
            world, limit, interval = (event.data.get(k) for k in ("world_size", "max_steps", "logging_steps"))
            if isinstance(world, int):
                self.facts["world_size"] = Fact(world, event.origin)
            if isinstance(limit, int) and limit > 0:
                self.facts["total_steps"] = Fact(limit, event.origin)  # wins over the steps an epoch would take
            if isinstance(interval, int) and interval > 0:
                self._interval = float(interval)

    def _progress(self, origin: Origin) -> Progress:
        return self.progress.setdefault(_family(origin.path), Progress())

    def _clock(self, path: str) -> StepClock:
        return self._clocks.setdefault(path, StepClock())

    def _on_bar(self, event: BarSeen) -> None:
        drawn = (_family(event.origin.path), event.description, event.n, event.total)
        clock = self._clock(event.origin.path)
        evaluates = self.cadence.phase == "eval" and clock.bar is None and self.total_steps is None  # as it announced
        trains = not event.description and not evaluates and clock.training(event, self.total_steps)
        if drawn != self._drawn:  # a bar that is drawn again, as it is when a process ends, is no sign of life
            self._alive(event.origin, "load" if event.description else "train" if trains else "eval")
        self._drawn = drawn
        if not trains:
            return
        seconds = clock.move(event, self.total_steps)
        if seconds is not None:
            self._append(MetricSample(event.origin, "seconds_per_step", seconds, event.n, "bar"))

    def _metric(self, event: MetricSample) -> None:
        name = event.name
        if name in ("loss", "eval_loss"):
            self._alive(event.origin, "train")
        if event.step is None:
            event = self._with_step(event)
        key = self._key(event)
        self._append(event if key == name else replace(event, name=key))
        if name in ("loss", "train_loss", "eval_loss"):
            progress = self._progress(event.origin)
            progress.metrics += 1
            progress.last_metric = event.origin
            progress.marks = [*progress.marks[-7:], event.origin.order]

    def _with_step(self, event: MetricSample) -> MetricSample:
        known = self._stepped
        if known is None or known[0] != event.origin:  # the values of one line share its step
            training = not event.name.startswith(("eval_", "train_"))
            step, basis = self._clock(event.origin.path).at(training, self._interval)
            known = self._stepped = (event.origin, step, basis)
        _, step, basis = known
        return replace(event, step=step, step_basis=basis)

    def _key(self, event: MetricSample) -> str:
        """The metric's name, made distinct for a second source or a second rank that logs the same one."""
        series = self.series.get(event.name)
        if series is None or series.first is None:
            return event.name
        if series.path != event.origin.path:
            return f"{event.name}@{event.origin.path}"
        if event.origin.rank != series.first.rank and None not in (event.origin.rank, series.first.rank):
            return f"{event.name}@rank{event.origin.rank}"
        return event.name

    def _append(self, event: MetricSample) -> None:
        series = self.series.get(event.name)
        if series is None:
            if len(self.series) >= MAX_SERIES:
                return
            series = self.series[event.name] = Series(event.name)
        series.add(event)
