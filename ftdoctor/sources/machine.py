"""The host beside its GPUs: memory, control group, /dev/shm, disk, and the processes of the run, read from /proc.

    machine = MachineWatch(session.orders, disk="outputs/run1")
    processes = ProcessWatch(session.orders)
    session.apply(machine.poll(now, stamp))
    session.apply(processes.poll(now, {41273: 0, 41274: 1}, stamp))     # pid -> rank

Linux; elsewhere what cannot be read is None. The disk may be a network share that hangs: it is asked in a thread, and
`disk_silent` says that it does not answer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ftdoctor.events import Event, MachineSample, Origin, ProcessSample

PATH = "machine"
MIB = 1024.0 * 1024.0
PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
NO_LIMIT = 1 << 60


class MachineWatch:
    """Samples of the host."""

    def __init__(
        self,
        orders: Iterator[int],
        disk: str | os.PathLike[str] | None = None,
        *,
        node: str | None = None,
        disk_every: float = 10.0,
        disk_deadline: float = 5.0,
        proc: Path = PROC,
        cgroup: Path = CGROUP,
        shm: str = "/dev/shm",
    ) -> None:
        self._orders, self._node, self._proc, self._shm = orders, node, proc, shm
        self._disk = _Disk(disk, disk_every, disk_deadline) if disk is not None else None
        self._group = _group(proc, cgroup)

    def poll(self, now: float, stamp: float | None = None) -> list[Event]:
        """One sample. `now` is a steady clock, `stamp` the time to write on the event (default `now`)."""
        info = _meminfo(self._proc)
        shm = _space(self._shm)
        limit, used, kills = _limits(self._group)
        disk = self._disk
        if disk is not None:
            disk.ask(now)
        space = disk.space if disk is not None and not disk.silent else None
        swap, swap_free = info.get("SwapTotal"), info.get("SwapFree")
        return [
            MachineSample(
                Origin(PATH, node=self._node, time=now if stamp is None else stamp, order=next(self._orders)),
                memory_total=info.get("MemTotal"),
                memory_available=info.get("MemAvailable"),
                swap_used=None if swap is None or swap_free is None else swap - swap_free,
                limit=limit,
                limit_used=used,
                oom_kills=kills,
                shm_total=shm[0] if shm else None,
                shm_free=shm[1] if shm else None,
                disk=disk.path if disk is not None else None,
                disk_total=space[0] if space else None,
                disk_free=space[1] if space else None,
                disk_silent=disk.silent if disk is not None else None,
            )
        ]


@dataclass(frozen=True, slots=True)
class Stat:
    """What /proc/PID/stat says: CPU and start in clock ticks, `memory` (resident) in MiB."""

    state: str
    parent: int
    cpu: int
    threads: int
    start: int
    memory: float


class ProcessWatch:
    """Samples of processes that the caller names."""

    def __init__(self, orders: Iterator[int], *, node: str | None = None, proc: Path = PROC) -> None:
        self._orders, self._node, self._proc = orders, node, proc
        self._before: dict[int, tuple[float, Stat | None]] = {}
        self._ticks = float(os.sysconf("SC_CLK_TCK")) if hasattr(os, "sysconf") else 100.0

    def poll(self, now: float, pids: Mapping[int, int | None], stamp: float | None = None) -> list[Event]:
        """A sample for each pid (pid -> rank); one last sample with state `gone` when it left.

        A number that the kernel gave to another process is gone too.
        """
        events: list[Event] = []
        stamp = now if stamp is None else stamp
        known: dict[int, tuple[float, Stat | None]] = {}
        for pid, rank in pids.items():
            then, before = self._before.get(pid, (now, None))
            if pid in self._before and before is None:
                known[pid] = (then, None)
                continue  # gone, and said so
            stat = read_stat(pid, self._proc)
            if stat is None or (before is not None and stat.start != before.start):
                known[pid] = (now, None)
                if self._proc.is_dir():
                    events.append(ProcessSample(self._origin(rank, stamp), pid, "gone"))
                continue
            cpu = None
            if before is not None and now > then:
                cpu = max(0.0, (stat.cpu - before.cpu) / self._ticks / (now - then) * 100.0)
            known[pid] = (now, stat)
            events.append(ProcessSample(self._origin(rank, stamp), pid, stat.state, cpu, stat.memory, stat.threads))
        self._before = known
        return events

    def _origin(self, rank: int | None, stamp: float) -> Origin:
        return Origin(PATH, rank=rank, node=self._node, time=stamp, order=next(self._orders))


def read_stat(pid: int, proc: Path = PROC) -> Stat | None:
    """State of a process; None when there is none or it may not be read."""
    text = _text(proc / str(pid) / "stat")
    if text is None:
        return None
    fields = text.rpartition(")")[2].split()  # the name in front may hold anything, brackets and blanks too
    try:
        page = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
        cpu = int(fields[11]) + int(fields[12])
        return Stat(fields[0], int(fields[1]), cpu, int(fields[17]), int(fields[19]), int(fields[21]) * page / MIB)
    except (IndexError, ValueError):
        return None


def read_environ(pid: int, proc: Path = PROC) -> dict[str, str] | None:
    """The environment a process was started with; None when it may not be read (another user's, or gone)."""
    try:
        raw = (proc / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    pairs = (item.partition("=") for item in raw.decode(errors="replace").split("\0"))
    return {key: value for key, found, value in pairs if found}


def processes(proc: Path = PROC) -> list[int]:
    """All process numbers that can be seen."""
    try:
        return sorted(int(name) for name in os.listdir(proc) if name.isdigit())
    except OSError:
        return []


class _Disk:
    """Free space of a folder's file system, asked in a thread that may hang."""

    def __init__(self, path: str | os.PathLike[str], every: float, deadline: float) -> None:
        self.path = os.fspath(path)
        self.space: tuple[float, float] | None = None
        self.silent = False
        self._every, self._deadline = every, deadline
        self._asked = float("-inf")
        self._thread: threading.Thread | None = None

    def ask(self, now: float) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(0.02)
        if self._thread is not None and self._thread.is_alive():
            self.silent = now - self._asked > self._deadline
            return
        self.silent = False
        if now - self._asked >= self._every:
            self._asked = now
            self._thread = threading.Thread(target=self._measure, name="ftdoctor-disk", daemon=True)
            self._thread.start()
            self._thread.join(0.02)

    def _measure(self) -> None:
        path = os.path.abspath(self.path)
        while not os.path.exists(path) and os.path.dirname(path) != path:
            path = os.path.dirname(path)  # an output folder that is not made yet: the file system it will be on
        self.space = _space(path)


def _space(path: str) -> tuple[float, float] | None:
    """Total and free MiB for an ordinary user."""
    if not hasattr(os, "statvfs"):
        return None
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return found.f_blocks * found.f_frsize / MIB, found.f_bavail * found.f_frsize / MIB


def _meminfo(proc: Path) -> dict[str, float]:
    """/proc/meminfo in MiB."""
    found: dict[str, float] = {}
    for line in (_text(proc / "meminfo") or "").splitlines():
        key, _, rest = line.partition(":")
        number = rest.split()
        if number and number[0].isdigit():
            found[key] = int(number[0]) / 1024.0
    return found


@dataclass(frozen=True, slots=True)
class _Group:
    """Folders of this process's memory control group, the own one first, and its version."""

    folders: tuple[Path, ...]
    version: int


def _group(proc: Path, root: Path) -> _Group | None:
    """The memory control group that this process lives in."""
    for line in (_text(proc / "self" / "cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and (root / "cgroup.controllers").exists():
            version, top = 2, root
        elif "memory" in controllers.split(","):
            version, top = 1, root / "memory"
        else:
            continue
        own = top / path.lstrip("/")
        folders = [own, *own.parents] if own.is_dir() else [top]  # in a container the path may be the host's
        inside = tuple(f for f in folders if f == top or top in f.parents)
        return _Group(inside, version)
    return None


def _limits(group: _Group | None) -> tuple[float | None, float | None, int | None]:
    """Limit, use without the page cache (both MiB), and kills; of the group and its parents the tightest counts."""
    if group is None:
        return None, None, None
    limit_name, used_name, cache_name, kills_name = (
        ("memory.max", "memory.current", "inactive_file", "memory.events")
        if group.version == 2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "memory.oom_control")
    )
    limits = [(value, folder) for folder in group.folders if (value := _int(_text(folder / limit_name))) is not None]
    limits = [(value, folder) for value, folder in limits if value < NO_LIMIT]
    kills = _keyed(group.folders[0] / kills_name).get("oom_kill")
    if not limits:
        return None, None, kills
    limit, folder = min(limits, key=lambda pair: pair[0])
    used = _int(_text(folder / used_name))
    cache = _keyed(folder / "memory.stat").get(cache_name, 0)
    return limit / MIB, None if used is None else max(0, used - cache) / MIB, kills


def _keyed(path: Path) -> dict[str, int]:
    pairs = (line.split() for line in (_text(path) or "").splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _int(text: str | None) -> int | None:
    text = text.strip() if text else ""
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
