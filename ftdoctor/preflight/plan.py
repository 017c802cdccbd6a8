"""What an Axolotl YAML plans, as facts: batch, steps, files it names.

Facts: `preflight`, `plan.effective_batch`, `dataset_missing`, `base_model_missing`, `deepspeed_missing`,
`tokenizer.chat_template`, and where the size of the data can be told `total_steps`, `plan.epoch_samples` (sequences per
epoch), `plan.eval_sequences` against `plan.eval_batch`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftdoctor.events import Scalar
from ftdoctor.preflight import sizes
from ftdoctor.preflight.sizes import find
from ftdoctor.run_model.config import coerce

__all__ = ["chat_template", "effective_batch", "facts", "find", "is_local", "model_config", "number", "total_steps"]
DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".txt")
CHARS_PER_TOKEN = 4.0  # English text in today's vocabularies; only used where packing makes steps a matter of tokens

Fact = tuple[str, Scalar, str]  # name, value, key of the YAML it comes from


def facts(data: Mapping[str, Any], folder: Path, gpus: int | None) -> Iterator[Fact]:
    """Everything the plan says; `gpus` is the number of GPUs it will run on, when known."""
    yield "preflight", True, ""
    batch = effective_batch(data, gpus)
    if batch is not None:
        yield "plan.effective_batch", batch, "micro_batch_size"
    for item in sizes.datasets(data):
        path = item.get("path")
        if isinstance(path, str) and is_local(path, item) and find(path, folder) is None:
            yield "dataset_missing", path, "datasets.path"
            break
    base = data.get("base_model")
    if isinstance(base, str) and base.startswith(("/", "./", "../", "~")) and find(base, folder) is None:
        yield "base_model_missing", base, "base_model"
    deepspeed = data.get("deepspeed")
    if isinstance(deepspeed, str) and find(deepspeed, folder) is None:
        own = Path(deepspeed).parts[:1] == ("deepspeed_configs",)
        yield "deepspeed_fetchable" if own else "deepspeed_missing", deepspeed, "deepspeed"
    template = chat_template(data, folder)
    if template is not None:
        yield "tokenizer.chat_template", template, "base_model"
    steps = total_steps(data, folder, gpus)
    if steps is not None:
        yield "total_steps", steps, "num_epochs"
    size = sizes.of(data, folder)
    if size is not None:
        yield "plan.epoch_samples", math.ceil(_sequences(data, size, size.rows * (1 - _held(data, size)))), "datasets"
        held = size.rows * _held(data, size)
        micro = number(data.get("eval_batch_size")) or number(data.get("micro_batch_size"))
        if held and micro and gpus and data.get("sample_packing") is True:
            yield "plan.eval_sequences", math.ceil(_sequences(data, size, held)), "val_set_size"
            yield "plan.eval_batch", int(micro * gpus), "micro_batch_size"


def is_local(path: str, item: Mapping[str, Any]) -> bool:
    """True when Axolotl can only mean a file: a path, a data file's name, `ds_type` with a file in it."""
    if "://" in path:
        return False
    return path.startswith(("/", "./", "../", "~")) or (path.endswith(DATA_SUFFIXES) and path.count("/") != 1)


def effective_batch(data: Mapping[str, Any], gpus: int | None) -> int | None:
    """Samples per optimizer step over all GPUs."""
    micro, accumulation = number(data.get("micro_batch_size")), number(data.get("gradient_accumulation_steps"))
    if micro is None or gpus is None:
        return None
    return int(micro * (accumulation or 1) * gpus)


def number(value: object) -> float | None:
    """A number, also one that PyYAML reads as text (`2e-5`)."""
    found = coerce(value)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def total_steps(data: Mapping[str, Any], folder: Path, gpus: int | None) -> int | None:
    """Optimizer steps of the whole run when the size of all data can be told; with packing an estimate."""
    stated = number(data.get("max_steps"))
    if stated and stated > 0:
        return int(stated)
    batch, epochs = effective_batch(data, gpus), number(data.get("num_epochs")) or 1.0
    size = sizes.of(data, folder)
    if size is None or batch is None or batch <= 0:
        return None
    samples = _sequences(data, size, size.rows * (1 - _held(data, size)))
    return max(1, math.ceil(samples / batch)) * math.ceil(epochs)


def _held(data: Mapping[str, Any], size: sizes.Size) -> float:
    """Share of the rows that is kept for validation."""
    held = number(data.get("val_set_size")) or 0.0
    return held if held < 1 else min(held / size.rows, 1.0)


def _sequences(data: Mapping[str, Any], size: sizes.Size, rows: float) -> float:
    """What `rows` rows make after packing."""
    length = number(data.get("sequence_len"))
    if data.get("sample_packing") is not True or not length:
        return rows
    return min(rows, rows * size.chars / size.rows / CHARS_PER_TOKEN / length / 0.95)


def model_config(data: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """`config.json` of the base model: beside it when local, else in the Hugging Face cache. Nothing is downloaded."""
    for place in _snapshots(data.get("base_model_config") or data.get("base_model"), folder):
        found = _json(place / "config.json")
        if found is not None:
            return found
    return None


def chat_template(data: Mapping[str, Any], folder: Path) -> bool | None:
    """Whether the tokenizer, when it is here, brings a chat template."""
    for place in _snapshots(data.get("tokenizer_config") or data.get("base_model"), folder):
        if (place / "chat_template.jinja").is_file() or (place / "chat_template.json").is_file():
            return True
        config = _json(place / "tokenizer_config.json")
        if config is not None and (place / "tokenizer.json").is_file():
            return bool(config.get("chat_template"))
    return None


def _snapshots(name: object, folder: Path) -> list[Path]:
    """Where the files of a model can be on this machine."""
    if not isinstance(name, str) or not name:
        return []
    local = find(name, folder)
    hub = os.environ.get("HF_HUB_CACHE") or os.path.join(sizes.hf_home(), "hub")
    cached = Path(hub, "models--" + name.replace("/", "--"), "snapshots")
    return ([local] if local is not None else []) + sorted(cached.glob("*"))


def _json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
