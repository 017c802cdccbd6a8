"""Key names of the configurations we give advice on.

`axolotl_schema.json` is written by `python ftdoctor/preflight/validate_worker.py --schema` in a training environment and
names the version it came from; preflight reads that of the installed release and gives its path (fact `axolotl.schema`).
DeepSpeed has no machine-readable list of top-level keys; those here are read from its documentation
(https://www.deepspeed.ai/docs/config-json/).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

DEEPSPEED_KEYS = frozenset(
    {
        "activation_checkpointing", "aio", "amp", "autotuning", "bf16", "bfloat16", "checkpoint", "comms_logger",
        "communication_data_type", "compression_training", "csv_monitor", "curriculum_learning", "data_efficiency",
        "data_types", "dataloader_drop_last", "disable_allgather", "dump_state", "elasticity", "eigenvalue",
        "flops_profiler", "fp16", "fp32_allreduce", "gradient_accumulation_steps", "gradient_clipping",
        "gradient_predivide_factor", "hybrid_engine", "memory_breakdown", "monitor_config", "nebula", "optimizer",
        "pld", "prescale_gradients", "progressive_layer_drop", "scheduler", "seq_parallel_communication_data_type",
        "sequence_parallel_size", "sparse_attention", "sparse_gradients", "steps_per_print", "tensor_parallel",
        "tensorboard", "torch_autocast", "train_batch_size", "train_micro_batch_size_per_gpu", "use_data_before_expert_parallelism",
        "use_node_local_storage", "wall_clock_breakdown", "wandb", "weight_quantization", "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer", "zero_optimization",
    }
)  # fmt: skip

# What people write who come from PEFT, transformers, TRL, LLaMA-Factory or an older Axolotl. None: gone, nothing took its place.
RENAMED: dict[str, str | None] = {
    "alpha": "lora_alpha", "base_model_name": "base_model", "batch_size_per_device": "micro_batch_size",
    "cutoff_len": "sequence_len", "dropout": "lora_dropout", "epochs": "num_epochs", "finetuning_type": "adapter",
    "flash_attn": "attn_implementation", "flash_rotary": None, "fused_mlp": None, "flash_attn_cross_entropy": None,
    "flash_attn_rms_norm": None, "flash_attn_fuse_qkv": None, "lora_rank": "lora_r", "lr": "learning_rate",
    "lr_scheduler_type": "lr_scheduler", "max_grad_clip": "max_grad_norm", "max_length": "sequence_len",
    "max_seq_len": "sequence_len", "max_seq_length": "sequence_len", "model": "base_model", "model_name": "base_model",
    "model_name_or_path": "base_model", "num_train_epochs": "num_epochs", "optim": "optimizer",
    "packing": "sample_packing", "peft_type": "adapter", "per_device_train_batch_size": "micro_batch_size",
    "per_device_eval_batch_size": "eval_batch_size", "rank": "lora_r", "seq_len": "sequence_len",
    "sequence_length": "sequence_len", "target_modules": "lora_target_modules",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Schema:
    """Names that one release of Axolotl reads.

    `nested`: of the records inside a key (`datasets[]`); `plugins`: of each of its own plugins, which count only when
    the plugin is listed.
    """

    axolotl: str
    keys: frozenset[str]
    nested: Mapping[str, frozenset[str]]
    plugins: Mapping[str, frozenset[str]]

    def unknown(self, data: Mapping[str, Any]) -> list[str]:
        """Keys with a value that nothing reads, in the order written; those inside a record as `datasets.typ`.

        Keys of a plugin that is not in `plugins` cannot be told, so with one nothing is unknown at the top level.
        """
        listed = [str(p) for p in data.get("plugins") or ()] if isinstance(data.get("plugins"), list) else []
        known = self.keys.union(*(own for name, own in self.plugins.items() if any(p.startswith(name) for p in listed)))
        foreign = any(not p.startswith(tuple(self.plugins)) for p in listed)
        told = [] if foreign else [str(k) for k, v in data.items() if str(k) not in known and v is not None]
        for name, fields in self.nested.items():
            value = data.get(name.removesuffix("[]"))
            items = value if name.endswith("[]") and isinstance(value, list) else [value] * (not name.endswith("[]"))
            for item in items:
                if isinstance(item, Mapping):
                    bare = name.removesuffix("[]")
                    told += [f"{bare}.{k}" for k, v in item.items() if str(k) not in fields and v is not None]
        return list(dict.fromkeys(told))

    def plugin_of(self, key: str) -> str | None:
        """The own plugin that reads `key`, when the top level does not."""
        return None if key in self.keys else next((name for name, own in self.plugins.items() if key in own), None)

    def nearest(self, key: str) -> str | None:
        """The real key that an unknown one most likely means, None when there is none."""
        parent, _, name = key.rpartition(".")
        if not parent:
            return RENAMED[key] if key in RENAMED else _closest(key, self.keys)
        fields = self.nested.get(parent, self.nested.get(f"{parent}[]", frozenset()))
        return _closest(name, fields)


@lru_cache(maxsize=4)
def axolotl_schema(path: str = "") -> Schema:
    """That of the file at `path`, else the shipped one."""
    if path:
        try:
            return _read(Path(path))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return axolotl_schema()
    return _read(Path(__file__).with_name("axolotl_schema.json"))


def _read(path: Path) -> Schema:
    data = json.loads(path.read_text(encoding="utf-8"))
    nested, plugins = ({k: frozenset(v) for k, v in data[name].items()} for name in ("nested", "plugins"))
    return Schema(str(data["axolotl"]), frozenset(data["keys"]), nested, plugins)


def axolotl_version() -> str:
    """The Axolotl release the shipped key names were read from."""
    return axolotl_schema().axolotl


def axolotl_keys() -> frozenset[str]:
    """Every top-level key Axolotl reads, aliases included."""
    return axolotl_schema().keys


def deepspeed_keys() -> frozenset[str]:
    """Top-level keys of a DeepSpeed JSON."""
    return DEEPSPEED_KEYS


def nearest(key: str, kind: str = "axolotl") -> str | None:
    """The real key that an unknown one most likely means, None when there is none."""
    return _closest(key, deepspeed_keys()) if kind == "deepspeed" else axolotl_schema().nearest(key)


def _closest(key: str, known: frozenset[str]) -> str | None:
    bare = {name.replace("_", ""): name for name in known}
    flat = key.lower().replace("-", "_").replace("_", "")
    if flat in bare:
        return bare[flat]
    close = difflib.get_close_matches(key.lower(), sorted(known), 1, 0.8)
    return close[0] if close else None


def is_gone(key: str) -> bool:
    """True for a key that older Axolotl read and nothing replaced."""
    return key in RENAMED and RENAMED[key] is None
