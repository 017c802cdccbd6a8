"""Each rank's output in a file of its own: the trainer is not harmed, the mixed log is whole, nothing counts twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftdoctor.launch.plan import RANK_LOG
from ftdoctor.live import LiveSession
from ftdoctor.ruleset.load import load
from ftdoctor.session import Session, check
from ftdoctor.sources.rank_logs import Rest

BEGIN = (
    f"import sys; sys.path.insert(0, {str(RANK_LOG.parent)!r}); import ftdoctor_rank_log as r; s = r.begin('ranks')\n"
)
STEP = "{{'loss': '{loss:.3f}', 'grad_norm': '0.8', 'learning_rate': '0.0002', 'epoch': '0.{step:03d}'}}\n"
FAILED = (
    "Traceback (most recent call last):\n"
    '  File "/opt/train.py", line 9, in <module>\n'
    "    main()\n"
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB\n"
)


def rank(folder: Path, code: str, number: int = 1) -> subprocess.Popen[bytes]:
    """A rank that prints, its output in train.log as `launch` has it."""
    with (folder / "train.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-u", "-c", BEGIN + code], cwd=folder, env={**os.environ, "RANK": str(number)},
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def wait(wanted: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end
        time.sleep(0.02)


def both(folder: Path, text: str) -> None:
    """Both logs hold exactly `text`."""
    paths = [folder / "train.log", folder / "ranks/rank1.log"]
    wait(lambda: all(p.is_file() and len(p.read_text()) >= len(text) for p in paths))
    assert [p.read_text() for p in paths] == [text, text]


def test_both_streams_in_order_and_the_last_words_of_a_killed_rank(tmp_path: Path) -> None:
    code = (
        "import os\n"
        "for n in range(500):\n    print('out', n); print('err', n, file=sys.stderr)\n"
        "os.write(2, b'\\xffno newline'); os.kill(os.getpid(), 9)\n"
    )
    assert rank(tmp_path, code).wait(60) == -9
    wait(lambda: b"no newline" in (tmp_path / "train.log").read_bytes())
    wanted = "".join(f"out {n}\nerr {n}\n" for n in range(500)).encode() + b"\xffno newline"
    assert (tmp_path / "train.log").read_bytes() == (tmp_path / "ranks/rank1.log").read_bytes() == wanted


def test_a_place_that_cannot_be_written_loses_that_file_alone(tmp_path: Path) -> None:
    (tmp_path / "ranks/rank1.log").mkdir(parents=True)
    assert rank(tmp_path, "print('all is well')\n").wait(60) == 0
    wait(lambda: (tmp_path / "train.log").read_text() == "all is well\n")


def test_the_rank_outlives_its_reader(tmp_path: Path) -> None:
    code = (
        "import os, time\nprint('before'); os.kill(s.reader.pid, 9); s.reader.wait()\n"
        "print('between')\nassert s.mend()\nprint('after')\nassert not s.mend()\n"
    )
    assert rank(tmp_path, code).wait(60) == 0
    assert (tmp_path / "train.log").read_text().endswith("between\nafter\n")


def test_a_stop_does_not_end_the_reader(tmp_path: Path) -> None:
    code = "import os, signal\nfor n in (1, 2, 15):\n    os.kill(s.reader.pid, n)\nprint('last word')\n"
    started = rank(tmp_path, "import time; time.sleep(0.5)\n" + code)
    assert started.wait(60) == 0
    both(tmp_path, "last word\n")


def test_without_a_rank_or_with_two_places_nothing_is_changed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + "print(s)"], cwd=tmp_path, env={**os.environ, "RANK": "0"}, capture_output=True
    )
    assert done.stdout == b"None\n"
    assert not (tmp_path / "ranks").exists()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_left_of_the_mixed_log_are_the_launchers_lines(seed: int) -> None:
    rng = random.Random(seed)
    lines = [
        (rng.choice(("0", "1", "launcher")), f"line {rng.randrange(20)}{rng.choice(chr(10) + chr(13))}")
        for _ in range(300)
    ]
    mixed = "".join(text for _, text in lines).encode()
    wanted = [text.strip() for who, text in lines if who == "launcher"]
    rest, got, at, sent = Rest(), b"", 0, {"0": 0, "1": 0}
    own = {who: "".join(text for writer, text in lines if writer == who).encode() for who in sent}
    while at < len(mixed):
        size = rng.randrange(1, 60)
        for who in own:  # a rank's log is always ahead of the mixed one
            ahead = sum(len(t) for w, t in _until(lines, at + size) if w == who)
            rest.own(who, own[who][sent[who] : ahead])
            sent[who] = ahead
        got += rest.left(mixed[at : at + size])
        at += size
    got += rest.last()
    kept = [part for part in got.decode().replace("\r", "\n").split("\n") if part]
    assert sorted(kept) == sorted(wanted)
    assert got.count(b"\n") == mixed.count(b"\n")


def test_a_launchers_line_behind_an_unfinished_bar() -> None:
    rest = Rest()
    rest.own("0", b"\r 1%|  | 12/2000 [00:05<10:27,  3.17it/s]")
    got = rest.left(b"\r 1%|  | 12/2000 [00:05<10:27,  3.17it/s]W1130 Received 15 death signal\n")
    assert got == b"\rW1130 Received 15 death signal\n"


def test_a_bar_that_the_mixed_log_repeats_is_no_sign_of_life(tmp_path: Path) -> None:
    from ftdoctor.events import BarSeen, Origin, Tick

    session = Session(load())
    places = [f"{tmp_path}/ranks/rank0.log"] * 8 + [f"{tmp_path}/train.log"]
    for number, path in enumerate(places):
        step = float(min(number, 7))
        session.apply([Tick(Origin("", time=1e9 + number, order=3 * number + 1))])
        session.apply([BarSeen(Origin(path, order=3 * number + 3), "", step, 2000.0, step)])
    assert session.run.last_sign is not None
    assert session.run.last_sign.path.endswith("rank0.log")


def _until(lines: list[tuple[str, str]], size: int) -> list[tuple[str, str]]:
    """The lines of which `size` bytes of the mixed log hold a part."""
    found, length = [], 0
    for who, text in lines:
        if length >= size:
            break
        found.append((who, text))
        length += len(text)
    return found


def run_folder(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """What a launch leaves when ftdoctor was killed: rank 1 ran out of memory, both tracebacks mixed in train.log."""
    steps = "".join(STEP.format(loss=2.0 - n / 100, step=n) for n in range(1, 9))
    other = FAILED.replace(
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB",
        "RuntimeError: Connection closed by peer",
    )
    own = {"0": steps + other, "1": FAILED}
    pairs = [line for pair in zip(other.splitlines(True), FAILED.splitlines(True), strict=True) for line in pair]
    mixed = "starting\n" + steps + "".join(pairs) + "E1 torch/elastic: failed (exitcode: 1) local_rank: 1 (pid: 12)\n"
    folder = tmp_path / "r"
    (folder / "ranks").mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return folder, {"train.log": mixed, **{f"ranks/rank{n}.log": text for n, text in own.items()}}


def test_the_rank_of_a_traceback_is_known_and_nothing_counts_twice(tmp_path: Path) -> None:
    folder, files = run_folder(tmp_path)
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "journal.jsonl").write_text("")
    session = Session(load())
    session.read([str(folder)])
    diagnosis = session.diagnose()
    assert diagnosis.root_cause is not None
    assert (diagnosis.root_cause.id, diagnosis.root_cause.rank) == ("cuda-oom", 1)
    assert sorted(session.run.series) == ["grad_norm", "learning_rate", "loss"]
    assert len(session.run.series["loss"]) == 8
    assert session.run.traceback_count == 2
    alone = check([str(folder / "train.log")], load())
    assert alone.root_cause is not None
    assert alone.root_cause.rank is None  # the mixed log does not tell


@pytest.mark.parametrize("watched", ["train.log", "."])
def test_live_the_same(tmp_path: Path, watched: str) -> None:
    folder, files = run_folder(tmp_path)
    (folder / "heartbeat").mkdir()
    (folder / "heartbeat/heartbeat-rank1.jsonl").write_text('{"t": 1e9, "s": 8, "p": "forward", "since": 1e9}\n')
    live = LiveSession(load(), [str(folder / watched)])
    at = dict.fromkeys(files, 0)
    now = 0.0
    while any(at[name] < len(text) for name, text in files.items()):
        for name in sorted(files):  # the ranks' own logs first
            text = files[name]
            step = 40 if name == "train.log" else len(text)
            with (folder / name).open("a") as log:
                log.write(text[at[name] : at[name] + step])
            at[name] += step
        now += 1.0
        live.step(now, 1e9 + now)
    diagnosis = live.finish()
    run = live.session.run
    assert diagnosis.root_cause is not None
    assert (diagnosis.root_cause.id, diagnosis.root_cause.rank) == ("cuda-oom", 1)
    assert len(run.series["loss"]) == 8
    assert run.traceback_count == 2
    assert run.beats[1].phase == "forward"
    assert str(folder / "ranks/rank0.log") in live.logs
    assert len(live.logs) == 3


def test_an_error_before_the_ranks_had_logs_is_survived_as_in_one_log(tmp_path: Path) -> None:
    folder, _ = run_folder(tmp_path)
    steps = "".join(STEP.format(loss=2.0 - n / 100, step=n) for n in range(1, 9))
    early = FAILED + steps
    (folder / "ranks/rank0.log").write_text(steps)
    (folder / "train.log").write_text(early)
    found = check([str(folder)], load()), check([str(folder / "train.log")], load())
    assert [f.severity for f in found[0].findings if f.id == "cuda-oom"] == ["warning"]
    assert [f.severity for f in found[1].findings if f.id == "cuda-oom"] == ["warning"]
