"""A disk that fills while a run goes on: the trainer lives on, its output is whole, ftdoctor says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftdoctor.launch.room import Room
from ftdoctor.sources.files import expand

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(400)  # whole runs of ftdoctor, on a machine that may be slow
TRAINER = """\
import os, sys, time
def step(n):
    print({"loss": f"{1.5 - n / 1000}", "grad_norm": "0.4", "learning_rate": "0.0002", "epoch": "0.1", "n": n}, flush=True)
for n in range(50):
    step(n)
hog = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
size = 1 << 16
while size:
    try:
        os.write(hog, bytes(size))
    except OSError:
        size //= 2
for n in range(50, 3000):
    step(n)
time.sleep(4)
print("finished", flush=True)
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of eight MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True
        ).returncode
    ):
        pytest.skip("mounting wants root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_the_trainer_lives_on_when_the_disk_is_full(small: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(TRAINER)
    command = [sys.executable, "-m", "ftdoctor", "launch", "--no-gpu", "--runs", str(small), "--name", "r", "--"]
    done = subprocess.run(
        [*command, sys.executable, "train.py", str(small / "hog")], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=240,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[-1] == "finished", done.stderr
    assert len(lines) == 3001
    assert (small / "r/train.log").read_text() == done.stdout
    assert done.returncode == 0, done.stderr
    assert "is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_reserved_is_given_back(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_bytes(b"x" * 5000)
    room = Room(log)
    assert room.look() is None
    assert log.stat().st_size == 5000
    room.give_back()
    assert log.read_bytes() == b"x" * 5000
    assert log.stat().st_blocks * 512 < 1 << 20
    assert Room(tmp_path / "none").look() is None


def test_half_a_journal_does_not_stand_for_the_run(tmp_path: Path) -> None:
    for name in ("run.json", "exit.json", "journal-cut.jsonl"):
        (tmp_path / name).write_text(json.dumps({}))
    (tmp_path / "train.log").write_text("a line\n")
    (tmp_path / "report.txt").write_text("our own words\n")
    assert [Path(item.path).name for item in expand([str(tmp_path)])] == ["train.log"]
