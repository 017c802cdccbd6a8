"""Small structured files to events: trainer_state.json, Axolotl YAML, DeepSpeed JSON, safetensors headers.

`trainer_state.json` may hold bare NaN and Infinity (not strict JSON); Python's parser takes them. `.pt`, `.pth` and
`.bin` files are pickles and are never opened.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ftdoctor.events import ConfigSeen, Event, FactLearned, MetricSample, Origin
from ftdoctor.sources.files import Damaged, Input
from ftdoctor.sources.heartbeat import read_heartbeat

MAX_JSON = 256 << 20
MAX_CONFIG = 8 << 20
MAX_YAML = 1 << 20
_DEEPSPEED_KEYS = {
    "zero_optimization",
    "train_micro_batch_size_per_gpu",
    "train_batch_size",
    "zero_allow_untested_optimizer",
}
_AXOLOTL_KEYS = {
    "base_model", "datasets", "adapter", "micro_batch_size", "sequence_len", "lora_r", "output_dir", "num_epochs",
    "learning_rate", "sample_packing", "gradient_accumulation_steps",
}  # fmt: skip


def _text(item: Input, limit: int) -> str:
    try:
        size = os.path.getsize(item.path)
        if size > limit:
            raise Damaged(f"{size >> 20} MiB is more than a file of this kind holds ({limit >> 20} MiB)")
        return Path(item.path).read_bytes().decode("utf-8-sig", "replace")
    except OSError as error:
        raise Damaged(f"cannot be read: {error.strerror or error}") from None


def read_state(item: Input, order: Iterator[int]) -> Iterator[Event]:
    """`log_history` of a trainer state as metric samples with stated steps."""
    data = _json(item, MAX_JSON)
    history = data.get("log_history") if isinstance(data, dict) else None
    if not isinstance(history, list):
        raise Damaged("no `log_history` in this JSON: not a trainer_state.json")
    yield FactLearned(Origin(item.name, order=next(order)), "stage", "train")
    maximum = data.get("max_steps")
    if isinstance(maximum, (int, float)) and maximum > 0:
        yield FactLearned(Origin(item.name, order=next(order)), "total_steps", int(maximum))
    for entry in history:
        if not isinstance(entry, dict):
            continue
        origin = Origin(item.name, order=next(order))
        step, epoch = _number(entry.get("step")), _number(entry.get("epoch"))
        for key, value in entry.items():
            number = _number(value)
            if number is not None and key not in ("step", "epoch"):
                yield MetricSample(origin, str(key), number, step, "stated", epoch)
        if "train_runtime" in entry:
            yield FactLearned(origin, "finished", True)


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return float(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return None
    return None


def _json(item: Input, limit: int) -> Any:
    try:
        return json.loads(_text(item, limit))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"not valid JSON: {error}") from None


def read_json(item: Input, order: Iterator[int]) -> Iterator[Event]:
    """A trainer state under another name, or a DeepSpeed configuration."""
    data = _json(item, MAX_JSON)
    if isinstance(data, dict) and isinstance(data.get("log_history"), list):
        yield from read_state(item, order)
    elif isinstance(data, dict) and _DEEPSPEED_KEYS & data.keys():
        yield ConfigSeen(Origin(item.name, order=next(order)), "deepspeed", data, json_lines(_text(item, MAX_CONFIG)))
    else:
        raise Damaged("JSON, but neither a trainer state nor a DeepSpeed configuration")


def read_yaml(item: Input, order: Iterator[int]) -> Iterator[Event]:
    """An Axolotl YAML with the line of every key, and the DeepSpeed JSON it names when that lies where it says."""
    import yaml

    text = _text(item, MAX_YAML)
    origin = Origin(item.name, order=next(order))
    try:
        loader = yaml.SafeLoader(text)  # not the C one: libyaml's binding overflows the stack on deep nesting
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 0
        problem = getattr(error, "problem", None) or str(error)
        yield FactLearned(Origin(item.name, line, order=next(order)), "yaml_error", f"{problem}")
        return
    if not isinstance(data, dict) or not _AXOLOTL_KEYS & data.keys():
        raise Damaged("YAML, but not an Axolotl configuration")
    lines: dict[str, int] = {}
    _yaml_lines(node, "", lines, set())
    yield ConfigSeen(origin, "axolotl", data, lines)
    named = data.get("deepspeed")
    if isinstance(named, dict):
        yield ConfigSeen(origin, "deepspeed", named, {})
    elif isinstance(named, str):
        for base in (Path("."), Path(item.path).parent):
            path = base / named
            if path.is_file():
                yield from _deepspeed_file(Input(str(path), "json"), order)
                break


def _deepspeed_file(item: Input, order: Iterator[int]) -> Iterator[Event]:
    origin = Origin(item.name, order=next(order))
    try:
        data = _json(item, MAX_CONFIG)
    except Damaged as error:
        yield FactLearned(origin, "deepspeed_error", str(error))
        return
    if isinstance(data, dict):
        yield ConfigSeen(origin, "deepspeed", data, json_lines(_text(item, MAX_CONFIG)))


def _yaml_lines(node: Any, prefix: str, lines: dict[str, int], seen: set[int]) -> None:
    if node is None or id(node) in seen:
        return  # an alias: its lines are those of the anchor
    seen.add(id(node))
    if node.id == "mapping":
        for key, value in node.value:
            name = f"{prefix}.{key.value}" if prefix else str(key.value)
            lines.setdefault(name, key.start_mark.line + 1)
            _yaml_lines(value, name, lines, seen)
    elif node.id == "sequence":
        for value in node.value:
            _yaml_lines(value, prefix, lines, seen)


def json_lines(text: str) -> dict[str, int]:
    """Line of each key of a pretty-printed JSON object (first occurrence of `"key":`), by last name."""
    import re

    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        for found in re.finditer(r'"([^"]+)"\s*:', line):
            lines.setdefault(found[1], number)
    return lines


def read_safetensors(item: Input, order: Iterator[int]) -> Iterator[Event]:
    """Shapes from the header: `weights.tensors`, `weights.empty` (tensors without elements), `weights.bytes`."""
    origin = Origin(item.name, order=next(order))
    size = os.path.getsize(item.path)
    try:
        with open(item.path, "rb") as handle:
            prefix = handle.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(size - 8, 100 << 20):
                yield FactLearned(origin, "weights.damaged", f"{item.name}: no safetensors header in {size} bytes")
                return
            header = json.loads(handle.read(length))
    except (OSError, ValueError, struct.error) as error:
        yield FactLearned(origin, "weights.damaged", f"{item.name}: {error}")
        return
    tensors = {k: v for k, v in header.items() if k != "__metadata__" and isinstance(v, dict)}
    empty = [k for k, v in tensors.items() if 0 in v.get("shape", [])]
    end = max((v.get("data_offsets", [0, 0])[1] for v in tensors.values()), default=0)
    yield FactLearned(origin, "weights.tensors", len(tensors))
    yield FactLearned(origin, "weights.empty", len(empty))
    if end > size - 8 - length:
        yield FactLearned(origin, "weights.damaged", f"{item.name}: {size} bytes, its header needs {8 + length + end}")


def read_adapter_dir(item: Input, order: Iterator[int]) -> Iterator[Event]:
    """An output folder with adapter_config.json: are the weights there as well?"""
    origin = Origin(item.name, order=next(order))
    names = ("adapter_model.safetensors", "adapter_model.bin", "adapter_model.pt")
    present = [n for n in names if Path(item.path, n).is_file()]
    yield FactLearned(origin, "adapter.config", True)
    yield FactLearned(origin, "adapter.weights", bool(present))
    checkpoints = any(Path(item.path).glob("checkpoint-*/adapter_model.*"))
    yield FactLearned(origin, "adapter.checkpoints", checkpoints)
    if present:
        yield FactLearned(origin, "adapter.bytes", Path(item.path, present[0]).stat().st_size)


def read_beats(item: Input, order: Iterator[int]) -> Iterator[Event]:
    """A rank's heartbeat file."""
    return read_heartbeat(Path(item.path), order)


READERS = {
    "state": read_state,
    "json": read_json,
    "yaml": read_yaml,
    "safetensors": read_safetensors,
    "adapter_dir": read_adapter_dir,
    "heartbeat": read_beats,
}
