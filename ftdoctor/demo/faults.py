"""What the demo can break: keys of the configuration, or a signal to a rank, as it happens to people."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

RECIPE = """\
# A small Llama, LoRA, {what}.
base_model: ./base
tokenizer_type: PreTrainedTokenizerFast
special_tokens:
  pad_token: "<|end_of_text|>"
  eos_token: "<|eot_id|>"
chat_template: llama3
datasets:
  - path: ./chat.jsonl
    type: chat_template
    field_messages: messages
dataset_prepared_path: ./prepared
val_set_size: 0.05
sequence_len: 128
adapter: lora
lora_r: 8
lora_alpha: 256          # a model this small needs large updates
lora_target_linear: true
lora_mlp_kernel: false
lora_qkv_kernel: false
lora_o_kernel: false
output_dir: ./out
max_steps: 80
micro_batch_size: 8
gradient_accumulation_steps: 1
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 0.0002
warmup_steps: 10
logging_steps: 1
eval_steps: 10
save_steps: 80
bf16: {bf16}
fp16: false
tf32: false
gradient_checkpointing: false
seed: 7
"""
# Whole, so that the demo works from a wheel; the values of "auto" come from the Trainer.
ZERO3: Mapping[str, Any] = {
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "bf16": {"enabled": "auto"},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to break the run.

    `changes` are made to the recipe's text; `signal` goes to `rank` once it trains. `expect` holds the failure modes
    that name this fault. `repair`, in words, is what a person does where no machine can.
    """

    name: str
    shows: str
    expect: tuple[str, ...]
    changes: Mapping[str, str] = field(default_factory=dict)
    signal: int = 0
    rank: int = 1
    repair: str = ""
    ends_itself: bool = True


FAULTS: tuple[Fault, ...] = (
    Fault(
        "nan", "learning_rate: 2, an exponent lost: the weights turn NaN while the printed loss stays finite",
        ("loss-nan", "loss-diverging", "lr-too-high"), {"learning_rate: 0.0002": "learning_rate: 2"},
    ),
    Fault(
        "stuck", "learning_rate: 2e-7, far too low for LoRA: the loss does not move",
        ("lr-too-low", "loss-stuck"),
        {"learning_rate: 0.0002": "learning_rate: 0.0000002"},
    ),
    Fault(
        "template", "type: alpaca under chat_template: llama3: trained on one format, asked in another",
        ("template-mismatch", "template-not-applied", "config-invalid", "dataset-format-invalid"),
        {
            "path: ./chat.jsonl": "path: ./alpaca.jsonl",
            "    type: chat_template\n    field_messages: messages": "    type: alpaca",
        },
        repair="the rows as chat messages, and `type: chat_template` in datasets",
    ),
    Fault(
        "masked", "the answers have a role that the template does not know: no token is trained",
        ("labels-all-masked",), {"path: ./chat.jsonl": "path: ./bots.jsonl"},
        repair="the rows with the role `assistant` (or a `roles:` map in datasets)",
    ),
    Fault(
        "killed", "one rank is killed with SIGKILL, as the kernel's out-of-memory killer does",
        ("host-oom", "rank-crashed"), signal=signal.SIGKILL,
        repair="nothing in the configuration: the run is started again",
    ),
    Fault(
        "hang", "one rank stops without a word (SIGSTOP): the others wait for it in a collective",
        ("hang", "nccl-timeout"), signal=signal.SIGSTOP, ends_itself=False,
        repair="nothing in the configuration: the rank is ended and the run started again",
    ),
)  # fmt: skip


def recipe(gpus: int, deepspeed: bool) -> str:
    """The healthy configuration for this machine."""
    text = RECIPE.format(
        what=f"on {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else "on two CPU ranks",
        bf16="auto" if gpus else "false",
    )
    if deepspeed:
        text += "deepspeed: ./zero3.json\n"
    if not gpus:
        text += "plugins:\n  - cpu_ranks.CpuRanks\n"
    return text


def broken(text: str, fault: Fault) -> str:
    """The configuration with the fault in it."""
    for old, new in fault.changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text
