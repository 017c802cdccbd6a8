"""What stands against a conversion to GGUF, read off the folder (llama.cpp `convert_hf_to_gguf.py` asks for it)."""

from __future__ import annotations

from pathlib import Path

from ftdoctor.merging.tensors import FLOATS, Checkpoint
from ftdoctor.merging.tokenizer import Tokenizer, _json


def embedding_rows(model: Checkpoint) -> int | None:
    """Rows of the input embedding, None when it was not found."""
    for end in ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight"):
        for name, tensor in model.tensors.items():
            if name.endswith(end) and len(tensor.shape) == 2:
                return tensor.shape[0]
    return None


def blockers(model: Checkpoint, tokenizer: Tokenizer) -> list[str]:
    """Sentences; empty when nothing stands against it."""
    root, found = Path(model.folder), []
    config = _json(root / "config.json")
    if not config:
        found.append("no config.json")
    elif not config.get("architectures"):
        found.append("config.json names no architecture")
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "unknown")
        found.append(f"the model is quantised ({method}): only bf16, fp16 and fp32 can be converted")
    if not any((root / n).is_file() for n in ("tokenizer.json", "tokenizer.model")):
        found.append("neither tokenizer.json nor tokenizer.model")
    if not model.tensors:
        found.append("no safetensors weights")
    strange = sorted({t.dtype for t in model.tensors.values()} - FLOATS)
    if strange:
        found.append(f"tensors of type {', '.join(strange)}")
    rows, text = embedding_rows(model), config.get("text_config") or config
    if rows is not None and tokenizer.vocabulary > rows:
        found.append(f"the tokenizer has {tokenizer.vocabulary} tokens and the embedding {rows} rows")
    stated = text.get("vocab_size") if isinstance(text, dict) else None
    if rows is not None and isinstance(stated, int) and stated != rows:
        found.append(f"config.json says vocab_size {stated} and the embedding has {rows} rows")
    return found
