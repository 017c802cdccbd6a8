"""`ftdoctor preprocess` with the real `axolotl preprocess` and a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.rigs import RigFolder

pytestmark = pytest.mark.rig


def preprocess(rig: RigFolder, python: Path, **changes: Any) -> tuple[int, dict[str, Any]]:
    rig.config(dataset_prepared_path="./own", **changes)
    done = subprocess.run(
        [sys.executable, "-m", "ftdoctor", "preprocess", "config.yml", "--format", "json", "--python", str(python)],
        cwd=rig.folder, env={**os.environ, **rig.environment()}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return done.returncode, {f["id"]: f for f in json.loads(done.stdout)["findings"]}


def test_a_healthy_chat_is_quiet(rig: RigFolder, training_python: Path) -> None:
    assert preprocess(rig, training_python) == (0, {})


def test_bots_are_never_trained(rig: RigFolder, training_python: Path) -> None:
    data = [{"path": "./bots.jsonl", "type": "chat_template", "field_messages": "messages"}]
    code, found = preprocess(rig, training_python, datasets=data)
    assert code == 1
    assert found["labels-all-masked"]["severity"] == "error"


def test_alpaca_under_llama3(rig: RigFolder, training_python: Path) -> None:
    _, found = preprocess(rig, training_python, datasets=[{"path": "./data.jsonl", "type": "alpaca"}])
    assert "template-mismatch" in found
