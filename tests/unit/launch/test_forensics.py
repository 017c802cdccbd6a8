"""Looks at processes that really hang, and what is kept of a crash."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftdoctor.detectors import standing
from ftdoctor.events import BarSeen, FactLearned, Origin, Tick
from ftdoctor.launch.forensics import crash, processes
from ftdoctor.launch.forensics.hang import Looks
from ftdoctor.ruleset.load import load
from ftdoctor.session import Session

LOOP = "import time\nprint('up', flush=True)\nwhile True: time.sleep(0.05)\n"


def sleeping() -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", LOOP], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    return child


def silent_session(seconds: int) -> Session:
    session, clock = Session(load()), itertools.count(1_000_000)
    for n in range(1, 21):
        session.apply([Tick(Origin("", time=float(next(clock)), order=session.next_order()))])
        session.apply([BarSeen(Origin("train.log", n, order=session.next_order()), "", n, 100, n)])
    for _ in range(seconds):
        session.apply([Tick(Origin("", time=float(next(clock)), order=session.next_order()))])
    return session


def test_a_stopped_process_is_told_from_one_that_runs(tmp_path: Path) -> None:
    session, ranks = silent_session(10), {n: sleeping() for n in range(2)}
    try:
        os.kill(ranks[1].pid, signal.SIGSTOP)
        end = time.monotonic() + 30
        while processes.look(ranks[1].pid).state != "T" and time.monotonic() < end:
            time.sleep(0.05)
        looks = Looks(session, tmp_path, {"NCCL_RAS_ENABLE": "0"})
        assert looks.due(0.0, alarm=False)
        session.apply(looks.look({n: p.pid for n, p in ranks.items()}, 0.0, 1.0))
        found = standing.culprit(session.run)
        assert found is not None
        assert found.ranks == (1,)
        assert "rank 1 is stopped" in found.words
        assert f"process {ranks[1].pid}" in (tmp_path / "stack-rank1.txt").read_text()
    finally:
        for child in ranks.values():
            child.kill()
            child.wait()


def test_looks_come_early_twice_and_then_rarely() -> None:
    looks = Looks(silent_session(3), None, {"NCCL_RAS_ENABLE": "0"})
    assert not looks.due(0.0, alarm=False)  # three usual pauses are nothing
    looks = Looks(silent_session(6), None, {"NCCL_RAS_ENABLE": "0"})
    taken = []
    for second in range(100):
        if looks.due(float(second), alarm=second >= 10):
            taken.append(second)
            looks.look({}, float(second), 0.0)
    assert taken == [0, 4, 10, 30] or (taken[:3] == [0, 4, 10] and len(taken) <= 5)


def test_a_process_that_has_gone() -> None:
    child = sleeping()
    child.kill()
    child.wait()
    assert processes.look(child.pid).state == "gone"
    assert processes.kind("gone") == "gone"


KERNEL = """\
1795802994.1 n1 kernel: Out of memory: Killed process 4412 (python) total-vm:9kB, anon-rss:9kB
1795802994.2 n1 kernel: Out of memory: Killed process 77 (firefox) total-vm:9kB, anon-rss:9kB
1795802994.3 n1 kernel: NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.
1795802994.4 n1 kernel: NVRM: Xid (PCI:0000:3b:00): 31, pid=88, name=game, Ch 00000008
1795802994.5 n1 kernel: usb 1-1: new device
"""


def test_the_kernel_log_is_narrowed_to_this_run() -> None:
    kept = crash.relevant(KERNEL.splitlines(), {4412})
    assert [line[:12] for line in kept] == ["1795802994.1", "1795802994.3"]


def test_dmesg_where_there_is_no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash, "_boot_time", lambda: 1000.0)
    said = {"journalctl": "", "dmesg": "[   10.000000] old\n[  100.000000] new\n"}
    assert crash.kernel_lines(1050.0, lambda command: said[command[0]]) == ["[  100.000000] new"]


def test_what_a_crash_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crash, "kernel_lines", lambda since: KERNEL.splitlines())
    (tmp_path / "error.json").write_text(json.dumps({"message": {"message": "boom", "extraInfo": {"timestamp": "5"}}}))
    session = Session(load())
    session.apply([FactLearned(Origin("nvml", rank=0, order=session.next_order()), "rank_pid.0", 4412)])
    session.apply(crash.after_crash(session, tmp_path / "evidence", tmp_path, -9))
    table = json.loads((tmp_path / "evidence/exits.json").read_text())
    assert table["signal"] == 9
    assert table["errors"] == [{"file": "error.json", "message": "boom", "timestamp": "5"}]
    assert "firefox" not in (tmp_path / "evidence/kernel.log").read_text()
    assert {"host-oom", "gpu-hardware-fault"} <= {f.id for f in session.diagnose().findings}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"message": 5}', '{"message": {"extraInfo": []}}', "null"])
def test_odd_error_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "error.json").write_text(text)
    assert isinstance(crash.error_files(tmp_path), list)
