"""Fires when a run stopped without a word: the log's own stamps show a long silence before something ended it.

Options:
    seconds:  silence that counts (default 1800); shorter than that proves nothing in a log without heartbeats

Needs stamps on both sides of the gap. A gap after which training went on (one more metric line, or the end of the
run) was a long evaluation or save, not a hang. GPU tables that show a hang are judged by `gpu_snapshot`.
"""

from __future__ import annotations

from ftdoctor.detectors.base import DetectorSpec, Hit, Missing, Result
from ftdoctor.findings import Evidence
from ftdoctor.run_model.run import Run


class Silence:
    """See the module."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """At most one hit."""
        if run.longest_gap is None:
            return Missing(("time stamps",)) if run.last_origin is None or run.last_origin.time is None else []
        seconds, after = run.longest_gap
        if seconds < float(spec.options.get("seconds", 1800)) or run.went_on_after(after, metrics=1):
            return []
        values: dict[str, object] = {"seconds": seconds, "minutes": seconds / 60, "duration": _duration(seconds)}
        text = f"nothing was written for {_duration(seconds)} before this line"
        values["line"] = text
        return [Hit(after, values, (Evidence("log", after.path, after.line, after.line, text),), after.rank)]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
