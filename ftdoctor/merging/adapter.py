"""A PEFT adapter: which tensor of the model it changes, and by how much.

Names as PEFT, Unsloth, TRL and Axolotl write them: `base_model.model.<module>.lora_A.weight`, with `.default` before
`.weight` in some; `modules_to_save` and resized embeddings are whole tensors that replace the model's.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ftdoctor.merging.tensors import Checkpoint, Floats, Tensor, read_checkpoint

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+|(?<=\.)(?:_fsdp_wrapped_module|_orig_mod|base_layer)\.")
_LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B|magnitude_vector)(?:\.(?P<rest>.+))?$")
_SAVED = re.compile(r"^(?P<module>.+?)\.(?:modules_to_save(?:\.[^.]+)?|original_module)\.(?P<leaf>weight|bias)$")
_TOKENS = re.compile(r"^(?P<module>.+?)\.(?:token_adapter\.)?trainable_tokens_delta(?:\..+)?$")
_LAYER = re.compile(r"(?:^|\.)((?:layers|h|blocks|layer|block)\.\d+\..+)$")
SCALED = {"A", "B", "embedding_A", "embedding_B"}


@dataclass(slots=True)
class Change:
    """What the adapter does to one tensor. `kind`: lora | dora | embedding | bias | replace | rows.

    `value` is the whole tensor that replaces the model's, the rows, the update of a bias, or, beside A and B, the
    tensor that they were trained on (an embedding that was resized, then adapted).
    """

    module: str
    kind: str
    a: Tensor | None = None
    b: Tensor | None = None
    magnitude: Tensor | None = None
    value: Tensor | None = None
    indices: tuple[int, ...] = ()
    scaling: float = 1.0

    @property
    def rank(self) -> int:
        """Rank of the update; 0 when the tensor is replaced."""
        return self.a.shape[0] if self.a is not None and self.a.shape else 0

    @property
    def parts(self) -> list[Tensor]:
        """The adapter's tensors in it."""
        return [t for t in (self.a, self.b, self.magnitude, self.value) if t is not None]


@dataclass(slots=True)
class Adapter:
    """An adapter folder. `problems`: sentences about what is missing; `unproven`: what the proof does not cover."""

    folder: str
    config: dict[str, Any] = field(default_factory=dict)
    weights: Checkpoint = field(default_factory=lambda: Checkpoint(""))
    changes: dict[str, Change] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    @property
    def base(self) -> str:
        """The base model that training named."""
        return str(self.config.get("base_model_name_or_path") or "")


def scaling(config: dict[str, Any], module: str, rank: int) -> float:
    """Alpha / r, or alpha / sqrt(r) with rsLoRA; `alpha_pattern` wins where a key is the end of the module's name.

    As in PEFT's `LoraLayer.update_layer`; the rank is the tensor's own.
    """
    alpha = float(config.get("lora_alpha") or config.get("r") or 1)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", module)
        except re.error:
            found = None
        if found:
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank) if rank else 0.0


