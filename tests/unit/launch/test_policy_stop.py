"""An end of ftdoctor's own making is no failure of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftdoctor.diagnosis.attribution import attribute
from ftdoctor.findings import Finding
from ftdoctor.ruleset.load import load

ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.timeout(400)  # whole runs of ftdoctor, on a machine that may be slow


def finding(name: str, order: int, role: str = "cause", severity: str = "error") -> Finding:
    return Finding(name, severity, role, name, name, order=order)  # type: ignore[arg-type]


def test_an_end_because_of_a_finding_is_folded_under_it() -> None:
    rules = load().by_id()
    pool = [finding("loss-nan", 1), finding("interrupted", 2, "cascade"), finding("rank-crashed", 3, "cascade")]
    root, found = attribute(pool, rules, "loss-nan")
    assert root is not None
    assert root.id == "loss-nan"
    assert {f.id: f.explained_by for f in found} == {
        "loss-nan": None, "interrupted": "loss-nan", "rank-crashed": "loss-nan",
    }  # fmt: skip
    root, found = attribute(pool[1:], rules, "loss-nan")  # which was taken back when more was known
    assert root is None
    assert {f.severity for f in found} == {"info"}
    assert attribute(pool[1:], rules)[0] is not None


def test_a_hang_explains_the_time_out_that_it_ends_in() -> None:
    pool = [finding("hang", 1, "symptom"), finding("nccl-timeout", 5, "cascade")]
    root, found = attribute(pool, load().by_id())
    assert root is not None
    assert root.id == "hang"
    assert [f.explained_by for f in found] == [None, "hang"]


def test_a_policy_stop_is_not_shown_as_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    print('W1123 23:57:05.013000 10048 torch/distributed/elastic/agent/server/api.py:739] '\n"
        "          'Received 15 death signal, shutting down workers', flush=True)\n"
        "    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('RuntimeError: CUDA error: an illegal memory access was encountered', flush=True)\n"
        "for n in range(1200): time.sleep(0.1)\n"
    )
    command = [sys.executable, "-m", "ftdoctor", "launch", "--no-gpu", "--name", "r", "--on-finding", "cuda-error=stop"]
    done = subprocess.run(
        [*command, "--", sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=240,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the run was ended by ftdoctor because of cuda-error" in done.stderr
    for place in ("diagnosis.json",):
        found = json.loads((tmp_path / "ftdoctor-runs/r" / place).read_text())
        assert found["root_cause"]["id"] == "cuda-error"
        assert {f["id"]: f["explained_by"] for f in found["findings"]}["interrupted"] == "cuda-error"
    again = subprocess.run(
        [sys.executable, "-m", "ftdoctor", "check", "ftdoctor-runs/r", "--format", "json"], cwd=tmp_path,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120,
    )  # fmt: skip
    assert {f["id"]: f["explained_by"] for f in json.loads(again.stdout)["findings"]}["interrupted"] == "cuda-error"
