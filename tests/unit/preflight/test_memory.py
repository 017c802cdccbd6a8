"""The memory estimate against peaks measured with real Axolotl runs, and its verdicts."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from ftdoctor.cli import preflight
from ftdoctor.preflight import memory

MEASURED = Path(__file__).parents[3] / "fixtures" / "memory" / "h100_axolotl_0.19.jsonl"


def test_error_on_measured_runs() -> None:
    errors = []
    for line in MEASURED.read_text().splitlines():
        run = json.loads(line)
        data = {**run["config"], "sequence_len": run["sequence_len"]}
        if run["adapter"] != "full":
            data["adapter"] = run["adapter"]
        file = run["further"].get("deepspeed")
        deepspeed = {"zero_optimization": {"stage": int(file[1])}} if file else None
        model = memory.shape(run["model"])
        assert model is not None
        found = memory.estimate(model, data, deepspeed, 1)
        errors.append(abs(found.peak / run["peaks_gib"]["max_allocated"] - 1))
    assert len(errors) >= 20
    assert statistics.median(errors) < 0.10
    assert max(errors) < 0.25


def test_number_of_parameters() -> None:
    for name, billions in (("Llama-3.1-8B", 8.03), ("Meta-Llama-3.1-70B-Instruct", 70.55), ("Llama-3.2-1B", 1.236)):
        model = memory.preset(f"meta-llama/{name}")
        assert model is not None
        assert (model.block * model.layers + model.embeddings) / 1e9 == pytest.approx(billions, rel=0.01)


def test_shards_and_offload_take_memory_off_the_gpu() -> None:
    model = memory.preset("Llama-3.1-8B")
    assert model is not None
    data: dict[str, Any] = {"micro_batch_size": 1, "sequence_len": 2048}
    cpu = {"device": "cpu"}
    plain = memory.estimate(model, data, None, 8).peak
    zero2 = memory.estimate(model, data, {"zero_optimization": {"stage": 2}}, 8).peak
    zero3 = memory.estimate(model, data, {"zero_optimization": {"stage": 3}}, 8).peak
    offload = memory.estimate(model, data, {"zero_optimization": {"stage": 3, "offload_optimizer": cpu}}, 8)
    assert plain > zero2 > zero3 > offload.peak
    assert offload.host > 80
    assert memory.shape({"hidden_size": 8, "num_local_experts": 4}) is None


def judged(tmp_path: Path, capsys: pytest.CaptureFixture[str], machine: str, **keys: object) -> tuple[int, Any]:
    config = {"base_model": "meta-llama/Llama-3.1-8B", "sequence_len": 4096, "micro_batch_size": 1, **keys}
    path = tmp_path / "c.yml"
    path.write_text(json.dumps(config))
    code = preflight.main([str(path), "--only", "memory", "--assume", machine, "--format", "json"])
    return code, json.loads(capsys.readouterr().out)["findings"]


def test_verdicts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judged(tmp_path, capsys, "8xA100-80GB", adapter="qlora", load_in_4bit=True) == (0, [])
    code, findings = judged(tmp_path, capsys, "1xA100-80GB")  # full, one GPU: 8B x 12 bytes
    assert (code, [f["id"] for f in findings]) == (1, ["cuda-oom"])
    code, findings = judged(tmp_path, capsys, "2x24GB", adapter="lora", micro_batch_size=8, sample_packing=True)
    assert code == 1
    assert "micro_batch_size" in str(findings[0]["fixes"][0]["config_patch"])


def test_short_samples_may_fit_where_full_ones_do_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys: dict[str, Any] = {"adapter": "lora", "micro_batch_size": 8, "sequence_len": 8192}
    code, findings = judged(tmp_path, capsys, "8xA100-80GB", **keys, pad_to_sequence_len=True)
    assert (code, findings[0]["severity"]) == (1, "error")
    code, findings = judged(tmp_path, capsys, "8xA100-80GB", **keys)
    assert (code, findings[0]["severity"]) == (0, "warning")


def test_the_fused_optimizer_works_in_place() -> None:
    model = memory.preset("Llama-3.1-8B")
    assert model is not None
    data: dict[str, Any] = {"micro_batch_size": 1, "sequence_len": 1024, "optimizer": "adamw_torch"}
    plain = memory.estimate(model, data, None, 1).peak
    assert memory.estimate(model, {**data, "optimizer": "adamw_torch_fused"}, None, 1).peak < 0.75 * plain


def test_a_merge_that_loads_the_whole_model_needs_the_memory(tmp_path: Path) -> None:
    from ftdoctor.preflight import suite
    from ftdoctor.preflight.machines import assume

    data = {"base_model": "meta-llama/Llama-3.1-70B", "adapter": "lora", "micro_batch_size": 1, "sequence_len": 512}
    for method, expected in (("legacy", 131), (None, None)):
        planned = suite.Plan(tmp_path / "c.yml", {**data, "merge_method": method}, assume("8xA100-80GB"), None)
        assert suite._estimate(planned, None).facts.get("memory.merge_host") == expected


def test_70b_qlora_under_zero3_is_held_whole_by_each_rank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys: dict[str, Any] = {"base_model": "meta-llama/Llama-3.1-70B", "adapter": "qlora", "load_in_4bit": True}
    code, findings = judged(tmp_path, capsys, "4xA100-40GB", deepspeed={"zero_optimization": {"stage": 3}}, **keys)
    assert (code, findings[0]["id"]) == (1, "cuda-oom")


def test_the_report_shows_where_memory_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yml"
    path.write_text("base_model: meta-llama/Llama-3.1-8B\nadapter: lora\nmicro_batch_size: 1\nsequence_len: 2048\n")
    assert preflight.main([str(path), "--only", "memory", "--assume", "8xA100-80GB"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "fits: about" in said
    assert "W weights 15.0" in said


def test_a_deepspeed_file_that_is_not_here_is_read_by_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offload = memory.deepspeed_by_name("deepspeed_configs/zero3_bf16_cpuoffload_all.json")
    assert offload is not None
    assert offload["zero_optimization"]["stage"] == 3
    assert offload["zero_optimization"]["offload_param"] == {"device": "cpu"}
    assert memory.deepspeed_by_name("mine.json") is None
    code, findings = judged(tmp_path, capsys, "8xA100-80GB", deepspeed="deepspeed_configs/zero3_bf16.json")
    assert (code, findings) == (0, [])


def test_the_published_error_is_the_present_one_and_small_with_each_run_held_out() -> None:
    from tools import memory_report

    measured = memory_report.runs(MEASURED)
    out = [abs(error) for error in memory_report.errors(measured, memory_report.held_out(measured))]
    assert statistics.median(out) < 0.10
    assert max(out) < 0.25
    later = memory_report.runs(memory_report.LATER)
    assert max(abs(run.estimated / run.peak - 1) for run in later) < 0.25
    assert memory_report.PAGE.read_text(encoding="utf-8") == memory_report.page(measured, later)


def test_a_run_that_is_held_out_says_nothing_of_itself() -> None:
    from dataclasses import replace

    from tools import memory_report

    measured = memory_report.runs(MEASURED)
    spoilt = [replace(measured[0], peak=measured[0].peak * 3), *measured[1:]]
    before, after = memory_report.held_out(measured), memory_report.held_out(spoilt)
    assert after[0] == pytest.approx(before[0])
    assert after[3] != pytest.approx(before[3])
