"""`ftdoctor merge`: Axolotl is run for real where a training environment is found; its failures with a stand-in."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftdoctor.cli import merge as verb
from ftdoctor.errors import FtdoctorError, InputError
from ftdoctor.merging.run import check_room, copy_config, read_merge
from ftdoctor.training_python import find_training_python
from tests.unit.merging import models
from tests.unit.merging.models import adapter_tensors, base_tensors, merged_tensors

REPOSITORY = Path(__file__).resolve().parents[3]
YAML = {
    "base_model": "base", "adapter": "lora", "output_dir": "out", "learning_rate": 2e-4, "deepspeed": "zero3.json",
    "fsdp_config": {"a": 1}, "datasets": [{"path": "data.jsonl", "type": "alpaca"}], "micro_batch_size": 1,
    "gradient_accumulation_steps": 1, "sequence_len": 64,
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trained run without a merge."""
    monkeypatch.chdir(tmp_path)
    models.model(tmp_path / "base", base_tensors())
    models.tokenizer(tmp_path / "base", eos="<|end|>", template=None)
    models.adapter(tmp_path / "out", adapter_tensors())
    (tmp_path / "out/debug.log").write_text("the training's log\n")
    (tmp_path / "config.yml").write_text(yaml.safe_dump(YAML))
    return tmp_path


def stand_in(folder: Path, body: str) -> Path:
    """A training python whose Axolotl runs `body`; `OUT` is its output_dir."""
    package = folder / "environment/axolotl/cli"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    head = "import os, shutil, sys, time\nOUT = [l.split()[-1] for l in open(sys.argv[1]) if l.startswith('output_dir')][0]\n"
    (package / "merge_lora.py").write_text(head + body)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{folder / "environment"}" exec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return python


def good(folder: Path) -> str:
    """Body of a stand-in that merges well and, as Axolotl does, takes the base's tokenizer."""
    made = folder / "made"
    models.model(made, merged_tensors(base_tensors(), adapter_tensors()))
    models.tokenizer(made, eos="<|end|>", template=None)
    return f"shutil.copytree({str(made)!r}, OUT + '/merged')\nprint('[INFO] Applied LoRA to 6/11 tensors')\n"


def test_the_copy_has_no_deepspeed_and_goes_beside_the_output(run: Path) -> None:
    job = read_merge("config.yml")
    (run / "staged").mkdir()
    copied = yaml.safe_load(copy_config(job, run / "staged").read_text())
    assert {"deepspeed", "fsdp_config"} & copied.keys() == set()
    assert copied["output_dir"] == str(run / "staged")
    assert (copied["lora_model_dir"], copied["datasets"]) == ("out", YAML["datasets"])
    assert job.output == Path("out/merged")


