"""The merge proof on adapters that PEFT made and merges that PEFT did, and on what bitsandbytes rounded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from ftdoctor.faces.merge import render
from ftdoctor.faces.page import Options
from ftdoctor.findings import Diagnosis
from ftdoctor.merging.adapter import read_adapter
from ftdoctor.merging.check import Proof, facts, targets
from ftdoctor.merging.proof import as_dict, prove
from ftdoctor.merging.tensors import read_checkpoint
from ftdoctor.merging.worker import prepare
from ftdoctor.ruleset.load import load
from ftdoctor.session import Session
from tests.unit.merging.models import write

pytestmark = pytest.mark.rig
MAKER = Path(__file__).with_name("peft_models.py")
RULES = load()
GOOD = {
    "lora": {"lora": 14}, "lora-bf16": {"lora": 14}, "rslora": {"lora": 14}, "dora": {"dora": 14},
    "dora-rslora-bf16": {"dora": 14}, "patterns": {"lora": 14}, "saved": {"lora": 14, "replace": 2},
    "saved-tied": {"lora": 14, "replace": 1}, "resized": {"lora": 14, "replace": 2},
    "resized-saved": {"lora": 14, "replace": 2}, "embedding": {"lora": 3, "embedding": 1},
    "tokens": {"lora": 14, "rows": 1}, "gpt2": {"lora": 8}, "all-linear": {"lora": 14}, "regex": {"lora": 14},
    "some-layers": {"lora": 7}, "lora-bias": {"lora": 2, "bias": 2}, "bias": {"lora": 2, "replace": 13},
}  # fmt: skip


@pytest.fixture(scope="module")
def made(training_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All variants: about 25 s of one core, most of it imports."""
    folder = tmp_path_factory.mktemp("peft")
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([training_python, MAKER, folder], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def judge(place: Path, base: Path | None = None) -> tuple[Proof, Diagnosis]:
    target = targets(str(place / "merged"), str(base or place / "base"), str(place / "adapter"))
    proof, session = Proof(target, read_checkpoint(target.merged), read_adapter(str(place / "adapter"))), Session(RULES)
    job = {"merged": target.merged, "base": target.base, "adapter": target.adapter}
    proof.rows = [as_dict(row) for row in prove(prepare(job), 1)]  # what the worker does, without a process for each
    for name, value in facts(proof).items():
        session.state(name, value, target.merged)
    return proof, session.diagnose()


@pytest.mark.parametrize("variant", GOOD)
def test_pefts_own_merge_is_proven(made: Path, variant: str) -> None:
    proof, diagnosis = judge(made / variant)
    assert [(f.id, f.message) for f in diagnosis.findings] == []
    assert diagnosis.verdict == "healthy"
    assert Counter(r["kind"] for r in proof.targets) == GOOD[variant]
    assert {r["verdict"] for r in proof.targets} == {"ok"}
    assert {r["verdict"] for r in proof.rows} <= {"ok", "same"}


@pytest.mark.parametrize("variant", GOOD)
def test_the_base_in_place_of_the_merge_is_seen(made: Path, tmp_path: Path, variant: str) -> None:
    """For every kind of update: without it the proof fails."""
    place = tmp_path / variant
    shutil.copytree(made / variant, place)
    shutil.rmtree(place / "merged")
    shutil.copytree(place / "base", place / "merged")
    _, diagnosis = judge(place)
    assert diagnosis.root_cause is not None
    assert diagnosis.root_cause.severity == "error"
    assert diagnosis.root_cause.id in ("merge-ineffective", "merge-mismatch")


@pytest.mark.parametrize("variant", GOOD)
def test_one_target_with_its_update_twice_is_seen(made: Path, tmp_path: Path, variant: str) -> None:
    place = tmp_path / variant
    shutil.copytree(made / variant, place)
    merged = {n: t.whole().copy() for n, t in read_checkpoint(str(place / "merged")).tensors.items()}
    base = read_checkpoint(str(place / "base")).tensors
    proof, _ = judge(made / variant)
    name = next(r["name"] for r in proof.targets if r["kind"] not in ("replace", "rows"))
    merged[name] = 2 * merged[name] - base[name].whole()
    dtype = base[name].dtype
    write(place / "merged/model.safetensors", merged, dtype)
    proof, diagnosis = judge(place)
    assert diagnosis.root_cause is not None
    assert (diagnosis.root_cause.id, diagnosis.root_cause.severity) == ("merge-mismatch", "error")
    assert [r["name"] for r in proof.rows if r["verdict"] not in ("ok", "same")] == [name]


@pytest.mark.parametrize("variant", ["nf4", "nf4-double", "nf4-128"])
def test_bitsandbytes_nf4_is_allowed_for_and_said(made: Path, variant: str) -> None:
    proof, diagnosis = judge(made / variant)
    assert [(f.id, f.severity) for f in diagnosis.findings] == [("merge-quantized-base", "warning")]
    assert Counter(r["verdict"] for r in proof.rows) == {"quantized": 16, "same": 5}
    _, other = judge(made / variant, made / "gpt2/base")
    assert other.verdict == "failing"


def test_a_merge_into_four_bits_is_named(made: Path) -> None:
    _, diagnosis = judge(made / "four-bits")
    assert diagnosis.root_cause is not None
    assert (diagnosis.root_cause.id, diagnosis.root_cause.severity) == ("merge-quantized-base", "error")
    assert "bitsandbytes" in diagnosis.root_cause.message


def test_updates_of_experts_are_said_to_be_unproven(made: Path) -> None:
    proof, diagnosis = judge(made / "experts")
    assert Counter(r["verdict"] for r in proof.rows) == {"same": 11, "unproven": 4, "ok": 1}
    assert diagnosis.verdict != "failing"
    assert proof.adapter is not None
    assert "experts" in proof.adapter.unproven[0]
    shown = render(diagnosis, proof, Options(width=80, color=False))
    assert "PROVEN IN PART" in shown
    assert "4 tensors" in shown


def test_adapters_as_unsloth_and_trl_write_them(made: Path, tmp_path: Path) -> None:
    """Unsloth: a pattern for target_modules, its own keys, a base by another name; TRL and FSDP: wrappers in the names."""
    place = tmp_path / "other"
    shutil.copytree(made / "lora", place)
    path = place / "adapter/adapter_config.json"
    config = json.loads(path.read_text())
    config |= {
        "auto_mapping": {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama.modeling_llama", "unsloth_fixed": True},
        "base_model_name_or_path": "unsloth/tiny-llama-bnb-4bit",
        "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj).*?)",
    }  # fmt: skip
    path.write_text(json.dumps(config))
    assert judge(place)[1].verdict == "healthy"
    tensors = {
        n: t.whole() for n, t in read_checkpoint(str(place / "adapter"), ("adapter_model.safetensors",)).tensors.items()
    }
    for wrapped in (
        lambda n: n.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
        lambda n: "module." + n,
        lambda n: n.replace("self_attn", "_fsdp_wrapped_module.self_attn"),
        lambda n: "_orig_mod." + n,
    ):
        write(place / "adapter/adapter_model.safetensors", {wrapped(n): v for n, v in tensors.items()})
        proof, diagnosis = judge(place)
        assert (diagnosis.verdict, proof.count("ok")) == ("healthy", 14)
