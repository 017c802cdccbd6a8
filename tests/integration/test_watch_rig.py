"""`ftdoctor watch` beside a real two-rank training run: three watchers of one run, and the run does not notice them."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
from collections.abc import Callable

import pytest

from ftdoctor.live import replayed
from ftdoctor.ruleset.load import load
from tests.integration.rigs import RigFolder

PATIENCE = 200.0
STEPS = 12


@pytest.mark.rig
def test_a_real_run_is_watched_from_its_log_its_process_and_its_folder(
    rig: RigFolder, wait_for: Callable[..., None]
) -> None:
    rig.config(max_steps=STEPS, save_steps=6, output_dir="./watched")
    log, journal = rig.folder / "watched/train.log", rig.folder / "journal.jsonl"
    log.parent.mkdir()
    quiet = ("--headless", "--no-gpu")
    by_log = rig.ftdoctor("watch", str(log), *quiet, "--format", "jsonl", "--journal", str(journal))
    command = [rig.torchrun, "--nproc_per_node", "2", "-m", "axolotl.cli.train", "config.yml"]
    with log.open("w") as handle:
        trainer = subprocess.Popen(
            command, cwd=rig.folder, env=rig.environment(), stdout=handle, stderr=subprocess.STDOUT
        )
    by_pid = rig.ftdoctor("watch", str(trainer.pid), *quiet)
    main, end = pty.openpty()
    screen = rig.ftdoctor(
        "watch", "watched", "--no-gpu", stdin=end, stdout=end, stderr=end,
        env={"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"},
    )  # fmt: skip
    os.close(end)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(main, 1 << 16)
            except OSError:  # how a terminal on Linux says that nobody writes to it any more
                return
            shown.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()

    assert trainer.wait(PATIENCE) == 0, log.read_text()[-3000:]
    said, errors = by_log.communicate(timeout=PATIENCE)  # they end by themselves, after the run
    assert by_log.returncode == 0, (said, errors)
    assert [line for line in said.splitlines() if json.loads(line)["severity"] == "error"] == []
    text, errors = by_pid.communicate(timeout=PATIENCE)
    assert by_pid.returncode == 0, (text, errors)
    assert text.splitlines()[-1] == "end of run: healthy"

    wait_for(lambda: b"HEALTHY" in shown, PATIENCE, "the verdict on the screen")
    os.write(main, b"q")
    assert screen.wait(PATIENCE) == 0
    os.close(main)

    again = replayed([journal], load())
    assert (again.verdict, again.run.last_step) == ("healthy", STEPS)
    events = [json.loads(line) for line in journal.read_text().splitlines()[1:]]
    assert {e["o"][2] for e in events if e["t"] == "ProcessSample"} == {0, 1}  # both ranks' processes were looked at
    assert "hang" not in said
