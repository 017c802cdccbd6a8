"""GPU memory after the first optimizer step, as the run's own samples show it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.events import GpuSample
from ftdoctor.launch import keeping

if TYPE_CHECKING:
    from ftdoctor.findings import Diagnosis, Finding
    from ftdoctor.launch.witness import Scene

FILE = "vram.json"
# the rules that judge how memory lies on the GPUs
RULES = ("gpu0-only", "gpu-memory-imbalance", "ranks-share-gpu", "offload-unneeded", "cuda-oom", "cuda-oom-rank0")
NOT_SEEN = "not checked: no GPU was seen"


class VramWitness:
    """Looks once, when the first step is done; `vram.json` in the run folder has what it saw."""

    def __init__(self) -> None:
        self._seen = False

    def looked(self, scene: Scene, diagnosis: Diagnosis) -> None:
        """See `Witness`."""
        run = scene.live.session.run
        if self._seen or not (run.last_step or run.cadence.steps):
            return
        gpus = memory(run.gpu_latest.values())
        if not gpus:
            return
        self._seen = True
        scene.say(f"VRAM after step {run.last_step or 1:.0f}: {told(gpus)}")
        keeping.write(scene.plan.folder / FILE, {"step": run.last_step or 1, "gpus": gpus})

    def stopping(self, scene: Scene, reason: str) -> None:
        """See `Witness`."""

    def ended(self, scene: Scene, code: int) -> None:
        """See `Witness`."""


def memory(samples: Any) -> list[dict[str, Any]]:
    """Memory of each whole GPU that said how much of it is used; MiB."""
    known: list[GpuSample] = [
        s for s in samples if s.parent is None and s.memory_used is not None and s.memory_total is not None
    ]
    return [
        {"index": s.index, "name": s.name, "used": round(s.memory_used or 0), "total": round(s.memory_total or 0)}
        for s in sorted(known, key=lambda s: s.index)
    ]


def told(gpus: list[dict[str, Any]]) -> str:
    """One line: each GPU, and the spread where there are several."""
    line = ", ".join(f"GPU {g['index']} {g['used'] / 1024:.1f} of {g['total'] / 1024:.1f} GiB" for g in gpus)
    if len(gpus) > 1:
        used = [g["used"] for g in gpus]
        line += f"; spread {(max(used) - min(used)) / 1024:.1f} GiB"
    return line


def judged(run_folder: Path, findings: list[Finding]) -> tuple[str, list[Finding]]:
    """What to say of a run, and those of its findings that are about GPU memory."""
    about = [f for f in findings if f.id in RULES]
    try:
        seen = json.loads((run_folder / FILE).read_text(encoding="utf-8"))
        line = f"after step {seen['step']:.0f}: {told(seen['gpus'])}"
    except (OSError, ValueError, KeyError, TypeError):
        return NOT_SEEN, about
    return line + (f"; {about[0].id}" if about else ""), about
