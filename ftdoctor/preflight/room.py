"""Disk room that a run will need: checkpoints that are kept, the final model, the merged one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ftdoctor.preflight.memory import GIB, Shape
from ftdoctor.preflight.plan import number

KEPT = 4  # Axolotl's default of save_total_limit


def checkpoint(model: Shape, data: Mapping[str, Any], sharded: bool) -> float:
    """GiB of one checkpoint: weights (adapter in fp32, full model in bf16) and, unless left out, the optimizer."""
    whole = float(model.block * model.layers + model.embeddings)
    states = 2.0 if "8bit" in str(data.get("optimizer") or "") else 8.0
    if data.get("adapter"):
        rank = number(data.get("lora_r")) or 8
        trained = float(rank * sum(a + b for a, b in model.linears) * model.layers)
        size = 4.0 * trained
    else:
        trained, size = whole, 2.0 * whole
    if not data.get("save_only_model"):
        size += trained * (12.0 if sharded else states)
    return size / GIB


def needed(model: Shape, data: Mapping[str, Any], sharded: bool) -> tuple[float, str]:
    """GiB for everything a run leaves in output_dir, and how they add up."""
    limit = number(data.get("save_total_limit"))
    kept = max(1, int(limit if limit is not None else KEPT))
    if str(data.get("save_strategy")) == "no":
        kept = 0
    each = checkpoint(model, data, sharded)
    final = 2.0 * (model.block * model.layers + model.embeddings) / GIB
    what = "merged model" if data.get("adapter") else "final model"
    return kept * each + final, f"{kept} checkpoints of {each:.1f} and the {what} of {final:.1f} GiB"
