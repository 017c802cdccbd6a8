"""GPUs by name: what `--assume 8xA100-80GB` describes.

Memory is what the driver reports as total (GiB, rounded down from NVIDIA's data sheets' GB), compute capability from
https://developer.nvidia.com/cuda-gpus.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ftdoctor.errors import UsageError

# name: (memory in GiB as nvidia-smi shows it, compute capability, NVLink)
KNOWN: dict[str, tuple[float, float, bool]] = {
    "V100-16GB": (15.8, 7.0, True), "V100-32GB": (31.7, 7.0, True), "T4-16GB": (14.7, 7.5, False),
    "A10-24GB": (22.5, 8.6, False), "A10G-24GB": (22.5, 8.6, False), "A30-24GB": (23.7, 8.0, True),
    "A40-48GB": (44.5, 8.6, True), "A6000-48GB": (47.5, 8.6, True), "A100-40GB": (39.4, 8.0, True),
    "A100-80GB": (79.2, 8.0, True), "L4-24GB": (22.5, 8.9, False), "L40-48GB": (44.5, 8.9, False),
    "L40S-48GB": (44.5, 8.9, False), "RTX3090-24GB": (23.6, 8.6, True), "RTX4090-24GB": (23.5, 8.9, False),
    "RTX5090-32GB": (31.4, 12.0, False), "H100-80GB": (79.2, 9.0, True), "H100-94GB": (93.1, 9.0, True),
    "H200-141GB": (139.8, 9.0, True), "B200-180GB": (178.4, 10.0, True),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Machine:
    """GPUs to plan for: `memory` in GiB per GPU; None where unknown. `assumed`: described, not seen."""

    count: int
    name: str
    memory: float | None
    capability: float | None
    assumed: bool = False

    @property
    def bf16(self) -> bool | None:
        """True from Ampere on; None when the GPU is not known."""
        return None if self.capability is None else self.capability >= 8.0


def assume(text: str) -> Machine:
    """`8xA100-80GB`, `2x24GB`, `A100-80GB`.

    Raises:
        UsageError: no known GPU and no memory size in it.
    """
    found = re.fullmatch(r"(?:(\d+)\s*[xX*]\s*)?(.+)", text.strip())
    count, name = (int(found[1] or 1), found[2]) if found else (0, "")
    key = re.sub(r"[\s_-]|NVIDIA|GEFORCE|TESLA|SXM\d?|PCIE", "", name.upper())
    fits = [known for known in KNOWN if known.replace("-", "") == key or known.split("-")[0] == key]
    if count > 0 and fits:
        memory, capability, _ = KNOWN[fits[-1]]
        return Machine(count, fits[-1], memory, capability, True)
    size = re.fullmatch(r"(\d+(?:\.\d+)?)(?:GI?B)?", key)
    if count > 0 and size:
        return Machine(count, f"{size[1]} GB GPU", float(size[1]) * 0.98, None, True)
    raise UsageError(
        f"no known GPU: {text}", "--assume", f"for example 8xA100-80GB or 2x24GB; known: {', '.join(KNOWN)}"
    )
