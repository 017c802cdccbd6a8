"""Judging again with a memory of the run gives what judging anew gives, after every piece of every recorded run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftdoctor.diagnosis.engine import Memory, evaluate
from ftdoctor.live import LiveSession
from ftdoctor.ruleset.load import load

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"
RULES = load()
RUNS = sorted(FIXTURES.glob("*/*/train.log"))[::6]


@pytest.mark.parametrize("log", RUNS, ids=lambda p: p.parent.name)
def test_memory_changes_no_outcome(log: Path, tmp_path: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    copy = tmp_path / "train.log"
    live, memory = LiveSession(RULES, [str(copy)]), Memory()
    size = max(1, len(lines) // 25)
    with copy.open("ab", buffering=0) as handle:
        for number, at in enumerate(range(0, len(lines), size)):
            handle.write(b"".join(lines[at : at + size]))
            live.step(float(number), 1e9 + number)
            assert evaluate(RULES, live.session.run, memory) == evaluate(RULES, live.session.run)


def test_two_rules_of_one_id_are_two_rules() -> None:
    first = next(rule for rule in RULES.rules if rule.id == "config-invalid")
    single = [replace(first, detect=(spec,)) for spec in first.detect[:6]]
    rules = replace(RULES, rules=tuple(single))
    live, memory = LiveSession(rules, []), Memory()
    for _ in range(2):
        assert evaluate(rules, live.session.run, memory) == evaluate(rules, live.session.run)
