"""The live path: followed logs, structured files as they change, time. The same `Session` as the post-mortem.

    live = LiveSession(load(), ["outputs/run1"])
    while not live.ended:
        live.step(time.monotonic(), time.time())
        diagnosis = live.diagnosis()

`step` reads what is new and tells the run how late it is; nothing below it reads a clock. With a journal every event
is recorded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ftdoctor.errors import InputError
from ftdoctor.events import Event, GpuChanged, Origin, SourceChanged, Tick, XidSeen
from ftdoctor.findings import Diagnosis
from ftdoctor.parsing.router import Router
from ftdoctor.ruleset.types import RuleSet
from ftdoctor.session import Session
from ftdoctor.sources.files import Damaged, Input, kind_of
from ftdoctor.sources.follow import Grown, Logs
from ftdoctor.sources.heartbeat import Heartbeats
from ftdoctor.sources.journal import JournalWriter, is_journal
from ftdoctor.sources.rank_logs import Ranks, run_folder, run_id
from ftdoctor.sources.structured import READERS

if TYPE_CHECKING:
    from ftdoctor.sources.beside import Beside

SETTLE_SECONDS = 5.0
SETTLED_SECONDS = 2.0  # without a further line: a traceback with its exception is complete
SILENT_AFTER_CRASH = 20.0  # after a traceback without a word from a launcher
STRUCTURED_SECONDS = 2.0
TICK_SECONDS = 1.0
QUIET_SECONDS = 5.0  # no hang is judged below this
BESIDE_SECONDS = 5.0  # between diagnoses for the sake of GPU samples alone
_ODD = ("T", "t", "Z", "gone", "lost", "silent", "reset_required")


class LiveSession:
    """A run that is still going on."""

    def __init__(
        self,
        rules: RuleSet,
        paths: list[str],
        journal: Path | None = None,
        *,
        machine: bool = False,
        gpus: bool = True,
        heartbeats: Path | None = None,
    ) -> None:
        """Follow `paths` (logs and folders; they need not exist yet).

        `machine` adds what stands beside the run: GPUs (unless `gpus` is off), host, processes of the ranks;
        `heartbeats` is the folder where the ranks write theirs. Of a run of `ftdoctor launch` they are found, and so
        are the logs of its ranks.
        """
        self.session = Session(rules, JournalWriter(journal) if journal else None)
        self._beside: Beside | None = None
        launched = run_folder(paths)
        if machine:
            from ftdoctor.sources.beside import Beside

            output = next((p for p in paths if os.path.isdir(p)), os.path.dirname(paths[0]) or "." if paths else ".")
            mark = run_id(launched) if launched is not None else None
            self._beside = Beside(self.session.orders, output=output, paths=paths, gpus=gpus, run_id=mark)
        if launched is not None:
            heartbeats = heartbeats or launched / "heartbeat"
        self._ranks = Ranks(launched) if launched is not None else None
        self._heartbeats = Heartbeats(heartbeats, self.session.orders) if heartbeats is not None else None
        self.paths = paths
        logs = [p for p in paths if os.path.isdir(p) or kind_of(Path(p)) == "log"]
        self._logs = Logs(logs)
        self._structured = [
            Input(p, kind_of(Path(p))) for p in paths if not os.path.isdir(p) and kind_of(Path(p)) != "log"
        ]
        self._absent = [p for p in paths if not os.path.exists(p)]
        self._folders = [Path(p) for p in paths if os.path.isdir(p)]
        self._routers: dict[str, Router] = {}
        self._grown: dict[str, float] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self._looked = float("-inf")
        self._ticked = float("-inf")
        self._grew = float("-inf")
        self._judged = float("-inf")
        self._cached: Diagnosis | None = None

    @property
    def behind(self) -> int:
        """Bytes that are there and not read yet."""
        return self._logs.behind

    @property
    def logs(self) -> tuple[str, ...]:
        """Logs followed, as evidence names them."""
        return tuple(dict.fromkeys((*self._logs.named, *(self._ranks.named if self._ranks is not None else ()))))

    def step(self, monotonic: float, wall: float) -> bool:
        """Read what is new. `monotonic` and `wall` are the caller's clocks in seconds. True when something changed."""
        if self._beside is not None:
            self._look_beside(monotonic, wall)
        before = self.session.run.records
        grew = self._logs.poll(monotonic)
        for grown in grew if self._ranks is None else self._ranks.apart(grew):
            self._grow(grown)
            self._grew = self._grown[grown.item.path] = monotonic
        if monotonic - self._looked >= STRUCTURED_SECONDS:
            self._looked = monotonic
            self._look()
        if self._heartbeats is not None:
            self.session.apply(self._heartbeats.poll())
        if monotonic - self._ticked >= TICK_SECONDS:
            self._ticked = monotonic
            for path, router in self._routers.items():
                self.session.apply(router.flush(monotonic - self._grown.get(path, monotonic) >= SETTLED_SECONDS))
            self.session.apply([Tick(Origin("", time=wall, order=self.session.next_order()))])
            silence = self.session.run.cadence.silence
            if silence is not None and silence >= QUIET_SECONDS:
                self._cached = None  # time alone can make a hang
        if self.session.journal is not None:
            self.session.journal.tick(monotonic)
        if self.session.run.records != before:
            self._cached = None
        return self._cached is None

    def _look_beside(self, monotonic: float, wall: float) -> None:
        """GPUs, host and processes. Their samples are judged over windows, so not every one is worth a diagnosis."""
        assert self._beside is not None
        events = self._beside.poll(monotonic, wall, self.session.run.gpu_latest.values())
        self.session.apply(events)
        urgent = any(isinstance(e, (XidSeen, GpuChanged)) or getattr(e, "state", "R") in _ODD for e in events)
        if urgent or (events and monotonic - self._judged >= BESIDE_SECONDS):
            self._judged = monotonic
            self._cached = None

    @property
    def gpu_error(self) -> str | None:
        """Why no GPU is watched; None while NVML works."""
        return self._beside.error if self._beside is not None else None

    @property
    def calm(self) -> bool:
        """Nothing is due before the next second unless a file grows; not while a journal holds back what it got."""
        journal = self.session.journal
        return journal is None or journal.failed or not journal.pending

    def diagnosis(self) -> Diagnosis:
        """The diagnosis now; computed only when something changed."""
        if self._cached is None:
            self._cached = self.session.diagnose()
        return self._cached

    def refresh(self) -> None:
        """Events were added to the session from outside: the next diagnosis is made anew."""
        self._cached = None

    def ended(self, monotonic: float) -> bool:
        """True when the run said how it ended, or died with a traceback, and nothing was written since for a while."""
        if self.behind:
            return False
        run, still = self.session.run, monotonic - self._grew
        if run.fact("saved") or run.exits or run.fact("exit_code") is not None:
            return still >= SETTLE_SECONDS
        return still >= SILENT_AFTER_CRASH and any(not run.went_on_after(t.origin, metrics=1) for t in run.tracebacks)

    def finish(self) -> Diagnosis:
        """Close all sources and give the final diagnosis."""
        if self._ranks is not None:
            path, rest = self._ranks.close()
            for name, router in self._routers.items():
                if rest and os.path.realpath(name) == path:
                    self.session.apply(router.feed(rest))
        for router in self._routers.values():
            self.session.apply(router.finish())
        self._routers.clear()
        self._logs.close()
        if self._beside is not None:
            self._beside.close()
            self._beside = None
        self._look()
        if self._heartbeats is not None:
            self.session.apply(self._heartbeats.poll())
        if self.session.journal is not None:
            self.session.journal.close()
        self._cached = None
        return self.diagnosis()

    def _grow(self, grown: Grown) -> None:
        path = grown.item.path
        if grown.change in ("truncated", "rotated") and path in self._routers:
            self.session.apply(self._routers.pop(path).finish())
        router = self._routers.get(path)
        if router is None:
            router = self._routers[path] = self.session.router(grown.item)
            self._changed(path, "opened")
        if grown.data:
            self.session.apply(router.feed(grown.data))

    def _look(self) -> None:
        """Read structured files that changed: the newest trainer_state.json, configs."""
        for path in [p for p in self._absent if os.path.exists(p)]:
            self._absent.remove(path)
            self._folders += [Path(path)] if os.path.isdir(path) else []
        items = list(self._structured)
        for folder in self._folders:
            states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda p: _stamp(p)[0])
            items += [Input(str(p), "state", given=False) for p in states[-1:]]
            items += [Input(str(p), "yaml", given=False) for p in sorted(folder.glob("*.y*ml"))[:5]]
        for item in items:
            stamp = _stamp(Path(item.path))
            if stamp == (0, 0) or self._stamps.get(item.path) == stamp:
                continue
            self._stamps[item.path] = stamp
            self.session.run.forget(item.name)
            self._changed(item.name, "opened")
            try:
                self.session.apply(READERS[item.kind](item, self.session.orders))
            except Damaged as error:
                self._changed(item.name, "skipped", str(error))

    def _changed(self, path: str, change: str, detail: str = "") -> None:
        self.session.apply([SourceChanged(Origin(path, order=self.session.next_order()), change, detail)])


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def replayed(paths: Iterable[Path], rules: RuleSet) -> Diagnosis:
    """The diagnosis of journals."""
    session = Session(rules)
    for path in paths:
        session.apply(session.replay(path))
    return session.diagnose()


