"""`ftdoctor pipeline` whole, on the small model of the demo: preflight, preprocess, train, merge, answers. Two minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftdoctor.demo.faults import FAULTS, recipe
from ftdoctor.demo.story import Story
from ftdoctor.training_python import TrainingPython

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.rig
@pytest.mark.timeout(1500)
def test_from_the_configuration_to_answers(training_python: Path, tmp_path: Path) -> None:
    story = Story(tmp_path, FAULTS[0], TrainingPython(str(training_python), "of the tests"), lambda _: None)
    story.prepare()
    # one process with the effective batch of the demo's two; DeepSpeed is the demo's own test
    text = recipe(story.gpus, deepspeed=False)
    text = text.replace("gradient_accumulation_steps: 1", "gradient_accumulation_steps: 2")
    (tmp_path / "good.yml").write_text(text)
    asked = (tmp_path / "kept.jsonl").read_text().splitlines()[:3]
    (tmp_path / "ask.jsonl").write_text("".join(f"{line}\n" for line in asked))
    env = story.environment()
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env["PYTHONPATH"]])
    command = [sys.executable, "-m", "ftdoctor", "pipeline", "good.yml", "--launcher", "python", "--offline"]
    # its own validation and the logits are other tests'
    command += ["--no-validate", "--no-logits", "--prompts", "ask.jsonl", "--max-new-tokens", "40"]
    command += [] if story.gpus else ["--assume", "1x24GB"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1200)

    done = run()
    assert done.returncode == 0, done.stderr[-6000:] + done.stdout[-6000:]
    folder = tmp_path / "ftdoctor-runs/good-pipeline"
    stages = json.loads((folder / "pipeline.json").read_text())["stages"]
    vram = "done" if story.gpus else "absent"
    assert {name: record["status"] for name, record in stages.items()} == {
        "preflight": "done", "preprocess": "done", "train": "done", "vram": vram, "merge": "done", "evaluate": "done",
    }  # fmt: skip
    assert "proven" in stages["merge"]["told"]
    assert "3 of 3 answers are healthy" in stages["evaluate"]["told"]
    assert (tmp_path / "out/merged/chat_template.jinja").is_file() or "chat_template" in (
        tmp_path / "out/merged/tokenizer_config.json"
    ).read_text()
    assert "FAILING" not in (folder / "report.txt").read_text()
    assert "<h3>Stages</h3>" in (folder / "report.html").read_text()
    again = run()
    assert again.returncode == 0, again.stderr
    assert not (folder / "train-2").exists()
    said = " ".join(again.stdout.split())  # a long line is broken anywhere
    assert said.count("(done before)") == 5 + bool(story.gpus)
