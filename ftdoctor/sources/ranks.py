"""Which rank works on which GPU.

    found = rank_gpus(run.gpu_latest.values())
    found[0].rank, found[0].uuid, found[0].how

The proof is a process id: NVML says which process has a context on a GPU, /proc/PID/environ says which rank that
process is. In a container NVML may name the host's process ids. They are believed there only when they cover every rank
that was found; otherwise the GPU is what the environment implies (`how` is `expected`: CUDA_VISIBLE_DEVICES and
LOCAL_RANK), and where that is ambiguous, unknown. Not for every second: a scan of /proc takes some 10 ms. Every half
minute, and when a process came or went.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ftdoctor.events import Event, FactLearned, GpuSample, Origin
from ftdoctor.sources.machine import PROC, processes, read_environ, read_stat
from ftdoctor.upstream.cuda_visible import visible_devices

_FIRST_NAMESPACE = "pid:[4026531836]"  # the kernel's number for the host's own process ids
RUN_ID = "FTDOCTOR_RUN_ID"  # `launch` sets it in the environment of every process of its run
_JOB = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class RankGpu:
    """A rank's process and its GPU; `how` is pid | expected | unknown.

    `job` tells runs on one machine apart, `run_id` those that `launch` started.
    """

    rank: int
    local_rank: int | None
    world_size: int | None
    pid: int
    uuid: str | None
    how: str
    job: str
    run_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Rank:
    rank: int
    local_rank: int | None
    world_size: int | None
    pid: int
    job: str
    environ: dict[str, str]


def rank_gpus(samples: Iterable[GpuSample], pids: Iterable[int] | None = None, proc: Path = PROC) -> list[RankGpu]:
    """Ranks among `pids` (default: all processes that can be seen) by job and rank."""
    gpus = [g for g in samples if g.uuid is not None]
    ranks = _ranks(processes(proc) if pids is None else sorted(set(pids)), proc)
    holders: dict[int, list[tuple[str, float]]] = {}
    for gpu in gpus:
        if not gpu.mig:  # a GPU cut into instances lists their processes again
            for process in gpu.processes or ():
                holders.setdefault(process.pid, []).append((gpu.uuid or "", process.memory or 0.0))
    by_job: dict[str, list[_Rank]] = {}
    for rank in ranks:
        by_job.setdefault(rank.job, []).append(rank)
    ours = _link(proc / "self" / "ns" / "pid") == _FIRST_NAMESPACE
    trusted = {job for job, members in by_job.items() if ours or all(m.pid in holders for m in members)}
    return [_place(rank, holders if rank.job in trusted else {}, gpus, proc) for rank in ranks]


def lone_process(samples: Iterable[GpuSample], writes: Callable[[int], bool], proc: Path = PROC) -> int | None:
    """How many GPUs the one process that `writes` the run's files sees, when no launcher gave it a rank; else None.

    Started as plain `python`, a training process uses one GPU, however many it sees.
    """
    gpus = [g for g in samples if g.uuid is not None]
    pids = {p.pid for g in gpus for p in g.processes or ()}
    environs = [e for pid in sorted(pids) if writes(pid) and (e := read_environ(pid, proc)) is not None]
    if len(environs) != 1 or "RANK" in environs[0] or "SLURM_PROCID" in environs[0]:
        return None
    visible = visible_devices(environs[0].get("CUDA_VISIBLE_DEVICES"), environs[0].get("CUDA_DEVICE_ORDER"), gpus)
    return len(visible) if visible else None


def rank_facts(found: Iterable[RankGpu], orders: Iterator[int], stamp: float) -> list[Event]:
    """Facts `rank_gpu.N` (proved) or `rank_gpu_expected.N`, and `rank_pid.N`, for one job's ranks."""
    events: list[Event] = []
    for item in found:
        name = {"pid": "rank_gpu", "expected": "rank_gpu_expected"}.get(item.how)
        facts = {f"rank_pid.{item.rank}": item.pid, **({f"{name}.{item.rank}": item.uuid} if name else {})}
        for key, value in facts.items():
            events.append(FactLearned(Origin("nvml", rank=item.rank, time=stamp, order=next(orders)), key, value))
    return events


def _ranks(pids: list[int], proc: Path) -> list[_Rank]:
    """Processes that a launcher gave a rank; data-loader workers inherit the environment and are left out."""
    found: dict[int, _Rank] = {}
    for pid in pids:
        environ = read_environ(pid, proc)
        if environ is None:
            continue
        slurm = "SLURM_PROCID" in environ and "RANK" not in environ
        rank = _number(environ.get("SLURM_PROCID" if slurm else "RANK"))
        if rank is None:
            continue
        local = _number(environ.get("SLURM_LOCALID" if slurm else "LOCAL_RANK"))
        world = _number(environ.get("SLURM_NTASKS" if slurm else "WORLD_SIZE"))
        job = "/".join(environ.get(key, "") for key in _JOB)
        found[pid] = _Rank(rank, local, world, pid, job, environ)
    members = []
    for pid, member in found.items():
        stat = read_stat(pid, proc)
        parent = found.get(stat.parent) if stat else None
        if parent is None or (parent.job, parent.rank) != (member.job, member.rank):
            members.append(member)
    return sorted(members, key=lambda r: (r.job, r.rank, r.pid))


def _place(rank: _Rank, holders: dict[int, list[tuple[str, float]]], gpus: list[GpuSample], proc: Path) -> RankGpu:
    expected = _expected(rank, gpus, proc)
    held = holders.get(rank.pid, [])
    uuid, how = expected, "expected" if expected else "unknown"
    if held:
        most = max(memory for _, memory in held)
        largest = [name for name, memory in held if memory == most]
        if any(name == expected for name, _ in held):
            uuid, how = expected, "pid"
        else:  # the memory of a rank that sits where nobody expects it; small contexts on peers do not count
            uuid, how = (largest[0], "pid") if len(largest) == 1 else (None, "unknown")
    return RankGpu(rank.rank, rank.local_rank, rank.world_size, rank.pid, uuid, how, rank.job, rank.environ.get(RUN_ID))


def _expected(rank: _Rank, gpus: list[GpuSample], proc: Path) -> str | None:
    """The GPU that launchers mean: the only visible one, or the LOCAL_RANK-th."""
    value = rank.environ.get("CUDA_VISIBLE_DEVICES")
    named = value is not None and value.strip().startswith(("GPU-", "MIG-"))
    if not named and _link(proc / str(rank.pid) / "ns" / "mnt") != _link(proc / "self" / "ns" / "mnt"):
        return None  # another container: it may see other GPUs, so its numbers are not ours
    visible = visible_devices(value, rank.environ.get("CUDA_DEVICE_ORDER"), gpus)
    if not visible:
        return None
    if len(visible) == 1:
        return visible[0]
    return visible[rank.local_rank] if rank.local_rank is not None and rank.local_rank < len(visible) else None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() and len(text) < 7 else None


def _link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