class ReplaySession(LiveSession):
    """A recorded run, played at `speed` times its own time."""

    def __init__(self, rules: RuleSet, journal: Path, speed: float) -> None:
        """Play `journal`.

        Raises:
            InputError: not a journal.
        """
        if not is_journal(journal):
            raise InputError(
                "not a journal of ftdoctor", str(journal), "record one with `ftdoctor watch ... --journal FILE`"
            )
        super().__init__(rules, [])
        self._events = self.session.replay(journal)
        self._speed = speed
        self._held: Event | None = None
        self._offset: float | None = None
        self._over = False

    @property
    def logs(self) -> tuple[str, ...]:
        """Logs that were recorded and are still there."""
        return tuple(p for p in self.session.run.paths if os.path.isfile(p) and kind_of(Path(p)) == "log")

    def step(self, monotonic: float, wall: float) -> bool:
        """Apply what is due; the journal's ticks say when."""
        before = self.session.run.records
        while not self._over:
            event = self._held or next(self._events, None)
            self._held = None
            if event is None:
                self._over = True
                break
            if isinstance(event, Tick) and event.origin.time is not None:
                due = event.origin.time / self._speed
                if self._offset is None:
                    self._offset = monotonic - due
                if due + self._offset > monotonic:
                    self._held = event
                    break
            self.session.apply([event])
        if self.session.run.records != before or self.session.run.cadence.signs:
            self._cached = None
        return self._cached is None

    @property
    def calm(self) -> bool:
        """A replay is due at any moment."""
        return False

    def ended(self, monotonic: float) -> bool:
        """True when the journal is played."""
        return self._over
