"""Run real Axolotl in a scratch folder and keep what it printed.

The training environment is another virtual environment (`--venv`); nothing of it is imported here. Streams are merged
as a terminal would show them, progress bars included. Absolute paths and host names are neutralised, nothing else is
changed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RIG = Path(__file__).resolve().parent / "rig"
TIMEOUT = 240.0
MARK = "FTDOCTOR_RECORDED_RUN"
BUILD = "from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder as B; B().load(verbose=False)"
Meddle = Callable[["Running"], None]


@dataclass
class Running:
    """A started run, for the fault that is injected while it goes on."""

    process: subprocess.Popen[bytes]
    log: Path
    folder: Path

    def wait_for(self, text: str, seconds: float = 120.0) -> None:
        """Wait until the log holds `text`, or the run ended."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if text in self.log.read_text(errors="replace"):
                return
            time.sleep(0.1)

    def rank(self, number: int) -> int:
        """Process id of a rank: the child of the launcher whose environment says so."""
        for place in Path("/proc").iterdir():
            if place.name.isdigit() and int(place.name) != self.process.pid:
                try:
                    environment = (place / "environ").read_bytes().split(b"\0")
                    parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                except (OSError, ValueError, IndexError):
                    continue
                if f"LOCAL_RANK={number}".encode() in environment and parent == self.process.pid:
                    return int(place.name)
        raise RuntimeError(f"rank {number} not found")


class Rig:
    """A scratch folder with the tiny model, and the environment to train in."""

    def __init__(self, venv: Path, folder: Path) -> None:
        """Prepare `folder`: copy the rig's files, make the model once."""
        self.venv = venv.resolve()  # as torchrun's own first line names it: compiled operators depend on the path
        self.folder = folder
        self._extensions = folder / "torch_extensions"
        folder.mkdir(parents=True, exist_ok=True)
        for file in RIG.iterdir():
            if file.is_file():
                shutil.copy(file, folder)
        if not (folder / "tiny" / "model.safetensors").is_file():
            self.call(["python", "make_model.py"])

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        """The variables that make the rig train on CPU ranks."""
        env = dict(os.environ)
        env.update(
            PATH=f"{self.venv / 'bin'}:{env['PATH']}", PYTHONPATH=".", AXOLOTL_DO_NOT_TRACK="1", HF_HUB_OFFLINE="1",
            CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu", ACCELERATE_TORCH_DEVICE="cpu",
                COLUMNS="120", OMP_NUM_THREADS="1",
            PYTHONUNBUFFERED="1", TORCH_EXTENSIONS_DIR=str(self._extensions),
        )  # fmt: skip
        env.update(extra)
        return env

    def warm(self) -> None:
        """Build DeepSpeed's operator for CPU ranks, once, in a folder of this rig alone.

        In the folder that everybody shares, the lock that a killed build left makes every later run wait forever.
        What was built there is taken over where it is whole: ninja sees for itself whether it fits.
        """
        if self._extensions.is_dir():
            return
        shared = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions")
        built = [p for p in shared.glob("**/deepspeed_shm_comm.so") if not (p.parent / "lock").exists()]
        if built:
            newest = max(built, key=lambda p: p.stat().st_mtime)
            shutil.copytree(newest.parent, self._extensions / newest.parent.name)
        self.call(["python", "-c", BUILD])

    def call(self, command: Sequence[str]) -> None:
        """Run to the end, quietly.

        Raises:
            CalledProcessError: it failed.
        """
        subprocess.run(command, cwd=self.folder, env=self.environment({}), check=True, capture_output=True)

    def run(
        self, command: Sequence[str], env: Mapping[str, str], meddle: Meddle | None, prefix: Sequence[str] = ()
    ) -> tuple[str, int]:
        """Run a command, meddle with it, and give (merged output, exit code).

        Everything it started is ended afterwards.
        """
        self.warm()
        log = self.folder / "train.log"
        mark = f"{MARK}={uuid.uuid4().hex}"
        with log.open("wb") as handle:
            process = subprocess.Popen(
                [*prefix, *command], cwd=self.folder, env=self.environment({**env, MARK: mark.partition("=")[2]}),
                stdout=handle, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
            try:
                if meddle is not None:
                    meddle(Running(process, log, self.folder))
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                end_marked(mark)
                process.wait()
        return self.neutral(log.read_text(errors="replace")), process.returncode

    def neutral(self, text: str) -> str:
        """Paths and host names of this machine replaced."""
        real = re.escape(str(self.venv.resolve())) + "|" + re.escape(str(self.venv))
        text = re.sub(real, "/opt/venv", text)
        text = text.replace(str(self.folder.resolve()), "/home/user/ft").replace(str(self.folder), "/home/user/ft")
        text = re.sub(re.escape(str(Path.home())) + r"(?=/|\b)", "/home/user", text)
        return re.sub(rf"\b{re.escape(os.uname().nodename)}\b", "node-0", text)


def end_marked(mark: str) -> None:
    """Kill what carries the run's mark in its environment.

    Torchrun gives every rank a session of its own, so no group signal reaches it.
    """
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark.encode() in (place / "environ").read_bytes().split(b"\0"):
                    os.kill(int(place.name), signal.SIGKILL)


def versions(venv: Path) -> dict[str, str]:
    """Versions of the packages that print the log."""
    code = (
        "import importlib.metadata as m, platform, json; print(json.dumps({'python': platform.python_version(), "
        "**{n: m.version(n) for n in ('axolotl','torch','transformers','deepspeed','accelerate',"
        "'peft','datasets','trl')}}))"
    )
    done = subprocess.run([venv / "bin" / "python", "-c", code], capture_output=True, text=True, check=True)
    import json

    result: dict[str, Any] = json.loads(done.stdout)
    return result
