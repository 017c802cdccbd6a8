"""The merge proof on real files: a good merge passes in every variant, each fault is caught with its right id."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftdoctor.findings import Diagnosis
from ftdoctor.merging.check import Proof, facts, prove_folder, targets
from ftdoctor.merging.nf4 import nf4
from ftdoctor.ruleset.load import load
from ftdoctor.session import Session
from tests.unit.merging import models
from tests.unit.merging.models import CONFIG, Array, adapter_tensors, as_stored, base_tensors, merged_tensors

RULES = load()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run: base/, out/ with the adapter, out/merged with a good merge."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    return tmp_path


def make(
    folder: Path, base: dict[str, Array] | None = None, adapter: dict[str, Array] | None = None, scaling: float = 2.0,
    dtype: str = "F32", shards: int = 1, merged: dict[str, Array] | None = None, **config: Any,
) -> None:  # fmt: skip
    base = base_tensors() if base is None else base
    base = {n: as_stored(v, dtype) for n, v in base.items()}
    adapter = adapter_tensors() if adapter is None else adapter
    models.model(folder / "base", base, dtype, shards)
    models.tokenizer(folder / "base", eos="<|end|>", template=None)
    models.adapter(folder / "out", adapter, **config)
    models.model(folder / "out/merged", merged or merged_tensors(base, adapter, scaling), dtype, shards)
    models.tokenizer(folder / "out/merged")


def judge(base: str | None = None) -> tuple[Proof, Diagnosis]:
    target = targets("out/merged", base, None)
    proof = prove_folder(target)
    session = Session(RULES)
    for name, value in facts(proof).items():
        session.state(name, value, target.merged)
    return proof, session.diagnose()


def rewrite(folder: str, change: Callable[[dict[str, Array]], object], dtype: str = "F32") -> None:
    """Write the good merge again with a fault in it."""
    tensors = merged_tensors(base_tensors(), adapter_tensors())
    change(tensors)
    models.write(Path(folder, "model.safetensors"), tensors, dtype)


def healthy(proof: Proof, diagnosis: Diagnosis, number: int = 6) -> None:
    assert [(f.id, f.message) for f in diagnosis.findings] == []
    assert diagnosis.verdict == "healthy"
    assert len(proof.targets) == number
    assert {r["verdict"] for r in proof.targets} == {"ok"}
    assert {r["verdict"] for r in proof.rows if r["kind"] == "none"} == {"same"}
    assert proof.blockers == []


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_a_good_merge_is_proven(run: Path, dtype: str, shards: int) -> None:
    for file in run.rglob("*.safetensors"):
        file.unlink()
    make(run, dtype=dtype, shards=shards)
    proof, diagnosis = judge()
    healthy(proof, diagnosis)
    norm = np.linalg.norm(
        2.0
        * adapter_tensors()["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"]
        @ adapter_tensors()["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"]
    )
    row = next(r for r in proof.rows if r["name"] == "model.layers.1.mlp.up_proj.weight")
    assert row["delta_norm"] == pytest.approx(norm, rel=0.02)


def test_rslora_scales_by_the_root_of_the_rank(run: Path) -> None:
    make(run, scaling=8 / math.sqrt(4), use_rslora=True)
    healthy(*judge())


def test_patterns_give_each_module_its_own_scaling(run: Path) -> None:
    tensors = adapter_tensors()
    base = base_tensors()
    merged = merged_tensors(base, tensors, 2.0)
    twice = merged_tensors(base, tensors, 8.0)
    for name in merged:
        if "layers.1.mlp" in name:
            merged[name] = twice[name]
    make(run, merged=merged, alpha_pattern={r"layers.1.mlp.(up|down)_proj": 32})
    healthy(*judge())


def test_dora_stretches_rows(run: Path) -> None:
    base, tensors = base_tensors(), adapter_tensors()
    merged = merged_tensors(base, tensors)
    for layer in range(2):
        for module in models.TARGETS:
            name = f"model.layers.{layer}.{module}"
            whole = merged[f"{name}.weight"]
            length = np.linalg.norm(whole, axis=1)
            magnitude = (length * np.linspace(0.9, 1.1, len(length))).astype("f4")
            tensors[f"base_model.model.{name}.lora_magnitude_vector"] = magnitude
            merged[f"{name}.weight"] = whole * (magnitude / length)[:, None]
    make(run, base, tensors, merged=merged, use_dora=True)
    proof, diagnosis = judge()
    healthy(proof, diagnosis)
    assert {r["kind"] for r in proof.targets} == {"dora"}


def test_modules_to_save_replace_the_bases(run: Path) -> None:
    base, tensors = base_tensors(), adapter_tensors()
    merged = merged_tensors(base, tensors)
    head = np.random.default_rng(5).normal(0, 0.05, base["lm_head.weight"].shape).astype("f4")
    tensors["base_model.model.lm_head.modules_to_save.default.weight"] = merged["lm_head.weight"] = head
    make(run, base, tensors, merged=merged)
    healthy(*judge(), number=7)
    merged["lm_head.weight"] = base["lm_head.weight"]
    make(run, base, tensors, merged=merged)
    _, diagnosis = judge()
    assert diagnosis.root_cause is not None
    assert diagnosis.root_cause.id == "merge-ineffective"
    assert "lm_head" in diagnosis.root_cause.message


def resized(run: Path, kept: bool) -> None:
    """Training added four tokens; the merge has their rows, or the base's embedding."""
    base, tensors = base_tensors(tokens=76), adapter_tensors()
    merged = merged_tensors(base, tensors)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        grown = np.concatenate([base[name], np.full((4, models.WIDTH), 0.03, "f4")])
        tensors[f"base_model.model.{name}"] = grown
        merged[name] = grown if kept else base[name]
    make(run, base, tensors, merged=merged)


