"""What a source can say: the event types that flow from parsers into the run model.

Every event is frozen and carries where it came from (`source`, `line`) and, when
the text told us, which rank wrote it and at what time. `seq` is the place of the
event in the session: the only total order there is when logs have no stamps.
A missing value is `None`, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Scalar: TypeAlias = "str | int | float | bool | None"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a piece of information was read.

    `path` is the display name of the source, `line` its 1-based line (newline count; `\\r` does
    not start a line), `rank`/`node` what the line's prefix or the file name said, `time` seconds
    since the Unix epoch read off the log's own stamp (stamps without a zone are taken as UTC).
    `order` is the session-wide sequence number.
    """

    path: str
    line: int = 0
    rank: int | None = None
    node: str | None = None
    time: float | None = None
    order: int = 0


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One log line that a rule or a parser asked for.

    `text` has escapes and launcher prefixes removed; `raw` is the same line with
    escapes removed only: it is what evidence quotes. `role` is `frame` for the frames and code lines of
    a traceback, `exception` for its last lines, else `line`. `hits` are the rule patterns worth trying.
    """

    origin: Origin
    text: str
    raw: str
    role: str = "line"
    hits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a Python traceback."""

    file: str
    line: int
    function: str
    code: str = ""


@dataclass(frozen=True, slots=True)
class TracebackSeen:
    """One complete traceback (one link of a chain).

    `type` is the exception class as printed (dotted), `message` its text with
    continuation lines, at most 4 kB. `chained` is true when another traceback follows in
    the same chain ("During handling of the above exception ...").
    """

    origin: Origin
    type: str
    message: str
    frames: tuple[Frame, ...]
    line_last: int
    chained: bool = False


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One value of one metric.

    `name` is the trainer's own key (`loss`, `grad_norm`, `eval_loss`, ...). `step` is the
    optimizer step as far as it is known and `step_basis` says how: `stated` (trainer_state, heartbeat), `bar`
    (last training progress bar), `counted` (line count), `epoch` or `none`.
    """

    origin: Origin
    name: str
    value: float
    step: float | None = None
    step_basis: str = "none"
    epoch: float | None = None


@dataclass(frozen=True, slots=True)
class BarSeen:
    """A tqdm bar: `n` of `total` after `elapsed` seconds; `description` is empty for the training bar."""

    origin: Origin
    description: str
    n: float
    total: float
    elapsed: float


@dataclass(frozen=True, slots=True)
class FactLearned:
    """A single fact about the run, e.g. `world_size = 2`; see `run_model/facts.py` for the names."""

    origin: Origin
    name: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class ConfigSeen:
    """A whole configuration: `kind` is `axolotl` (the YAML), `effective` (Axolotl's dump) or `deepspeed`.

    `lines` maps dotted keys to 1-based lines where the source has lines.
    """

    origin: Origin
    kind: str
    data: dict[str, object]
    lines: dict[str, int] | None = None


@dataclass(frozen=True, slots=True)
class ExitSeen:
    """A process ended. `code` is negative for a signal, as in Python's subprocess."""

    origin: Origin
    code: int
    rank: int | None = None
    pid: int | None = None
    by: str = ""


@dataclass(frozen=True, slots=True)
class GpuProcess:
    """A process with a context on a GPU, as NVML names it; inside containers `pid` may be the host's number."""

    pid: int
    name: str | None = None
    memory: float | None = None


@dataclass(frozen=True, slots=True)
class NvLinks:
    """NVLink of one GPU: links that are up, numbers of those that are down, error counters summed over the links."""

    up: int
    down: tuple[int, ...] = ()
    crc_errors: int | None = None
    replay_errors: int | None = None
    recovery_errors: int | None = None


@dataclass(frozen=True, slots=True)
class RemappedRows:
    """Memory rows that were replaced; `pending` waits for a reset of the GPU, `failed`: no spare row is left."""

    corrected: int
    uncorrected: int
    pending: bool
    failed: bool


@dataclass(frozen=True, slots=True)
class GpuSample:
    """State of one GPU at one moment; every field may be unknown (None).

    Memory in MiB, power in watts, temperature in degrees Celsius, utilisation in percent, clocks in MHz.
    `memory_used` leaves out what the driver reserves unless `memory_includes_reserved` (old drivers cannot tell).
    `state` is what NVML said of the GPU: ok | lost | reset_required | failing | silent (a call does not return); None
    for samples that were read from a log. `parent` is set for a MIG instance: the uuid of the GPU that it is part of.
    """

    origin: Origin
    index: int
    uuid: str | None = None
    name: str | None = None
    memory_used: float | None = None
    memory_total: float | None = None
    utilization: float | None = None
    memory_utilization: float | None = None
    power: float | None = None
    power_limit: float | None = None
    temperature: float | None = None
    sm_clock: float | None = None
    throttle_reasons: int | None = None
    state: str | None = None
    pci_bus: str | None = None
    parent: str | None = None
    mig: bool | None = None
    memory_reserved: float | None = None
    memory_includes_reserved: bool | None = None
    sm_clock_max: float | None = None
    memory_clock: float | None = None
    temperature_slowdown: float | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    remapped_rows: RemappedRows | None = None
    nvlinks: NvLinks | None = None
    processes: tuple[GpuProcess, ...] | None = None


@dataclass(frozen=True, slots=True)
class XidSeen:
    """The driver reported an Xid (`upstream/xid.py`); `index` and `uuid` are None when the GPU could not be told."""

    origin: Origin
    index: int | None
    uuid: str | None
    xid: int


@dataclass(frozen=True, slots=True)
class GpuChanged:
    """Something happened to a GPU.

    `change` is a new `GpuSample.state` (`ok` after another one: it answers again), `unreadable` (no handle: `detail`
    says why), `ecc_single_bit` or `ecc_double_bit`.
    """

    origin: Origin
    index: int | None
    uuid: str | None
    change: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class MachineSample:
    """State of the host at one moment; sizes in MiB, None when unknown.

    `limit`/`limit_used`/`oom_kills` are those of the control group, which is what kills a process in a container.
    """

    origin: Origin
    memory_total: float | None = None
    memory_available: float | None = None
    swap_used: float | None = None
    limit: float | None = None
    limit_used: float | None = None
    oom_kills: int | None = None
    shm_total: float | None = None
    shm_free: float | None = None
    disk: str | None = None
    disk_total: float | None = None
    disk_free: float | None = None
    disk_silent: bool | None = None


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """State of one process; `origin.rank` is its rank when known.

    `state` is the kernel's letter (R S D Z T X), `gone` once it left; `cpu` percent of one core since the last sample.
    """

    origin: Origin
    pid: int
    state: str
    cpu: float | None = None
    memory: float | None = None
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What one rank said of itself (`launch/ftdoctor_heartbeat.py`); `origin.rank` is the rank.

    `phase` is `step` for a finished optimizer step, else what the rank is in since `since` (seconds since the epoch):
    load, data, forward, backward, optimizer, log, eval, save, end. `seconds` is the time of the step, the fields named
    like a phase are its parts. `loss` is this rank's own, before the Trainer's NaN filter.
    Memory in MiB: of the GPU as torch counts it, `resident` of the process.
    """

    origin: Origin
    phase: str
    step: int
    since: float | None = None
    seconds: float | None = None
    loss: float | None = None
    grad_norm: float | None = None
    data: float | None = None
    forward: float | None = None
    backward: float | None = None
    optimizer: float | None = None
    memory: float | None = None
    memory_peak: float | None = None
    resident: float | None = None


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """A source was opened, ended, was skipped or could be read in part only; `detail` says why."""

    origin: Origin
    change: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed (live sources only)."""

    origin: Origin


Event: TypeAlias = (
    LogRecord
    | TracebackSeen
    | MetricSample
    | BarSeen
    | FactLearned
    | ConfigSeen
    | ExitSeen
    | GpuSample
    | XidSeen
    | GpuChanged
    | MachineSample
    | ProcessSample
    | Heartbeat
    | SourceChanged
    | Tick
)
