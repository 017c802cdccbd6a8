"""Whether merged and base + adapter give the same logits: the proof from the other side, when a model fits memory."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError
from ftdoctor.merging.check import Proof
from ftdoctor.training_python import TrainingPython, find_training_python

WORKER = Path(__file__).with_name("logits_worker.py")
PROMPTS = (
    "The capital of France is",
    "def add(a, b):\n    return",
    "Write a short poem about the sea.",
    "1, 2, 3, 4,",
)
WITHOUT_ASKING = 4 << 30  # bytes of a model that is compared without --logits
NEAR = 0.5  # merged has to be nearer to base + adapter than this part of their distance to the base
SAME = 0.02
SECONDS = 1800.0


def compare_logits(proof: Proof, python: str | None, available: int | None, asked: bool) -> dict[str, Any]:
    """The worker's result, or `skipped` with the reason."""
    target, size = proof.target, proof.model.size
    if target.base is None or target.adapter is None or not size:
        return {"skipped": "base, adapter and merged model are needed"}
    if proof.adapter is not None and (proof.adapter.problems or proof.adapter.empty):
        return {"skipped": "the adapter is not whole"}
    if proof.model.problems or proof.count("missing", "empty", "unreadable"):
        return {"skipped": "the merged model is not whole"}
    if not asked and size > WITHOUT_ASKING:
        return {"skipped": f"the model has {size / 1e9:.0f} GB; --logits compares all the same"}
    if available is not None and available < 1.5 * size + (1 << 30):
        return {"skipped": f"{1.5 * size / 1e9 + 1:.0f} GB of memory are needed and {available / 1e9:.0f} GB are there"}
    try:
        found = find_training_python(python)
    except InputError as error:
        if asked or python:
            raise
        return {"skipped": error.seen}
    if not found.has("torch", "transformers", "peft"):
        return {"skipped": f"{found.path} has not torch, transformers and peft"}
    return _work(found, {"base": target.base, "adapter": target.adapter, "merged": target.merged})


def _work(python: TrainingPython, job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
        try:
            done = subprocess.run(
                [python.path, str(WORKER)], input=json.dumps(job | {"prompts": PROMPTS}), stdout=subprocess.PIPE,
                stderr=noise, text=True, encoding="utf-8", timeout=SECONDS,
                env=python.environment() | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"skipped": f"the worker gave no answer in {SECONDS:.0f} s"}
        for line in reversed(done.stdout.split("\n")):
            try:
                event: dict[str, Any] = json.loads(line)
            except ValueError:
                continue
            kind = event.pop("event", "")
            if kind == "done":
                return event
            if kind == "error":
                return {"skipped": f"{event['type']}: {event['message']}"}
            break
        why = "was killed: out of memory?" if done.returncode == -9 else f"ended with code {done.returncode}"
        return {"skipped": f"the worker {why}"}


def verdict(result: dict[str, Any]) -> str | None:
    """`unchanged` when merged answers as the base, `apart` when it answers as neither, None when all is well."""
    gap = result.get("adapter_base")
    if not gap or gap < 1e-3:
        return None
    if result["merged_base"] < SAME * gap:
        return "unchanged"
    return "apart" if result["merged_adapter"] > NEAR * gap else None
