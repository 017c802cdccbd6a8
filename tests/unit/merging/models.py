"""Tiny models, adapters and merges written by the test, in real safetensors files; no torch."""

from __future__ import annotations

import json
import string
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
WIDTH, INNER, TOKENS, LAYERS, RANK = 64, 96, 80, 2, 4
TARGETS = {"self_attn.q_proj": (WIDTH, WIDTH), "mlp.down_proj": (WIDTH, INNER), "mlp.up_proj": (INNER, WIDTH)}


def stored(values: Array, dtype: str) -> bytes:
    if dtype == "BF16":
        bits = values.astype("<f4").view("<u4")
        quiet = np.isnan(values)
        wide = (bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16
        return np.where(quiet, 0x7FC0, wide).astype("<u2").tobytes()
    return values.astype({"F16": "<f2", "F32": "<f4", "I64": "<i8"}[dtype]).tobytes()


def write(path: Path, tensors: Mapping[str, Array], dtype: str = "F32") -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, at = [], 0
    for name, values in tensors.items():
        data = stored(np.ascontiguousarray(values), dtype)
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [at, at + len(data)]}
        blobs.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def as_stored(values: Array, dtype: str) -> Array:
    """The values after a trip through the format."""
    data = stored(values, dtype)
    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").reshape(values.shape)
    return np.frombuffer(data, {"F16": "<f2", "F32": "<f4"}[dtype]).astype("<f4").reshape(values.shape)


OTHERS = {"self_attn.k_proj": (WIDTH, WIDTH), "self_attn.v_proj": (WIDTH, WIDTH), "self_attn.o_proj": (WIDTH, WIDTH),
          "mlp.gate_proj": (INNER, WIDTH), "post_attention_layernorm": (WIDTH,)}  # fmt: skip


def base_tensors(seed: int = 0, tokens: int = TOKENS, others: bool = False) -> dict[str, Array]:
    draw = np.random.default_rng(seed)
    made = {"model.embed_tokens.weight": draw.normal(0, 0.05, (tokens, WIDTH))}
    for layer in range(LAYERS):
        for module, shape in {**TARGETS, **(OTHERS if others else {})}.items():
            made[f"model.layers.{layer}.{module}.weight"] = draw.normal(0, 0.05, shape)
        made[f"model.layers.{layer}.input_layernorm.weight"] = 1 + draw.normal(0, 0.02, WIDTH)
    made["model.norm.weight"] = 1 + draw.normal(0, 0.02, WIDTH)
    made["lm_head.weight"] = draw.normal(0, 0.05, (tokens, WIDTH))
    return {name: values.astype(np.float32) for name, values in made.items()}


def adapter_tensors(seed: int = 1, size: float = 0.05, rank: int = RANK) -> dict[str, Array]:
    draw, made = np.random.default_rng(seed), {}
    for layer in range(LAYERS):
        for module, (out, inner) in TARGETS.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            made[f"{name}.lora_A.weight"] = draw.normal(0, size, (rank, inner)).astype(np.float32)
            made[f"{name}.lora_B.weight"] = draw.normal(0, size, (out, rank)).astype(np.float32)
    return made


CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj", "up_proj"],
    "use_rslora": False, "use_dora": False, "base_model_name_or_path": "base",
}  # fmt: skip


def merged_tensors(base: Mapping[str, Array], adapter: Mapping[str, Array], scaling: float = 2.0) -> dict[str, Array]:
    """Merged by another road than the product's: tensor by tensor in float64."""
    result = dict(base)
    for name, a in adapter.items():
        if name.endswith("lora_A.weight"):
            target = name.removeprefix("base_model.model.").replace("lora_A.", "")
            b = adapter[name.replace("lora_A", "lora_B")]
            result[target] = (base[target].astype("f8") + scaling * b.astype("f8") @ a.astype("f8")).astype("f4")
    return result


def tokenizer(folder: Path, eos: str = "<|im_end|>", template: str | None = "{{ messages }}<|im_end|>") -> None:
    """A BPE tokenizer of as many tokens as the embedding has rows."""
    signs = string.ascii_letters + string.digits
    vocabulary = {signs[i] if i < len(signs) else f"t{i}": i for i in range(TOKENS - 2)}
    how = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": TOKENS - 2 + i, "content": t, **how} for i, t in enumerate(("<|end|>", "<|im_end|>"))]
    full = {"version": "1.0", "model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(full))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": eos, "pad_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)


def model(folder: Path, tensors: Mapping[str, Array], dtype: str = "F32", shards: int = 1, eos: int = 79) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": len(tensors["lm_head.weight"]),
        "tie_word_embeddings": False, "eos_token_id": eos,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos}))
    if shards == 1:
        write(folder / "model.safetensors", tensors, dtype)
        return
    names = list(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        write(folder / file, {n: tensors[n] for n in part}, dtype)
        weight_map.update(dict.fromkeys(part, file))
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def adapter(folder: Path, tensors: Mapping[str, Array], dtype: str = "F32", **config: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config))
    write(folder / "adapter_model.safetensors", tensors, dtype)
    tokenizer(folder)
