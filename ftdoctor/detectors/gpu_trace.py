"""Judges live GPU samples over a window: sustained, never one reading.

Options:
    judge:    gpu0_only | one_process | imbalance | util_low | util_skew | throttled | fault | lost | headroom
    seconds:  length of the window (default 60); a shorter trace is not judged
    numbers of the judge; see JUDGES

The window ends at the last sign of training (a metric line, the bar), so that what was seen stays seen when the run
ends or hangs, and loading, a last evaluation and the idle time after the run are not judged. `throttled`, `fault` and
`lost` need no training. What the driver reserves is not use; MIG instances are left to their parent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Reversible, Sequence
from statistics import median
from typing import Any

from ftdoctor.detectors.base import DetectorSpec, Hit, Missing, Result
from ftdoctor.detectors.condition import lookup
from ftdoctor.events import GpuSample
from ftdoctor.findings import Evidence
from ftdoctor.run_model.run import Run
from ftdoctor.upstream.nvml import throttle_names
from ftdoctor.upstream.xid import xid

IDLE_MIB = 700.0  # an empty context and what old drivers count as used stay below (measured on H100/H200: 615-682 MiB)
WINDOW = 60.0
HEAT = {"hardware slowdown", "hardware thermal", "software thermal", "hardware power brake"}
Trace = Mapping[str, Sequence[GpuSample]]
Found = tuple[dict[str, object], str, GpuSample | None]


def window(run: Run, seconds: float) -> dict[str, list[GpuSample]]:
    """Samples of the last `seconds` of training by uuid, of GPUs that were sampled for nearly that long."""
    times = [history[-1].origin.time or 0.0 for history in run.gpu_history.values() if history]
    if not times:
        return {}
    end = max(times) if run.cadence.last_train is None else min(max(times), run.cadence.last_train)
    found: dict[str, list[GpuSample]] = {}
    for key, history in run.gpu_history.items():
        recent = _between(history, end - seconds, end)
        if recent and (recent[-1].origin.time or 0.0) - (recent[0].origin.time or 0.0) >= 0.8 * seconds:
            found[key] = recent
    return dict(sorted(found.items(), key=lambda item: item[1][0].index))


def _between(history: Reversible[GpuSample], start: float, end: float) -> list[GpuSample]:
    """Samples of a whole GPU between two times, from the newest on: the history is longer than any window."""
    found: list[GpuSample] = []
    for sample in reversed(history):
        time = sample.origin.time or 0.0
        if time < start:
            break
        if time <= end and sample.parent is None:
            found.append(sample)
    found.reverse()
    return found


def _middle(samples: Sequence[GpuSample], field: str) -> float | None:
    values = [v for s in samples if (v := getattr(s, field)) is not None]
    return median(values) if values else None


def _name(samples: Sequence[GpuSample]) -> int:
    return samples[0].index


def _gib(mib: float) -> str:
    return f"{mib / 1024:.1f} GiB"


def gpu0_only(trace: Trace, options: Mapping[str, Any], run: Run) -> Found | None:
    """A run of several ranks, and one GPU alone is used."""
    world = run.world_size or 1
    return _one_used(trace, options, f"the run has {world} ranks") if world > 1 else None


def one_process(trace: Trace, options: Mapping[str, Any], run: Run) -> Found | None:
    """A run without a launcher that sees several GPUs (fact `visible_gpus`) and uses one."""
    visible = run.fact("visible_gpus")
    if (run.world_size or 1) > 1 or not isinstance(visible, int) or visible < 2:
        return None
    return _one_used(trace, options, f"the run is one process, which sees {visible} GPUs")


def _one_used(trace: Trace, options: Mapping[str, Any], why: str) -> Found | None:
    used = {key: _middle(samples, "memory_used") or 0.0 for key, samples in trace.items()}
    busy = [key for key, mib in used.items() if mib > float(options.get("idle_mib", IDLE_MIB))]
    if len(trace) < 2 or len(busy) != 1:
        return None
    samples = trace[busy[0]]
    idle = ", ".join(str(_name(s)) for key, s in trace.items() if key != busy[0])
    text = f"GPU {_name(samples)} holds {_gib(used[busy[0]])} and {why}; GPU {idle}: nothing"
    return {"gpu": _name(samples), "used": _gib(used[busy[0]]), "idle": idle}, text, samples[-1]


def imbalance(trace: Trace, options: Mapping[str, Any], run: Run) -> Found | None:
    """One GPU holds far more than the median of the others that work."""
    used = {key: _middle(samples, "memory_used") or 0.0 for key, samples in trace.items()}
    busy = {key: mib for key, mib in used.items() if mib > float(options.get("idle_mib", IDLE_MIB))}
    if len(busy) < 2 or (run.world_size or 0) < 2:
        return None
    top = max(busy, key=lambda key: busy[key])
    rest = median(mib for key, mib in busy.items() if key != top)
    extra = busy[top] - rest
    if extra < float(options.get("extra_mib", 5000)):
        return None
    values = {"gpu": _name(trace[top]), "extra": _gib(extra), "others": _gib(rest)}
    return dict(values), f"GPU {values['gpu']} holds {_gib(busy[top])}, the others {_gib(rest)}", trace[top][-1]


def util_low(trace: Trace, options: Mapping[str, Any], run: Run) -> Found | None:
    """Every GPU that holds the model computes for less than `below` percent of the time."""
    loaded = {
        k: s for k, s in trace.items() if (_middle(s, "memory_used") or 0.0) > float(options.get("loaded_mib", 2000))
    }
    busy = {k: u for k, s in loaded.items() if (u := _mean(s)) is not None}
    if not busy or len(busy) < len(loaded):
        return None
    highest = max(busy.values())
    if highest >= float(options.get("below", 50)):
        return None
    top = max(busy, key=lambda key: busy[key])
    values = {"highest": f"{highest:.0f}", "gpus": len(busy)}
    return dict(values), f"mean utilisation over the window: {highest:.0f} % at most", trace[top][-1]


def util_skew(trace: Trace, options: Mapping[str, Any], run: Run) -> Found | None:
    """One GPU busy, the others loaded and waiting."""
    loaded = {
        k: s for k, s in trace.items() if (_middle(s, "memory_used") or 0.0) > float(options.get("loaded_mib", 2000))
    }
    busy = {k: u for k, s in loaded.items() if (u := _mean(s)) is not None}
    if len(busy) < 2 or (run.world_size or 0) < 2:
        return None
    top = max(busy, key=lambda key: busy[key])
    rest = median(u for key, u in busy.items() if key != top)
    if busy[top] < 80 or rest >= float(options.get("others_below", 45)):
        return None
    values = {"gpu": _name(trace[top]), "top": f"{busy[top]:.0f}", "others": f"{rest:.0f}"}
    return (
        dict(values),
        f"GPU {values['gpu']} computes at {values['top']} %, the others at {values['others']} %",
        trace[top][-1],
    )


def _loaded(trace: Trace, options: Mapping[str, Any]) -> Trace:
    least = float(options.get("loaded_mib", 2000))
    return {key: samples for key, samples in trace.items() if (_middle(samples, "memory_used") or 0.0) > least}


def _mean(samples: Sequence[GpuSample]) -> float | None:
    values = [s.utilization for s in samples if s.utilization is not None]
    return sum(values) / len(values) if values else None


def throttled(trace: Trace, options: Mapping[str, Any], run: Run) -> Found | None:
    """Clocks are held down by heat or a power brake for most of the window; the power cap under load is normal."""
    for samples in trace.values():
        names = [HEAT.intersection(throttle_names(s.throttle_reasons)) for s in samples]
        held = sum(1 for found in names if found)
        if held < float(options.get("share", 0.5)) * len(samples):
            continue
        reasons = ", ".join(sorted(set().union(*names)))
        hot = _middle(samples, "temperature")
        clock, full = _middle(samples, "sm_clock"), samples[-1].sm_clock_max
        text = f"GPU {_name(samples)}: {reasons}" + (f", {hot:.0f} °C" if hot is not None else "")
        text += f", {clock:.0f} of {full:.0f} MHz" if clock is not None and full else ""
        return {"gpu": _name(samples), "reasons": reasons, "line": text}, text, samples[-1]
    return None


def fault(trace: Trace, options: Mapping[str, Any], run: Run) -> Found | None:
    """Xids that NVIDIA calls hardware faults, uncorrectable ECC errors, failed row remapping."""
    for seen in run.xids:
        known = xid(seen.xid)
        if known.kind == "application" or known.level not in ("gpu", "run") or known.kind == "unknown":
            continue
        text = f"GPU {seen.index if seen.index is not None else '?'}: Xid {seen.xid}, {known.name}. {known.remedy}"
        return {"gpu": seen.index, "line": text}, text, _like(run, seen.uuid)
    for change in run.gpu_changes:
        if change.change == "ecc_double_bit":
            text = f"GPU {change.index}: uncorrectable ECC error"
            return {"gpu": change.index, "line": text}, text, _like(run, change.uuid)
    for sample in run.gpu_latest.values():
        if sample.remapped_rows is not None and sample.remapped_rows.failed:
            text = f"GPU {sample.index}: a row of its memory could not be remapped; the GPU needs to be replaced"
            return {"gpu": sample.index, "line": text}, text, sample
    return None


def lost(trace: Trace, options: Mapping[str, Any], run: Run) -> Found | None:
    """A GPU that answered does not any more."""
    for sample in run.gpu_latest.values():
        if sample.state in ("lost", "reset_required", "silent"):
            said = next(
                (c.detail for c in reversed(run.gpu_changes) if c.uuid == sample.uuid and c.detail), sample.state
            )
            text = f"GPU {sample.index}: {said}"
            return {"gpu": sample.index, "line": text}, text, sample
    return None


def headroom(trace: Trace, options: Mapping[str, Any], run: Run) -> Found | None:
    """CPU offload is on and every GPU kept at least `free` (a share) of its memory free, as long as it was watched."""
    places = ("offload_optimizer", "offload_param")
    if not any("cpu" in lookup(f"deepspeed.zero_optimization.{place}.device", run) for place in places):
        return None
    shares = []
    for key in trace:
        peak = max((s.memory_used or 0.0) for s in run.gpu_history[key])
        total = trace[key][-1].memory_total
        if total and peak > IDLE_MIB:
            shares.append((1 - peak / total, trace[key][-1]))
    if not shares or min(s for s, _ in shares) < float(options.get("free", 0.5)):
        return None
    least, sample = min(shares, key=lambda item: item[0])
    text = f"at its peak GPU {sample.index} had {least:.0%} of its memory free"
    return {"gpu": sample.index, "free": f"{least:.0%}", "line": text}, text, sample


def _like(run: Run, uuid: str | None) -> GpuSample | None:
    return run.gpu_latest.get(uuid) if uuid is not None else None


JUDGES: dict[str, Callable[[Trace, Mapping[str, Any], Run], Found | None]] = {
    "gpu0_only": gpu0_only,
    "one_process": one_process,
    "imbalance": imbalance,
    "util_low": util_low,
    "util_skew": util_skew,
    "throttled": throttled,
    "fault": fault,
    "lost": lost,
    "headroom": headroom,
}
AT_ONCE = ("fault", "lost")


class GpuTrace:
    """See the module."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """At most one hit."""
        name = str(spec.options["judge"])
        if not run.gpu_history and not run.gpu_latest and not run.xids:
            return Missing(("live GPU samples",))
        trace: Trace = {}
        if name not in AT_ONCE:
            seconds = float(spec.options.get("seconds", WINDOW))
            trace = window(run, seconds)
            if not trace:
                return Missing((f"{seconds:.0f} s of GPU samples",))
            if name != "throttled" and (run.cadence.usual is None or run.cadence.last_train is None):
                return Missing(("a run that trains",))
        found = JUDGES[name](trace, spec.options, run)
        if found is None:
            return []
        values, text, sample = found
        values = {"line": text, **values}
        origin = sample.origin if sample is not None else None
        return [Hit(origin, values, (Evidence("gpu", "nvml", 0, 0, text),), final=True)]
