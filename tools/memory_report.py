"""The error of the memory estimate on measured runs: as it is, and with each run held out; written to docs/memory.md.

    python -m tools.memory_report [--write]

Held out: the coefficients that no theory gives (logits, activations and gathering, each for adapters and for full
fine-tunes) are fitted by least squares of the relative error on all runs but one, with a weak pull to the shipped ones,
and the run that was left out is predicted. `tools/calibrate_memory.py` measures the runs and prints this at its end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftdoctor.preflight import memory

ROOT = Path(__file__).resolve().parents[1]
MEASURED = ROOT / "fixtures" / "memory" / "h100_axolotl_0.19.jsonl"
LATER = ROOT / "fixtures" / "memory" / "h200_later.jsonl"  # measured when the formula was finished; never fitted to
PAGE = ROOT / "docs" / "memory.md"
FITTED = ("logits", "activations", "gathered", "optimizer step")
HEAD = """
Measured is torch's `max_allocated`. The formula is in `ftdoctor/preflight/memory.py`; its coefficients were set on
these runs. In the last two columns they are fitted anew on all runs but the one of the row; the form of the formula
stays. This page is written by `python -m tools.memory_report --write`."""
LIMITS = """
No run above 3B parameters was measured, and one on several GPUs (below): shards, NCCL's buffers and offload are
arithmetic, and so is the fused optimizer."""
PULL = 0.05  # how much a coefficient may be held by the shipped one where the other runs say nothing of it


@dataclass(frozen=True)
class Measured:
    """One run: its peak in GiB, and the estimate in parts that are fitted and the rest."""

    what: str
    peak: float
    parts: dict[str, float]
    rest: float

    @property
    def estimated(self) -> float:
        """GiB by the shipped coefficients."""
        return self.rest + sum(self.parts.values())


def runs(path: Path) -> list[Measured]:
    """The measured runs of one file."""
    return [_run(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _run(run: dict[str, Any]) -> Measured:
    data = {**run["config"], "sequence_len": run["sequence_len"]}
    full = run["adapter"] == "full"
    if not full:
        data["adapter"] = run["adapter"]
    file = run["further"].get("deepspeed")
    model = memory.shape(run["model"])
    assert model is not None
    zero = {"zero_optimization": {"stage": int(file[1])}} if file else None
    gpus = int(run.get("gpus", 1))
    found = memory.estimate(model, data, zero, gpus)
    kept = bool(data.get("gradient_checkpointing", True))
    parts = {}
    for name in FITTED:
        if name in found.parts:
            kind = "full" if full else "adapter"
            parts[f"{name} {kind}{'' if kept or name != 'activations' else ' kept'}"] = found.parts[name]
    rest = found.peak - sum(parts.values())
    more = ", ".join(f"{k} {v}" for k, v in run["further"].items())
    what = f"{run['shape']} {run['adapter']}, {run['micro_batch_size']} x {run['sequence_len']}"
    what += f" on {gpus} GPUs" if gpus > 1 else ""
    return Measured(f"{what}, {more}" if more else what, float(run["peaks_gib"]["max_allocated"]), parts, rest)


def held_out(measured: list[Measured]) -> list[float]:
    """The prediction of each run by coefficients that were fitted without it, in GiB."""
    names = sorted({name for run in measured for name in run.parts})
    table = np.array([[run.parts.get(name, 0.0) / run.peak for name in names] for run in measured])
    wanted = np.array([1.0 - run.rest / run.peak for run in measured])
    told = []
    for number, run in enumerate(measured):
        others = np.arange(len(measured)) != number
        rows = np.vstack([table[others], PULL * np.eye(len(names))])
        factors = np.linalg.lstsq(rows, np.concatenate([wanted[others], np.full(len(names), PULL)]), rcond=None)[0]
        told.append(float(run.rest + (table[number] * run.peak) @ factors))
    return told


def errors(measured: list[Measured], told: list[float]) -> list[float]:
    """Relative errors."""
    return [value / run.peak - 1 for run, value in zip(measured, told, strict=True)]


def said(name: str, found: list[float]) -> str:
    """Median and worst in words."""
    sizes = [abs(error) for error in found]
    return f"{name}: median {100 * statistics.median(sizes):.1f} %, worst {100 * max(sizes):.1f} %"


def page(measured: list[Measured], later: Sequence[Measured] = ()) -> str:
    """docs/memory.md."""
    left_out = held_out(measured)
    shipped = errors(measured, [run.estimated for run in measured])
    out = errors(measured, left_out)
    lines = [
        "# How good the memory estimate is",
        "",
        f"`ftdoctor preflight` against {len(measured)} runs of real Axolotl 0.19 on one H100, in GiB.",
        HEAD.strip(),
        "",
        f"- {said('As shipped', shipped)}",
        f"- {said('Each run held out', out)}",
        "",
        LIMITS.strip(),
        "",
        "| run | measured | estimated | error | held out | error |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for run, value, error, other in zip(measured, left_out, shipped, out, strict=True):
        cells = (run.what, f"{run.peak:.2f}", f"{run.estimated:.2f}", f"{100 * error:+.1f} %", f"{value:.2f}")
        lines.append(f"| {' | '.join(cells)} | {100 * other:+.1f} % |")
    if later:
        lines += ["", "Measured on H200 when the formula was finished, and not fitted to:", ""]
        lines += ["| run | measured | estimated | error |", "|---|---:|---:|---:|"]
    for run, error in zip(later, errors(list(later), [run.estimated for run in later]), strict=True):
        lines.append(f"| {run.what} | {run.peak:.2f} | {run.estimated:.2f} | {100 * error:+.1f} % |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Print, and with --write publish."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write docs/memory.md")
    parser.add_argument("--runs", type=Path, default=MEASURED)
    options = parser.parse_args()
    measured = runs(options.runs)
    text = page(measured, runs(LATER))
    print(text)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
