"""A preflight beside prepared samples: whose they are, what is said where the proof cannot be made."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftdoctor.cli import preflight
from ftdoctor.preflight.data import existing, parity
from ftdoctor.training_python import TrainingPython
from tests.unit.preflight.data.test_prepared import sample, save

HOUR = 3600 * 10**9
PYTHON = TrainingPython(sys.executable, "here")
AGREED: existing.Proven = (
    {"template": True, "ends": [], "names": {}}, {"checked": 1, "answers": 1, "apart": 0, "first": None}, "",
)  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A YAML with two prepared sets, `one` and the newer `two`, both an hour younger than the YAML."""
    top: dict[str, Any] = {"base_model": "nowhere/none", "dataset_prepared_path": str(tmp_path / "prepared"),
                           "sequence_len": 64, "datasets": [{"path": "rows.jsonl", "type": "chat_template"}]}  # fmt: skip
    path = tmp_path / "c.yml"
    path.write_text(yaml.safe_dump(top))
    (tmp_path / "rows.jsonl").write_text('{"messages": [{"role": "user", "content": "a"}]}\n')
    for number, name in enumerate(("one", "two"), 1):
        state = save(tmp_path / "prepared" / name, [sample(i) for i in range(5 * number)]) / "state.json"
        then = path.stat().st_mtime_ns + HOUR + number
        os.utime(state, ns=(then, then))
    return path


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sets that were compared, in order; all agree."""
    asked: list[str] = []

    def prove(*given: Any) -> existing.Proven:
        asked.append(given[3].name)
        return AGREED

    monkeypatch.setattr(parity, "prove", prove)
    return asked


def look(config: Path, names: existing.Names | None) -> Any:
    return existing.look(PYTHON, config, yaml.safe_load(config.read_text()), lambda: names)


def test_the_set_of_this_configuration_is_judged_not_the_newest(config: Path, proven: list[str]) -> None:
    seen = look(config, ("one", None))
    assert proven[-1] == "one"
    assert seen.state == "good"
    assert "prepared/one" in seen.summary
    assert {e.name: e.value for e in seen.events}["prepared.rows"] == 5
    assert all(e.origin.path.endswith("one") for e in seen.events)


@pytest.mark.parametrize(("name", "state"), [("two", "good"), ("one", "absent")])
def test_the_only_set_is_proven_while_axolotl_is_asked(
    config: Path, monkeypatch: pytest.MonkeyPatch, name: str, state: str
) -> None:
    """Once, and to no effect when it turns out to be another configuration's."""
    shutil.rmtree(config.parent / "prepared/one")
    began = threading.Event()
    asked: list[str] = []

    def prove(*given: Any) -> existing.Proven:
        asked.append(given[3].name)
        began.set()
        return AGREED

    def late() -> existing.Names:
        assert began.wait(60)
        return name, None

    monkeypatch.setattr(parity, "prove", prove)
    seen = existing.look(PYTHON, config, yaml.safe_load(config.read_text()), late)
    assert (asked, seen.state, bool(seen.events)) == (["two"], state, state == "good")


def test_of_several_sets_none_is_proven_before_axolotl_says_which(config: Path, proven: list[str]) -> None:
    def late() -> existing.Names:
        time.sleep(2 * existing.SOON)
        assert not proven
        return "one", None

    existing.look(PYTHON, config, yaml.safe_load(config.read_text()), late)
    assert proven == ["one"]


def test_sets_of_other_configurations_are_not_judged(config: Path, proven: list[str]) -> None:
    seen = look(config, ("three", None))
    assert (seen.state, seen.events) == ("absent", ())
    assert "none of 2 prepared" in seen.summary


def test_without_names_the_newest_counts_while_the_yaml_is_older(config: Path, proven: list[str]) -> None:
    seen = look(config, None)
    assert (proven, seen.state) == (["two"], "good")
    assert {e.name: e.value for e in seen.events}["prepared.rows"] == 10
    then = config.stat().st_mtime_ns + 2 * HOUR
    os.utime(config, ns=(then, then))
    seen = look(config, None)
    assert (seen.state, seen.events) == ("note", ())
    assert "may be another configuration's" in seen.summary


def test_rows_that_were_changed_since_are_said(config: Path, proven: list[str]) -> None:
    assert "younger" not in look(config, ("two", None)).summary
    then = config.stat().st_mtime_ns + 2 * HOUR
    os.utime(config.with_name("rows.jsonl"), ns=(then, then))
    seen = look(config, ("two", None))
    assert seen.state == "note"
    assert "rows.jsonl is younger" in seen.summary


def test_a_tokenizer_that_cannot_be_made_is_said_with_the_reason(config: Path) -> None:
    seen = look(config, ("two", None))
    assert seen.state == "absent"
    reason = seen.summary.partition("not judged: ")[2]
    assert "Error" in reason
    assert not any(e.name.startswith("parity.checked") for e in seen.events)


def test_a_damaged_set_is_said(config: Path, proven: list[str]) -> None:
    (config.parent / "prepared/two/data-00000-of-00001.arrow").write_bytes(b"x")
    seen = look(config, ("two", None))
    assert seen.state == "absent"
    assert "cannot be read" in seen.summary


def test_only_data_judges_the_set(
    config: Path, proven: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    save(config.parent / "prepared/masked", [sample(i, trained=0) for i in range(6)])
    then = config.stat().st_mtime_ns + 2 * HOUR
    os.utime(config.parent / "prepared/masked/state.json", ns=(then, then))
    given = [str(config), "--only", "data", "--no-validate", "--python", sys.executable]
    assert preflight.main(given) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "labels-all-masked" in said
    assert "6 samples, 0 % of 60 tokens trained" in said
    assert proven == ["masked"]


def test_a_proof_that_hangs_is_ended(config: Path, tmp_path: Path) -> None:
    hanging = tmp_path / "python"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o755)
    python = TrainingPython(str(hanging), "here")
    data = yaml.safe_load(config.read_text())
    about, compared, problem = parity.prove(python, data, tmp_path, tmp_path / "prepared/two", None, 0.2)
    assert (about, compared, problem) == ({}, {}, "no answer within 0.2 s")
