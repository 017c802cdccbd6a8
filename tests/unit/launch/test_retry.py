"""`launch --retry-with-fix`: a stand-in for Axolotl that dies of a recorded CUDA OOM until its micro batch is small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ftdoctor.launch.checkpoints import last_checkpoint
from ftdoctor.launch.plan import for_command
from ftdoctor.retry import folder_of, without_options

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(400)  # whole runs of ftdoctor, on a machine that may be slow
RECORDED = ROOT / "fixtures/failing/h100_oom/train.log"  # a real run on one H100
TRAINER = '''\
"""Stands in for axolotl.cli.train: memory grows with the micro batch; a checkpoint is written before it runs out."""
import json, pathlib, sys, yaml
cfg = yaml.safe_load(open(sys.argv[1]))
for item in sys.argv[2:]:
    key, _, value = item.lstrip("-").partition("=")
    cfg[key] = yaml.safe_load(value)
out = pathlib.Path(cfg["output_dir"])
if cfg.get("resume_from_checkpoint"):
    print("resumed at", json.load(open(cfg["resume_from_checkpoint"] + "/trainer_state.json"))["global_step"], flush=True)
for step in range(4):
    print({"loss": f"{1.5 - step / 10}", "grad_norm": "0.4", "learning_rate": "0.0002", "epoch": f"0.{step}"}, flush=True)
if cfg["micro_batch_size"] > cfg.get("room", 2):
    if cfg.get("saves", True):
        place = out / "checkpoint-4"
        place.mkdir(parents=True, exist_ok=True)
        (place / "adapter_model.safetensors").write_bytes(b"x")
        (place / "trainer_state.json").write_text(json.dumps({"global_step": 4, "log_history": []}))
    print(open(cfg["recorded"]).read(), file=sys.stderr, flush=True)
    sys.exit(1)
print(f"Training completed! Saving trained model to {out}.")
print(f"Model successfully saved to {out}", flush=True)
'''
YAML = """\
# my recipe
base_model: org/model
micro_batch_size: 4  # as large as it goes
gradient_accumulation_steps: 2
output_dir: ./out
recorded: {recorded}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a configuration and a stand-in for Axolotl."""
    package = tmp_path / "site/axolotl/cli"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "train.py").write_text(TRAINER)
    # the tail of the recording: its head dumps the configuration of another run
    told = RECORDED.read_text(encoding="utf-8").splitlines(keepends=True)
    first = next(n for n, line in enumerate(told) if "Traceback" in line)
    (tmp_path / "oom.txt").write_text("".join(told[first:]), encoding="utf-8")
    (tmp_path / "mine.yml").write_text(YAML.format(recorded=tmp_path / "oom.txt"))
    return tmp_path


def launch(place: Path, *options: str, trainer: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(place / "site")])}
    command = [
        sys.executable,
        "-m",
        "ftdoctor",
        "launch",
        "mine.yml",
        "--no-gpu",
        "--name",
        "r",
        "--launcher",
        "python",
    ]
    return subprocess.run(
        [*command, "--python", sys.executable, *options, *(["--", *trainer] if trainer else [])],
        cwd=place, env=env, text=True, capture_output=True, timeout=240,
    )  # fmt: skip


def test_out_of_memory_is_retried_once_from_the_checkpoint(place: Path) -> None:
    before = (place / "mine.yml").read_text()
    done = launch(place, "--retry-with-fix")
    assert done.returncode == 0, done.stderr
    assert (place / "mine.yml").read_text() == before
    first, second = place / "ftdoctor-runs/r", place / "ftdoctor-runs/r-retry"
    copy = (first / "retry.yml").read_text()
    assert "# my recipe" in copy
    assert "micro_batch_size: 2  # as large as it goes" in copy
    data = yaml.safe_load(copy)
    assert data["micro_batch_size"] * data["gradient_accumulation_steps"] == 4 * 2
    assert data["resume_from_checkpoint"] == str(place / "out/checkpoint-4")
    assert "resumed at 4" in (second / "train.log").read_text()
    assert json.loads((first / "exit.json").read_text())["retried_in"] == "ftdoctor-runs/r-retry"
    for told in (done.stderr, (first / "report.txt").read_text(), (second / "report.txt").read_text()):
        assert "second attempt because of cuda-oom" in told
        assert "micro_batch_size: 4 -> 2" in told
    diagnosis = json.loads((second / "diagnosis.json").read_text())
    assert not [f["id"] for f in diagnosis["findings"] if f["severity"] == "error"]


def test_it_is_retried_once_only(place: Path) -> None:
    with (place / "mine.yml").open("a") as handle:
        handle.write("room: 1\n")
    done = launch(place, "--retry-with-fix")
    assert done.returncode == 1
    assert sorted(p.name for p in (place / "ftdoctor-runs").iterdir()) == ["r", "r-retry"]
    assert done.stderr.count("ftdoctor: second attempt because of") == 1


def test_arguments_that_would_undo_the_change_are_left_out(place: Path) -> None:
    with (place / "mine.yml").open("a") as handle:
        handle.write("saves: false\n")
    done = launch(place, "--retry-with-fix", trainer=("--micro_batch_size=4", "--learning_rate=0.001"))
    assert done.returncode == 0, done.stderr
    second = json.loads((place / "ftdoctor-runs/r-retry/run.json").read_text())["command"]
    assert "--learning_rate=0.001" in second
    assert not [part for part in second if "micro_batch_size" in part]
    assert "no checkpoint was left: starts anew" in done.stderr


def test_without_the_option_and_without_a_safe_fix_nothing_is_retried(place: Path) -> None:
    assert launch(place).returncode == 1
    assert not (place / "ftdoctor-runs/r-retry").exists()
    (place / "oom.txt").write_text("RuntimeError: CUDA error: an illegal memory access was encountered\n")
    done = launch(place, "--retry-with-fix", "--name", "other")
    assert done.returncode == 1
    assert "no second attempt: cuda-error has no fix that is safe" in done.stderr


def test_half_a_change_is_no_change(place: Path) -> None:
    text = (place / "mine.yml").read_text().replace("gradient_accumulation_steps: 2", "gradient_checkpointing: true")
    (place / "mine.yml").write_text(text)
    done = launch(place, "--retry-with-fix")
    assert done.returncode == 1
    assert "cannot be made whole: gradient_accumulation_steps" in done.stderr
    assert not (place / "ftdoctor-runs/r/retry.yml").exists()


def test_a_command_has_no_configuration_to_change(place: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "ftdoctor", "launch", "--retry-with-fix", "--", "true"]
    done = subprocess.run(command, cwd=place, env=env, text=True, capture_output=True, timeout=60)
    assert done.returncode == 2
    assert "--retry-with-fix" in done.stderr


def test_only_a_whole_checkpoint_of_this_attempt_counts(tmp_path: Path) -> None:
    for number, state in ((5, {"global_step": 5}), (10, {"global_step": 10}), (15, None)):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        (folder / "adapter_model.safetensors").write_bytes(b"x")
        if state:
            (folder / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "checkpoint-20").mkdir()
    (tmp_path / "checkpoint-20/trainer_state.json").write_text('{"global_step": 20}')  # no weights
    os.utime(tmp_path / "checkpoint-5/trainer_state.json", (1000, 1000))
    assert last_checkpoint(tmp_path, 0.0) == tmp_path / "checkpoint-10"
    os.utime(tmp_path / "checkpoint-10/trainer_state.json", (1000, 1000))
    assert last_checkpoint(tmp_path, 5000.0) is None
    assert last_checkpoint(tmp_path / "none", 0.0) is None


def test_options_and_folders(tmp_path: Path) -> None:
    given = ["--a=1", "--micro-batch-size", "4", "--b", "2", "--micro_batch_size=8"]
    assert without_options(given, {"micro_batch_size"}) == ["--a=1", "--b", "2"]
    assert folder_of(tmp_path / "r").name == "r-retry"
    (tmp_path / "r-retry").mkdir()
    assert folder_of(tmp_path / "r").name == "r-retry-2"
    assert for_command(["true"], folder=tmp_path / "r", run_id="x", gpus=None).config is None
