"""Drawn training runs of `tools.curves`, through the whole path: healthy families stay quiet, sick ones are named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftdoctor.ruleset.load import load
from ftdoctor.ruleset.types import RuleSet
from tools.curves import HEALTHY, SICK, name_of, said

QUIET = settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def rules() -> RuleSet:
    return load()


@QUIET
@given(family=st.sampled_from(HEALTHY), seed=st.integers(0, 10**6))
def test_healthy_runs_are_quiet(rules: RuleSet, tmp_path: Path, family: object, seed: int) -> None:
    lines = "\n".join(family(random.Random(seed)).lines()) + "\n"  # type: ignore[operator]
    assert said(rules, lines, tmp_path) == {}


def test_sick_runs_are_named(rules: RuleSet, tmp_path: Path) -> None:
    missed = []
    for family, names in SICK.items():
        for number in range(4):
            drawn = family(random.Random(f"{name_of(family)} 3 {number}"))
            if not names & said(rules, "\n".join(drawn.lines()) + "\n", tmp_path).keys():
                missed.append(f"{name_of(family)} {number}")
    assert len(missed) <= 0.05 * 4 * len(SICK), missed