def test_a_resized_vocabulary_that_is_kept(run: Path) -> None:
    resized(run, kept=True)
    healthy(*judge(), number=8)


def test_conv1d_weights_are_stored_the_other_way_round(run: Path) -> None:
    base, tensors = base_tensors(), adapter_tensors()
    merged = merged_tensors(base, tensors)
    for name in base:
        if "_proj" in name:
            base[name], merged[name] = base[name].T.copy(), merged[name].T.copy()
    make(run, base, tensors, merged=merged, fan_in_fan_out=True)
    healthy(*judge())


def test_a_merge_rounded_through_nf4_is_said_and_no_error(run: Path) -> None:
    base, tensors = base_tensors(), adapter_tensors()
    rounded = {n: nf4(v) if v.ndim > 1 else v for n, v in base.items()}
    make(run, base, tensors, merged=merged_tensors(rounded, tensors))
    proof, diagnosis = judge()
    assert {r["verdict"] for r in proof.targets} == {"quantized"}
    assert [(f.id, f.severity) for f in diagnosis.findings] == [("merge-quantized-base", "warning")]


@pytest.mark.parametrize(("factor", "rule"), [(0.0, "merge-ineffective"), (2.0, "merge-mismatch")])
def test_a_small_update_is_seen_through_the_noise_of_nf4(run: Path, factor: float, rule: str) -> None:
    """An update of a tenth of the rounding: left out, or applied twice."""
    base, tensors = base_tensors(), adapter_tensors(size=0.025)
    rounded = {n: nf4(v) if v.ndim > 1 else v for n, v in base.items()}
    make(run, base, tensors, merged=merged_tensors(rounded, tensors))
    proof, diagnosis = judge()
    assert {r["verdict"] for r in proof.targets} == {"quantized"}
    assert max(r["relative"] for r in proof.targets) < 0.13
    make(run, base, tensors, merged=merged_tensors(rounded, tensors, 2.0 * factor))
    _, diagnosis = judge()
    assert diagnosis.root_cause is not None
    assert (diagnosis.root_cause.id, diagnosis.root_cause.severity) == (rule, "error")


def test_an_update_merged_in_bf16_is_no_fault(run: Path) -> None:
    """Base and result in float16, the sum computed in bfloat16."""
    base, tensors = base_tensors(), adapter_tensors()
    half = {n: as_stored(v, "F16") for n, v in base.items()}
    coarse = merged_tensors({n: as_stored(v, "BF16") for n, v in half.items()}, tensors)
    merged = {n: as_stored(coarse[n], "BF16") if "_proj" in n else half[n] for n in base}
    make(run, base, tensors, dtype="F16", merged=merged)
    healthy(*judge())


