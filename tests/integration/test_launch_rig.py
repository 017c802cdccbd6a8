"""Whole two-rank runs under `ftdoctor launch`: healthy ones stay so, sick ones are named, stopped ones keep their work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from ftdoctor.merging.tensors import read_checkpoint
from tests.integration.rigs import ROOT, RigFolder

pytestmark = pytest.mark.rig
ZERO3 = {"deepspeed": "./deepspeed_z3.json"}
FULL = {"adapter": None, "lora_r": None, "lora_alpha": None, "lora_target_linear": None, "max_grad_norm": 0}
LONG = {"max_steps": 2000, "save_steps": 5000, "eval_steps": None, "val_set_size": 0}


class Launched:
    """A run under `ftdoctor launch`, its own words kept in said.txt."""

    def __init__(self, rig: RigFolder, *options: str, **config: Any) -> None:
        rig.config(**config)
        self.rig, self.run = rig, rig.folder / "ftdoctor-runs/r"
        self.said = rig.folder / "said.txt"
        with self.said.open("w") as said:
            self.process = rig.ftdoctor(
                "launch", "config.yml", "--launcher", "torchrun", "--processes", "2", "--python", rig.python,
                "--name", "r", "--no-gpu", *options, stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip

    def end(self, seconds: float = 420.0) -> int:
        return self.process.wait(seconds)

    def steps(self) -> int:
        return (self.run / "train.log").read_text(errors="replace").count("'loss'")

    @property
    def diagnosis(self) -> dict[str, Any]:
        assert (self.run / "diagnosis.json").is_file(), self.said.read_text()
        found: dict[str, Any] = json.loads((self.run / "diagnosis.json").read_text())
        return found

    @property
    def exit(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.run / "exit.json").read_text())
        return found

    def logged(self, name: str) -> list[float]:
        """Values of a metric as the Trainer printed them."""
        import re

        text = (self.run / "train.log").read_text(errors="replace")
        lines = [line for line in text.splitlines() if "'grad_norm'" in line]
        return [float(found[1]) for line in lines if (found := re.search(rf"'{name}': '?([^',}}]+)", line))]

    def beats(self, rank: int) -> list[dict[str, Any]]:
        text = (self.run / f"heartbeat/heartbeat-rank{rank}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


def the_heartbeats_are_exact(run: Launched, steps: int) -> None:
    """Every step of both ranks, with the numbers that the Trainer averages and rounds."""
    records = {rank: run.beats(rank) for rank in (0, 1)}
    made = {rank: [r for r in found if r.get("p") == "step"] for rank, found in records.items()}
    for rank, found in made.items():
        assert [r["s"] for r in found] == list(range(1, steps + 1)), rank
        assert all(r["forward"] > 0 and r["backward"] > 0 and r["data"] >= 0 for r in found)
        parts = [sum(r[p] for p in ("data", "forward", "backward", "optimizer")) for r in found]
        assert all(total <= r["dt"] + 1e-3 for total, r in zip(parts, found, strict=True))
        assert records[rank][0]["world_size"] == 2
        assert records[rank][-1]["p"] in ("end", "save")
        assert any(r.get("rss", 0) > 100 for r in records[rank])
    own = [[r["loss"] for r in made[rank]] for rank in (0, 1)]
    assert own[0] != own[1]
    assert [sum(pair) / 2 for pair in zip(*own, strict=True)] == pytest.approx(run.logged("loss"), rel=2e-3)
    assert [r["grad_norm"] for r in made[0]] == pytest.approx(run.logged("grad_norm"), rel=2e-3)


@pytest.mark.parametrize("how", ["ddp", "zero3"])
def test_a_healthy_run_is_healthy_and_its_heartbeats_are_exact(rig: RigFolder, how: str) -> None:
    run = Launched(rig, **(ZERO3 if how == "zero3" else {}))
    assert run.end() == 0, run.said.read_text()
    assert run.diagnosis["verdict"] == "healthy", run.said.read_text()
    assert run.exit["code"] == 0
    assert "heartbeat" not in run.said.read_text()
    the_heartbeats_are_exact(run, 24)


def test_a_run_whose_ftdoctor_is_killed_completes_and_can_be_checked(
    rig: RigFolder, wait_for: Callable[..., None]
) -> None:
    run = Launched(rig)
    wait_for(lambda: run.steps() >= 3 or run.process.poll() is not None, what="three steps")
    run.process.kill()
    run.process.wait()
    wait_for(lambda: (rig.folder / "out/adapter_model.safetensors").is_file(), what="the adapter")
    wait_for(lambda: "successfully saved" in (run.run / "train.log").read_text(errors="replace"), what="the last word")
    assert run.steps() == 24
    assert not (run.run / "exit.json").exists()
    done = subprocess.run(
        [sys.executable, "-m", "ftdoctor", "check", str(run.run), "--format", "json"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert (done.returncode, found["verdict"]) == (0, "healthy"), found["findings"]
    assert found["run"]["last_step"] == 24


def test_nan_stops_the_run(rig: RigFolder) -> None:
    run = Launched(rig, **LONG | FULL | {"learning_rate": 1e18, "warmup_steps": 60})
    assert run.end() == 1, run.said.read_text()
    assert run.diagnosis["root_cause"]["id"] in ("loss-nan", "lr-too-high")
    assert "loss-nan" in {f["id"] for f in run.diagnosis["findings"]}
    assert run.exit["stopped_for"] == "loss-nan"
    assert run.steps() < 2000


def test_divergence_is_named(rig: RigFolder) -> None:
    # a constant rate: a schedule that decays lets such a loss come back
    rate = {"learning_rate": 1.0, "lr_scheduler": "constant_with_warmup", "warmup_steps": 30}
    run = Launched(rig, **FULL | rate | {"max_steps": 80, "eval_steps": 100, "save_steps": 100})
    run.end()
    assert "error: loss-diverging" in run.said.read_text()  # while it runs
    assert run.diagnosis["root_cause"]["id"] in ("loss-diverging", "lr-too-high", "loss-stuck"), run.said.read_text()


def test_sigterm_keeps_the_adapter(rig: RigFolder, wait_for: Callable[..., None]) -> None:
    asked = {"dynamic_checkpoint": {"enabled": True, "check_interval": 1}}
    run = Launched(rig, **ZERO3 | LONG | asked)
    wait_for(lambda: run.steps() >= 3 or run.process.poll() is not None, what="three steps")
    run.process.send_signal(signal.SIGTERM)
    run.end()
    said = run.said.read_text()
    assert "asked for a checkpoint" in said, said
    saved = list((rig.folder / "out").glob("checkpoint-*/adapter_model.safetensors"))
    assert saved, said
    adapter = read_checkpoint(str(saved[0].parent), ("adapter_model.safetensors",))
    shapes = [tensor.shape for tensor in adapter.tensors.values()]
    assert shapes
    assert all(0 not in shape for shape in shapes)
    assert run.exit["signalled"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system is mounted")
def test_a_full_disk_at_the_checkpoint_is_named(rig: RigFolder) -> None:
    small = rig.folder / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)]).returncode:
        pytest.skip("no right to mount")
    try:
        run = Launched(rig, output_dir="./small/out")
        assert run.end() != 0
        assert run.diagnosis["root_cause"]["id"] == "disk-full", run.said.read_text()
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
