"""The benchmark's own models: a small shape is written, proven and broken as the large one is."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from tools.bench_merge import Shape

ROOT = Path(__file__).resolve().parents[3]


def test_the_shape_is_that_of_an_8b_model() -> None:
    sizes = [math.prod(sides) for _, sides in Shape().tensors()]
    assert sum(sizes) == pytest.approx(8.03e9, rel=0.001)
    shards = Shape().shards()
    assert len(shards) == 4
    assert [t for part in shards for t in part] == list(Shape().tensors())


def test_a_small_one_is_proven_and_its_damage_found(tmp_path: Path) -> None:
    small = ("--layers", "2", "--hidden", "64", "--inner", "128", "--keys", "32", "--tokens", "300")
    ftdoctor = f"'{sys.executable}' -m ftdoctor"
    done = subprocess.run(
        [sys.executable, "-m", "tools.bench_merge", "--ftdoctor", ftdoctor, "--folder", str(tmp_path), *small, "--shard-bytes", "60000"],
        capture_output=True, text=True, cwd=ROOT, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "healthy, {'same': 7, 'ok': 14}" in done.stdout or "healthy, {'ok': 14, 'same': 7}" in done.stdout
    assert "one NaN in model.layers.1.mlp.down_proj.weight: merge-corrupt" in done.stdout
    assert not list(tmp_path.glob("ftdoctor-bench-merge-*"))
