"""Which checkpoints of a run are whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

_WEIGHTS = ("adapter_model.*", "model*.safetensors", "pytorch_model*", "global_step*")
_SLACK = 2.0  # seconds by which a file system's clock may be behind ours


def last_checkpoint(output: Path, since: float) -> Path | None:
    """The newest whole `checkpoint-N` written since `since` (seconds since 1970).

    The Trainer writes trainer_state.json last, so a checkpoint without a readable one was cut off.
    """
    numbered = [(int(p.name[11:]), p) for p in output.glob("checkpoint-*") if p.name[11:].isdigit()]
    for number, folder in sorted(numbered, reverse=True):
        state = folder / "trainer_state.json"
        try:
            fresh = state.stat().st_mtime >= since - _SLACK
            step = json.loads(state.read_text(encoding="utf-8")).get("global_step")
        except (OSError, ValueError, AttributeError):
            continue
        if fresh and step == number and any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
            return folder
    return None


def last_change(output: Path) -> float:
    """When anything below the newest `checkpoint-N` was written, in seconds since 1970; 0 where there is none."""
    newest = max(
        output.glob("checkpoint-*"), key=lambda p: (p.name[11:].isdigit(), p.name[11:].zfill(12)), default=None
    )
    times = [0.0]
    for folder, _, names in os.walk(newest) if newest is not None else ():
        for place in (folder, *(os.path.join(folder, name) for name in names)):
            try:
                times.append(os.stat(place).st_mtime)
            except OSError:
                continue
    return max(times)
