"""The screen of `ftdoctor launch`: on a real terminal the run is watched, stopped, left, or ends by itself."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("textual")
ROOT = Path(__file__).resolve().parents[3]
TRAIN = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *a: (print("GOT SIGTERM", flush=True), sys.exit(0)))
for n in range(int(sys.argv[1])):
    print({"loss": f"{2 - n / 500:.3f}", "grad_norm": "0.8", "learning_rate": "0.0002", "epoch": "0.1"}, flush=True)
    time.sleep(0.2)
print("ENDED", flush=True)
"""


class Terminal:
    """`ftdoctor launch` of a small trainer of so many steps on a terminal of its own; `drawn` is all it wrote there."""

    def __init__(self, folder: Path, steps: int, hangup: signal.Handlers = signal.SIG_DFL) -> None:
        (folder / "train.py").write_text(TRAIN)
        self.run = folder / "ftdoctor-runs/r"
        self.drawn = b""
        self.near, far = pty.openpty()
        command = [sys.executable, "-m", "ftdoctor", "launch", "--no-gpu", "--name", "r", "--", sys.executable]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
        self.process = subprocess.Popen(
            [*command, "train.py", str(steps)], cwd=folder, env=env, stdin=far, stdout=far, stderr=far,
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup) and None,
        )  # fmt: skip
        os.close(far)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.near, 1 << 16):
                self.drawn += data

    def press(self, key: str) -> None:
        os.write(self.near, key.encode())

    def shows(self, text: str) -> None:
        wait(lambda: text.encode() in self.drawn, text)

    @property
    def log(self) -> str:
        with contextlib.suppress(OSError):
            return (self.run / "train.log").read_text()
        return ""

    def exit(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.run / "exit.json").read_text())
        return found


def wait(wanted: Callable[[], object], what: str, seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def begin(steps: int, hangup: signal.Handlers = signal.SIG_DFL) -> Terminal:
        made.append(Terminal(tmp_path, steps, hangup))
        return made[0]

    yield begin
    for one in made:
        one.process.kill()
        one.process.wait()
        with contextlib.suppress(OSError, ValueError, KeyError):
            mark = json.loads((one.run / "run.json").read_text())["added"]["FTDOCTOR_RUN_ID"]
            from ftdoctor.launch.child import marked

            for pid in marked(mark):
                os.kill(pid, signal.SIGKILL)


def test_q_asks_and_s_stops_gently(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(3000)
    seen.shows("Overview")
    seen.press("q")
    seen.shows("still going on")
    seen.press("s")
    assert seen.process.wait(90) == 1
    assert "GOT SIGTERM" in seen.log
    assert seen.exit()["signalled"]
    seen.shows("SIGTERM to the launcher")  # said again in the plain terminal, with the report
    assert "'loss'" not in seen.drawn.decode(errors="replace").rpartition("SIGTERM to the launcher")[2]


def test_left_in_the_background_it_runs_on(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(60)
    seen.shows("Overview")
    seen.press("q")
    seen.shows("still going on")
    seen.press("b")
    assert seen.process.wait(90) == 0
    seen.shows("the run goes on as process")
    wait(lambda: "ENDED" in seen.log, "the end of the run")


def test_a_closed_terminal_ends_the_screen_and_not_the_run(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(40)
    seen.shows("Overview")
    os.close(seen.near)
    seen.process.send_signal(signal.SIGHUP)
    assert seen.process.wait(90) == 0
    assert "ENDED" in seen.log
    assert seen.exit() == {"code": 0, "stopped_for": None, "signalled": False}


def test_a_terminal_that_goes_while_hangups_are_ignored_ends_the_screen_too(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(40, signal.SIG_IGN)  # as nohup does
    seen.shows("Overview")
    os.close(seen.near)
    assert seen.process.wait(90) == 0
    assert "ENDED" in seen.log
    assert seen.exit() == {"code": 0, "stopped_for": None, "signalled": False}


def test_ctrl_c_is_a_gentle_stop_and_the_end_closes_the_screen(terminal: Callable[..., Terminal]) -> None:
    seen = terminal(3000)
    seen.shows("Overview")
    seen.press("\x03")
    assert seen.process.wait(90) == 1
    assert "GOT SIGTERM" in seen.log
    assert seen.exit()["signalled"]
