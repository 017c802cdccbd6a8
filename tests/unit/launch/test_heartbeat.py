"""The heartbeat: written by a thread, cheap, harmless, and read back into the run."""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from ftdoctor.events import Heartbeat
from ftdoctor.launch.plan import HEARTBEAT, PLUGIN, with_plugin
from ftdoctor.ruleset.load import load
from ftdoctor.session import Session
from ftdoctor.sources.heartbeat import Heartbeats
from ftdoctor.sources.journal import decode, encode


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("FTDOCTOR_HEARTBEAT_DIR", str(tmp_path / "beats"))
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False)))  # type: ignore[arg-type]
    spec = importlib.util.spec_from_file_location("ftdoctor_heartbeat_under_test", HEARTBEAT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one_step(beat: object, number: int, loss: float = 1.25) -> None:
    for phase in ("data", "forward", "backward", "optimizer"):
        beat.enter(phase)  # type: ignore[attr-defined]
    beat.loss(loss)  # type: ignore[attr-defined]
    beat.grad_norm(0.5)  # type: ignore[attr-defined]
    beat.end(number)  # type: ignore[attr-defined]


def test_what_is_written_is_read_back(plugin: ModuleType, tmp_path: Path) -> None:
    beat = plugin.begin()
    beat.start(0)
    one_step(beat, 1, 1.0 / 3.0)
    one_step(beat, 2, math.nan)
    beat.writer.flush()
    reader = Heartbeats(tmp_path / "beats", itertools.count(1))
    events = reader.poll()
    seen = [e for e in events if isinstance(e, Heartbeat) and e.phase == "step"]
    assert [e.step for e in seen] == [1, 2]
    assert seen[0].loss == 1.0 / 3.0
    assert seen[1].loss is not None
    assert math.isnan(seen[1].loss)
    assert seen[0].origin.rank == 1
    assert decode(encode(seen[0])) == seen[0]
    assert not [e for e in reader.poll() if isinstance(e, Heartbeat) and e.phase == "step"]
    session = Session(load())
    session.apply(events)
    assert session.run.beats[1].step == 2
    assert session.run.world_size == 2


def test_a_torn_line_waits_for_its_rest(tmp_path: Path) -> None:
    place = tmp_path / "heartbeat-rank0.jsonl"
    place.write_bytes(b'{"t": 1.0, "s": 1, "p": "step"}\n\xff\xff\n[]\n{"t": 2.0, "s"')
    reader = Heartbeats(tmp_path, itertools.count(1))
    assert len(reader.poll()) == 1
    with place.open("ab") as handle:
        handle.write(b': 2, "p": "step"}\n')
    assert [e.step for e in reader.poll() if isinstance(e, Heartbeat)] == [2]


def test_nan_of_one_rank_behind_the_filter_is_found(tmp_path: Path) -> None:
    for rank in (0, 1):
        lines = [
            {"t": 1e9 + n, "s": n, "p": "step", "loss": "nan" if rank and n > 3 else 1.5, "grad_norm": 0.3}
            for n in range(1, 10)
        ]
        (tmp_path / f"heartbeat-rank{rank}.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    session = Session(load())
    session.apply(Heartbeats(tmp_path, session.orders).poll())
    found = {f.id: f for f in session.diagnose().findings}
    assert found["loss-nan"].severity == "error"
    assert found["loss-nan"].step == 4


def test_a_healthy_heartbeat_is_quiet(tmp_path: Path) -> None:
    lines = [{"t": 1e9 + n, "s": n, "p": "step", "loss": 2 / n, "grad_norm": 0.3} for n in range(1, 40)]
    (tmp_path / "heartbeat-rank0.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    session = Session(load())
    session.apply(Heartbeats(tmp_path, session.orders).poll())
    assert not session.diagnose().findings


def test_a_full_disk_harms_nobody_and_loses_nothing(plugin: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "beats/heartbeat-rank1.jsonl").mkdir(parents=True)  # cannot be opened for writing
    beat = plugin.begin()
    one_step(beat, 1)
    beat.writer.flush()
    (tmp_path / "beats/heartbeat-rank1.jsonl").rmdir()
    one_step(beat, 2)
    beat.writer.flush()
    text = (tmp_path / "beats/heartbeat-rank1.jsonl").read_text()
    assert [json.loads(x)["s"] for x in text.splitlines() if '"step"' in x] == [1, 2]


def test_no_failure_reaches_the_trainer(plugin: ModuleType) -> None:
    beat = plugin.begin()

    class Odd:
        def __float__(self) -> float:
            raise RuntimeError("no number")

    for number in range(50):
        beat.loss(Odd())
        beat.grad_norm(Odd())
        beat.end(number)
    beat.writer = None
    for number in range(50):
        one_step(beat, number)
    trainer = SimpleNamespace(training_step=lambda: 1 / 0)
    plugin.watch(trainer, beat)
    with pytest.raises(ZeroDivisionError):
        trainer.training_step()  # the trainer's own errors stay its own


def test_hooks_hand_values_through(plugin: ModuleType) -> None:
    trainer = SimpleNamespace(training_step=lambda x: x, compute_loss=lambda x: x + 1, _get_grad_norm=lambda: 0.25)
    beat = plugin.begin()
    plugin.watch(trainer, beat)
    assert trainer.training_step(3.0) == 3.0
    assert trainer.compute_loss(1) == 2
    assert trainer._get_grad_norm() == 0.25


def test_a_step_costs_less_than_fifty_microseconds(plugin: ModuleType) -> None:
    beat = plugin.begin()
    best = math.inf
    for _ in range(20):  # the quietest of many looks: the machine may have other things to do
        start = time.thread_time()
        for number in range(200):
            one_step(beat, number)
        best = min(best, (time.thread_time() - start) / 200)
    assert best < 50e-6


@pytest.mark.parametrize(
    ("yaml", "extra", "wanted"),
    [
        ({}, [], [f"--plugins=['{PLUGIN}']"]),
        ({"plugins": ["a.B"]}, ["--x=1"], ["--x=1", f"--plugins=['a.B', '{PLUGIN}']"]),
        ({"plugins": "a.B"}, [], [f"--plugins=['a.B', '{PLUGIN}']"]),
        ({"plugins": ["a.B"]}, ["--plugins=['c.D']"], [f"--plugins=['c.D', '{PLUGIN}']"]),
        ({}, ["--plugins", "['c.D']", "--y"], ["--y", f"--plugins=['c.D', '{PLUGIN}']"]),
        ({}, ["--plugins=c.D"], None),
    ],
)
def test_the_users_plugins_are_kept(yaml: dict[str, object], extra: list[str], wanted: list[str] | None) -> None:
    assert with_plugin(yaml, extra) == wanted
