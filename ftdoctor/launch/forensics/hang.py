"""Looks at a silent run, before a watchdog or a person kills the evidence.

A look is cheap and changes nothing in the trainer, so it comes long before the alarm: at a silence of a few of this
run's own pauses. The second look, seconds later, tells what moved. Later looks come with the alarm and then rarely.
Every look becomes facts (`detectors/standing.py`), through the session, so that the journal has them too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ftdoctor.detectors import standing
from ftdoctor.events import Event, FactLearned, Origin, Scalar
from ftdoctor.launch.forensics import processes
from ftdoctor.launch.forensics.crash import after_crash
from ftdoctor.sources.machine import read_environ
from ftdoctor.upstream import flight_recorder, nccl_ras, pyspy

if TYPE_CHECKING:
    from ftdoctor.findings import Diagnosis
    from ftdoctor.launch.witness import Scene
    from ftdoctor.session import Session

SUSPICION = 5.0  # usual pauses without a sign of life
SUSPICION_SECONDS = (5.0, 60.0)  # never before, and at this silence while the run loads, evaluates or saves
SECOND_LOOK = 4.0  # seconds after the first
MORE_LOOKS = (30.0, 120.0, 600.0)  # seconds after the first
MAX_RANKS = 64
STILL_TICKS = 40  # of CPU between two looks at least four seconds apart: what watching threads use, a tenth of a core


class Looks:
    """Looks at the ranks of one machine; a witness holds one, and so does `ftdoctor watch`."""

    def __init__(self, session: Session, folder: Path | None, environ: Mapping[str, str] | None = None) -> None:
        """`folder` gets the stacks as files; `environ` is what the run was started with, when that is known."""
        self._session, self._folder = session, folder
        self._environ = environ or {}
        self._sign = -1
        self._times: list[float] = []
        self._alarmed = False
        self._seen: dict[int, processes.Seen] = {}
        self._places: dict[int, pyspy.Place] = {}
        self._ras: list[nccl_ras.Communicator] = []
        self._asked = 0.0
        self.why_not = ""

    def due(self, now: float, alarm: bool) -> bool:
        """Is it time for a look? `now` is a steady clock in seconds, `alarm` that a hang was found."""
        run = self._session.run
        sign = run.last_sign.order if run.last_sign is not None else 0
        if sign != self._sign:
            self._sign, self._times, self._alarmed = sign, [], False
        silence = run.cadence.silence
        if silence is None or run.cadence.phase == "end":
            return False
        if alarm and not self._alarmed:
            self._alarmed = True
            return True
        if not self._times:
            return silence >= self._suspicion()
        waited = now - self._times[0]
        marks = (SECOND_LOOK, *MORE_LOOKS)
        return len(self._times) <= len(marks) and waited >= marks[len(self._times) - 1]

    def look(self, ranks: Mapping[int, int], now: float, stamp: float) -> list[Event]:
        """One look at `ranks` (rank -> pid): facts, and files in the folder."""
        self._times.append(now)
        children = processes.children_of()
        program = pyspy.program()
        if program is None:
            self.why_not = "py-spy is not installed (pip install py-spy): no stacks, process states only"
        events: list[Event] = []
        for rank, pid in sorted(ranks.items())[:MAX_RANKS]:
            events += self._rank(rank, pid, program, children, stamp)
        events += self._counts(ranks, stamp)
        self._gpus()
        return events

    def _suspicion(self) -> float:
        cadence = self._session.run.cadence
        least, loading = SUSPICION_SECONDS
        usual = cadence.usual
        if cadence.phase != "train" or usual is None:
            return loading
        return max(least, SUSPICION * usual)

    def _rank(
        self, rank: int, pid: int, program: str | None, children: Mapping[int, list[int]], stamp: float
    ) -> list[Event]:
        seen = processes.look(pid, children=children)
        kind = processes.kind(seen.state)
        text, why = ("", "") if program is None or kind in ("dead", "gone") else pyspy.dump(program, pid)
        self.why_not = why or self.why_not
        place = pyspy.place(pyspy.parse(text)) or pyspy.Place("", "")
        before = self._places.get(rank) if len(self._times) > 1 else None
        spent = self._seen.get(rank) if len(self._times) > 1 else None
        path = self._write(
            f"stack-rank{rank}.txt",
            "\n".join([f"rank {rank} at {_clock(stamp)}", *seen.lines(spent), why, "", text]) + "\n",
        )
        frame = place.frame or f"state {seen.state}" + (f", {seen.wchan}" if seen.wchan not in ("", "0") else "")
        facts: dict[str, Scalar] = {
            f"stack.{rank}": frame,
            f"stack_kind.{rank}": kind or place.kind or ("disk" if seen.state == "D" else ""),
            f"stack_phase.{rank}": place.phase,
            f"stack_moved.{rank}": before is not None and before != place,
            f"stack_still.{rank}": spent is not None and before == place and seen.cpu - spent.cpu < STILL_TICKS,
        }
        self._seen[rank], self._places[rank] = seen, place
        return [self._fact(path, name, value, stamp, rank) for name, value in facts.items()]

    def _counts(self, ranks: Mapping[int, int], stamp: float) -> Iterable[Event]:
        """Who is behind by NCCL's own count: RAS first, it needs nothing; then the flight recorder."""
        environ = self._environ or read_environ(next(iter(ranks.values()), 0)) or {}
        behind, by, path = self._by_ras(environ)
        waiting = ""
        if not behind:
            behind, waiting, path = self._by_flight(environ, ranks)
            by = "the flight recorder"
        if not behind:
            return []
        facts = {"behind.ranks": ",".join(map(str, behind)), "behind.by": by, "behind.collective": waiting}
        return [self._fact(path, name, value, stamp) for name, value in facts.items() if value]

    def _by_ras(self, environ: Mapping[str, str]) -> tuple[tuple[int, ...], str, str]:
        if environ.get("NCCL_RAS_ENABLE") == "0":
            return (), "", ""
        try:
            answer = nccl_ras.ask(environ.get("NCCL_RAS_ADDR") or nccl_ras.ADDRESS, 3.0)
        except (OSError, ValueError):
            return (), "", ""
        found = nccl_ras.parse(answer)
        before, self._ras = self._ras, found
        path = self._write("nccl-ras.txt", answer)
        return (nccl_ras.behind(before, found) if len(self._times) > 1 else ()), "NCCL's RAS", path

    def _by_flight(self, environ: Mapping[str, str], ranks: Mapping[int, int]) -> tuple[tuple[int, ...], str, str]:
        pipe = environ.get("TORCH_NCCL_DEBUG_INFO_PIPE_FILE")
        prefix = environ.get("TORCH_FR_DUMP_TEMP_FILE") or environ.get("TORCH_NCCL_DEBUG_INFO_TEMP_FILE")
        if pipe and len(self._times) == 1:
            self._asked = time.time()
            for rank in ranks:
                flight_recorder.ask(pipe, rank)
        if not prefix or not self._asked or len(self._times) < 2:
            return (), "", ""
        folder = Path(prefix).parent
        dumps = {}
        for rank, path in flight_recorder.find(folder, self._asked - 1.0).items():
            with contextlib.suppress(flight_recorder.BadDump):
                dumps[rank] = flight_recorder.read_file(path)
        found = flight_recorder.behind(dumps)
        return (tuple(found[0]), found[1], str(folder)) if found else ((), "", "")

    def _gpus(self) -> None:
        latest = [dataclasses.asdict(sample) for sample in self._session.run.gpu_latest.values()]
        if latest:
            self._write("gpus.json", json.dumps(latest, indent=1, default=str))

    def _fact(self, path: str, name: str, value: Scalar, stamp: float, rank: int | None = None) -> Event:
        return FactLearned(Origin(path, rank=rank, time=stamp, order=self._session.next_order()), name, value)

    def _write(self, name: str, text: str) -> str:
        """Keep a file; a full disk does not end the look."""
        if self._folder is None:
            return name
        path = self._folder / name
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{name}.part")
            partial.write_text(text, encoding="utf-8", errors="replace")
            os.replace(partial, path)
        return str(path)


