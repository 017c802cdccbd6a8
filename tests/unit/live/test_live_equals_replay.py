"""Read whole, followed as it grows, and replayed from the journal: the same diagnosis."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor.findings import Diagnosis
from ftdoctor.live import LiveSession, replayed
from ftdoctor.ruleset.load import load
from ftdoctor.session import check
from ftdoctor.sources.journal import decode, is_journal, read_journal

RULES = load()
FIXTURES = Path(__file__).resolve().parent.parent.parent.parent / "fixtures"
LOGS = sorted(FIXTURES.glob("*/*/train.log"))
OOM = (
    b"{'loss': 1.0, 'grad_norm': 0.5, 'learning_rate': 0.1, 'epoch': 0.1}\n"
    b"[rank3]: Traceback (most recent call last):\n"
    b'[rank3]:   File "/home/user/ft/a.py", line 1, in main\n'
    b"[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.95 GiB. GPU 3 has a total capacity of 79.11 GiB\n"
    b"[rank0]:[E1026 04:01:29.500953846 ProcessGroupNCCL.cpp:683] [Rank 0] Watchdog caught collective operation timeout: "
    b"WorkNCCL(SeqNum=55, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600077 milliseconds before timing out.\n"
)


def essence(diagnosis: Diagnosis) -> object:
    return [
        (
            f.id,
            f.severity,
            f.rank,
            f.step,
            f.count,
            f.explained_by,
            f.message,
            [(e.line_first, e.excerpt) for e in f.evidence],
        )
        for f in diagnosis.findings
    ], diagnosis.verdict


def live(data: bytes, cuts: list[int], folder: Path) -> tuple[Diagnosis, Path]:
    log, journal = folder / "train.log", folder / "journal.jsonl"
    session = LiveSession(RULES, [str(log)], journal)
    edges = sorted({c % (len(data) + 1) for c in cuts} | {0, len(data)})
    now = 0.0
    with log.open("ab", buffering=0) as handle:
        for a, b in itertools.pairwise(edges):
            handle.write(data[a:b])
            now += 0.3
            session.step(now, 1e9 + now)
            session.diagnosis()
    return session.finish(), journal


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 5000), max_size=8))
def test_live_equals_whole_equals_replay(cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        grown, journal = live(OOM, cuts, folder)
        assert grown.root_cause is not None
        assert grown.root_cause.id == "cuda-oom"
        assert essence(grown) == essence(check([str(folder / "train.log")], RULES))
        assert essence(grown) == essence(replayed([journal], RULES)) == essence(check([str(journal)], RULES))


@pytest.mark.parametrize("log", LOGS, ids=lambda p: p.parent.name)
def test_recorded_runs_live(log: Path, tmp_path: Path) -> None:
    data = log.read_bytes()
    rng = random.Random(3)
    grown, journal = live(data, [rng.randrange(len(data)) for _ in range(30)], tmp_path)
    assert essence(grown) == essence(check([str(tmp_path / "train.log")], RULES))
    assert essence(grown) == essence(replayed([journal], RULES))


def test_a_torn_last_line_is_ignored(tmp_path: Path) -> None:
    _, journal = live(OOM, [], tmp_path)
    whole = list(read_journal(journal))
    journal.write_bytes(journal.read_bytes()[:-7])
    assert is_journal(journal)
    assert list(read_journal(journal)) == whole[:-1]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 5000), max_size=6), st.integers(100, 400))
def test_a_journal_in_many_segments_replays_the_same(cuts: list[int], size: int) -> None:
    with tempfile.TemporaryDirectory() as temporary, pytest.MonkeyPatch.context() as patch:
        patch.setattr("ftdoctor.sources.journal.SEGMENT", size)
        patch.setattr("ftdoctor.sources.journal.KEEP", 10_000)
        grown, journal = live(OOM, cuts, Path(temporary))
        assert len(list(Path(temporary).glob("journal.jsonl*"))) > 1
        assert essence(grown) == essence(replayed([journal], RULES))


def test_kill_9_loses_at_most_the_last_second(tmp_path: Path) -> None:
    log, journal = tmp_path / "train.log", tmp_path / "journal.jsonl"
    log.write_bytes(b"")
    command = [sys.executable, "-m", "ftdoctor", "watch", str(log), "--headless", "--no-gpu", "--journal", str(journal)]
    watch = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with log.open("ab", buffering=0) as handle:
            handle.write(OOM)
        limit = time.monotonic() + 60
        while time.monotonic() < limit and not (journal.exists() and b"out of memory" in journal.read_bytes()):
            time.sleep(0.1)
    finally:
        watch.kill()  # while it runs: nothing is flushed or closed
        watch.wait()
    diagnosis = replayed([journal], RULES)
    assert diagnosis.root_cause is not None
    assert diagnosis.root_cause.id == "cuda-oom"


@given(st.text(max_size=200))
def test_any_line_is_an_event_or_nothing(line: str) -> None:
    decode(line)


def test_an_existing_journal_is_never_overwritten(tmp_path: Path) -> None:
    live(OOM, [], tmp_path)
    before = (tmp_path / "journal.jsonl").read_bytes()
    (tmp_path / "train.log").unlink()
    live(OOM, [], tmp_path)
    assert (tmp_path / "journal.jsonl.1.old").read_bytes() == before
