"""The recipes of configs/: each passes preflight and Axolotl's own validation; `ftdoctor init` fills one in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ftdoctor.cli import init, preflight
from ftdoctor.errors import UsageError
from ftdoctor.preflight.machines import assume
from ftdoctor.preflight.validate import ask, told
from ftdoctor.ruleset.load import shipped_dir
from ftdoctor.training_python import TrainingPython

RECIPES = sorted(shipped_dir("configs").glob("*.yml"))
RIG = Path("/root/rig/v/bin/python")


def machine_of(recipe: Path) -> str:
    """`...-4x40gb` as GPUs that exist."""
    count, _, size = recipe.stem.rpartition("-")[2].partition("x")
    return f"{count}x{ {'24gb': 'RTX4090', '40gb': 'A100-40GB', '80gb': 'A100-80GB'}[size] }".replace(" ", "")


def test_there_are_recipes_for_each_machine_of_the_guide() -> None:
    assert {machine_of(r) for r in RECIPES} == {"2xRTX4090", "4xA100-40GB", "8xA100-80GB"}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.stem)
def test_a_recipe_passes_preflight(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = preflight.main([str(recipe), "--only", "config", "--assume", machine_of(recipe), "--format", "json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert code == 0
    assert [f["message"] for f in findings if f["severity"] != "info"] == []


@pytest.mark.skipif(not RIG.is_file(), reason="no training environment with Axolotl here")
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: r.stem)
def test_axolotl_accepts_a_recipe(recipe: Path) -> None:
    seen = told(ask(TrainingPython(str(RIG), "here"), recipe, assume(machine_of(recipe))))
    assert seen.facts == {"axolotl.accepted": True}, seen.summary


def test_init_fills_in_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "config.yml"
    (tmp_path / "chats.jsonl").write_text("{}\n")
    given = ["--model", "org/model", "--data", str(tmp_path / "chats.jsonl"), "--gpus", "4", "--out", str(out)]
    assert init.main(["llama31-8b-qlora-2x24gb", *given]) == 0
    data = yaml.safe_load(out.read_text())
    assert data["base_model"] == "org/model"
    assert data["datasets"][0] == {
        "path": str(tmp_path / "chats.jsonl"), "type": "chat_template", "field_messages": "messages",
    }  # fmt: skip
    assert data["gradient_accumulation_steps"] == 4  # 2 GPUs x 8 before
    assert Path(data["deepspeed"]).is_file()
    assert "never the end-of-turn token" in out.read_text()
    with pytest.raises(UsageError, match="exists already"):
        init.main(["llama31-8b-qlora-2x24gb", "--out", str(out)])


def test_init_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert init.main(["--list"]) == 0
    assert "llama31-70b-full-8x80gb" in capsys.readouterr().out
    with pytest.raises(UsageError, match="no such recipe"):
        init.main(["nothing"])