def one_nan(tensors: dict[str, Array]) -> None:
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan


def infinite_norm(tensors: dict[str, Array]) -> None:
    tensors["model.norm.weight"] = np.full(models.WIDTH, np.inf, "f4")


def lost(tensors: dict[str, Array]) -> None:
    del tensors["model.layers.1.self_attn.q_proj.weight"]


def flipped_elements(tensors: dict[str, Array]) -> None:
    tensors["model.layers.0.mlp.up_proj.weight"][0, :3] = 7.0


def emptied(tensors: dict[str, Array]) -> None:
    for name in list(tensors):
        tensors[name] = np.zeros((0,), "f4")


def identity(tensors: dict[str, Array]) -> None:
    tensors.update(base_tensors())


def scaled(tensors: dict[str, Array]) -> None:
    tensors.update(merged_tensors(base_tensors(), adapter_tensors(), 4.0))


def other_base(tensors: dict[str, Array]) -> None:
    tensors.update(merged_tensors(base_tensors(seed=9), adapter_tensors()))


def other_adapter(tensors: dict[str, Array]) -> None:
    tensors.update(merged_tensors(base_tensors(), adapter_tensors(seed=9)))


def touched_norm(tensors: dict[str, Array]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.5


@pytest.mark.parametrize(
    ("fault", "rule", "words"),
    [
        (one_nan, "merge-corrupt", "layers.1.mlp.up_proj"),
        (infinite_norm, "merge-corrupt", "model.norm"),
        (lost, "merge-corrupt", "q_proj"),
        (flipped_elements, "merge-corrupt", "layers.0.mlp.up_proj"),
        (emptied, "merge-corrupt", "no elements"),
        (identity, "merge-ineffective", "6 of 6"),
        (scaled, "merge-mismatch", "2 times"),
        (other_base, "merge-mismatch", "another base"),
        (other_adapter, "merge-mismatch", "another"),
        (touched_norm, "merge-mismatch", "model.norm"),
    ],
)
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_each_fault_has_its_right_cause(
    run: Path, fault: Callable[[dict[str, Array]], object], rule: str, words: str, dtype: str
) -> None:
    make(run, dtype=dtype)
    base = {n: as_stored(v, dtype) for n, v in base_tensors().items()}
    tensors = merged_tensors(base, adapter_tensors())
    fault(tensors)
    if fault is identity:
        tensors = dict(base)
    models.write(run / "out/merged/model.safetensors", tensors, dtype)
    _, diagnosis = judge()
    assert diagnosis.root_cause is not None
    assert (diagnosis.root_cause.id, diagnosis.root_cause.severity) == (rule, "error")
    assert words in diagnosis.root_cause.message
    assert {f.id for f in diagnosis.findings if f.severity == "error"} == {rule}


def test_a_small_update_is_told_from_none_below_the_steps_of_bf16(run: Path) -> None:
    """Trained so little that bf16 keeps a part of it only: the good merge passes, the base does not."""
    base = {n: as_stored(v, "BF16") for n, v in base_tensors().items()}
    tensors = adapter_tensors(size=0.006)
    make(run, base, tensors, dtype="BF16")
    proof, diagnosis = judge()
    assert {r["verdict"] for r in proof.targets} == {"ok"}
    assert diagnosis.verdict != "failing"
    models.write(run / "out/merged/model.safetensors", base, "BF16")
    _, diagnosis = judge()
    assert diagnosis.root_cause is not None
    assert diagnosis.root_cause.id == "merge-ineffective"


def test_lora_b_that_never_trained(run: Path) -> None:
    tensors = {n: np.zeros_like(v) if "lora_B" in n else v for n, v in adapter_tensors().items()}
    make(run, adapter=tensors)
    _, diagnosis = judge()
    assert diagnosis.root_cause is not None
    assert diagnosis.root_cause.id == "merge-ineffective"
    assert "never trained" in diagnosis.root_cause.message


def test_a_resized_vocabulary_that_is_lost(run: Path) -> None:
    resized(run, kept=False)
    _, diagnosis = judge()
    assert diagnosis.root_cause is not None
    assert diagnosis.root_cause.id == "merge-mismatch"
    assert "vocabulary" in diagnosis.root_cause.message


def test_a_shard_that_is_gone_and_one_that_is_cut_off(run: Path) -> None:
    make(run, shards=3)
    (run / "out/merged/model.safetensors").unlink()
    shard = run / "out/merged/model-00002-of-00003.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) - 1000])
    proof, diagnosis = judge()
    assert diagnosis.root_cause is not None
    assert (diagnosis.root_cause.id, "cut off" in diagnosis.root_cause.message) == ("merge-corrupt", True)
    assert proof.count("missing") >= 1
    shard.unlink()
    _, diagnosis = judge()
    assert diagnosis.root_cause is not None
    assert (diagnosis.root_cause.id, "missing" in diagnosis.root_cause.message) == ("merge-corrupt", True)


@pytest.mark.parametrize("fault", ["empty", "config", "weights", "half", "cut"])
def test_an_adapter_that_is_not_whole(run: Path, fault: str) -> None:
    weights = run / "out/adapter_model.safetensors"
    if fault == "empty":
        models.write(weights, {n: np.zeros((0,), "f4") for n in adapter_tensors()})
    elif fault == "config":
        (run / "out/adapter_config.json").unlink()
    elif fault == "weights":
        weights.unlink()
    elif fault == "half":
        models.write(weights, {n: v for n, v in adapter_tensors().items() if "lora_A" in n})
    else:
        weights.write_bytes(weights.read_bytes()[:-500])
    target = targets("out/merged", "base", "out")
    session = Session(RULES)
    for name, value in facts(prove_folder(target)).items():
        session.state(name, value, target.merged)
    diagnosis = session.diagnose()
    assert diagnosis.root_cause is not None
    assert (diagnosis.root_cause.id, diagnosis.verdict) == ("adapter-missing", "failing")


def test_without_a_base_nothing_is_called_proven(run: Path) -> None:
    config = CONFIG | {"base_model_name_or_path": "someone/else"}
    (run / "out/adapter_config.json").write_text(json.dumps(config))
    proof, diagnosis = judge()
    assert diagnosis.verdict == "unknown"
    assert any("someone/else" in note for note in proof.target.notes)
    rewrite("out/merged", one_nan)
    assert judge()[1].verdict == "failing"


def test_layers_that_the_adapter_does_not_have_are_said(run: Path) -> None:
    tensors = {n: v for n, v in adapter_tensors().items() if "layers.1.mlp" not in n}
    make(run, adapter=tensors)
    _, diagnosis = judge()
    assert [(f.id, f.severity) for f in diagnosis.findings] == [("adapter-missing", "warning")]
    make(run, adapter=tensors, layers_to_transform=[0])
    assert judge()[1].verdict == "healthy"


def test_what_the_proof_does_not_know_is_no_fault(run: Path) -> None:
    """Another kind of adapter, a pickle, updates of experts: said, and never called a broken merge."""
    make(run, peft_type="ADALORA")
    proof, diagnosis = judge()
    assert diagnosis.verdict == "unknown"
    assert proof.adapter is not None
    assert "ADALORA" in proof.adapter.unproven[0]
    make(run)
    (run / "out/adapter_model.safetensors").rename(run / "out/adapter_model.bin")
    assert judge()[1].verdict == "unknown"
    (run / "out/adapter_model.bin").unlink()
    tensors = adapter_tensors()
    for part, shape in (("A", (8, 64)), ("B", (64, 8))):
        tensors[f"base_model.model.model.layers.0.mlp.experts.lora_{part}.weight"] = np.ones(shape, "f4")
    make(
        run,
        adapter=tensors,
        target_parameters=["mlp.experts.down_proj"],
        merged=merged_tensors(base_tensors(), adapter_tensors()),
    )
    assert judge()[1].verdict == "healthy"


@pytest.mark.parametrize("text", ["[]", "{", "3", "\x00"])
def test_a_damaged_adapter_configuration_is_a_finding(run: Path, text: str) -> None:
    (run / "out/adapter_config.json").write_text(text)
    root = judge()[1].root_cause
    assert root is not None
    assert root.id == "adapter-missing"
