"""Every case of every rule, through the real path; the index equals the YAML; the lint is clean."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftdoctor.rulecheck.cases import run_rule
from ftdoctor.rulecheck.lint import lint
from ftdoctor.ruleset.load import build, load, read_yaml, rule_files, shipped_dir

FOLDER = shipped_dir()
RULES = load()


@pytest.mark.parametrize("path", rule_files(FOLDER), ids=lambda p: p.parent.name)
def test_cases(path: Path) -> None:
    results = list(run_rule(path.parent, RULES))
    assert len(results) >= 2
    assert not [r for r in results if r.problems]


def test_index_says_what_the_files_say() -> None:
    assert build(read_yaml(rule_files(FOLDER))) == RULES


def test_lint_is_clean() -> None:
    assert lint(FOLDER) == []
