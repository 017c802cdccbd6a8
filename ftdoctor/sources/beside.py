"""What stands beside a live run: GPUs, host and the processes of its ranks, polled together at a low price.

    beside = Beside(session.orders, output="outputs/run1")
    session.apply(beside.poll(time.monotonic(), time.time(), run.gpu_latest.values()))
    beside.close()

GPUs and host once a second, processes every two; which process is which rank is looked up every half minute, because a
scan of /proc takes some 10 ms, and at once when a rank's process has gone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence

from ftdoctor.events import Event, FactLearned, GpuSample, Origin, ProcessSample
from ftdoctor.sources.gpu import GpuPoller
from ftdoctor.sources.machine import MachineWatch, ProcessWatch
from ftdoctor.sources.ranks import RankGpu, lone_process, rank_facts, rank_gpus

HOST_SECONDS = 2.0
PROCESS_SECONDS = 2.0
RANKS_SECONDS = 30.0
FIRST_RANKS_SECONDS = 5.0  # while no rank is known


class Beside:
    """The pollers of one machine; used from one thread."""

    def __init__(
        self,
        orders: Iterator[int],
        *,
        output: str | os.PathLike[str] | None = None,
        paths: Sequence[str] = (),
        every: float = 1.0,
        gpus: bool = True,
        run_id: str | None = None,
    ) -> None:
        """`output` is the folder whose disk is watched, `paths` what the run writes; `every` seconds between looks at
        the GPUs; without `gpus` NVML is left alone. With `run_id` only processes that carry it are the run's.
        """
        self._run_id = run_id
        self._paths = [os.path.abspath(p) for p in paths]
        self._orders = orders
        self._gpus = GpuPoller(orders, every=every) if gpus else None
        self._host = MachineWatch(orders, disk=output)
        self._processes = ProcessWatch(orders)
        self._ranks: list[RankGpu] = []
        self._lone = False
        self._said: dict[tuple[int, int], str | None] = {}
        self._last = {"host": float("-inf"), "processes": float("-inf"), "ranks": float("-inf")}

    @property
    def error(self) -> str | None:
        """Why there are no GPUs; None while NVML works or nobody asked it."""
        return self._gpus.error if self._gpus is not None else None

    def poll(self, now: float, stamp: float, latest: Iterable[GpuSample] = ()) -> list[Event]:
        """What changed since the last call. `now` is a steady clock, `stamp` the time to write on events."""
        events: list[Event] = [] if self._gpus is None else list(self._gpus.poll(now, stamp))
        if self._due("host", HOST_SECONDS, now):
            events += self._host.poll(now, stamp)
        if self._due("ranks", RANKS_SECONDS if self._ranks else FIRST_RANKS_SECONDS, now):
            events += self._find_ranks(list(latest), stamp)
        if self._ranks and self._due("processes", PROCESS_SECONDS, now):
            seen = self._processes.poll(now, {r.pid: r.rank for r in self._ranks}, stamp)
            if any(isinstance(e, ProcessSample) and e.state == "gone" for e in seen):
                self._last["ranks"] = float("-inf")
            events += seen
        return events

    def close(self) -> None:
        """Stop the threads of NVML."""
        if self._gpus is not None:
            self._gpus.close()

    def _due(self, name: str, every: float, now: float) -> bool:
        if now - self._last[name] < every:
            return False
        self._last[name] = now
        return True

    def _find_ranks(self, latest: list[GpuSample], stamp: float) -> list[Event]:
        """Facts of ranks that are new or moved; one job only: the one with most ranks."""
        found = rank_gpus(latest)
        if self._run_id is not None:
            found = [rank for rank in found if rank.run_id == self._run_id]
        if not found:
            return self._alone(latest, stamp)
        jobs: dict[str, list[RankGpu]] = {}
        for rank in found:
            jobs.setdefault(rank.job, []).append(rank)
        ours = list(jobs.values())
        if len(ours) > 1:  # several runs on this machine: only one that writes what is watched is ours
            ours = [ranks for ranks in ours if any(self._writes(rank.pid) for rank in ranks)]
        if len(ours) != 1:
            return []
        self._ranks = ours[0]
        new = [r for r in self._ranks if self._said.get((r.rank, r.pid), "") != r.uuid]
        self._said = {(r.rank, r.pid): r.uuid for r in self._ranks}
        events = rank_facts(new, self._orders, stamp)
        world = next((r.world_size for r in self._ranks if r.world_size), None)
        if new and world:
            events.append(FactLearned(Origin("nvml", time=stamp, order=next(self._orders)), "world_size", world))
        return events

    def _alone(self, latest: list[GpuSample], stamp: float) -> list[Event]:
        """The fact `visible_gpus` of a run that is one process without a launcher, once."""
        visible = None if self._lone else lone_process(latest, self._writes)
        if visible is None:
            return []
        self._lone = True
        return [FactLearned(Origin("nvml", time=stamp, order=next(self._orders)), "visible_gpus", visible)]

    def _writes(self, pid: int) -> bool:
        """Does the process write a watched file, or run in a folder that holds one?"""
        places = []
        for name in ("fd/1", "fd/2", "cwd"):
            with contextlib.suppress(OSError):
                places.append(os.readlink(f"/proc/{pid}/{name}"))
        return any(
            place == path or (place not in ("", "/") and path.startswith(place.rstrip("/") + "/"))
            for place in places
            for path in self._paths
        )
