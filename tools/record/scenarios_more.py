"""More recordings: launchers and per-rank logs, data loaders, numbers, merges, and what stands around a run."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.record.rig import Meddle, Running
from tools.record.scenarios import ALPACA, LONG, TRAIN1, TRAIN2, ZERO3, Scenario, signal_launcher

PREPROCESS = ("axolotl", "preprocess", "config.yml")
MERGE = ("axolotl", "merge-lora", "config.yml")
ACCELERATE = ("axolotl", "train", "config.yml")
TEE = ("torchrun", "--nproc_per_node", "2", "--tee", "3", "--log-dir", "logs", "-m", "axolotl.cli.train", "config.yml")
PER_RANK = (
    "torchrun", "--nproc_per_node", "2", "--no-python", "sh", "-c",
    "exec python -m axolotl.cli.train config.yml > rank$LOCAL_RANK.log 2>&1",
)  # fmt: skip
STATE = "out/checkpoint-120/trainer_state.json"

OTHER_MODELS = """
import sys, torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
tokenizer = PreTrainedTokenizerFast.from_pretrained("tiny")
kind = sys.argv[1]
if kind == "tiny_nan":
    model = LlamaForCausalLM.from_pretrained("tiny")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
elif kind == "tiny96":
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=96, intermediate_size=192,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512))
else:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=64, n_layer=2, n_head=4, n_positions=512))
model.save_pretrained(kind)
tokenizer.save_pretrained(kind)
"""


def other_model(kind: str) -> tuple[str, ...]:
    """Command that writes a second model beside ./tiny."""
    return ("sh", "-c", f"cat > other.py <<'END'\n{OTHER_MODELS}\nEND\npython other.py {kind}")


def rows(count: int, **changed: Any) -> str:
    """Alpaca rows; `changed` names a column and gives its value in every tenth row."""
    rng = random.Random(3)
    words = ("red", "blue", "green", "Paris", "loss", "step", "model", "data")
    lines = []
    for number in range(count):
        answer = " ".join(rng.choices(words, k=6))
        row = {"instruction": f"repeat {answer}", "input": "", "output": answer}
        lines.append(json.dumps(row if number % 10 else {**row, **changed}))
    return "\n".join(lines) + "\n"


def token_rows() -> str:
    """Rows tokenised elsewhere with a larger vocabulary."""
    rng = random.Random(4)
    lines = []
    for _ in range(200):
        ids = [rng.randrange(5, 32000) for _ in range(40)]
        lines.append(json.dumps({"input_ids": ids, "attention_mask": [1] * 40, "labels": ids}))
    return "\n".join(lines) + "\n"


def parent(pid: int) -> int:
    """Parent of a process, 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def wait_for_rank_log(run: Running) -> None:
    """Wait until rank 0 logs a training step in its own file."""
    log = run.folder / "rank0.log"
    end = time.monotonic() + 120
    while time.monotonic() < end and run.process.poll() is None:
        if log.is_file() and "'grad_norm'" in log.read_text(errors="replace"):
            return
        time.sleep(0.1)


def kill_rank_1_per_rank(run: Running) -> None:
    """Kill rank 1 in a run whose ranks write files of their own."""
    wait_for_rank_log(run)
    os.kill(run.rank(1), signal.SIGKILL)


def kill_loader_worker(run: Running) -> None:
    """Kill one data loader worker: a forked child of the trainer."""
    run.wait_for("'grad_norm'")
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and parent(int(place.name)) == run.process.pid:
            name = (place / "cmdline").read_bytes()
            if b"axolotl" in name and b"resource_tracker" not in name:
                os.kill(int(place.name), signal.SIGKILL)
                return
    raise RuntimeError("no data loader worker found")


