"""One run from start to report: start it, pass its output on, judge, act, say how it ended."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ftdoctor.errors import InputError
from ftdoctor.launch import keeping
from ftdoctor.launch.checkpoints import last_checkpoint
from ftdoctor.launch.child import Child, readers
from ftdoctor.launch.forensics import Forensics
from ftdoctor.launch.onscreen import ShownSession
from ftdoctor.launch.plan import Plan
from ftdoctor.launch.policy import Policy
from ftdoctor.launch.room import Room
from ftdoctor.launch.stopping import CHECKPOINT_SECONDS, Stopper, ask_for_checkpoint
from ftdoctor.launch.witness import Scene, Witness
from ftdoctor.sources.files import CUT, Damaged, Input
from ftdoctor.sources.structured import read_safetensors

if TYPE_CHECKING:
    from ftdoctor.faces.tui.launched import LaunchScreen
    from ftdoctor.findings import Diagnosis, Finding
    from ftdoctor.ruleset.types import RuleSet

# SLURM announces the end of a job with SIGUSR1 or SIGUSR2 (--signal) or SIGCONT and SIGTERM
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LOOK_SECONDS = 0.25
DISK_SECONDS = 1.0
READERS_SECONDS = 3.0  # for the last words of the ranks, which may come after the launcher's end


@dataclass(frozen=True, slots=True)
class Settings:
    """How to watch: `gpus` asks NVML, `fail_on` is the severity from which on the run counts as failed.

    `screen` shows the run on the screen of `watch` instead of passing its output on; `quiet` does neither.
    `stop_file`, once it is there, ends the run as a signal does; `patience` are the seconds that a checkpoint may take.
    """

    gpus: bool = True
    fail_on: str = "error"
    screen: bool = False
    quiet: bool = False
    stop_file: Path | None = None
    patience: float = CHECKPOINT_SECONDS


@dataclass(frozen=True, slots=True)
class Ended:
    """How an attempt ended. `code`: the trainer's exit code, negative for a signal; `started`: seconds since 1970."""

    code: int
    diagnosis: Diagnosis
    child: Child
    deepspeed: Path | None
    stopped_for: str
    signalled: bool

    @property
    def failed(self) -> bool:
        """The run failed by itself, or was stopped because of a finding; a signal from outside is no failure."""
        return not self.signalled and (self.code != 0 or bool(self.stopped_for))


