"""What is recorded.

Each scenario is the base YAML with a few keys changed, a command, and maybe a fault while it runs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.record.rig import Meddle, Running

TRAIN1 = ("axolotl", "train", "config.yml", "--launcher", "python")
TRAIN2 = ("torchrun", "--nproc_per_node", "2", "-m", "axolotl.cli.train", "config.yml")
ZERO3: Mapping[str, Any] = {"deepspeed": "./deepspeed_z3.json"}
ALPACA: Mapping[str, Any] = {
    "datasets": [{"path": "./data.jsonl", "type": "alpaca"}],
    "special_tokens": {"pad_token": "<|end_of_text|>"},
}
LONG: Mapping[str, Any] = {"max_steps": 120, "eval_steps": 200, "save_steps": 200}


@dataclass(frozen=True)
class Scenario:
    """One recording. `root` None and verdict healthy make it a healthy run."""

    name: str
    shows: str
    root: str | None
    verdict: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    command: Sequence[str] = TRAIN1
    env: Mapping[str, str] = field(default_factory=dict)
    meddle: Meddle | None = None
    also: Sequence[str] = ()
    before: Sequence[Sequence[str]] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    prefix: Sequence[str] = ()
    keep: Sequence[str] = ()
    inputs: Sequence[str] = ("train.log", "config.yml")


def kill_rank(number: int, name: int) -> Meddle:
    """Send a signal to one rank once it trains."""

    def meddle(run: Running) -> None:
        run.wait_for("'grad_norm'")
        os.kill(run.rank(number), name)

    return meddle


def signal_launcher(name: int) -> Meddle:
    """Send a signal to the launcher once it trains."""

    def meddle(run: Running) -> None:
        run.wait_for("'grad_norm'")
        os.kill(run.process.pid, name)

    return meddle


def stop_all_then_term(run: Running) -> None:
    """Stop every rank without a word; a person ends the job later."""
    run.wait_for("'grad_norm'")
    ranks = [run.rank(0), run.rank(1)]
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(8)
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)


def occupy(port: int) -> Meddle:
    """Hold a port for as long as the run lasts."""

    def meddle(run: Running) -> None:
        with socket.socket() as held:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("0.0.0.0", port))
            held.listen()
            run.process.wait(120)

    return meddle


def unmount(folder: Path) -> None:
    """Take the small file system away again."""
    subprocess.run(["umount", str(folder / "small")], check=False, capture_output=True)


SCENARIOS: tuple[Scenario, ...] = (
    Scenario("lora_1rank", "LoRA on one rank", None, "healthy"),
    Scenario("lora_2rank_ddp", "LoRA on two ranks, DDP", None, "healthy", command=TRAIN2),
    Scenario(
        "lora_2rank_zero3",
        "LoRA on two ranks, DeepSpeed ZeRO-3",
        None,
        "healthy",
        ZERO3,
        TRAIN2,
        inputs=("train.log", "config.yml", "deepspeed_z3.json"),
        keep=("deepspeed_z3.json",),
    ),
    Scenario("lora_long", "120 steps, loss falls", None, "healthy", LONG),
    Scenario(
        "resumed",
        "resumed from a checkpoint",
        None,
        "healthy",
        {"resume_from_checkpoint": "./out/checkpoint-12"},
        before=(TRAIN1,),
    ),
    Scenario(
        "preprocess_chat",
        "preprocess with decoded samples",
        None,
        "healthy",
        command=("axolotl", "preprocess", "config.yml", "--debug", "--debug-num-examples", "2"),
    ),
    Scenario("merge", "merge-lora", None, "healthy", command=("axolotl", "merge-lora", "config.yml"), before=(TRAIN1,)),
    Scenario(
        "alpaca_under_llama3",
        "type: alpaca under chat_template: llama3 trains on the Alpaca prompt",
        "template-mismatch",
        "suspicious",
        ALPACA,
    ),
    Scenario(
        "preprocess_alpaca",
        "the decoded samples of the same",
        "template-mismatch",
        "suspicious",
        ALPACA,
        ("axolotl", "preprocess", "config.yml", "--debug"),
    ),
    Scenario(
        "lr_5",
        "learning rate 5.0 with LoRA: this model does not diverge, it jumps to a flat answer",
        "lr-too-high",
        "suspicious",
        {**LONG, "learning_rate": 5.0, "max_grad_norm": 0},
    ),
    Scenario(
        "full_lr_1",
        "full fine-tune at learning rate 1.0: the loss leaves for a long way and comes back as the rate decays",
        "loss-diverging",
        "suspicious",
        {**LONG, "adapter": None, "learning_rate": 1.0, "warmup_steps": 30, "max_grad_norm": 0},
    ),
    Scenario(
        "lr_0",
        "learning rate 0",
        "lr-too-low",
        "failing",
        {**LONG, "learning_rate": 0.0, "warmup_steps": 0, "lr_scheduler": "constant"},
        also=("loss-stuck",),
    ),
    Scenario(
        "lr_2e-5",
        "learning rate 2e-5 with LoRA",
        "lr-too-low",
        "failing",
        {**LONG, "learning_rate": 2e-5},
        also=("loss-stuck",),
    ),
    Scenario(
        "fp16_cpu", "fp16 asked for on a CPU: torch trains without loss scaling there", None, "healthy", {"fp16": True}
    ),
    Scenario(
        "labels_masked",
        "a role the template does not know: every label masked",
        "labels-all-masked",
        "failing",
        {"datasets": [{"path": "./bots.jsonl", "type": "chat_template", "field_messages": "messages"}]},
    ),
    Scenario(
        "labels_masked_packing",
        "the same with sample packing: Axolotl drops every row",
        "labels-all-masked",
        "failing",
        {
            "datasets": [{"path": "./bots.jsonl", "type": "chat_template", "field_messages": "messages"}],
            "sample_packing": True,
            "eval_sample_packing": False,
        },
    ),
    Scenario(
        "preprocess_masked",
        "decoded samples with no trained label",
        "labels-all-masked",
        "failing",
        {"datasets": [{"path": "./bots.jsonl", "type": "chat_template", "field_messages": "messages"}]},
        ("axolotl", "preprocess", "config.yml", "--debug"),
    ),
    Scenario(
        "empty_outputs",
        "every output is empty: the decoded sample trains no token",
        "labels-all-masked",
        "failing",
        {**ALPACA, "datasets": [{"path": "./empty.jsonl", "type": "alpaca"}], "chat_template": None},
        ("axolotl", "preprocess", "config.yml", "--debug"),
    ),
    Scenario(
        "wrong_columns",
        "rows without an instruction column",
        "dataset-format-invalid",
        "failing",
        {**ALPACA, "datasets": [{"path": "./columns.jsonl", "type": "alpaca"}]},
    ),
    Scenario(
        "unknown_type",
        "type: template does not exist",
        "dataset-format-invalid",
        "failing",
        {**ALPACA, "datasets": [{"path": "./data.jsonl", "type": "template"}]},
    ),
    Scenario(
        "no_pad_token",
        "neither pad token nor end-of-turn token in the config",
        "eos-not-trained",
        "suspicious",
        {"special_tokens": None},
    ),
    Scenario(
        "samples_dropped",
        "two thirds of the rows exceed sequence_len",
        "samples-dropped",
        "suspicious",
        {**ALPACA, "datasets": [{"path": "./long.jsonl", "type": "alpaca"}], "chat_template": None},
    ),
    Scenario(
        "rank_killed",
        "rank 1 killed with SIGKILL",
        "host-oom",
        "failing",
        ZERO3,
        TRAIN2,
        meddle=kill_rank(1, signal.SIGKILL),
        also=("rank-crashed",),
    ),
    Scenario(
        "rank_segfault",
        "rank 1 ended with SIGSEGV",
        "rank-crashed",
        "failing",
        command=TRAIN2,
        meddle=kill_rank(1, signal.SIGSEGV),
    ),
    Scenario(
        "rank_stopped",
        "rank 1 stopped until the collective times out",
        "nccl-timeout",
        "failing",
        {"ddp_timeout": 12},
        TRAIN2,
        {"AXOLOTL_NCCL_TIMEOUT": "12"},
        kill_rank(1, signal.SIGSTOP),
    ),
    Scenario(
        "hung_then_killed",
        "both ranks stop without a word and are killed",
        "host-oom",
        "failing",
        command=TRAIN2,
        meddle=stop_all_then_term,
    ),
    Scenario(
        "sigterm",
        "SIGTERM to the launcher",
        "interrupted",
        "failing",
        command=TRAIN2,
        meddle=signal_launcher(signal.SIGTERM),
    ),
    Scenario(
        "sigint_zero3",
        "SIGINT under ZeRO-3: exit code 0 or 1 and an adapter of empty tensors",
        "interrupted",
        "failing",
        ZERO3,
        TRAIN2,
        meddle=signal_launcher(signal.SIGINT),
        keep=("out/adapter_model.safetensors", "out/adapter_config.json"),
        inputs=("train.log", "out"),
    ),
    Scenario(
        "port_in_use",
        "the master port is taken",
        "rendezvous-failed",
        "failing",
        command=(
            "torchrun",
            "--nproc_per_node",
            "2",
            "--master_addr",
            "127.0.0.1",
            "--master_port",
            "29777",
            "-m",
            "axolotl.cli.train",
            "config.yml",
        ),
        meddle=occupy(29777),
    ),
    Scenario(
        "disk_full",
        "the output folder lies on a 300 kB file system",
        "disk-full",
        "failing",
        {"output_dir": "./small/out"},
        before=(("sh", "-c", "mkdir -p small && mount -t tmpfs -o size=300k tmpfs small"),),
    ),
    Scenario(
        "merge_without_adapter",
        "merge-lora without an adapter",
        "adapter-missing",
        "failing",
        {"output_dir": "./nothing"},
        ("axolotl", "merge-lora", "config.yml"),
    ),
    Scenario(
        "host_memory",
        "too little address space",
        "host-oom",
        "failing",
        command=("sh", "-c", "ulimit -v 2000000; exec axolotl train config.yml --launcher python"),
    ),
    Scenario(
        "no_rig_two_ranks",
        "two ranks, no GPU, nothing that makes it work on CPU",
        None,
        "failing",
        {"plugins": None},
        TRAIN2,
    ),
    Scenario(
        "kernels_without_cuda",
        "Axolotl's LoRA kernels on a CPU-only torch",
        "torch-cpu-only",
        "failing",
        {"lora_mlp_kernel": True, "lora_qkv_kernel": True, "lora_o_kernel": True},
    ),
    Scenario(
        "bf16_and_flash",
        "bf16 and flash attention where there is no GPU",
        "precision-unsupported",
        "failing",
        {"bf16": True, "flash_attention": True},
    ),
    Scenario(
        "plugin_missing",
        "a plugin that cannot be imported: the run goes on without it",
        "package-missing",
        "suspicious",
        {"plugins": ["cpu_rig.CpuRig", "axolotl_liger_extra.LigerPlugin"]},
    ),
    Scenario(
        "module_missing",
        "a library the run needs is not there",
        "package-missing",
        "failing",
        {"plugins": ["cpu_rig.CpuRig", "needs.NeedsIt"]},
        files={"needs.py": "class NeedsIt:\n    def __init__(self):\n        import flash_linear_attention_extra\n"},
    ),
    Scenario(
        "deepspeed_file_missing",
        "the DeepSpeed JSON does not exist",
        "deepspeed-config-invalid",
        "failing",
        {"deepspeed": "./zero3_bf16.json"},
        TRAIN2,
    ),
    Scenario(
        "deepspeed_mismatch",
        "batch size hard-coded in the JSON at odds with the YAML",
        "deepspeed-config-invalid",
        "failing",
        {"deepspeed": "./hard.json"},
        TRAIN2,
        files={
            "hard.json": '{\n  "zero_optimization": {"stage": 3},\n  "train_micro_batch_size_per_gpu": 1,\n'
            '  "gradient_accumulation_steps": 4,\n  "train_batch_size": 64\n}\n'
        },
        keep=("hard.json",),
    ),
    Scenario(
        "qlora_without_4bit", "adapter: qlora without load_in_4bit", "config-invalid", "failing", {"adapter": "qlora"}
    ),
    Scenario(
        "both_deepspeed_and_fsdp",
        "deepspeed and fsdp together",
        "config-invalid",
        "failing",
        {**ZERO3, "fsdp_config": {"offload_params": False}, "fsdp_version": 2},
    ),
    Scenario(
        "model_path_missing",
        "base_model does not exist",
        "path-not-found",
        "failing",
        {"base_model": "./no-such-model", "tokenizer_config": "./tiny"},
    ),
    Scenario(
        "data_path_missing",
        "the data set does not exist",
        "path-not-found",
        "failing",
        {"datasets": [{"path": "./no-such.jsonl", "type": "alpaca"}]},
    ),
    Scenario(
        "checkpoint_truncated",
        "resume from a truncated checkpoint",
        "checkpoint-failed",
        "failing",
        {"resume_from_checkpoint": "./out/checkpoint-12"},
        before=(TRAIN1, ("truncate", "-s", "300", "out/checkpoint-12/optimizer.pt")),
    ),
    Scenario("unknown_key", "a misspelt key is dropped in silence", None, "healthy", {"lora_rank": 16}),
)
