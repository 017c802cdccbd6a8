"""The Python API for notebooks.

    import ftdoctor

    run = ftdoctor.load_run("outputs/run1")
    run.diagnosis.root_cause       # Finding | None
    run.metrics                    # DataFrame: step, epoch, and one column per metric
    run.findings                   # DataFrame: one row per finding, causes first
    run.series("grad_norm")        # pandas Series indexed by step

pandas is imported here and nowhere else.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from ftdoctor.findings import Diagnosis, Finding
from ftdoctor.ruleset.load import load
from ftdoctor.run_model.run import Run
from ftdoctor.session import Session


@dataclass(frozen=True)
class LoadedRun:
    """A run, its diagnosis and its metrics."""

    run: Run
    diagnosis: Diagnosis

    @property
    def root_cause(self) -> Finding | None:
        """The single finding an expert would name; None when healthy."""
        return self.diagnosis.root_cause

    @cached_property
    def findings(self) -> pd.DataFrame:
        """One row per finding, causes first; the columns are the fields of `Finding`."""
        columns = [field.name for field in dataclasses.fields(Finding)]
        rows = [[getattr(finding, name) for name in columns] for finding in self.diagnosis.findings]
        return pd.DataFrame(rows, columns=columns)

    def series(self, name: str) -> pd.Series[float]:
        """One metric as logged, indexed by optimizer step (by sample where no step is known).

        Raises:
            KeyError: the run did not log this metric.
        """
        found = self.run.series.get(name)
        if found is None:
            raise KeyError(f"no metric `{name}`; logged: {', '.join(sorted(self.run.series)) or 'none'}")
        return pd.Series(list(found.values), index=pd.Index(found.xs(), name="step"), name=name, dtype="float64")

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Every metric, one column each, one row per step (per line of the log where no step is known)."""
        columns: dict[str, dict[float, float]] = {}
        for name, series in self.run.series.items():
            keys = series.steps if not any(s != s for s in series.steps) else series.lines
            columns[name] = dict(zip(keys, series.values, strict=True))
        return pd.DataFrame(columns).sort_index().rename_axis("step")


def load_run(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], rules: Iterable[str] = ()) -> LoadedRun:
    """Read and diagnose a run.

    Args:
        paths: a log, a trainer_state.json, an output folder, or several of them.
        rules: folders of further rules.

    Raises:
        InputError: a path does not exist or cannot be read.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    session = Session(load([Path(place) for place in rules]))
    session.read([os.fspath(path) for path in given])
    return LoadedRun(session.run, session.diagnose())
