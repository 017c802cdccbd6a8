"""What happens to logs while they are watched: rotation, truncation, late creation, growing folders, several ranks, a trainer
that dies, a trainer that starts again. On clocks of the test: nothing here waits for real time.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftdoctor.live import LiveSession, replayed
from ftdoctor.ruleset.load import load
from ftdoctor.sources.follow import Watcher

RULES = load()
STEP = "{{'loss': '{loss:.3f}', 'grad_norm': '0.5', 'learning_rate': '0.0002', 'epoch': '0.{step:02d}'}}\n"
OOM = (
    "{p}Traceback (most recent call last):\n"
    '{p}  File "/home/user/ft/a.py", line 1, in main\n'
    "{p}torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.95 GiB. GPU 3 has a total capacity of 79.11 GiB\n"
)
# no pattern of any rule names this one: the traceback itself is the evidence
UNKNOWN = (
    "Traceback (most recent call last):\n"
    '  File "/home/user/ft/collate.py", line 12, in build\n'
    "    raise OddRow(row)\n"
    "collate.OddRow: row 17 has 3 turns\n"
)


class Watched:
    def __init__(self, *paths: Path, journal: Path | None = None) -> None:
        self.live = LiveSession(RULES, [str(p) for p in paths], journal)
        self.now = 0

    def seconds(self, count: int) -> None:
        for _ in range(count):
            self.now += 1
            self.live.step(float(self.now), 1.7e9 + self.now)

    def found(self) -> dict[str, str]:
        return {f.id: f.severity for f in self.live.diagnosis().findings}

    @property
    def ended(self) -> bool:
        return self.live.ended(float(self.now))


def steps(path: Path, count: int, start: int = 0, mode: str = "a") -> None:
    with path.open(mode) as handle:
        handle.writelines(STEP.format(loss=2 - (start + n) / 100, step=start + n) for n in range(count))


def add(path: Path, text: str) -> None:
    with path.open("a") as handle:
        handle.write(text)


def losses(watched: Watched) -> int:
    return sum(len(s) for name, s in watched.live.session.run.series.items() if name.partition("@")[0] == "loss")


@pytest.mark.parametrize("how", ["append", "truncate", "rotate", "replace"])
def test_a_trainer_that_died_and_starts_again(how: str, tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    watched = Watched(log, journal=tmp_path / "journal.jsonl")
    watched.seconds(2)
    assert watched.live.diagnosis().verdict == "unknown"
    steps(log, 5)
    watched.seconds(2)
    assert watched.live.diagnosis().verdict == "healthy"
    add(log, OOM.format(p="[rank3]: "))
    watched.seconds(1)
    assert watched.found() == {"cuda-oom": "error"}
    assert watched.live.diagnosis().root_cause is not None
    assert not watched.ended
    watched.seconds(25)
    assert watched.ended
    if how == "rotate":
        os.rename(log, tmp_path / "train.log.1")
    elif how == "replace":
        log.unlink()
        watched.seconds(1)
    steps(log, 6, 5, "w" if how == "truncate" else "a")
    watched.seconds(3)
    assert not watched.ended  # it goes on
    assert watched.found() == {"cuda-oom": "warning"}  # what the run survived
    assert losses(watched) == 11
    steps(log, 3, 11)
    watched.seconds(1)
    assert losses(watched) == 14
    final = watched.live.finish()
    again = replayed([tmp_path / "journal.jsonl"], RULES)
    assert [(f.id, f.severity, f.message) for f in final.findings] == [
        (f.id, f.severity, f.message) for f in again.findings
    ]


def test_last_words_are_heard_while_the_file_stays_open(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    watched = Watched(log)
    steps(log, 5)
    watched.seconds(2)
    add(log, UNKNOWN)  # and nothing after it: the trainer is gone, and no launcher says so
    watched.seconds(4)
    assert len(watched.live.session.run.tracebacks) == 1
    assert watched.live.session.run.tracebacks[0].message == "row 17 has 3 turns"
    assert watched.live.diagnosis().verdict == "failing"
    watched.seconds(20)
    assert watched.ended
    whole = tmp_path / "copy.log"
    whole.write_bytes(log.read_bytes())
    from ftdoctor.session import check

    expected = check([str(whole)], RULES)
    assert {f.id for f in watched.live.finish().findings} == {f.id for f in expected.findings}


def test_several_ranks_in_a_folder_that_grows(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    watched = Watched(folder)
    watched.seconds(1)
    steps(folder / "rank0.log", 5)
    watched.seconds(3)
    assert losses(watched) == 5
    (folder / "attempt_0/3").mkdir(parents=True)
    add(folder / "attempt_0/3/stderr.log", OOM.format(p=""))
    add(folder / "rank1.log", "loading\n")
    watched.seconds(3)
    (finding,) = watched.live.diagnosis().findings
    assert (finding.id, finding.rank) == ("cuda-oom", 3)
    assert len(watched.live.logs) == 3


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_comes_late_is_followed(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "not/yet"
    watched = Watched(place)
    watcher = Watcher([str(place)])
    watched.seconds(3)
    assert not watcher.notified  # nobody can say when it comes, so it is looked for
    log = place / "train.log" if kind == "folder" else place
    log.parent.mkdir(parents=True)
    steps(log, 5)
    watched.seconds(3)
    assert losses(watched) == 5
    assert watched.live.logs == (str(log),)
    assert watcher.notified
    while watcher.wait(0.1):
        pass
    add(log, OOM.format(p=""))
    assert watcher.wait(60)  # the system says so now
    watched.seconds(1)
    assert watched.found() == {"cuda-oom": "error"}
    if kind == "folder":
        (place / "checkpoint-5").mkdir()
        (place / "checkpoint-5/trainer_state.json").write_text(
            '{"global_step": 5, "max_steps": 10, "log_history": [{"loss": 1.5, "step": 5, "epoch": 0.5}]}'
        )
        watched.seconds(3)
        assert watched.live.session.run.last_step == 5
    watcher.close()


def test_a_journal_holds_back_less_than_a_second(tmp_path: Path) -> None:
    log, journal = tmp_path / "train.log", tmp_path / "journal.jsonl"
    live = LiveSession(RULES, [str(log)], journal)
    now, written = 0.0, 0
    for number in range(40):
        steps(log, 1, number)
        before = now
        live.step(now, 1.7e9 + now)
        while not live.calm:  # the callers look again after a quarter of a second then, else after one
            now += 0.25
            live.step(now, 1.7e9 + now)
        written = journal.read_text().count('"loss"')
        assert written == number + 1  # on the disk: a kill -9 takes nothing of it
        assert now - before < 1.0
        now += (0.05, 0.3, 0.6, 1.0)[number % 4]
    live.finish()
