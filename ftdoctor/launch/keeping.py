"""The run folder: what was run and with what, what came of it. Every file is whole or not there."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

from ftdoctor.launch.plan import Plan

STACK = (
    "axolotl", "torch", "transformers", "accelerate", "deepspeed", "peft", "trl", "datasets", "bitsandbytes",
    "flash-attn", "nvidia-nccl-cu12", "nvidia-nccl-cu13",
)  # fmt: skip


def write(place: Path, value: Any) -> None:
    """Write text, or anything else as JSON, in one move.

    Raises:
        OSError: the disk refuses.
    """
    partial = place.with_suffix(place.suffix + ".part")
    text = value if isinstance(value, str) else json.dumps(value, indent=1, default=str)
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(place)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def versions(python: str) -> dict[str, str]:
    """Versions of what trains, from the packages' metadata; nothing is imported. Empty when the python cannot say."""
    code = (
        "import importlib.metadata as m, json, platform; "
        "names = {(d.metadata['Name'] or '').lower(): d.version for d in m.distributions()}; "
        f"found = {{n: names[n] for n in {STACK!r} if n in names}}; "
        "print(json.dumps({'python': platform.python_version(), **found}))"
    )
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        return {str(k): str(v) for k, v in json.loads(done.stdout).items()}
    except (OSError, subprocess.SubprocessError, ValueError, AttributeError):
        return {}


def begin(plan: Plan) -> None:
    """Make the folder: configurations used, command, environment without secrets.

    Raises:
        OSError: it cannot be made.
    """
    from ftdoctor.faces.redact import redact

    plan.folder.mkdir(parents=True)
    for name in plan.folders:
        (plan.folder / name).mkdir()
    for source, target in plan.copies:
        shutil.copyfile(source, target)
    write(
        plan.folder / "run.json",
        {
            "command": list(plan.command),
            "shell": shlex.join(plan.command),
            "cwd": str(plan.cwd),
            "python": plan.python.path if plan.python else None,
            "versions": versions(plan.python.path) if plan.python else {},
            "added": plan.added,
            "environment": {k: redact(f"{k}={v}").partition("=")[2] for k, v in sorted(plan.environment.items())},
        },
    )
