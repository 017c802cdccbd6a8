"""Preflight against the real stack: every recipe is accepted by Axolotl itself, and its refusals are surfaced."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ftdoctor.cli import preflight
from ftdoctor.preflight import environment
from ftdoctor.preflight.machines import assume
from ftdoctor.preflight.validate import _ANY, _run, ask, told
from ftdoctor.ruleset.load import shipped_dir
from ftdoctor.training_python import TrainingPython
from ftdoctor.upstream.schema import axolotl_version

GUIDE = Path(__file__).parents[1] / "unit" / "preflight" / "guide.yml"
RECIPES = sorted(shipped_dir("configs").glob("*.yml"))
CARDS = {"24gb": "RTX4090", "40gb": "A100-40GB", "80gb": "A100-80GB"}


@pytest.mark.rig
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.stem)
def test_axolotl_accepts_each_recipe(recipe: Path, training_python: Path) -> None:
    count, _, size = recipe.stem.rpartition("-")[2].partition("x")
    seen = told(ask(TrainingPython(str(training_python), "here"), recipe, assume(f"{count}x{CARDS[size]}")))
    assert seen.facts.get("axolotl.accepted") is True, seen.summary


@pytest.mark.rig
def test_validation_leaves_model_loading_out(training_python: Path) -> None:
    """What makes a first preflight short: a third of the import, and the same verdict and warnings."""
    job = {"config": str(GUIDE), "capabilities": {**_ANY, "n_gpu": 4}, "torch": None, "known": axolotl_version()}
    result = _run(TrainingPython(str(training_python), "here"), job, [])
    assert result is not None
    assert result["light"] is True
    assert result["error"] is None
    assert any("flash_attention" in text for text in result["warnings"])


@pytest.mark.rig
def test_axolotl_s_own_verdict_is_surfaced(
    training_python: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yml"
    config.write_text(GUIDE.read_text().replace("warmup_steps: 50", "warmup_steps: 50\nwarmup_ratio: 0.1"))
    given = ["--only", "config", "--assume", "4xA100-40GB", "--python", str(training_python), "--format", "json"]
    assert preflight.main([str(config), *given]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert any("mutually exclusive" in f["message"] for f in findings), findings


@pytest.mark.rig
def test_the_real_environment(training_python: Path) -> None:
    python = TrainingPython(str(training_python), "here")
    facts = environment.packages(python, {"deepspeed": "x.json", "load_in_4bit": True}).facts
    assert facts["torch.build"] in ("cpu", "cuda")
    assert str(facts["version.axolotl"]).startswith("0.")
    assert "packages.absent" not in facts


@pytest.mark.rig
def test_the_operators_are_those_of_the_whole_report(
    training_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed's builders asked alone say what `ds_report` says; of CUDA's operators, which are the most."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    python = TrainingPython(str(training_python), "here")
    alone = subprocess.run(
        [python.path, str(environment.OPS)], capture_output=True, text=True, env=python.environment(), check=True
    )  # fmt: skip
    whole = subprocess.run(
        [python.path, "-m", "deepspeed.env_report"], capture_output=True, text=True, env=python.environment(), check=True
    )  # fmt: skip
    expected = environment.ds_report(whole.stdout)
    assert {"async_io", "fused_adam"} <= expected.keys()
    assert environment.ds_report(alone.stdout) == expected
