"""GPUs, host and ranks beside a followed log: the whole live path on a fake NVML and real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ftdoctor.events import FactLearned, GpuSample
from ftdoctor.live import LiveSession, replayed
from ftdoctor.ruleset.load import load
from ftdoctor.sources.beside import Beside
from tests.fake_nvml.build import fake_nvml, tick

LINE = "{{'loss': '{loss:.3f}', 'grad_norm': '0.8', 'learning_rate': '0.0002', 'epoch': '0.{step:03d}'}}\n"


class Watched:
    """A live session on clocks of the test; `train` writes one step a second."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "train.log"
        self.journal = folder / "journal.jsonl"
        self.live = LiveSession(load(), [str(self.log)], self.journal, machine=True)
        self.now, self.steps = 100.0, 0

    def second(self) -> None:
        self.now += 1.0
        self.live.step(self.now, 1_700_000_000.0 + self.now)

    def train(self, seconds: int) -> None:
        with self.log.open("a") as handle:
            for _ in range(seconds):
                self.steps += 1
                handle.write(LINE.format(loss=2.0 - self.steps / 1000, step=self.steps))
                handle.flush()
                self.second()

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.second()

    def until(self, wanted: Callable[[], object]) -> None:
        end = time.monotonic() + 90
        while not wanted():
            assert time.monotonic() < end
            self.second()
            time.sleep(0.02)

    def found(self) -> dict[str, str]:
        return {f.id: f.severity for f in self.live.diagnosis().findings}


def folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="ftdoctor-test-"))


def ranks(count: int, log: Path) -> list[subprocess.Popen[bytes]]:
    """Processes that a launcher might have started: environment of a rank, busy."""
    started = []
    for rank in range(count):
        env = {
            **os.environ,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_PORT": "29555",
        }
        env |= {"MASTER_ADDR": "localhost", "LD_LIBRARY_PATH": ""}
        code = "import time\nwhile True: time.sleep(0.05)"
        with log.open("a") as handle:
            started.append(subprocess.Popen([sys.executable, "-c", code], env=env, stdout=handle, stderr=handle))
    return started


@fake_nvml("""
    gpus 4
    @0 * memory 81559 0 615
    @0 0 memory 81559 60000 615
    @0 0 util 99 40
""")
def test_one_gpu_of_four_is_found_live_and_in_the_journal() -> None:
    place = folder()
    w = Watched(place)
    processes = ranks(4, w.log)
    try:
        w.until(lambda: len(w.live.session.run.gpu_latest) == 4)
        w.until(lambda: w.live.session.run.world_size == 4)
        w.train(90)
        assert w.found().get("gpu0-only") == "error"
    finally:
        for process in processes:
            process.kill()
            process.wait()
    live = w.live.finish()
    assert live.root_cause is not None
    assert live.root_cause.id == "gpu0-only"
    again = replayed([w.journal], load())
    assert [(f.id, f.severity, f.message) for f in again.findings] == [
        (f.id, f.severity, f.message) for f in live.findings
    ]


@fake_nvml("""
    gpus 2
    @0 * memory 81559 60000 615
    @0 * util 97 40
    @0 * power 610 700
    @1 * util 100 0
    @1 * power 118 700
""")
def test_a_stopped_rank_is_named_within_half_a_minute() -> None:
    place = folder()
    w = Watched(place)
    processes = ranks(2, w.log)
    try:
        w.until(lambda: w.live.session.run.world_size == 2)
        w.train(60)
        assert "hang" not in w.found()
        processes[1].send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        tick(1)
        stopped = w.now
        while "hang" not in w.found() and w.now < stopped + 60:
            w.second()
        assert w.now - stopped <= 30
        hang = next(f for f in w.live.diagnosis().findings if f.id == "hang")
        assert (hang.severity, hang.rank) == ("error", 1)
        assert "is stopped" in hang.message
    finally:
        for process in processes:
            process.kill()
            process.wait()
        w.live.finish()


@fake_nvml("gpus 2\n@0 * memory 81559 60000 615\n@0 * util 95 40\n@0 * power 600 700\n@1 1 lost\n@1 1 xid 79\n")
def test_a_gpu_lost_in_the_middle() -> None:
    w = Watched(folder())
    w.until(lambda: len(w.live.session.run.gpu_latest) == 2)
    w.until(lambda: w.live.session.run.fact("xid_events"))
    w.train(10)
    assert w.found() == {}
    tick(1)
    w.train(3)
    w.until(lambda: "gpu-hardware-fault" in w.found())
    found = w.live.finish()
    assert found.root_cause is not None
    assert found.root_cause.id == "gpu-hardware-fault"
    assert "GPU 1" in found.root_cause.message


@fake_nvml("gpus 8\n@0 * memory 81559 60000 615\n@0 * util 93 40\n@0 * power 600 700\n")
def test_a_healthy_run_stays_quiet_through_load_eval_and_save() -> None:
    w = Watched(folder())
    w.wait(60)  # loading
    w.train(60)
    w.wait(20)  # a slow save
    w.train(30)
    with w.log.open("a") as handle:
        handle.write("{'eval_loss': '1.2', 'eval_runtime': '25'}\n")
    w.train(5)
    assert w.found() == {}
    assert w.live.finish().verdict == "healthy"


def test_without_nvml_the_rest_works(tmp_path: Path) -> None:
    code = (
        "import sys, json, itertools, time\n"
        "from ftdoctor.sources.beside import Beside\n"
        "b = Beside(itertools.count(1), output='.')\n"
        "events = []\n"
        "for n in range(40):\n"
        "    events += b.poll(float(n), float(n)); time.sleep(0.01)\n"
        "print(json.dumps([b.error, sorted({type(e).__name__ for e in events})]))\n"
        "b.close()\n"
    )
    env = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": os.getcwd()}
    if Path("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1").exists():
        return  # this machine has the real one; tests/gpu looks at it
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    error, kinds = json.loads(done.stdout)
    assert "NVML" in error or "NVIDIA" in error
    assert "MachineSample" in kinds
    assert "GpuSample" not in kinds


def test_gpus_can_be_left_alone() -> None:
    import itertools

    beside = Beside(itertools.count(1), output=".", gpus=False)
    events = beside.poll(0.0, 0.0)
    assert beside.error is None
    assert not [e for e in events if isinstance(e, GpuSample)]
    beside.close()


def test_ranks_of_another_launched_run_are_not_taken_for_ours(tmp_path: Path) -> None:
    import itertools

    from ftdoctor.sources.rank_logs import run_id

    (tmp_path / "run.json").write_text(json.dumps({"added": {"FTDOCTOR_RUN_ID": "ours"}}))
    assert run_id(tmp_path) == "ours"
    assert run_id(tmp_path / "absent") is None
    common = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "ftdoctor-test", "MASTER_PORT": "1"}
    sleep = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()"]
    started = []

    def start(mark: str, world: str) -> int:
        env = {**common, "FTDOCTOR_RUN_ID": mark, "WORLD_SIZE": world}
        process = subprocess.Popen(sleep, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process.pid

    def facts() -> dict[str, object]:
        beside = Beside(itertools.count(1), output=".", gpus=False, run_id="ours")
        try:
            return {e.name: e.value for e in beside.poll(0.0, 0.0) if isinstance(e, FactLearned)}
        finally:
            beside.close()

    try:
        start("another", "8")
        assert "world_size" not in facts(), "the only run on this machine is not ours"
        ours = start("ours", "2")
        found = facts()
        assert found["world_size"] == 2
        assert found["rank_pid.0"] == ours
    finally:
        for process in started:
            process.kill()
            process.communicate()