def test_a_merge_is_placed_and_proven(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = stand_in(run, good(run))
    assert verb.main(["config.yml", "--python", str(python), "--format", "json", "--mend", "--no-logits"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["verdict"] == "healthy"
    assert [m["number"] for m in shown["merge"]["modules"]] == [2, 2, 2]
    assert shown["merge"]["mended"] != []
    assert sorted(p.name for p in (run / "out").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "debug.log", "ftdoctor-merge.log",
        "merged", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert (run / "out/debug.log").read_text() == "the training's log\n"
    with pytest.raises(InputError, match="is there already"):
        verb.main(["config.yml", "--python", str(python)])
    (run / "out/merged/mine.txt").write_text("kept")
    assert verb.main(["config.yml", "--python", str(python), "--replace", "--no-logits"]) == 1  # not mended this time
    assert "merge-tokenizer-lost" in capsys.readouterr().out
    assert (run / "out/merged.before-1/mine.txt").read_text() == "kept"


def test_a_merge_that_fails_leaves_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "os.mkdir(OUT + '/merged')\nopen(OUT + '/merged/model.safetensors', 'w').write('half')\n"
    body += "raise OSError(28, 'No space left on device')\n"
    python = stand_in(run, body)
    assert verb.main(["config.yml", "--python", str(python)]) == 1
    shown = capsys.readouterr().out
    assert "disk-full" in shown
    assert "Nothing was merged" in shown
    assert not (run / "out/merged").exists()
    assert not list((run / "out").glob(".ftdoctor*"))


def test_an_axolotl_that_is_killed_is_a_finding(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = stand_in(run, "os.kill(os.getpid(), 9)\n")
    assert verb.main(["config.yml", "--python", str(python)]) == 137
    shown = capsys.readouterr().out
    assert "Traceback" not in shown
    assert "host-oom" in shown
    assert not (run / "out/merged").exists()


def killed(folder: Path) -> str:
    """A python that is killed as the kernel does it when memory runs out."""
    script = folder / "killed"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    return str(script)


def test_a_proof_that_is_killed_is_a_finding(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    models.model(run / "out/merged", merged_tensors(base_tensors(), adapter_tensors()))
    models.tokenizer(run / "out/merged")
    monkeypatch.setattr("ftdoctor.merging.check.sys.executable", killed(run))
    code = verb.main(["--check-only", "out/merged", "--no-logits", "--format", "json"])
    shown = json.loads(capsys.readouterr().out)
    assert code == 1
    assert shown["root_cause"]["id"] == "host-oom"
    assert "SIGKILL" in shown["merge"]["died"]


def test_an_interrupt_ends_axolotl_and_leaves_nothing(run: Path) -> None:
    python = stand_in(run, "open('started', 'w').write(str(os.getpid()))\nos.mkdir(OUT + '/merged')\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "ftdoctor", "merge", "config.yml", "--python", str(python)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    for _ in range(200):
        if (run / "started").exists() and (run / "started").read_text():
            break
        time.sleep(0.05)
    child = int((run / "started").read_text())
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert not list((run / "out").glob(".ftdoctor*"))
    assert not (run / "out/merged").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_an_adapter_that_is_not_there_stops_before_anything_starts(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "out/adapter_config.json").unlink()
    assert verb.main(["config.yml", "--python", "/bin/false", "--format", "json"]) == 1
    assert json.loads(capsys.readouterr().out)["root_cause"]["id"] == "adapter-missing"


@pytest.mark.parametrize(
    ("text", "seen"),
    [("", "names no base_model"), ("a: [", "is not YAML"), ("base_model: x", "neither lora_model_dir")],
)
def test_bad_configurations_are_named(run: Path, text: str, seen: str) -> None:
    (run / "config.yml").write_text(text)
    with pytest.raises(InputError, match=seen):
        read_merge("config.yml")


def test_room_is_checked_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = read_merge("config.yml")
    check_room(job, 16 << 30)
    with pytest.raises(FtdoctorError, match="memory"):
        check_room(job, 1 << 30)
    usage = shutil.disk_usage(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(FtdoctorError, match="are free"):
        check_room(job, 16 << 30)


def real_python() -> str | None:
    try:
        found = find_training_python(os.environ.get("FTDOCTOR_TEST_PYTHON"))
    except InputError:
        return None
    return found.path if found.has("axolotl", "peft", "torch") else None


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(real_python() is None, reason="no training environment: set FTDOCTOR_TEST_PYTHON")
def test_axolotl_merges_for_real(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = json.loads((run / "base/config.json").read_text())
    config |= {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    models.model(run / "base", base_tensors(others=True))  # every tensor of a Llama
    (run / "base/config.json").write_text(json.dumps(config))
    for name, value in {
        "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    python = real_python()
    assert python is not None
    code = verb.main(["config.yml", "--python", python, "--format", "json"])
    shown = json.loads(capsys.readouterr().out)
    assert code == 1
    assert shown["root_cause"]["id"] == "merge-tokenizer-lost"  # merge-lora copies the base's
    assert [t["verdict"] for t in shown["merge"]["tensors"] if t["kind"] == "lora"] == ["ok"] * 6
    logits = shown["merge"]["logits"]
    assert "skipped" not in logits, logits
    assert logits["merged_adapter"] < 1e-4 < logits["merged_base"]
    assert logits["agree"] == logits["positions"] > 0
    assert verb.main(["--check-only", "out/merged", "--mend", "--no-logits"]) == 0
    # one whose weights are the base's answers as the base
    shutil.copy(run / "base/model.safetensors", run / "out/merged/model.safetensors")
    capsys.readouterr()
    assert verb.main(["--check-only", "out/merged", "--python", python, "--format", "json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["root_cause"]["id"] == "merge-ineffective"
    assert shown["merge"]["logits"]["merged_base"] == 0
