"""A training run under `ftdoctor launch`, shown in a few lines; a signal goes into it where the fault asks for it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ftdoctor.demo.faults import Fault

SHOW_SECONDS = 5.0
HANG_PATIENCE = 240.0  # until a hang must have been found
LOOK_SECONDS = 0.5
_SHOWN = ("error: ", "warning: ", "stopping", "no sign of life", "SIGTERM", "SIGKILL", "asked for")


class Watched:
    """`command` is `ftdoctor launch ... --name NAME` in `folder`."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        name: str,
        environment: Mapping[str, str],
        say: Callable[[str], None],
    ) -> None:
        self.command, self.folder, self.environment, self.say = command, folder, environment, say
        self.log = folder / "ftdoctor-runs" / name / "train.log"
        self.began = time.monotonic()
        self.hung = threading.Event()

    def run(self, fault: Fault | None) -> int:
        """To the end; the exit code of launch. An interrupt ends the run first."""
        process = subprocess.Popen(
            self.command, cwd=self.folder, env=dict(self.environment), stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        reader = threading.Thread(target=self._pass_on, args=(process,), daemon=True)
        reader.start()
        try:
            self._follow(process, fault)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(90)
            raise
        reader.join(10)
        return process.wait()

    def _pass_on(self, process: subprocess.Popen[str]) -> None:
        """What ftdoctor says while it watches; its report comes at the end and is shown from the run folder."""
        assert process.stderr is not None
        for line in process.stderr:
            text = line.rstrip().removeprefix("ftdoctor: ")
            if line.startswith("ftdoctor: ") and text.startswith(_SHOWN):
                self.say(f"    {self._clock()} ftdoctor: {text}")
            if "error: hang:" in line:
                self.hung.set()

    def _clock(self) -> str:
        return f"{time.monotonic() - self.began:4.0f} s"

    def _follow(self, process: subprocess.Popen[str], fault: Fault | None) -> None:
        from ftdoctor.live import LiveSession
        from ftdoctor.ruleset.load import load

        live = LiveSession(load(), [str(self.log)])
        shown = time.monotonic()
        self.say(f"    {self._clock()} Axolotl starts (imports, model, data)")
        sent = 0.0
        while process.poll() is None:
            live.step(time.monotonic(), time.time())
            loss = live.session.run.series.get("loss")
            trains = loss is not None and len(loss) > 3
            if fault is not None and fault.signal and trains and not sent:
                sent = self._send(fault)
            if trains and loss is not None and time.monotonic() - shown >= SHOW_SECONDS:
                shown = time.monotonic()
                step, total = live.session.run.last_step, live.session.run.total_steps
                self.say(f"    {self._clock()} step {step or 0:.0f} of {total or 0:.0f}, loss {loss.values[-1]:.3g}")
            if sent and fault is not None and not fault.ends_itself:
                if self.hung.is_set() or time.monotonic() - sent > HANG_PATIENCE:
                    self.say(f"    {self._clock()} the run is ended (SIGTERM to ftdoctor)")
                    process.send_signal(signal.SIGTERM)
                    process.wait()
            time.sleep(LOOK_SECONDS)
        live.finish()

    def _send(self, fault: Fault) -> float:
        pid = self._rank(fault.rank)
        if pid is not None:
            os.kill(pid, fault.signal)
            self.say(f"    {self._clock()} {signal.Signals(fault.signal).name} to rank {fault.rank} (process {pid})")
        return time.monotonic()

    def _rank(self, number: int) -> int | None:
        """The process of a rank, found as launch finds it: by the mark in its environment."""
        from ftdoctor.launch.child import ranks
        from ftdoctor.launch.plan import MARK

        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                with contextlib.suppress(OSError):
                    environ = (place / "environ").read_bytes().split(b"\0")
                    here = str(self.log.parent.resolve()).encode()
                    mark = next((e for e in environ if e.startswith(f"{MARK}=".encode())), None)
                    if mark and any(e.startswith(b"TORCHELASTIC_ERROR_FILE=" + here) for e in environ):
                        return ranks(mark.partition(b"=")[2].decode()).get(number)
        return None
