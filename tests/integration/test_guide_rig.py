"""The guide's YAML, mended by `preflight --fix`, trains: only the model, the data and what a CPU lacks are replaced."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.conftest import PATIENCE
from tests.integration.rigs import RigFolder

UNIT = Path(__file__).parents[1] / "unit" / "preflight"
# what a tiny model on a CPU cannot do as the guide has it; everything else is the mended file's
HERE = {
    "base_model": "./tiny", "tokenizer_type": "PreTrainedTokenizerFast", "model_type": None,
    "adapter": "lora", "load_in_4bit": False, "optimizer": "adamw_torch", "attn_implementation": "eager",
    "sample_packing": False, "pad_to_sequence_len": None, "sequence_len": 256, "bf16": False, "tf32": False, "lora_mlp_kernel": False, "lora_qkv_kernel": False,
    "lora_o_kernel": False, "gradient_checkpointing": False, "deepspeed": None, "wandb_project": None, "wandb_run_id": None,
    "plugins": ["cpu_rig.CpuRig"], "max_steps": 6, "gradient_accumulation_steps": 1, "logging_steps": 1, "output_dir": "./out",
}  # fmt: skip


@pytest.mark.rig
def test_the_mended_guide_trains(rig: RigFolder) -> None:
    for name in ("guide.yml", "deepspeed_z3.json"):
        (rig.folder / name).write_bytes((UNIT / name).read_bytes())
    fixed = subprocess.run(
        [sys.executable, "-m", "ftdoctor", "preflight", "guide.yml", "--only", "config", "--assume", "4xA100-40GB", "--fix",
         "mended.yml"], cwd=rig.folder, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "wrote mended.yml" in fixed.stdout
    data = yaml.safe_load((rig.folder / "mended.yml").read_text())
    assert data["chat_template"] == "alpaca"
    data |= HERE
    data["datasets"][0]["path"] = "./data.jsonl"
    data["val_set_size"] = 0.05
    (rig.folder / "tiny.yml").write_text(
        yaml.safe_dump({k: v for k, v in data.items() if v is not None}, sort_keys=False)
    )
    done = subprocess.run(
        [rig.python, "-m", "axolotl.cli.train", "tiny.yml"], cwd=rig.folder, env=rig.environment(), capture_output=True,
        text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    steps = [line for line in done.stdout.split("\n") if "'loss':" in line]
    assert len(steps) == 6
    assert (rig.folder / "out" / "adapter_model.safetensors").stat().st_size > 10_000
    again = subprocess.run(
        [sys.executable, "-m", "ftdoctor", "preflight", "mended.yml", "--only", "config", "--assume", "4xA100-40GB", "--format",
         "json"], cwd=rig.folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    left = json.loads(again.stdout)["findings"]
    assert {f["id"] for f in left if f["severity"] != "info"} == {
        "offload-unneeded"
    }  # in the JSON file, to be done by hand