class Launch:
    """One run from start to report."""

    def __init__(
        self,
        plan: Plan,
        rules: RuleSet,
        policy: Policy,
        settings: Settings = Settings(),
        witnesses: Sequence[Witness] | None = None,
        heading: Sequence[str] = (),
    ) -> None:
        """`witnesses` look on; by default the forensics of hangs and crashes. `heading` goes on top of the report."""
        self.plan, self.rules, self.policy, self.settings = plan, rules, policy, settings
        self.witnesses: Sequence[Witness] = [Forensics()] if witnesses is None else witnesses
        self.heading = tuple(heading)
        self.signals: list[int] = []
        self.reason = ""
        self.ended: Ended | None = None
        self._done: set[str] = set()
        self._failed: set[str] = set()
        self._copied = 0
        self._stopper: Stopper | None = None
        self._scene: Scene | None = None
        self._screen: LaunchScreen | None = None
        self._said: list[str] = []
        self._room = Room(plan.log)
        self._looked = float("-inf")

    def run(self) -> int:
        """Start, watch, report; the exit code.

        Raises:
            InputError: the program cannot be started.
        """
        gc.freeze()  # the rules live as long as the process
        try:
            keeping.begin(self.plan)
            self.plan.log.touch()
        except OSError as error:
            raise InputError(
                f"cannot be made: {error.strerror}", str(self.plan.folder), "free some space, or give another --runs"
            ) from None
        if told := self._room.look():  # before the first line is written
            self.say(told)
        try:
            child = Child(self.plan)
        except OSError as error:
            raise InputError(
                f"cannot be started: {error.strerror}", self.plan.command[0], "check the name, or give --python"
            ) from None
        for number in SIGNALS:
            signal.signal(number, self._signalled)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, self._hung_up)
        self.say(f"run folder {self.plan.folder}, process {child.pid}")
        if self.plan.python is not None:
            self.say(f"training python {self.plan.python.path} ({self.plan.python.how})")
        for note in (*self.plan.notes, *self.heading):
            self.say(note)
        paths = [str(self.plan.log), str(self.plan.folder / "nccl"), *map(str, self.plan.files)]
        journal = self.plan.folder / "journal.jsonl"
        beats = self.plan.folder / "heartbeat" if self.plan.heartbeat else None
        live = ShownSession(self.rules, paths, journal, machine=True, gpus=self.settings.gpus, heartbeats=beats)
        scene = self._scene = Scene(self.plan, child, live, self.say)
        if self.settings.screen and self._show(scene, live) == "background":
            live.finish()
            self.say(f"the run goes on as process {child.pid}; see `ftdoctor watch {self.plan.folder}`")
            return 0
        self._watch(scene)
        return self._report(scene)

    # -- while it runs -------------------------------------------------------------------------------------------

    def _show(self, scene: Scene, live: ShownSession) -> str:
        """The screen, until the run has ended or the user leaves it; what becomes of the run then."""
        from ftdoctor.faces.tui.launched import LaunchScreen

        live.act = lambda changed: self._acted(scene, changed)
        live.over = lambda: scene.child.code is not None and (self._stopper is None or self._stopper.over)
        self._screen = LaunchScreen(live, str(self.plan.folder), lambda: self.signals.append(signal.SIGINT))
        try:
            return self._screen.show()
        finally:
            self._screen, live.act = None, None
            self._copied = self.plan.log.stat().st_size  # it was on the screen
            said, self._said = self._said, []
            for text in said:
                self.say(text)

    def _watch(self, scene: Scene) -> None:
        from ftdoctor.sources.follow import Watcher

        watcher = Watcher([str(self.plan.log)])
        try:
            while scene.child.code is None and not (self._stopper and self._stopper.over):
                self._step(scene)
                if not scene.live.behind:
                    watcher.wait(LOOK_SECONDS)
            while self._stopper and not self._stopper.over:  # the launcher has gone, ranks may be left
                self._step(scene)
                time.sleep(LOOK_SECONDS)
            end = time.monotonic() + READERS_SECONDS
            while self.plan.heartbeat and readers(self.plan.run_id) and time.monotonic() < end:
                time.sleep(0.05)
            for _ in range(3):
                self._step(scene)
        finally:
            watcher.close()

    def _step(self, scene: Scene) -> None:
        """Read, pass on, judge, act."""
        self._pass_on()
        self._acted(scene, scene.live.step(time.monotonic(), time.time()))

    def _acted(self, scene: Scene, changed: bool) -> None:
        """Judge what is new, and do what the policy and the user ask for."""
        if time.monotonic() - self._looked >= DISK_SECONDS:
            self._look_at_disk(scene)
        if changed:
            diagnosis = scene.live.diagnosis()
            self._ask("looked", scene, diagnosis)
            for finding in diagnosis.findings:
                self._act(scene, finding)
            self._miss_heartbeat(scene)
        if self._stopper is None and self.settings.stop_file is not None and self.settings.stop_file.exists():
            self.say(f"asked to end the run ({self.settings.stop_file})")
            self.signals.append(signal.SIGUSR1)
        if (self.signals or self.reason) and self._stopper is None:
            self._ask("stopping", scene, self.reason or signal.Signals(self.signals[0]).name)
            self._stopper = Stopper(scene.child, self.say, self.settings.patience)
        if self._stopper is not None:
            self._stopper.advance(time.monotonic(), hurry=len(self.signals) > 1)

    def _look_at_disk(self, scene: Scene) -> None:
        """Keep room for the log, and say it when the disk is full."""
        self._looked = time.monotonic()
        if told := self._room.look():
            self.say(told)
        journal = scene.live.session.journal
        if journal is not None and journal.failed and "journal" not in self._done:
            self._done.add("journal")
            self.say("the journal cannot be written any more; what is known comes from the log")

    def _act(self, scene: Scene, finding: Finding) -> None:
        action = self.policy.action(finding)
        if action == "ignore" or f"{finding.id}:{finding.severity}" in self._done:
            return
        self._done.add(f"{finding.id}:{finding.severity}")
        name = finding.id
        if finding.explained_by is None:
            self.say(f"{finding.severity}: {name}: {finding.message}")
        if action == "checkpoint":
            asked = ask_for_checkpoint(scene.child)
            self.say(
                f"asked for a checkpoint because of {name}" if asked else "no checkpoint: dynamic_checkpoint is not on"
            )
        if action == "stop" and not self.reason:
            self.reason = name
            self.say(f"stopping the run because of {name} (--on-finding {name}=notify lets it go on)")

    def _miss_heartbeat(self, scene: Scene) -> None:
        """Axolotl goes on without a plugin that it cannot import: say that a heartbeat never came."""
        run = scene.live.session.run
        if not self.plan.heartbeat or "heartbeat" in self._done or "loss" not in run.series or run.cadence.steps < 5:
            return
        local = set(scene.ranks()) or set(range(self.plan.processes or 1))
        missing = sorted(local - run.beats.keys())
        self._done.add("heartbeat")
        if missing:
            who = "" if len(missing) == len(local) else f" of rank {', '.join(map(str, missing))}"
            self.say(f"info: training runs without a heartbeat{who}; its plugin was not loaded (see the log)")

    def _ask(self, what: str, scene: Scene, detail: object) -> None:
        """Let every witness do its work; what it cannot do must not harm the run."""
        for witness in self.witnesses:
            try:
                getattr(witness, what)(scene, detail)
            except Exception as error:  # a boundary: whatever goes wrong there, the run is watched on
                name = f"{type(witness).__name__}.{what}"
                if name not in self._failed:
                    self._failed.add(name)
                    self.say(f"{name} failed and is left out: {type(error).__name__}: {error}")

    def _pass_on(self) -> None:
        """What the run wrote, byte by byte, to our own output."""
        if self.settings.quiet:
            return
        try:
            with self.plan.log.open("rb") as log:
                log.seek(self._copied)
                while data := log.read(1 << 16):
                    self._copied += len(data)
                    sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except (BrokenPipeError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nobody reads any more: the run goes on
        except OSError:
            pass

    def _signalled(self, number: int, _frame: object) -> None:
        self.signals.append(number)

    def _hung_up(self, _number: int, _frame: object) -> None:
        """The terminal has gone, as when ssh breaks off: the run is watched on."""
        empty = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            if _gone(number):
                os.dup2(empty, number)
        if self._screen is not None:
            self._screen.leave()

    def say(self, text: str) -> None:
        """A line of ours, to standard error; nobody need be there to read it. A screen shows it, and it comes later."""
        if self._screen is not None:
            self._said.append(text)
            self._screen.say(text)
            return
        with contextlib.suppress(OSError, ValueError):
            print(f"ftdoctor: {text}", file=sys.stderr, flush=True)

    def _look_at_weights(self, scene: Scene, code: int) -> None:
        """An exit code of 0 proves nothing: what was saved must hold tensors, and the trainer must have said so."""
        run, output = scene.live.session.run, self.plan.output_dir
        if self.plan.config is None or output is None:
            return
        weights = self.plan.cwd / output / "adapter_model.safetensors"
        try:
            fresh = weights.stat().st_mtime >= scene.child.started
        except OSError:
            fresh = False
        if fresh:
            item = Input(str(weights), "safetensors", given=False)
            with contextlib.suppress(OSError, Damaged):
                scene.live.session.apply(read_safetensors(item, scene.live.session.orders))
        if code == 0 and not run.fact("saved") and not self.signals and not self.reason:
            self.say("the run ended with exit code 0 but never said that it saved the model")

    # -- how it ended --------------------------------------------------------------------------------------------

    def _how_it_was_ended(self) -> list[str]:
        """Of a run that did not end by itself: by what, and what there is to go on from."""
        if not (self.signals or self.reason):
            return []
        asked = self.reason or signal.Signals(self.signals[0]).name
        output, child = self.plan.output_dir, self._scene.child if self._scene else None
        found = last_checkpoint(self.plan.cwd / output, child.started) if output is not None and child else None
        left = f"; its last checkpoint is {found}" if found else "; it left no checkpoint" if output is not None else ""
        return [f"the run was ended by ftdoctor because of {asked}{left}"]

    def _report(self, scene: Scene) -> int:
        from ftdoctor.events import ExitSeen, FactLearned, Origin
        from ftdoctor.faces import json_face
        from ftdoctor.faces.redact import redacted
        from ftdoctor.faces.text import render

        child, live = scene.child, scene.live
        self._pass_on()
        code = child.code if child.code is not None else -9
        stopped = bool(self.signals or self.reason)
        self._ask("ended", scene, code)
        self._look_at_weights(scene, code)
        origin = Origin("launch", time=time.time(), order=live.session.next_order())
        if self.reason:
            live.session.apply([FactLearned(origin, "stopped_for", self.reason)])
        if code != 0 and not stopped:
            live.session.apply([ExitSeen(origin, code, None, child.pid, "launcher")])
        diagnosis: Diagnosis = live.finish()
        self._room.give_back()
        if live.session.journal is not None and live.session.journal.failed:
            with contextlib.suppress(OSError):  # half a journal must not stand for the run
                live.session.journal.path.rename(self.plan.folder / CUT)
        deepspeed = live.session.run.configs.get("deepspeed")
        place = Path(deepspeed.origin.path) if deepspeed else None
        self.ended = Ended(code, diagnosis, child, place, self.reason, bool(self.signals))
        shown = redacted(diagnosis)
        above = [*self.heading, *self._how_it_was_ended()]
        text = "".join(f"{line}\n" for line in above) + ("\n" if above else "") + render(shown)
        ending = {"code": code, "stopped_for": self.reason or None, "signalled": bool(self.signals)}
        for name, value in (
            ("exit.json", ending),
            ("diagnosis.json", json_face.render(shown)),
            ("report.txt", text),
        ):
            try:
                keeping.write(self.plan.folder / name, value)
            except OSError as error:
                self.say(f"{name} could not be kept: {error.strerror}")
        with contextlib.suppress(OSError, ValueError):
            print("\n" + text, file=sys.stderr)
        self.say(f"exit code of the run: {code}; everything is in {self.plan.folder}")
        if code == 0 or stopped:
            return diagnosis.exit_code(self.settings.fail_on)
        return code if code > 0 else 128 - code


def _gone(number: int) -> bool:
    """A terminal, also one that has hung up and answers nothing but errors."""
    try:
        return stat.S_ISCHR(os.fstat(number).st_mode)
    except OSError:
        return True
