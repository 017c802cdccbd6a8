"""A metric over the run, in bounded memory.

A series keeps every sample up to `LIMIT`; beyond that it keeps every second one, then
every fourth, ... (the stride depends on the sample's index only, so the result does not
depend on how the log was read). Non-finite values are counted apart and are never lost.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator

from ftdoctor.events import MetricSample, Origin

LIMIT = 100_000


class Series:
    """Samples of one metric in the order they were logged: `steps`, `values`, `lines` run in parallel.

    `steps` holds the optimizer step (NaN where unknown); use `xs()` for an axis that always exists.
    """

    __slots__ = ("_seen", "_stride", "epochs", "first", "last", "lines", "name", "nonfinite", "path", "steps", "values")

    def __init__(self, name: str, path: str = "") -> None:
        self.name = name
        self.path = path
        self.steps = array("d")
        self.values = array("d")
        self.epochs = array("d")
        self.lines = array("q")
        self.nonfinite = 0
        self.first: Origin | None = None
        self.last: Origin | None = None
        self._seen = 0
        self._stride = 1

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[float]:
        return iter(self.values)

    def add(self, sample: MetricSample) -> None:
        """Append one sample."""
        if self.first is None:
            self.first = sample.origin
            self.path = sample.origin.path
        self.last = sample.origin
        if not math.isfinite(sample.value):
            self.nonfinite += 1
        if self._seen % self._stride == 0:
            self.steps.append(math.nan if sample.step is None else sample.step)
            self.values.append(sample.value)
            self.epochs.append(math.nan if sample.epoch is None else sample.epoch)
            self.lines.append(sample.origin.line)
            if len(self.values) >= LIMIT:
                for column in (self.steps, self.values, self.epochs, self.lines):
                    del column[1::2]
                self._stride *= 2
        self._seen += 1

    def xs(self) -> list[float]:
        """Steps where every one is known, else the index of the sample."""
        if any(math.isnan(s) for s in self.steps):
            return [float(i) for i in range(len(self.steps))]
        return list(self.steps)
