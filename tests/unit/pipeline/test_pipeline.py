"""`ftdoctor pipeline`: gates, what is done again and what is not, and the one report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ftdoctor.cli.outcome import Outcome
from ftdoctor.cli.pipeline import build_parser, main
from ftdoctor.cli.stages import Done, Pipeline, refuse_while_running
from ftdoctor.errors import InputError, UsageError
from ftdoctor.events import GpuSample, Origin
from ftdoctor.faces.page import Options
from ftdoctor.findings import Diagnosis, Evidence, Finding, Fix, RunSummary
from ftdoctor.launch.plan import MARK
from ftdoctor.pipeline import report, vram
from ftdoctor.pipeline.state import STAGES, Record, read, stamp
from ftdoctor.ruleset.load import load
from ftdoctor.session import check

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(400)  # whole runs of ftdoctor, on a machine that may be slow
YAML = """\
base_model: org/model
adapter: lora
micro_batch_size: 2
output_dir: ./out
datasets:
  - path: ./rows.jsonl
    type: chat_template
"""


def diagnosis(*findings: Finding) -> Diagnosis:
    root = findings[0] if findings else None
    return Diagnosis(RunSummary(), "failing" if findings else "healthy", root, findings, ())


def finding(name: str, severity: Any = "error", **more: Any) -> Finding:
    return Finding(name, severity, "cause", f"title of {name}", f"message of {name}", **more)


class Played(Pipeline):
    """Each stage writes what the real one would leave, and is counted; `broken` stages find an error."""

    broken: set[str]
    done: list[str]

    def play(self, name: str) -> Done:
        self.done.append(name)
        if name in self.broken:
            return Done(Outcome(1, diagnosis(finding(f"{name}-broken"))), "1 error")
        made: list[Path] = []
        if name in ("preprocess", "train", "merge"):
            place = {"preprocess": "prepared/x/state.json", "train": "out/adapter_model.safetensors",
                     "merge": "out/merged/model.safetensors"}[name]  # fmt: skip
            path = Path(place)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} of {Path('config.yml').read_text()}")
            made = [path if name == "train" else path.parent]
        return Done(Outcome(0, diagnosis()), "went well", made)

    def _preflight(self) -> Done:
        return self.play("preflight")

    def _preprocess(self) -> Done:
        return self.play("preprocess")

    def _train(self, record: Record, previous: Record | None) -> Done:
        folder = self.state.folder / f"train-{len(list(self.state.folder.glob('train-*'))) + 1}"
        folder.mkdir()
        record.folder = str(folder)
        return self.play("train")

    def _vram(self) -> Done:
        return self.play("vram")

    def _merge(self) -> Done:
        return self.play("merge")

    def _evaluate(self) -> Done:
        return self.play("evaluate")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yml").write_text(YAML)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return tmp_path


def played(*arguments: str, broken: set[str] | None = None) -> tuple[int, Played]:
    pipeline = Played(build_parser().parse_args(["config.yml", *arguments]), [])
    pipeline.broken, pipeline.done = broken or set(), []
    return pipeline.run(), pipeline


@pytest.mark.usefixtures("place")
def test_all_stages_once_and_nothing_twice() -> None:
    code, first = played()
    assert (code, first.done) == (0, list(STAGES))
    code, second = played()
    assert (code, second.done) == (0, [])
    assert [told for _, told in second.plan()] == ["done before, inputs unchanged"] * 6


@pytest.mark.usefixtures("place")
def test_a_gate_stops_and_the_next_call_goes_on_there() -> None:
    code, first = played(broken={"preprocess"})
    assert (code, first.done) == (1, ["preflight", "preprocess"])
    assert first.diagnosis()[0].root_cause == finding("preprocess-broken")
    lines = report.table(first.state, first.ran)
    assert [(line.stage, line.status) for line in lines][:3] == [
        ("preflight", "done"), ("preprocess", "failed"), ("train", ""),
    ]  # fmt: skip
    code, second = played()
    assert (code, second.done) == (0, list(STAGES[1:]))


def test_changed_inputs_are_done_again(place: Path) -> None:
    played()
    (place / "rows.jsonl").write_text('{"more": 1}\n')
    assert played()[1].done == ["preflight", "preprocess", "train", "vram", "merge", "evaluate"]
    (place / "out/merged/model.safetensors").write_text("somebody else's")
    assert played()[1].done == ["merge"]  # which made the same again, so the answers hold
    (place / "ask.jsonl").write_text('{"prompt": "?"}\n')
    assert played("--prompts", "ask.jsonl")[1].done == ["evaluate"]
    (place / "out/adapter_model.safetensors").unlink()
    assert played("--prompts", "ask.jsonl")[1].done == ["train", "vram"]


@pytest.mark.usefixtures("place")
def test_from_and_skip() -> None:
    played()
    assert played("--from", "merge")[1].done == ["merge", "evaluate"]
    assert played("--from", "merge", "--skip", "evaluate")[1].done == ["merge"]
    pipeline = Played(build_parser().parse_args(["config.yml", "--from", "merge", "--skip", "evaluate"]), [])
    assert [told.split(":")[0].split(",")[0] for _, told in pipeline.plan()] == [
        *["left out"] * 4, "will be done", "left out",
    ]  # fmt: skip


@pytest.mark.usefixtures("place")
def test_a_failure_forgets_what_came_after() -> None:
    played()
    _, second = played("--from", "train", broken={"train"})
    assert set(second.state.records) == {"preflight", "preprocess", "train"}
    assert played()[1].done == ["train", "vram", "merge", "evaluate"]


def test_a_stage_that_was_cut_off_is_done_again(place: Path) -> None:
    played()
    file = place / "ftdoctor-runs/config-pipeline/pipeline.json"
    data = json.loads(file.read_text())
    data["stages"]["merge"]["status"] = "running"
    file.write_text(json.dumps(data))
    assert played()[1].done == ["merge"]  # it made the same again, so the answers hold


def test_a_damaged_or_foreign_state_is_refused(place: Path) -> None:
    played()
    folder = place / "ftdoctor-runs/config-pipeline"
    with pytest.raises(InputError, match="belongs to the pipeline of"):
        read(folder, "/another.yml")
    (folder / "pipeline.json").write_text('{"stages": [')
    with pytest.raises(InputError, match="cannot be read"):
        played()
    (place / "ftdoctor-runs/x").mkdir()
    (place / "ftdoctor-runs/x/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="something else"):
        played("--name", "x")


def test_usage() -> None:
    with pytest.raises(UsageError, match="runs where it is called"):
        main(["config.yml", "--slurm"])
    with pytest.raises(UsageError, match="no configuration"):
        main([])
    with pytest.raises(InputError, match="no such file"):
        main(["config.yml", "--prompts", "none.jsonl"])


def test_stamps(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    before, content = stamp(tmp_path), stamp(tmp_path, content=True)
    os.utime(tmp_path / "a", (1, 1))
    assert stamp(tmp_path) != before
    assert stamp(tmp_path, content=True) == content
    assert stamp(tmp_path / "none") == ""


def test_a_training_that_still_runs_is_not_started_again(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"], env={**os.environ, MARK: "p-i-p-e"}, stdin=subprocess.PIPE
    )
    try:
        (tmp_path / "run.json").write_text(json.dumps({"added": {MARK: "p-i-p-e"}}))
        with pytest.raises(InputError, match="still training"):
            refuse_while_running(tmp_path)
    finally:
        child.kill()
        child.communicate()
    refuse_while_running(tmp_path)
    refuse_while_running(tmp_path / "none")


def test_findings_survive_the_file(tmp_path: Path) -> None:
    evidence = Evidence("log", "train.log", 3, 4, "text", "")
    fix = Fix("do", {"axolotl.x": 1}, {"A": "b"}, "cmd", "note", "cost", {"axolotl.x": 2})
    known = finding("cuda-oom", rank=1, step=4.0, count=2, evidence=(evidence,), fixes=(fix,), ranks=(1, 2))
    report.keep(tmp_path, "train", diagnosis(known))
    assert report.kept(tmp_path, "train") == [known]
    assert report.kept(tmp_path, "merge") == []


@pytest.mark.usefixtures("place")
def test_the_report_fits_the_page_and_names_the_cause() -> None:
    _, pipeline = played(broken={"merge"})
    told, _ = pipeline.diagnosis()
    lines = report.table(pipeline.state, pipeline.ran)
    text = report.as_text("ftdoctor pipeline config.yml", lines, told, Options())
    assert "title of merge-broken" in text
    assert max(map(len, text.splitlines())) <= 80
    page = report.as_html("config.yml", lines, told, [])
    assert "<h3>Stages</h3>" in page
    assert "not reached" in page


def gpu(index: int, used: float, **more: Any) -> GpuSample:
    return GpuSample(Origin("nvml"), index, memory_used=used, memory_total=81920.0, state="ok", **more)


def test_vram(tmp_path: Path) -> None:
    seen = vram.memory([gpu(1, 2048), gpu(0, 10240), gpu(2, 5, parent="mig")])
    assert vram.told(seen) == "GPU 0 10.0 of 80.0 GiB, GPU 1 2.0 of 80.0 GiB; spread 8.0 GiB"
    (tmp_path / vram.FILE).write_text(json.dumps({"step": 1, "gpus": seen}))
    told, about = vram.judged(tmp_path, [finding("gpu0-only"), finding("loss-nan")])
    assert told.startswith("after step 1: GPU 0 10.0")
    assert [f.id for f in about] == ["gpu0-only"]
    assert vram.judged(tmp_path / "none", [])[0] == vram.NOT_SEEN


TRAINER = '''\
"""Stands in for axolotl.cli.train: is cut off the first time, after its checkpoint."""
import json, pathlib, struct, sys, yaml
cfg = yaml.safe_load(open(sys.argv[1]))
for item in sys.argv[2:]:
    key, _, value = item.lstrip("-").partition("=")
    cfg[key] = yaml.safe_load(value)
out = pathlib.Path(cfg["output_dir"])
start = 0
if cfg.get("resume_from_checkpoint"):
    start = json.load(open(cfg["resume_from_checkpoint"] + "/trainer_state.json"))["global_step"]
print("starts at", start, flush=True)
for step in range(start, start + 4):
    print({"loss": f"{1.5 - step / 10}", "grad_norm": "0.4", "learning_rate": "0.0002", "epoch": f"0.{step}"}, flush=True)
if not start:
    place = out / "checkpoint-4"
    place.mkdir(parents=True, exist_ok=True)
    (place / "adapter_model.safetensors").write_bytes(b"x")
    (place / "trainer_state.json").write_text(json.dumps({"global_step": 4, "log_history": []}))
    print("RuntimeError: CUDA error: an illegal memory access was encountered", file=sys.stderr)
    sys.exit(1)
head = json.dumps({"base.lora_A.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
(out / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(16))
(out / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
print(f"Training completed! Saving trained model to {out}.")
print(f"Model successfully saved to {out}", flush=True)
'''


def test_a_training_that_was_cut_off_goes_on_from_its_checkpoint(place: Path) -> None:
    package = place / "site/axolotl/cli"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "train.py").write_text(TRAINER)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(place / "site")])}
    skipped = [part for stage in ("preflight", "preprocess", "merge", "evaluate") for part in ("--skip", stage)]
    command = [
        sys.executable,
        "-m",
        "ftdoctor",
        "pipeline",
        "config.yml",
        "--no-gpu",
        "--launcher",
        "python",
        "--no-heartbeat",
    ]
    command += ["--python", sys.executable, *skipped]
    first = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert first.returncode == 1, first.stderr
    assert "cuda-error" in first.stdout
    second = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert second.returncode == 0, second.stdout + second.stderr
    folder = place / "ftdoctor-runs/config-pipeline"
    assert "starts at 0" in (folder / "train-1/train.log").read_text()
    assert "starts at 4" in (folder / "train-2/train.log").read_text()
    assert vram.NOT_SEEN in second.stdout
    assert "<!-- ftdoctor report -->" in (folder / "report.html").read_text()
    found = check([str(folder)], load())  # the folder of a pipeline is its last training
    assert found.run.finished
    assert "cuda-error" not in {f.id for f in found.findings}
    third = subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)
    assert third.returncode == 0
    assert not (folder / "train-3").exists()
    assert "done before" in third.stdout
