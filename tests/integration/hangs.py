"""One hang of a real two-rank run under `ftdoctor launch`: made, watched, ended. Used by the tests and tools/repeat_hang.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.rigs import RigFolder

PATIENCE = 420.0
KINDS = ("stopped", "data", "uneven", "killed")


@dataclass
class Story:
    """What ftdoctor said. `seconds`: from the last step of the run to the finding, on ftdoctor's own record."""

    finding: dict[str, Any] | None
    stderr: str
    run: Path
    seconds: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def play(rig: RigFolder, kind: str, rank: int = 1, step: int = 12) -> Story:
    """Start the run, break it, wait until ftdoctor has said what it is, end it gently."""
    shutil.copy(Path(__file__).with_name("stall.py"), rig.folder / "stall.py")
    stalls = kind in ("data", "uneven")
    plugins = ["cpu_rig.CpuRig", *(["stall.Stall"] if stalls else [])]
    rig.config(
        deepspeed="./deepspeed_z3.json",
        max_steps=50 if kind == "uneven" else 2000,  # 50 are one epoch: the loop ends with the loader
        save_steps=5000,
        eval_steps=None,
        val_set_size=0,
        plugins=plugins,
    )
    extra = {"STALL": kind, "STALL_RANK": str(rank), "STALL_STEP": str(step)} if stalls else {}
    process = rig.ftdoctor(
        "launch", "config.yml", "--launcher", "torchrun", "--processes", "2", "--python", rig.python, "--name", "r",
        "--no-gpu", env=extra, stdout=subprocess.DEVNULL, stderr=(rig.folder / "said.txt").open("w"),
    )  # fmt: skip
    run = rig.folder / "ftdoctor-runs/r"
    try:
        if not stalls:
            _until(lambda: (run / "train.log").read_text(errors="replace").count("'loss'") >= step, process)
            victim = _pid(run, rank)
            os.kill(victim, signal.SIGSTOP if kind == "stopped" else signal.SIGKILL)
        if kind == "killed":
            process.wait(PATIENCE)
        else:
            _until(lambda: "error: hang:" in (rig.folder / "said.txt").read_text(), process)
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
    diagnosis = json.loads((run / "diagnosis.json").read_text()) if (run / "diagnosis.json").is_file() else {}
    found = next((f for f in diagnosis.get("findings", ()) if f["id"] == "hang"), None)
    if kind == "killed":
        found = diagnosis.get("root_cause")
    return Story(found, (rig.folder / "said.txt").read_text(), run, silence(run), diagnosis)


def silence(run: Path) -> float | None:
    """Seconds of silence when the hang was called certain, as ftdoctor's line says."""
    import re

    found = re.search(r"error: hang: no sign of life for (\d+) s", (run.parent.parent / "said.txt").read_text())
    return float(found[1]) if found else None


def _pid(run: Path, rank: int) -> int:
    from ftdoctor.launch.child import MARK, ranks

    environ = json.loads((run / "run.json").read_text())["added"]
    return ranks(environ[MARK])[rank]


def _until(condition: Any, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        if process.poll() is not None:
            return
        time.sleep(0.2)
    print("no answer in time", file=sys.stderr)
