"""The demo itself, whole: the broken run named, the repaired model right."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.rig
@pytest.mark.timeout(1500)
def test_the_default_fault_is_named_repaired_and_the_model_answers(training_python: Path, tmp_path: Path) -> None:
    env = {**os.environ, "FTDOCTOR_PYTHON": str(training_python)}
    done = subprocess.run(
        [sys.executable, "-m", "ftdoctor", "demo", "--folder", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "named live: loss-" in done.stdout
    assert "learning_rate: 0.0002" in (tmp_path / "demo/repaired.yml").read_text()
    assert "PROVEN" in done.stdout
    assert "3 of 3 answers are right" in done.stdout
