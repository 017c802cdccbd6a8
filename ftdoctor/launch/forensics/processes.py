"""What the kernel says of a rank and its data-loader workers: state, the function it sleeps in, CPU time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ftdoctor.sources.machine import PROC, processes, read_stat

MAX_WORKERS = 64


@dataclass(frozen=True, slots=True)
class Seen:
    """One process. `state` is the kernel's letter or `gone`; `cpu` in clock ticks since it started."""

    pid: int
    state: str
    wchan: str = ""
    syscall: str = ""
    cpu: int = 0
    name: str = ""
    workers: tuple[Seen, ...] = ()

    def lines(self, before: Seen | None = None) -> list[str]:
        """For a person: this process, then its workers."""
        spent = f", {self.cpu - before.cpu} ticks of CPU since the last look" if before is not None else ""
        where = f", sleeps in {self.wchan}" if self.wchan not in ("", "0") else ""
        call = f", system call {self.syscall.split()[0]}" if self.syscall else ""
        own = f"process {self.pid} {self.name}: state {self.state}{where}{call}{spent}"
        earlier = {w.pid: w for w in before.workers} if before is not None else {}
        return [own, *(f"  worker: {line}" for w in self.workers for line in w.lines(earlier.get(w.pid)))]


def look(pid: int, proc: Path = PROC, children: Mapping[int, list[int]] | None = None) -> Seen:
    """One process and, when `children` is given, its children."""
    stat = read_stat(pid, proc)
    if stat is None:
        return Seen(pid, "gone")
    below = (children or {}).get(pid, [])[:MAX_WORKERS]
    return Seen(
        pid,
        stat.state,
        _text(proc / str(pid) / "wchan"),
        _text(proc / str(pid) / "syscall"),
        stat.cpu,
        _text(proc / str(pid) / "comm"),
        tuple(look(child, proc) for child in below),
    )


def children_of(proc: Path = PROC) -> dict[int, list[int]]:
    """Parent -> children, over all processes that can be seen."""
    found: dict[int, list[int]] = {}
    for pid in processes(proc):
        stat = read_stat(pid, proc)
        if stat is not None:
            found.setdefault(stat.parent, []).append(pid)
    return found


def kind(state: str) -> str:
    """The kind of stand (`detectors/standing.py`) that a state alone proves; "" for a process that runs or sleeps."""
    return {"T": "stopped", "t": "held", "Z": "dead", "X": "dead", "gone": "gone"}.get(state, "")


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()[:200]
    except OSError:
        return ""
