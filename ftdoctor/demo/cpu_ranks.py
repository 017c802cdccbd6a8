"""Axolotl plugin: real Axolotl on several CPU ranks over gloo, with DeepSpeed ZeRO-3 as well.

accelerate finds no backend on a machine without a GPU. With DeepSpeed the ranks are announced as MULTI_GPU over gloo,
because MULTI_CPU would switch DeepSpeed off; with plain DDP they are what they are. Axolotl maps the model to GPU
LOCAL_RANK whenever there are several ranks; here there is none.
"""

from __future__ import annotations

import os
from typing import Any

from accelerate.state import PartialState
from accelerate.utils import DistributedType
from axolotl.integrations.base import BasePlugin

_original = PartialState._prepare_backend


def _gloo_without_gpu(self: Any, cpu: bool, sagemaker_dp: bool, backend: str | None) -> tuple[str | None, Any]:
    found, kind = _original(self, cpu, sagemaker_dp, backend)
    if found is None and int(os.environ.get("LOCAL_RANK", "-1")) != -1:
        with_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true"
        return "gloo", DistributedType.MULTI_GPU if with_deepspeed else DistributedType.MULTI_CPU
    return found, kind


PartialState._prepare_backend = _gloo_without_gpu


class CpuRanks(BasePlugin):  # type: ignore[misc]
    """No device map on a machine without devices."""

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        """Called before the model is loaded."""
        cfg.device_map = None