class Forensics:
    """A witness (`launch.witness`): looks at a silent run, and at what a crash left."""

    def __init__(self) -> None:
        self._looks: Looks | None = None
        self._said = ""
        self._alarm = ""

    def looked(self, scene: Scene, diagnosis: Diagnosis) -> None:
        """Look when it is time."""
        session = scene.live.session
        if self._looks is None:
            self._looks = Looks(session, scene.evidence, scene.plan.environment)
        now = time.monotonic()
        alarm = next((f for f in diagnosis.findings if f.id == "hang"), None)
        if self._looks.due(now, alarm is not None):
            self._look(scene, now)
        self._record(session, alarm.severity if alarm is not None else "")

    def stopping(self, scene: Scene, reason: str) -> None:
        """A run that is stopped in the middle of a silence is looked at once more."""
        silence = scene.live.session.run.cadence.silence
        if self._looks is not None and silence is not None and silence >= SUSPICION_SECONDS[0]:
            self._look(scene, time.monotonic())

    def ended(self, scene: Scene, code: int) -> None:
        """Keep what tells why."""
        if code != 0:
            scene.live.session.apply(after_crash(scene.live.session, scene.evidence, scene.plan.folder, code))

    def _record(self, session: Session, severity: str) -> None:
        """Keep that a hang was found: what ends the run afterwards does not undo it."""
        silence = session.run.cadence.silence
        if severity and severity != self._alarm and silence is not None:
            origin = Origin("forensics", time=time.time(), order=session.next_order())
            session.apply([FactLearned(origin, "hang.seconds", float(silence))])
        self._alarm = severity

    def _look(self, scene: Scene, now: float) -> None:
        assert self._looks is not None
        found = scene.ranks()
        if not found:
            return
        session = scene.live.session
        session.apply(self._looks.look(found, now, time.time()))
        odd = standing.culprit(session.run)
        text = odd.words if odd is not None else standing.shared(session.run)
        text = text or f"stacks of {len(found)} ranks are in {scene.evidence}"
        if self._looks.why_not:
            text += f" ({self._looks.why_not})"
        if text != self._said:
            self._said = text
            scene.say(f"no sign of life for {session.run.cadence.silence or 0:.0f} s: {text}")


def _clock(stamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(stamp))