def read_adapter(folder: str) -> Adapter:
    """Configuration and headers of an adapter folder; whatever is wrong is in `problems`."""
    result, root = Adapter(folder), Path(folder)
    try:
        config: object = json.loads((root / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not an object")
        result.config = config
    except FileNotFoundError:
        result.problems.append(f"{CONFIG} is not in {folder}")
        return result
    except (OSError, ValueError) as error:
        result.problems.append(f"{CONFIG} in {folder} cannot be read: {error}")
        return result
    if not (root / WEIGHTS).is_file():
        pickled = next((n for n in ("adapter_model.bin", "adapter_model.pt") if (root / n).is_file()), None)
        if pickled is None:
            result.problems.append(f"{WEIGHTS} is not in {folder}")
        else:
            result.unproven.append(f"{pickled} is a pickle, which is not opened: save the adapter as safetensors")
        return result
    result.weights = read_checkpoint(folder, (WEIGHTS,))
    result.problems += result.weights.problems
    result.empty = [t.name for t in result.weights.tensors.values() if not t.count]
    if not result.weights.tensors and not result.problems:
        result.problems.append(f"{WEIGHTS} holds no tensor")
    kind = str(result.config.get("peft_type", "LORA")).upper()
    if kind != "LORA":
        result.unproven.append(f"peft_type {kind}: only LoRA and its variants rsLoRA and DoRA are proven")
        return result
    _sort(result)
    return result


def _sort(adapter: Adapter) -> None:
    """Fill `changes`: from the adapter's tensors to changes, by module."""
    config = adapter.config
    whole: dict[str, Change] = {}
    for tensor in adapter.weights.tensors.values():
        name = _WRAPPERS.sub("", tensor.name)
        name = name.removeprefix("base_model.model.")
        if found := _LORA.match(name):
            module, part = found["module"], found["part"]
            if (found["rest"] or "").endswith("bias"):
                adapter.changes[f"{module}.bias"] = Change(module, "bias", value=tensor)
                continue
            change = adapter.changes.setdefault(f"{module}.weight", Change(module, "lora"))
            if part in ("A", "embedding_A"):
                change.a = tensor
            elif part in ("B", "embedding_B"):
                change.b = tensor
            else:
                change.magnitude = tensor
            if part.startswith("embedding"):
                change.kind = "embedding"
        elif found := _TOKENS.match(name):
            indices = config.get("trainable_token_indices") or ()
            if isinstance(indices, dict):
                indices = indices.get(found["module"].rpartition(".")[2], ())
            rows = tuple(int(i) for i in indices)
            adapter.changes[f"{found['module']}.weight"] = Change(found["module"], "rows", value=tensor, indices=rows)
        elif found := _SAVED.match(name):
            full = f"{found['module']}.{found['leaf']}"
            whole[full] = Change(found["module"], "replace", value=tensor)
        elif name.endswith((".weight", ".bias")):
            whole[name] = Change(name.rpartition(".")[0], "replace", value=tensor)
        else:
            adapter.unproven.append(f"{tensor.name}: a kind of tensor that is not known")
    for name, change in whole.items():
        if (there := adapter.changes.get(name)) is not None and there.kind in ("lora", "embedding"):
            there.value = change.value
        else:
            adapter.changes[name] = change
    parents = tuple(str(p).rpartition(".")[0] for p in config.get("target_parameters") or ())
    for name, change in list(adapter.changes.items()):
        if parents and f".{change.module}".endswith(tuple(f".{p}" for p in parents)):
            adapter.unproven.append(f"{change.module}: updates of single parameters (experts) are not proven")
            del adapter.changes[name]
        elif change.kind in ("lora", "embedding"):
            if change.a is None or change.b is None:
                lost = "A" if change.a is None else "B"
                adapter.problems.append(f"{change.module} has no lora_{lost}: the adapter was saved in part")
                del adapter.changes[name]
                continue
            change.scaling = scaling(config, change.module, change.rank)
            if change.magnitude is not None:
                change.kind = "dora"
    for change in adapter.changes.values():
        if change.kind == "bias" and (weight := adapter.changes.get(f"{change.module}.weight")) is not None:
            change.scaling = weight.scaling


def locate(wanted: str, names: Iterable[str], tails: dict[str, list[str]] | None = None) -> str | None:
    """The model's name of the tensor that the adapter calls `wanted`.

    The same name; else with or without a leading `model.`; else the only one with the same end from the layer's number
    on (multimodal wrappers put `language_model.` here or there from release to release).
    """
    known = names if isinstance(names, (set, dict)) else set(names)
    for candidate in (wanted, wanted.removeprefix("model."), f"model.{wanted}"):
        if candidate in known:
            return candidate
    tail = _LAYER.search(wanted)
    if tail is None:
        return None
    found = (tails_of(known) if tails is None else tails).get(tail[1], [])
    return found[0] if len(found) == 1 else None


def uncovered(adapter: Adapter, names: Iterable[str]) -> list[str]:
    """Tensors of the model that `target_modules` asks for and the adapter has no update of; a list of names only."""
    config = adapter.config
    wanted = config.get("target_modules")
    if not isinstance(wanted, list) or not adapter.changes:
        return []
    if any(config.get(k) for k in ("layers_to_transform", "layers_pattern", "exclude_modules", "target_parameters")):
        return []
    known = list(names)
    tails = tails_of(known)
    there = set(known)
    have = {locate(name, there, tails) for name in adapter.changes}
    ends = tuple(f".{module}.weight" for module in wanted)
    return [name for name in known if f".{name}".endswith(ends) and name not in have]


def tails_of(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by their end from the layer's number on."""
    result: dict[str, list[str]] = {}
    for name in names:
        if tail := _LAYER.search(name):
            result.setdefault(tail[1], []).append(name)
    return result


@dataclass(slots=True)
class Update:
    """The update of one 2-D tensor, ready to be asked for row by row; `flipped` for Conv1D weights [in, out]."""

    a: Floats
    b: Floats
    scaling: float
    magnitude: Floats | None = None
    flipped: bool = False

    def rows(self, first: int, last: int, base: Floats) -> Floats:
        """Expected merged minus base, rows `first` to `last` of the stored matrix; `base` holds those rows."""
        if self.flipped:
            delta: Floats = (self.a[:, first:last].T @ self.b.T) * np.float32(self.scaling)
        else:
            delta = self.b[first:last] @ self.a
            delta *= np.float32(self.scaling)
        if self.magnitude is None:
            return delta
        # DoRA (https://arxiv.org/abs/2402.09353): every row is scaled to the length that was learned
        whole = base + delta
        length = np.linalg.norm(whole, axis=1, keepdims=True)
        length[length == 0] = 1
        stretched: Floats = whole * (self.magnitude.reshape(-1)[first:last, None] / length) - base
        return stretched


@dataclass(slots=True)
class Shift:
    """The update of a bias (PEFT's `lora_bias`): the bias of B, scaled."""

    value: Floats

    def rows(self, first: int, last: int, base: Floats) -> Floats:
        """As in `Update`; a bias is one row."""
        return self.value.reshape(1, -1)[first:last]


def update_of(change: Change, base: Tensor, config: dict[str, Any]) -> Update | Shift | str:
    """The update for `base`, or in words why the shapes do not fit."""
    if change.kind == "bias":
        assert change.value is not None
        if change.value.shape != base.shape:
            return f"base is {list(base.shape)}, the adapter's bias is {list(change.value.shape)}"
        return Shift(change.value.whole() * np.float32(change.scaling))
    assert change.a is not None
    assert change.b is not None
    if len(base.shape) != 2 or len(change.a.shape) != 2 or len(change.b.shape) != 2:
        return f"shapes {base.shape}, A {change.a.shape}, B {change.b.shape}"
    rank, inputs = change.a.shape
    outputs, columns = change.b.shape
    if rank != columns:
        return f"A {change.a.shape} and B {change.b.shape} have different ranks"
    straight, crossed = base.shape == (outputs, inputs), base.shape == (inputs, outputs)
    flipped = crossed and (not straight or bool(config.get("fan_in_fan_out")))
    if change.kind == "embedding":
        flipped = crossed
    if not straight and not crossed:
        return f"base is {list(base.shape)}, the adapter is for {[outputs, inputs]}"
    magnitude = change.magnitude.whole() if change.magnitude is not None else None
    return Update(change.a.whole(), change.b.whole(), change.scaling, magnitude, flipped)
