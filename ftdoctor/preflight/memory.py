"""Peak GPU memory of a fine-tune, from `config.json` and the YAML alone; no weights are read.

Per GPU, in bytes (P parameters, V vocabulary, h hidden, i intermediate, L layers, T = micro_batch_size x sequence_len):

    weights      2P in bf16; 0.516 per parameter of a linear layer in 4 bit (NF4 with double quantisation:
                 Dettmers et al. 2023, https://arxiv.org/abs/2305.14314), embeddings and head stay in bf16
    adapter      16 per trained parameter in fp32 with Adam (weight 4, gradient 4, moments 8); 10 with 8-bit Adam
    full, plain  8P between steps (bf16 weight, gradient, two moments) and 12P inside torch's multi-tensor Adam step;
                 adamw_torch_fused works in place (not measured)
    full, ZeRO   20P: bf16 weight and gradient, fp32 gradient, master weight, moments (Rajbhandari et al. 2020,
                 https://arxiv.org/abs/1910.02054, with fp32 gradient accumulation), sharded by stage
    logits       12TV with frozen weights (bf16 and fp32 logits and both gradients), 18TV when the head is trained
    activations  2ThL with gradient checkpointing; without it 29h + 2.5i (adapter), 34h + 16i (full) per token and layer
    ZeRO-3       twice the largest module (embedding) and two layers, gathered

The coefficients of logits, activations and gathering were set by hand on 21 measured runs (one H100, Axolotl 0.19,
0.2B to 3B parameters; fixtures/memory): nothing above 3B and no run on several GPUs was measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GIB = 1024.0**3
CONTEXT = 0.6  # GiB: CUDA context, cuBLAS workspaces
NCCL = 0.6  # GiB per GPU when there are several
FRAGMENTATION = 1.08  # reserved over allocated memory; 1.02 to 1.23 in the measured runs
_KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
         "vocab_size", "head_dim", "tie_word_embeddings")  # fmt: skip
# offline presets for models whose config.json is gated or not here, from the models' own config.json
_PRESETS: dict[str, tuple[int, int, int, int, int, int, int, bool]] = {
    "llama-3.1-8b": (4096, 14336, 32, 32, 8, 128256, 128, False),
    "llama-3-8b": (4096, 14336, 32, 32, 8, 128256, 128, False),
    "llama-3.1-70b": (8192, 28672, 80, 64, 8, 128256, 128, False),
    "llama-3.3-70b": (8192, 28672, 80, 64, 8, 128256, 128, False),
    "llama-3.2-1b": (2048, 8192, 16, 32, 8, 128256, 64, True),
    "llama-3.2-3b": (3072, 8192, 28, 24, 8, 128256, 128, True),
    "qwen2.5-7b": (3584, 18944, 28, 28, 4, 152064, 128, False),
    "qwen2.5-72b": (8192, 29568, 80, 64, 8, 152064, 128, False),
    "qwen3-8b": (4096, 12288, 36, 32, 8, 151936, 128, False),
    "mistral-7b": (4096, 14336, 32, 32, 8, 32768, 128, False),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a dense decoder counts for memory."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the linear layers of one block."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        h, i = self.hidden, self.intermediate
        return ((h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h))

    @property
    def block(self) -> int:
        """Parameters of one block's linear layers."""
        return sum(a * b for a, b in self.linears)

    @property
    def embeddings(self) -> int:
        """Parameters of embedding and head."""
        return self.vocab * self.hidden * (1 if self.tied else 2)


@dataclass(frozen=True, slots=True)
class Estimate:
    """GiB per GPU. `parts` add up to `peak`; `load` is the peak while the model is loaded; `host` is of the node."""

    parts: dict[str, float]
    load: float
    host: float

    @property
    def peak(self) -> float:
        """What PyTorch has allocated at its highest."""
        return sum(self.parts.values())

    def needed(self, gpus: int) -> float:
        """What the GPU must have: with fragmentation, CUDA context and NCCL's buffers."""
        return max(self.peak, self.load) * FRAGMENTATION + CONTEXT + (NCCL if gpus > 1 else 0.0)


