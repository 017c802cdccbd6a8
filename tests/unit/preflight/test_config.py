"""`ftdoctor preflight --only config`: each broken configuration is named with the right id and line."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftdoctor.cli.preflight import main
from ftdoctor.preflight import plan
from ftdoctor.preflight.machines import assume
from ftdoctor.upstream.schema import nearest

HERE = Path(__file__).parent
GOOD = """\
base_model: meta-llama/Llama-3.1-8B-Instruct
datasets:
  - path: org/chats
    type: chat_template
chat_template: llama3
sequence_len: 4096
sample_packing: true
attn_implementation: flash_attention_2
adapter: qlora
load_in_4bit: true
lora_r: 32
lora_alpha: 64
lora_target_linear: true
output_dir: ./outputs/run
num_epochs: 3
micro_batch_size: 2
gradient_accumulation_steps: 4
optimizer: adamw_torch_fused
lr_scheduler: cosine
learning_rate: 0.0002
bf16: true
gradient_checkpointing: true
special_tokens:
  pad_token: "<|finetune_right_pad_id|>"
"""


def judged(folder: Path, text: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, list[dict[str, Any]]]:
    config = folder / "config.yml"
    config.write_text(text)
    code = main([str(config), "--only", "config", "--assume", "4xA100-80GB", "--format", "json", *more])
    findings: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["findings"]
    return code, findings


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def line_of(text: str, part: str) -> int:
    return next(n for n, line in enumerate(text.split("\n"), 1) if part in line)


def test_a_good_configuration_has_nothing_to_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = judged(tmp_path, GOOD, capsys)
    assert (code, findings) == (0, [])


BROKEN = [
    ("lora_r: 32", "lora_rank: 32", "config-invalid", "warning", "lora_rank", "did you mean lora_r?"),
    ("learning_rate: 0.0002", "learningrate: 0.0002", "config-invalid", "warning", "learningrate", "learning_rate"),
    ("sequence_len: 4096", "max_seq_length: 4096", "config-invalid", "warning", "max_seq_length", "sequence_len"),
    ("num_epochs: 3", "num_epochs: 3\nflash_rotary: true", "config-invalid", "warning", "flash_rotary", "flash_rotary"),
    ("num_epochs: 3", "num_epochs: 0", "config-invalid", "error", "num_epochs", "num_epochs: 0"),
    ("micro_batch_size: 2", "micro_batch_size: 0", "config-invalid", "error", "micro_batch_size", "zero or negative"),
    ("sequence_len: 4096", "sequence_len: 0", "config-invalid", "error", "sequence_len", "zero or negative"),
    ("lora_r: 32", "lora_r: 0", "config-invalid", "error", "lora_r", "below 1"),
    ("optimizer: adamw_torch_fused", "optimizer: adamw_bnb_8bits", "config-invalid", "error", "optimizer:", "8bits"),
    ("lr_scheduler: cosine", "lr_scheduler: cosin", "config-invalid", "error", "lr_scheduler", "cosin"),
    ("lora_target_linear: true\n", "", "config-invalid", "warning", "adapter", "lora_target_linear"),
    ("adapter: qlora", "adapter: lora", "config-invalid", "warning", "adapter", "not quantised|unquantised"),
    ("adapter: qlora\n", "", "config-invalid", "warning", "lora_r", "full fine-tune"),
    ("bf16: true", "bf16: true\nfp16: true", "config-invalid", "warning", "bf16", "both true"),
    ("bf16: true", "fp16: true", "precision-fp16", "warning", "fp16", "bf16"),
    ("sample_packing: true", "sample_packing: true\ngroup_by_length: true", "config-invalid", "warning", "group_by", "packing"),
    ("path: org/chats", "path: org/chats\n    filed_messages: turns", "config-invalid", "warning", "filed_messages",
     "field_messages?"),
    ("  pad_token:", "  padd_token:", "config-invalid", "warning", "padd_token", "did you mean pad_token?"),
    ("num_epochs: 3", "num_epochs: 3\nliger_rope: true", "config-invalid", "warning", "liger_rope", "integrations.liger, which"),
    ("num_epochs: 3", "num_epochs: 3\nplugins: [axolotl.integrations.liger.LigerPlugin]\nliger_ropes: true",
     "config-invalid", "warning", "liger_ropes", "liger_ropes"),
    ("lora_alpha: 64", "lora_alpha: 1024", "config-invalid", "info", "lora_alpha", "multiplied by alpha / r"),
    ("num_epochs: 3", "max_steps: 40\nwarmup_steps: 20", "lr-too-low", "info", "warmup_steps", "large part of the run"),
    ("num_epochs: 3", "max_steps: 100\neval_steps: 80", "config-invalid", "info", "eval_steps", "comes once"),
    ("meta-llama/Llama-3.1-8B-Instruct", "./outputs/stage1", "path-not-found", "warning", "base_model", "earlier run"),
    ("attn_implementation: flash_attention_2", "flash_attention: false", "config-invalid", "warning", "sample_packing", "see"),
    ("attn_implementation: flash_attention_2", "flash_attention: true", "config-invalid", "info", "flash_attention", "old spelling"),
    ("output_dir: ./outputs/run\n", "", "config-invalid", "info", "", "model-out"),
    ("learning_rate: 0.0002", "learning_rate: 2", "lr-too-high", None, "learning_rate", "2"),
    ("learning_rate: 0.0002", "learning_rate: 2e-5", "lr-too-low", "info", "learning_rate", "1e-4"),
    ("learning_rate: 0.0002", "learning_rate: 2e-7", "lr-too-low", "warning", "learning_rate", "next to nothing"),
    ("num_epochs: 3", "max_steps: 40\nwarmup_steps: 50", "lr-too-low", "warning", "warmup_steps", "whole run"),
    ("num_epochs: 3", "max_steps: 40\neval_steps: 200", "config-invalid", "info", "eval_steps", "larger than the run"),
    ("type: chat_template", "type: alpaca", "template-mismatch", None, "type", "trains on its own prompt"),
    ("type: chat_template", "type: sharegpt", "dataset-format-invalid", "error", "type", "refused"),
    ("type: chat_template", "type: template", "dataset-format-invalid", "error", "type", "does not exist"),
    ("type: chat_template", "type: chat_template\n    conversation: llama3", "dataset-format-invalid", "warning", "type", "no effect"),
    ("path: org/chats", "path: ./data/none.jsonl", "path-not-found", "error", "path", "none.jsonl"),
    ("meta-llama/Llama-3.1-8B-Instruct", "/models/absent", "path-not-found", "error", "base_model", "absent"),
    ("meta-llama/Llama-3.1-8B-Instruct", "Qwen/Qwen2.5-7B", "template-mismatch", "warning", "chat_template: ll", "start_header_id"),
    ('"<|finetune_right_pad_id|>"', '"<|eot_id|>"', "pad-token-missing", "warning", "pad_token", "end-of-turn"),
    ("num_epochs: 3", "num_epochs: 3\ndeepspeed: none.json", "deepspeed-config-invalid", "error", "deepspeed", "none.json"),
    ("num_epochs: 3", "num_epochs: 3\ndeepspeed: deepspeed_configs/zero3_bf16.json", "deepspeed-config-invalid", "warning", "deepspeed", "fetch"),
    ("chat_template: llama3\n", "", "chat-template-missing", None, "", "none on Instruct"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "rule", "severity", "at", "says"), BROKEN[:-1])
def test_each_mistake_is_named_at_its_line(
    old: str, new: str, rule: str, severity: str | None, at: str, says: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    text = changed(old, new)
    code, findings = judged(tmp_path, text, capsys)
    told = [f for f in findings if f["id"] == rule and any(word in f["message"] for word in says.split("|"))]
    assert told, findings
    assert severity is None or told[0]["severity"] == severity
    assert code == int(any(f["severity"] == "error" for f in findings))
    if at:
        lines = {e["line_first"] for e in told[0]["evidence"]}
        assert line_of(text, at) in lines


def test_an_instruct_model_needs_no_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, findings = judged(tmp_path, changed("chat_template: llama3\n", ""), capsys)
    assert "chat-template-missing" not in [f["id"] for f in findings]
    text = changed("chat_template: llama3\n", "").replace("-Instruct", "")
    _, findings = judged(tmp_path, text, capsys)
    assert "chat-template-missing" in [f["id"] for f in findings]


def test_broken_yaml_has_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = judged(tmp_path, GOOD.replace("    type: chat_template", "   type: chat_template"), capsys)
    assert code == 1
    assert findings[0]["id"] == "config-invalid"
    assert findings[0]["evidence"][0]["line_first"] == 4


def test_bf16_on_a_card_without_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = judged(tmp_path, GOOD, capsys, "--assume", "2xT4")
    assert (code, [f["id"] for f in findings]) == (1, ["precision-unsupported"])


def test_deepspeed_numbers_against_the_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ds.json").write_text(
        json.dumps({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": 8, "fp16": {"enabled": True}})
    )
    code, findings = judged(tmp_path, GOOD + f"deepspeed: {tmp_path / 'ds.json'}\n", capsys)
    assert code == 1
    assert {"deepspeed-config-invalid", "precision-fp16"} <= {f["id"] for f in findings}


def test_the_guide_s_own_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every problem of it, and nothing else."""
    code = main([str(HERE / "guide.yml"), "--only", "config", "--assume", "4xA100-40GB", "--format", "json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert code == 1 or code == 0
    told = sorted((f["id"], f["severity"]) for f in findings)
    assert told == [
        ("config-invalid", "info"),  # eval and save every 200 of some 150 steps
        ("config-invalid", "info"),  # flash_attention: the old spelling
        ("config-invalid", "warning"),  # flash_rotary, fused_mlp
        ("lr-too-low", "info"),  # 50 of some 150 steps in warm-up
        ("offload-unneeded", "warning"),  # the 8-bit optimizer is replaced
        ("template-mismatch", next(f["severity"] for f in findings if f["id"] == "template-mismatch")),
    ]
    unknown = next(f for f in findings if "drops them" in f["message"])
    lines = (HERE / "guide.yml").read_text().split("\n")
    assert [lines[e["line_first"] - 1].partition(":")[0] for e in unknown["evidence"]] == ["flash_rotary", "fused_mlp"]


def test_fix_writes_a_copy_with_its_comments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mended.yml"
    main([str(HERE / "guide.yml"), "--only", "config", "--assume", "4xA100-40GB", "--fix", str(out)])
    said = capsys.readouterr().out
    data = yaml.safe_load(out.read_text())
    assert "flash_rotary" not in data
    assert "fused_mlp" not in data
    assert data["attn_implementation"] == "flash_attention_2"
    assert data["chat_template"] == "alpaca"
    assert "# Llama 3.1 8B QLoRA on 4 GPUs" in out.read_text()
    assert "by hand: offload-unneeded" in said
    before = yaml.safe_load((HERE / "guide.yml").read_text())
    assert {k for k in data if data[k] != before.get(k)} == {"attn_implementation", "chat_template"}


def test_fix_renames_unknown_keys_and_maps_sharegpt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = changed("type: chat_template", "type: sharegpt").replace("lora_r: 32", "lora_rank: 32  # rank")
    out = tmp_path / "mended.yml"
    judged(tmp_path, text, capsys, "--fix", str(out))
    data = yaml.safe_load(out.read_text())
    assert data["lora_r"] == 32
    assert "lora_rank" not in data
    assert data["datasets"][0]["type"] == "chat_template"
    assert data["datasets"][0]["message_property_mappings"] == {"role": "from", "content": "value"}
    code, findings = judged(tmp_path, out.read_text(), capsys)
    assert (code, findings) == (0, [])


def test_fix_never_writes_over_a_file(tmp_path: Path) -> None:
    from ftdoctor.errors import UsageError

    out = tmp_path / "there.yml"
    out.write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        main([str(HERE / "guide.yml"), "--only", "config", "--fix", str(out)])
    assert out.read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[1, 2]", "just text", "a: b\n", "\x00\x01"])
def test_what_is_no_configuration_is_an_error_not_a_traceback(text: str, tmp_path: Path) -> None:
    from ftdoctor.errors import FtdoctorError

    path = tmp_path / "config.yml"
    path.write_text(text)
    if text == "\x00\x01":
        assert main([str(path), "--only", "config", "--format", "json"]) == 1  # unreadable YAML is a finding
        return
    with pytest.raises(FtdoctorError) as raised:
        main([str(path), "--only", "config", "--format", "json"])
    assert raised.value.remedy


def test_lint_alone_is_fast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged(tmp_path, GOOD, capsys)
    start = time.process_time()
    judged(tmp_path, GOOD, capsys)
    assert time.process_time() - start < 2.0


def test_nearest_key() -> None:
    assert nearest("lora_rank") == "lora_r"
    assert nearest("gradient_acumulation_steps") == "gradient_accumulation_steps"
    assert nearest("flash_rotary") is None
    assert nearest("zzz") is None


def test_machines() -> None:
    assert (assume("8xA100-80GB").count, assume("8xA100-80GB").bf16) == (8, True)
    assert assume("2x24GB").memory == pytest.approx(23.5, abs=0.2)
    assert assume("NVIDIA H100 80GB").name.startswith("H100")
    assert assume("T4").bf16 is False


def test_steps_from_local_rows(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"a": 1}\n' * 100)
    data: dict[str, Any] = {
        "datasets": [{"path": "d.jsonl"}], "micro_batch_size": 2, "gradient_accumulation_steps": 2, "num_epochs": 3,
        "val_set_size": 0.2,
    }  # fmt: skip
    assert plan.total_steps(data, tmp_path, 4) == 15
    assert plan.total_steps(data | {"max_steps": 7}, tmp_path, 4) == 7
    assert plan.total_steps({"datasets": [{"path": "org/hub"}], "micro_batch_size": 1}, tmp_path, 4) is None


RIG = Path("/root/rig/v/bin/python")


@pytest.mark.skipif(not RIG.is_file(), reason="no training environment with Axolotl here")
def test_axolotl_s_own_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = changed("num_epochs: 3", "num_epochs: 3\nwarmup_steps: 5\nwarmup_ratio: 0.1")
    code, findings = judged(tmp_path, text, capsys, "--python", str(RIG))
    assert code == 1
    assert "mutually exclusive" in findings[0]["message"]


def test_what_does_not_fit_gets_the_smaller_batch_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(
        json.dumps({"model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256})
    )  # fmt: skip
    (tmp_path / "config.yml").write_text(
        f"base_model: {model}\nadapter: lora\nbf16: true\nsequence_len: 4096\nmicro_batch_size: 16\n"
        "gradient_accumulation_steps: 1\nlora_r: 16\npad_to_sequence_len: true\n"
    )
    assert main([str(tmp_path / "config.yml"), "--only", "memory", "--assume", "1xA100-80GB", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    fix = next(f for f in found if f["id"] == "cuda-oom")["fixes"][0]
    assert fix["config_patch"] == {"axolotl.micro_batch_size": 8, "axolotl.gradient_accumulation_steps": 2}
