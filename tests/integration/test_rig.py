"""The rig itself: a folder, a model, and an environment in which real Axolotl reads its configuration."""

from __future__ import annotations

import subprocess

import pytest

from tests.integration.rigs import RigFolder


@pytest.mark.rig
def test_the_training_environment_is_there(rig: RigFolder) -> None:
    rig.config(max_steps=3)
    code = "import importlib.metadata as m; print(m.version('axolotl'), m.version('deepspeed'), m.version('torch'))"
    done = subprocess.run([rig.python, "-c", code], capture_output=True, text=True, env=rig.environment(), check=True)
    assert len(done.stdout.split()) == 3
    assert (rig.folder / "tiny/model.safetensors").stat().st_size > 10_000
    assert (rig.folder / "config.yml").is_file()