def shape(config: Mapping[str, Any]) -> Shape | None:
    """From a config.json; None for what is no dense decoder (mixtures of experts, state space models)."""
    inner = config.get("text_config")
    config = inner if isinstance(inner, Mapping) else config
    if any("expert" in key for key in config):
        return None
    try:
        hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
        return Shape(
            hidden, int(config["intermediate_size"]), int(config["num_hidden_layers"]), heads,
            int(config.get("num_key_value_heads") or heads), int(config.get("head_dim") or hidden // heads),
            int(config["vocab_size"]), bool(config.get("tie_word_embeddings", False)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def preset(name: str) -> Shape | None:
    """A well-known model by its name."""
    flat = name.lower().rpartition("/")[2].replace("meta-", "")
    found = next((values for key, values in _PRESETS.items() if flat.startswith(key)), None)
    return shape(dict(zip(_KEYS, found, strict=True))) if found else None


def estimate(model: Shape, data: Mapping[str, Any], deepspeed: Mapping[str, Any] | None, gpus: int) -> Estimate:
    """The peak on each of `gpus` GPUs of one node."""
    adapter = data.get("adapter")
    zero = (deepspeed or {}).get("zero_optimization")
    zero = zero if isinstance(zero, Mapping) else {}
    fsdp = bool(data.get("fsdp") or data.get("fsdp_config"))
    stage = 3 if fsdp else int(zero.get("stage") or 0)
    tokens = int(data.get("micro_batch_size") or 1) * int(data.get("sequence_len") or 512)
    tokens = -(-tokens // max(1, int(data.get("context_parallel_size") or data.get("sequence_parallel_degree") or 1)))
    trained = model.block * model.layers + model.embeddings
    if adapter == "qlora":
        weights = 0.516 * model.block * model.layers + 2.0 * model.embeddings
    elif data.get("load_in_8bit"):
        weights = 1.0 * model.block * model.layers + 2.0 * model.embeddings
    else:
        weights = 2.0 * trained
    load = weights if adapter == "qlora" and stage == 3 and not fsdp else 0.0
    eight_bit = any(word in str(data.get("optimizer") or "") for word in ("8bit", "4bit"))
    share = gpus if stage else 1
    by_grad, by_weight = (share if stage >= 2 else 1), (share if stage >= 3 else 1)
    parts = {"weights": weights / by_weight}
    host = 0.0
    if adapter:
        rank = int(data.get("lora_r") or 8)
        extra = sum(rank * (a + b) for a, b in model.linears) * model.layers
        parts["adapter"] = extra * (10.0 if eight_bit else 16.0)
        logits, free = 12.0, (29.0 * model.hidden + 2.5 * model.intermediate)
    else:
        states = _eight_bit(model) if eight_bit else 4.0 * trained
        if stage:
            parts["gradients"] = 6.0 * trained / by_grad
            parts["optimizer"] = 12.0 * trained / share
        else:
            parts["gradients"] = 2.0 * trained
            parts["optimizer"] = states
        logits, free = 18.0, (34.0 * model.hidden + 16.0 * model.intermediate)
    if _offloaded(zero, "offload_optimizer"):
        moved = parts.pop("optimizer", 0.0)
        host += moved * share + (6.0 * trained if moved else 0.0)
        if moved:
            parts["gradients"] = parts["gradients"] / 3.0  # the fp32 copy goes to the host
    if _offloaded(zero, "offload_param") or (fsdp and _fsdp_offload(data)):
        host += parts.pop("weights") * by_weight
    if _fused_loss(data):
        logits = 0.0
    checkpointing = bool(data.get("gradient_checkpointing", True))
    parts["logits"] = logits * tokens * model.vocab
    parts["activations"] = tokens * model.layers * (2.0 * model.hidden if checkpointing else free)
    if checkpointing:
        parts["activations"] += tokens * free if _fused_loss(data) else 0.0  # one block is recomputed at a time
    if data.get("activation_offloading"):
        host += parts["activations"] * gpus
        parts["activations"] = tokens * (34.0 * model.hidden if data.get("tiled_mlp") else free)
    if stage == 3:
        parts["gathered"] = 4.0 * model.vocab * model.hidden + 4.0 * model.block
    elif not adapter and not stage and not eight_bit and "fused" not in str(data.get("optimizer")):
        # inside the step the logits are gone and Adam has its temporaries; the fused kernel has none
        within = 4.0 * trained
        if within > parts["logits"] + parts["activations"]:
            parts.pop("activations")
            parts.pop("logits")
            parts["optimizer step"] = within
    return Estimate({k: v / GIB for k, v in parts.items()}, load / GIB, host / GIB)


def padded(data: Mapping[str, Any]) -> bool:
    """Whether every batch is as long as sequence_len; else that is what the longest samples make of it."""
    return data.get("sample_packing") is True or data.get("pad_to_sequence_len") is True


def verdict(
    model: Shape, data: Mapping[str, Any], deepspeed: Mapping[str, Any] | None, gpus: int, room: float
) -> str:  # fmt: skip
    """`fits`, `tight` or `does not fit` in `room` GiB; samples that are not padded may all be short: then `tight`."""
    needed = estimate(model, data, deepspeed, gpus).needed(gpus)
    if needed <= room:
        return "fits" if needed <= 0.9 * room else "tight"
    short = {**data, "sequence_len": int(data.get("sequence_len") or 512) // 8}
    if not padded(data) and estimate(model, short, deepspeed, gpus).needed(gpus) <= room:
        return "tight"
    return "does not fit"


def deepspeed_by_name(path: str) -> dict[str, Any] | None:
    """What a DeepSpeed file that is not here says by its name (`zero3_bf16_cpuoffload_all.json`); None when nothing."""
    name = path.lower().rpartition("/")[2]
    found = re.search(r"(?:zero|stage|z)[_-]?([123])", name)
    if found is None:
        return None
    zero: dict[str, Any] = {"stage": int(found[1])}
    if "offload" in name:
        zero["offload_optimizer"] = {"device": "cpu"}
        if "param" in name or "all" in name:
            zero["offload_param"] = {"device": "cpu"}
    return {"zero_optimization": zero}


def largest(
    model: Shape, data: Mapping[str, Any], deepspeed: Mapping[str, Any] | None, gpus: int, room: float
) -> tuple[int, int]:
    """The largest micro batch at this sequence_len, and the longest at micro batch 1, that fit in `room` GiB."""

    def fits(micro: int, length: int) -> bool:
        return (
            estimate(model, {**data, "micro_batch_size": micro, "sequence_len": length}, deepspeed, gpus).needed(gpus)
            <= room * 0.95
        )

    length = int(data.get("sequence_len") or 512)
    micro = next((m for m in (64, 48, 32, 24, 16, 12, 8, 6, 4, 3, 2, 1) if fits(m, length)), 0)
    longest = next((n for n in (131072, 65536, 32768, 16384, 8192, 4096, 2048, 1024, 512) if fits(1, n)), 0)
    return micro, longest


LETTERS = {"weights": "W", "adapter": "A", "gradients": "G", "optimizer": "O", "optimizer step": "S", "logits": "L",
           "activations": "T", "gathered": "Z"}  # fmt: skip
BAR = 40


def bar(found: Estimate, gpus: int, room: float) -> str:
    """`[WWWWLLLT......] 79 GiB` and below it `W weights 15.0, L logits 5.9, ...`: the whole width is the GPU."""
    parts = {**{k: v * FRAGMENTATION for k, v in found.parts.items()}, "": CONTEXT + (NCCL if gpus > 1 else 0.0)}
    scale = BAR / max(room, sum(parts.values()))
    drawn = "".join(LETTERS.get(name, "c") * round(size * scale) for name, size in parts.items())[:BAR]
    told = ", ".join(f"{LETTERS[n]} {n} {v:.1f}" for n, v in found.parts.items() if v >= 0.05)
    return f"[{drawn.ljust(BAR, '.')}] {max(room, sum(parts.values())):.0f} GiB\n{told}"


def _eight_bit(model: Shape) -> float:
    """Moments of 8-bit Adam: one byte each, but fp32 for embeddings (bitsandbytes' own choice)."""
    return 2.0 * model.block * model.layers + 8.0 * model.embeddings


def _offloaded(zero: Mapping[str, Any], name: str) -> bool:
    block = zero.get(name)
    return isinstance(block, Mapping) and block.get("device") in ("cpu", "nvme")


def _fsdp_offload(data: Mapping[str, Any]) -> bool:
    block = data.get("fsdp_config")
    return isinstance(block, Mapping) and bool(block.get("offload_params") or block.get("fsdp_offload_params"))


def _fused_loss(data: Mapping[str, Any]) -> bool:
    plugins = " ".join(map(str, data.get("plugins") or ()))
    liger = "liger" in plugins and bool(data.get("liger_fused_linear_cross_entropy"))
    return liger or "CutCrossEntropy" in plugins or bool(data.get("chunked_cross_entropy"))
