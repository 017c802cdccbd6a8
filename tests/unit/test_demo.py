from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from ftdoctor.cli import demo
from ftdoctor.demo.faults import FAULTS, broken, recipe
from ftdoctor.demo.maker import CAPITALS, QUESTIONS, data
from ftdoctor.errors import UsageError
from ftdoctor.ruleset.load import load


@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_every_fault_changes_the_run_and_nothing_else(gpus: int) -> None:
    good = recipe(gpus, deepspeed=True)
    assert ("plugins" in yaml.safe_load(good)) == (gpus == 0)
    for fault in FAULTS:
        bad = broken(good, fault)
        assert (bad != good) == bool(fault.changes)
        assert bool(fault.changes) != bool(fault.signal)
        changed = {k for k, v in yaml.safe_load(bad).items() if yaml.safe_load(good).get(k) != v}
        assert len(changed) == bool(fault.changes), fault.name


def test_faults_expect_failure_modes_that_have_rules() -> None:
    known = {rule.id for rule in load().rules}
    for fault in FAULTS:
        assert set(fault.expect) & known, fault.name


def test_no_kept_question_was_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data()
    rows = [json.loads(line)["messages"][0]["content"] for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    kept = [json.loads(line)["prompt"] for line in (tmp_path / "kept.jsonl").read_text().splitlines()]
    assert not set(rows) & set(kept)
    assert len(rows) + len(kept) == len(CAPITALS) * len(QUESTIONS)
    assert all(sum(country in row for row in rows) >= 3 for country in CAPITALS)


def test_list_and_unknown_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [fault.name for fault in FAULTS]
    with pytest.raises(UsageError, match="no fault"):
        demo.main(["--fault", "flood"])


def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    monkeypatch.setattr("ftdoctor.training_python.TrainingPython.has", lambda *_: True)
    with pytest.raises(UsageError, match="in use"):
        demo.main(["--folder", str(tmp_path)])
    assert (tmp_path / "mine.txt").read_text() == "mine"
