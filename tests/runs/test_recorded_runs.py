"""Every recorded run gives the diagnosis its expected.yaml names; healthy ones stay quiet."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ftdoctor.ruleset.load import load
from ftdoctor.session import check

FIXTURES = Path(__file__).resolve().parent.parent.parent / "fixtures"
RUNS = sorted(path.parent for path in FIXTURES.glob("*/*/expected.yaml"))
RULES = load()


@pytest.mark.parametrize("run", RUNS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_recorded_run(run: Path) -> None:
    expected = yaml.safe_load((run / "expected.yaml").read_text())
    inputs = [str(run / name) for name in expected["inputs"]]
    diagnosis = check(inputs, RULES)
    root = diagnosis.root_cause.id if diagnosis.root_cause else None
    found = {f.id: f.severity for f in diagnosis.findings}
    assert not [o for o in diagnosis.outcomes if o.outcome == "crashed"]
    assert root == expected["root_cause"], found
    assert diagnosis.verdict == expected["verdict"], found
    for mode in expected.get("also", ()):
        assert mode in found, found


@pytest.mark.parametrize("run", [r for r in RUNS if r.parent.name == "healthy"], ids=lambda p: p.name)
def test_healthy_runs_stay_quiet(run: Path) -> None:
    diagnosis = check([str(run)], RULES)
    assert not [f for f in diagnosis.findings if f.severity == "error"]
