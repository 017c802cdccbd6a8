"""A gentle stop waits for the checkpoint that it asked for, as long as something is written, and no longer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ftdoctor.launch import keeping
from ftdoctor.launch.child import Child
from ftdoctor.launch.plan import for_command
from ftdoctor.launch.stopping import Stopper

TRAINER = """
import json, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *a: (print("SIGTERM", flush=True), sys.exit(0)))
out = pathlib.Path("out"); out.mkdir()
print("ready", flush=True)
request, folder = out / "axolotl_checkpoint.save", out / "checkpoint-7"
while not request.exists(): time.sleep(0.02)
request.unlink()  # as Axolotl does, before it saves
if sys.argv[1] == "saves":
    for n in range(3):
        time.sleep(0.5)
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(b"x" * n)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 7}))
    print("saved", flush=True)
while True: time.sleep(0.05)
"""


@pytest.fixture
def children(tmp_path: Path) -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        if child.code is None:
            os.kill(child.pid, 9)


def begin(tmp_path: Path, children: list[Child], how: str) -> Child:
    (tmp_path / "train.py").write_text(TRAINER)
    plan = for_command([sys.executable, "train.py", how], folder=tmp_path / "run", run_id=f"stop-{how}", gpus=None)
    plan = replace(plan, cwd=tmp_path, output_dir=Path("out"), dynamic_checkpoint=True)
    keeping.begin(plan)
    children.append(Child(plan))
    end = time.monotonic() + 60
    while "ready" not in plan.log.read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    return children[0]


def stop(child: Child, patience: float) -> list[str]:
    said: list[str] = []
    stopper, end = Stopper(child, said.append, patience), time.monotonic() + 90
    while not stopper.over:
        assert time.monotonic() < end
        stopper.advance(time.monotonic())
        time.sleep(0.05)
    return said


def test_the_request_is_gone_and_the_checkpoint_not_yet_whole(tmp_path: Path, children: list[Child]) -> None:
    child = begin(tmp_path, children, "saves")
    said = stop(child, 60.0)
    assert child.plan.log.read_text().split() == ["ready", "saved", "SIGTERM"]
    assert said[0] == "asked for a checkpoint"
    assert said[1].endswith("checkpoint-7")
    assert said[2] == "SIGTERM to the launcher"


def test_a_trainer_that_never_saves_is_ended_all_the_same(tmp_path: Path, children: list[Child]) -> None:
    child = begin(tmp_path, children, "never")
    said = stop(child, 2.0)
    assert child.plan.log.read_text().split() == ["ready", "SIGTERM"]
    assert said == ["asked for a checkpoint", "SIGTERM to the launcher"]