def freeze_everything(run: Running) -> None:
    """Stop ranks and launcher, as a frozen node does. What kills them later prints nothing."""
    run.wait_for("'grad_norm'")
    for pid in (run.rank(0), run.rank(1), run.process.pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(20)
    os.kill(run.process.pid, signal.SIGKILL)


def slow_rank(number: int, bar: str) -> Meddle:
    """From the bar's `bar` on, let one rank run for a tenth of the time."""

    def meddle(run: Running) -> None:
        run.wait_for(bar)
        pid = run.rank(number)
        end = time.monotonic() + 200
        while time.monotonic() < end and run.process.poll() is None:
            try:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(0.6)
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                return
            time.sleep(0.07)

    return meddle


FULL: Mapping[str, Any] = {"adapter": None, "lora_r": None, "lora_alpha": None, "lora_target_linear": None}
SMALL_SET: Mapping[str, Any] = {
    "datasets": [{"path": "./few.jsonl", "type": "alpaca"}], "chat_template": None, "val_set_size": 0.2,
    "special_tokens": {"pad_token": "<|end_of_text|>"},
}  # fmt: skip

LAUNCHERS = (
    Scenario("accelerate_1rank", "the default launcher, accelerate", None, "healthy", command=ACCELERATE),
    Scenario(
        "accelerate_wrong_columns", "a KeyError under accelerate, which adds a traceback of its own",
        "dataset-format-invalid", "failing", {**ALPACA, "datasets": [{"path": "./columns.jsonl", "type": "alpaca"}]},
        ACCELERATE,
    ),
    Scenario("tee_2rank", "torchrun --tee: every line carries the rank", None, "healthy", command=TEE),
    Scenario(
        "rank_killed_per_rank", "rank 1 killed with SIGKILL; each rank writes a log of its own", "host-oom", "failing",
        command=PER_RANK, meddle=kill_rank_1_per_rank, keep=("rank0.log", "rank1.log"),
        before=(("rm", "-f", "rank0.log", "rank1.log"),),
        inputs=("train.log", "rank0.log", "rank1.log", "config.yml"),
    ),
    Scenario(
        "second_node_missing", "the second node never joins", "rendezvous-failed", "failing",
        command=(
            "torchrun", "--nnodes", "2", "--node_rank", "0", "--nproc_per_node", "1", "--master_addr", "127.0.0.1",
            "--master_port", "29778", "--rdzv-conf", "timeout=15", "-m", "axolotl.cli.train", "config.yml",
        ),
    ),
    Scenario(
        "sigint_1rank", "Ctrl-C under the python launcher: saves and ends with exit code 0", None, "healthy",
        LONG, meddle=signal_launcher(signal.SIGINT),
    ),
    Scenario(
        "log_stops", "ranks and launcher frozen, then killed: the log just stops", None, "healthy",
        command=TRAIN2, meddle=freeze_everything,
    ),
)  # fmt: skip

NUMBERS = (
    Scenario(
        "nan_weights", "one NaN in the base model's weights", "loss-nan", "failing",
        {**LONG, "base_model": "./tiny_nan"}, before=(other_model("tiny_nan"),),
    ),
    Scenario(
        "full_lr_1e18", "full fine-tune at an absurd learning rate", "loss-nan", "failing",
        {**LONG, **FULL, "learning_rate": 1e18, "warmup_steps": 60, "max_grad_norm": 0},
    ),
    Scenario(
        "fp16_deepspeed", "DeepSpeed fp16 where the device has none", "precision-unsupported", "failing",
        {"deepspeed": "./fp16.json", "fp16": True}, TRAIN2, keep=("fp16.json",),
        inputs=("train.log", "config.yml", "fp16.json"),
        files={"fp16.json": json.dumps({
            "zero_optimization": {"stage": 2}, "fp16": {"enabled": True, "initial_scale_power": 4, "hysteresis": 1},
            "gradient_accumulation_steps": "auto", "gradient_clipping": "auto",
            "train_batch_size": "auto", "train_micro_batch_size_per_gpu": "auto",
        }, indent=2) + "\n"},
    ),
    Scenario(
        "output_folder", "the output folder a healthy run leaves", None, "healthy", LONG,
        keep=(
            STATE, "out/adapter_config.json", "out/adapter_model.safetensors", "out/debug.log",
            "out/tokenizer_config.json", "out/chat_template.jinja",
        ),
        inputs=("out",),
    ),
    Scenario(
        "lr_2e-5_state", "learning rate 2e-5, known from trainer_state.json alone", "loss-stuck", "failing",
        {**LONG, "learning_rate": 2e-5}, keep=(f"{STATE}=trainer_state.json",), inputs=("trainer_state.json",),
    ),
    Scenario(
        "full_healthy", "full fine-tune at 1e-3", None, "healthy", {**LONG, **FULL, "learning_rate": 0.001},
    ),
    Scenario(
        "packed_2rank", "sample packing on two ranks", None, "healthy",
        {"sample_packing": True, "eval_sample_packing": False, "max_steps": 12}, TRAIN2,
    ),
)  # fmt: skip

DATA = (
    Scenario(
        "token_out_of_range", "rows tokenised elsewhere with a larger vocabulary", "token-id-out-of-range", "failing",
        {"datasets": [{"path": "./ids.jsonl", "ds_type": "json"}], "chat_template": None},
        files={"ids.jsonl": token_rows()},
    ),
    Scenario(
        "broken_jsonl", "the data file ends in the middle of a row", "dataset-format-invalid", "failing",
        {**ALPACA, "chat_template": None, "datasets": [{"path": "./cut.jsonl", "type": "alpaca"}]},
        files={"cut.jsonl": rows(200)[:-40]},
    ),
    Scenario(
        "loader_worker_killed", "a data loader worker is killed with SIGKILL", "host-oom", "failing",
        {**LONG, "dataloader_num_workers": 1}, meddle=kill_loader_worker,
    ),
    Scenario(
        "shm_full", "a 32 kB /dev/shm under data loader workers", "shm-exhausted", "failing",
        {**LONG, "dataloader_num_workers": 2}, before=(PREPROCESS,), prefix=("unshare", "-m"),
        command=(
            "sh", "-c",
            "mount -t tmpfs -o size=32k tmpfs /dev/shm && exec axolotl train config.yml --launcher python",
        ),
    ),
)  # fmt: skip

SETUP = (
    Scenario(
        "optimizer_missing", "an optimizer whose package is not installed", "package-missing", "failing",
        {"optimizer": "came_pytorch"},
    ),
    Scenario(
        "hub_no_network", "a Hub model without a network", "hf-unreachable", "failing",
        {"base_model": "meta-llama/Llama-3.1-8B-Instruct"}, env={"HF_HUB_OFFLINE": "0"}, prefix=("unshare", "-n"),
    ),
    Scenario(
        "hub_offline", "a Hub model that is not cached, with HF_HUB_OFFLINE=1", "hf-unreachable", "failing",
        {"base_model": "meta-llama/Llama-3.1-8B-Instruct"},
    ),
    Scenario("bf16_cpu", "bf16 asked for where there is no GPU", "torch-cpu-only", "failing", {"bf16": True}),
    Scenario(
        "broken_yaml", "the YAML does not parse", "config-invalid", "failing",
        command=("axolotl", "train", "broken.yml", "--launcher", "python"), keep=("broken.yml",), inputs=("train.log",),
        files={"broken.yml": "base_model: ./tiny\nadapter: lora\n  lora_r: 8\ndatasets:\n\t- path: ./data.jsonl\n"},
    ),
    Scenario(
        "unknown_target", "LoRA target modules that the model does not have", "config-invalid", "failing",
        {"lora_target_linear": None, "lora_target_modules": ["q_projection", "v_projection"]},
    ),
    Scenario(
        "adapter_other_base", "continue an adapter of a model with other sizes", "merge-mismatch", "failing",
        {"base_model": "./tiny96", "lora_model_dir": "./out", "output_dir": "./out2"},
        before=(TRAIN1, other_model("tiny96")),
    ),
    Scenario(
        "checkpoint_absent", "resume from a checkpoint that is not there", "checkpoint-failed", "failing",
        {"resume_from_checkpoint": "./out/checkpoint-99"},
    ),
    Scenario(
        "merge_with_deepspeed", "merge-lora with deepspeed: still in the YAML", "launcher-wrong", "failing", ZERO3,
        MERGE, before=(TRAIN1,),
    ),
    Scenario(
        "merge_other_base", "merge into a base of other sizes", "merge-mismatch", "failing",
        {"base_model": "./tiny96"}, MERGE, before=(TRAIN1, other_model("tiny96")),
    ),
    Scenario(
        "merge_no_match", "merge into a base whose layers have other names: exit code 0", "merge-ineffective",
        "failing", {"base_model": "./tiny_gpt2"}, MERGE, before=(TRAIN1, other_model("tiny_gpt2")),
    ),
    Scenario(
        "evaluate", "axolotl evaluate with the adapter", None, "healthy", {"lora_model_dir": "./out"},
        ("axolotl", "evaluate", "config.yml", "--launcher", "python"), before=(TRAIN1,),
    ),
)  # fmt: skip

MORE: tuple[Scenario, ...] = (*LAUNCHERS, *NUMBERS, *DATA, *SETUP)
