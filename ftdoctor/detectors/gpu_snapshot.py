"""Judges GPU tables (nvidia-smi) and sampled GPU state.

Options:
    judge:  gpu0_only | imbalance | util_low | util_skew | spinning
    numbers of the judge; see JUDGES

A table is a set of samples taken at one moment. Desktop cards that only hold a display (< `idle_mib`) count as unused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from ftdoctor.detectors.base import DetectorSpec, Hit, Missing, Result
from ftdoctor.events import GpuSample
from ftdoctor.findings import Evidence
from ftdoctor.run_model.run import Run

Table = list[GpuSample]
IDLE_MIB = 700.0  # driver-reserved memory and an empty context stay below this (measured on H100/H200: 615-682 MiB)


def tables(run: Run) -> list[Table]:
    """Samples grouped by moment: a new table starts when an index comes back."""
    grouped: list[Table] = []
    for sample in run.gpus:
        if sample.state is not None:
            continue  # sampled live: one reading proves nothing, `gpu_trace` judges windows
        if (
            not grouped
            or any(s.index == sample.index for s in grouped[-1])
            or grouped[-1][-1].origin.path != sample.origin.path
        ):
            grouped.append([])
        grouped[-1].append(sample)
    return grouped


def _used(sample: GpuSample) -> float:
    return sample.memory_used or 0.0


def gpu0_only(table: Table, options: Mapping[str, Any], run: Run) -> dict[str, object] | None:
    """One GPU of several holds memory and works, the others hold nothing."""
    idle = float(options.get("idle_mib", IDLE_MIB))
    busy = [s for s in table if _used(s) > idle]
    world = run.world_size
    if len(table) < 2 or len(busy) != 1 or (world is not None and world == 1 and run.fact("world_size") is not None):
        return None
    others = [s for s in table if s is not busy[0]]
    if any((s.utilization or 0) > 10 for s in others) or _used(busy[0]) < float(options.get("busy_mib", 2000)):
        return None
    return {
        "gpu": busy[0].index,
        "used": f"{_used(busy[0]) / 1024:.1f} GiB",
        "idle": ", ".join(str(s.index) for s in others),
    }


def imbalance(table: Table, options: Mapping[str, Any], run: Run) -> dict[str, object] | None:
    """One GPU holds far more than the median of the others that work."""
    idle = float(options.get("idle_mib", IDLE_MIB))
    busy = [s for s in table if _used(s) > idle]
    if len(busy) < 2 or len(busy) < len(table):
        return None
    top = max(busy, key=_used)
    rest = median(_used(s) for s in busy if s is not top)
    extra = _used(top) - rest
    if extra < float(options.get("extra_mib", 5000)):
        return None
    return {"gpu": top.index, "extra": f"{extra / 1024:.1f} GiB", "others": f"{rest / 1024:.1f} GiB"}


def util_low(table: Table, options: Mapping[str, Any], run: Run) -> dict[str, object] | None:
    """All GPUs hold the model and none computes."""
    loaded = [s for s in table if _used(s) > float(options.get("loaded_mib", 4000)) and s.utilization is not None]
    if not loaded or len(loaded) < len(table):
        return None
    highest = max(s.utilization or 0.0 for s in loaded)
    if highest >= float(options.get("below", 25)):
        return None
    return {"highest": highest, "gpus": len(loaded)}


def util_skew(table: Table, options: Mapping[str, Any], run: Run) -> dict[str, object] | None:
    """One GPU busy, the others loaded but near `others_below` percent."""
    loaded = [s for s in table if _used(s) > float(options.get("loaded_mib", 4000)) and s.utilization is not None]
    if len(loaded) < 2:
        return None
    ordered = sorted(loaded, key=lambda s: -(s.utilization or 0.0))
    top, rest = ordered[0].utilization or 0.0, median(s.utilization or 0.0 for s in ordered[1:])
    if top < 80 or rest >= float(options.get("others_below", 45)):
        return None
    return {"gpu": ordered[0].index, "top": top, "others": rest}


def spinning(table: Table, options: Mapping[str, Any], run: Run) -> dict[str, object] | None:
    """GPUs at full utilisation draw the power of idle ones: they wait in a collective (measured: 127 W of 700 W)."""
    known = [s for s in table if s.utilization is not None and s.power is not None and s.power_limit]
    spin = [
        s
        for s in known
        if (s.utilization or 0) >= 95
        and (s.power or 0) <= float(options.get("power_share", 0.3)) * (s.power_limit or 1)
    ]
    if len(known) < 2 or len(spin) < max(1, len(known) - 2):
        return None
    quiet = [str(s.index) for s in known if (s.utilization or 0) < 50]
    watts = median(s.power or 0.0 for s in spin)
    return {
        "spinning": len(spin),
        "gpus": len(known),
        "watts": f"{watts:.0f}",
        "limit": f"{spin[0].power_limit:.0f}",
        "odd": ", ".join(quiet) or "none",
        "line": f"{len(spin)} of {len(known)} GPUs: full utilisation at {watts:.0f} of {spin[0].power_limit:.0f} W",
    }


JUDGES: dict[str, Callable[[Table, Mapping[str, Any], Run], dict[str, object] | None]] = {
    "gpu0_only": gpu0_only,
    "imbalance": imbalance,
    "util_low": util_low,
    "util_skew": util_skew,
    "spinning": spinning,
}


class GpuSnapshot:
    """See the module."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """One hit on the first table that shows it; every later table of the same source must agree."""
        found = [table for table in tables(run) if len(table) >= 1]
        if not found:
            return Missing(("GPU state",))
        judge = JUDGES[str(spec.options["judge"])]
        results = [(table, judge(table, spec.options, run)) for table in found]
        hits = [(table, values) for table, values in results if values is not None]
        if len(hits) < float(spec.options.get("share", 0.5)) * len(results):
            return []
        table, values = hits[0]
        first, last = table[0].origin, table[-1].origin
        text = "  ".join(
            f"GPU {s.index}: {_used(s):.0f} MiB"
            + (f", {s.utilization:.0f} %" if s.utilization is not None else "")
            + (f", {s.power:.0f} W" if s.power is not None else "")
            for s in table[:8]
        )
        assert values is not None
        return [
            Hit(first, values, (Evidence("gpu", first.path, first.line, last.line, text),), count=len(hits), final=True)
        ]
