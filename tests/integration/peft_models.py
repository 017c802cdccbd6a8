"""Adapters that PEFT itself makes, and merges that PEFT itself does; run by the training python.

    python peft_models.py FOLDER

For each variant: FOLDER/<variant>/{base,adapter,merged}, the weights drawn at random, LoRA's B included. No training.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)  # fmt: skip

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TOKENS, WIDTH = 96, 128  # a row holds whole blocks of NF4


def llama(dtype: torch.dtype = torch.float32, tied: bool = False) -> Any:
    """Two layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TOKENS, hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype)


def gpt2() -> Any:
    """Its linear layers are Conv1D: weights lie the other way round."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=TOKENS, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=64))


def mixtral() -> Any:
    """Experts are one tensor."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=TOKENS, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=2, max_position_embeddings=64,
    )  # fmt: skip
    return MixtralForCausalLM(config)


def trained(model: Any) -> Any:
    """As after training: nothing that is trainable stands where it began."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                size = (
                    0.02
                    if "lora_" in name and "magnitude" not in name
                    else max(0.05 * float(parameter.abs().mean()), 0.01)
                )
                parameter.add_(torch.randn_like(parameter) * size)
    return model


def make(folder: Path, base: Any, grow: int = 0, **config: Any) -> None:
    """Base, adapter and merged model of one variant; `grow` tokens are added for the training."""
    base.save_pretrained(folder / "base")
    if grow:
        base.resize_token_embeddings(base.config.vocab_size + grow)
    chosen: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": ALL, "task_type": "CAUSAL_LM", **config}
    model = trained(get_peft_model(base, LoraConfig(**chosen)))
    model.save_pretrained(folder / "adapter", save_embedding_layers=bool(grow) or "auto")
    model.merge_and_unload().save_pretrained(folder / "merged")


def through_nf4(folder: Path, double: bool, block: int) -> None:
    """The merge of `adapter: qlora`: every matrix through bitsandbytes' NF4, then the update."""
    import bitsandbytes.functional as bits

    make(folder, llama(torch.bfloat16))
    base, config = (
        load_file(folder / "base/model.safetensors"),
        json.loads((folder / "adapter/adapter_config.json").read_text()),
    )
    adapter = load_file(folder / "adapter/adapter_model.safetensors")
    for name, value in list(base.items()):
        if value.ndim < 2:
            continue
        made = bits.quantize_4bit(value, quant_type="nf4", blocksize=block, compress_statistics=double)
        value = bits.dequantize_4bit(*made, quant_type="nf4").to(value.dtype).reshape(value.shape)
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in adapter:
            a, b = adapter[f"{stem}.lora_A.weight"].float(), adapter[f"{stem}.lora_B.weight"].float()
            value = (value.float() + config["lora_alpha"] / config["r"] * (b @ a)).to(value.dtype)
        base[name] = value.contiguous()
    save_file(base, folder / "merged/model.safetensors", {"format": "pt"})


def merged_in_four_bits(folder: Path) -> None:
    """PEFT merges into the model as it is loaded: the result stays quantised."""
    make(folder, llama(torch.bfloat16))
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", quantization_config=four)
    merged = PeftModel.from_pretrained(model, str(folder / "adapter")).merge_and_unload()
    shutil.rmtree(folder / "merged")
    merged.save_pretrained(folder / "merged")


def main() -> None:
    """All variants."""
    root = Path(sys.argv[1])
    make(root / "lora", llama())
    make(root / "lora-bf16", llama(torch.bfloat16))
    make(root / "rslora", llama(), use_rslora=True)
    make(root / "dora", llama(), use_dora=True)
    make(root / "dora-rslora-bf16", llama(torch.bfloat16), use_dora=True, use_rslora=True)
    make(
        root / "patterns",
        llama(),
        rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 4},
        alpha_pattern={"^model.layers.0.mlp.*": 32},
    )
    make(root / "saved", llama(), modules_to_save=["embed_tokens", "lm_head"])
    make(root / "saved-tied", llama(tied=True), modules_to_save=["embed_tokens"])
    make(root / "resized", llama(), grow=8)
    make(root / "resized-saved", llama(), grow=8, modules_to_save=["embed_tokens", "lm_head"])
    make(root / "embedding", llama(), target_modules=["embed_tokens", "q_proj", "lm_head"])
    make(root / "tokens", llama(), trainable_token_indices=[3, 7, 90])
    make(root / "gpt2", gpt2(), target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    make(root / "all-linear", llama(), target_modules="all-linear")
    make(root / "regex", llama(), target_modules=r".*\.layers\.\d+\.(?:self_attn|mlp)\.(?:q|k|v|o|gate|up|down)_proj")
    make(root / "some-layers", llama(), layers_to_transform=[1])
    make(root / "lora-bias", gpt2(), target_modules=["c_attn"], fan_in_fan_out=True, lora_bias=True)
    make(root / "bias", gpt2(), target_modules=["c_attn"], fan_in_fan_out=True, bias="all")
    make(root / "experts", mixtral(), target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"])
    for name, double, block in (("nf4", False, 64), ("nf4-double", True, 64), ("nf4-128", True, 128)):
        through_nf4(root / name, double, block)
    merged_in_four_bits(root / "four-bits")


if __name__ == "__main__":
    main()
