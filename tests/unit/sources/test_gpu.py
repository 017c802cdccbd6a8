"""The GPU poller on the fake NVML: clocks come from the test, threads are real."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ftdoctor.events import (
    Event,
    FactLearned,
    GpuChanged,
    GpuProcess,
    GpuSample,
    NvLinks,
    Origin,
    RemappedRows,
    XidSeen,
)
from ftdoctor.run_model.run import GPU_HISTORY, Run
from ftdoctor.sources.gpu import GpuPoller
from ftdoctor.sources.journal import decode, encode
from ftdoctor.upstream.nvml import Nvml, NvmlUnavailable
from tests.fake_nvml.build import ROOT, calls, environment, fake_nvml, tick

EXPENSIVE = ("nvmlDeviceGetPcieThroughput", "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetProcessUtilization")


class Watched:
    """A poller, its own clock and everything it said."""

    def __init__(self, **options: object) -> None:
        self.poller = GpuPoller(itertools.count(1), **{"wait": 2.0, **options})  # type: ignore[arg-type]
        self.now = 100.0
        self.events: list[Event] = []

    def step(self, seconds: float = 1.0) -> list[Event]:
        new = self.poller.poll(self.now, self.now + 1_000_000)
        self.now += seconds
        self.events += new
        return new

    def until(self, wanted: Callable[[], object], seconds: float = 0.0, limit: float = 10.0) -> None:
        """Poll in real time until it is so; the poller's clock moves by `seconds` a poll."""
        end = time.monotonic() + limit
        while not wanted():
            assert time.monotonic() < end, self.events[-5:]
            self.step(seconds)
            time.sleep(0.01)
        self.now += 1.0

    def facts(self) -> dict[str, object]:
        return {e.name: e.value for e in self.events if isinstance(e, FactLearned)}

    def changes(self) -> list[tuple[int | None, str]]:
        return [(e.index, e.change) for e in self.events if isinstance(e, GpuChanged)]


def samples(events: list[Event]) -> list[GpuSample]:
    return [e for e in events if isinstance(e, GpuSample)]


@fake_nvml("gpus 4\ndriver 580.95.05\n@0 * memory 143771 1000 615\n@1 2 memory 143771 90000 615\n")
def test_a_round_a_second() -> None:
    w = Watched()
    first = w.step()
    assert [s.index for s in samples(first)] == [0, 1, 2, 3]
    assert {s.state for s in samples(first)} == {"ok"}
    assert {s.origin.time for s in samples(first)} == {1_000_100.0}
    assert {"gpu_count": 4, "driver_version": "580.95.05", "driver_cuda_version": "13.0"}.items() <= w.facts().items()
    assert samples(w.step(0.25)) != []
    assert [samples(w.step(0.25)) for _ in range(3)] == [[], [], []]  # polled four times a second, read once
    tick(1)
    assert [s.memory_used for s in samples(w.step())] == [1000.0, 1000.0, 90000.0, 1000.0]
    orders = [e.origin.order for e in w.events]
    assert orders == sorted(set(orders))
    assert {e.origin.path for e in w.events} == {"nvml"}
    for _ in range(70):
        w.step()
    assert [calls(name) for name in EXPENSIVE] == [0, 0, 0]
    assert calls("nvmlDeviceGetUtilizationRates") >= 4 * 70
    assert calls("nvmlDeviceGetComputeRunningProcesses_v3") <= 4 * 2 * 20  # every five seconds
    w.poller.close()
    assert w.step() == []
    assert not [t for t in threading.enumerate() if t.name.startswith("ftdoctor")]
    assert calls("nvmlShutdown") == 1


@fake_nvml("gpus 3\n@1 1 lost\n@1 1 xid 79\n@2 1 back\n")
def test_a_lost_gpu_is_said_once_and_the_others_go_on() -> None:
    w = Watched(rare=30.0)
    w.until(lambda: "xid_events" in w.facts())
    assert w.facts()["xid_events"] is True
    tick(1)
    said = w.step()
    assert [s.index for s in samples(said) if s.state == "ok"] == [0, 2]
    [ill] = [s for s in samples(said) if s.state != "ok"]
    assert (ill.index, ill.state, ill.memory_used, ill.utilization, ill.pci_bus) == (
        1,
        "lost",
        None,
        None,
        "00000000:2D:00.0",
    )
    assert str(w.facts()["gpu_lost"]).startswith("GPU 1 (GPU-11111111")
    before = calls("nvmlDeviceGetMemoryInfo_v2")
    for _ in range(10):
        assert [s.index for s in samples(w.step())] == [0, 2]
    assert calls("nvmlDeviceGetMemoryInfo_v2") == before + 20  # the lost one is left alone
    assert w.changes() == [(1, "lost")]
    w.until(lambda: any(isinstance(e, XidSeen) for e in w.events))
    [seen] = [e for e in w.events if isinstance(e, XidSeen)]
    assert (seen.index, seen.uuid, seen.xid) == (1, "GPU-11111111-aaaa-bbbb-cccc-000000000001", 79)
    tick(2)
    w.step(31)
    assert [s.index for s in samples(w.step())] == [0, 2, 1]
    assert w.changes() == [(1, "lost"), (1, "ok")]
    assert w.facts()["gpu_lost"] is None
    w.poller.close()


@fake_nvml("gpus 2\n@1 0 lost\n@1 1 xid 13\n")
def test_the_event_thread_is_not_busy_after_a_loss() -> None:
    """The real nvmlEventSetWait fails at once, on every call, when a registered GPU is gone."""
    w = Watched()
    w.until(lambda: "xid_events" in w.facts())
    tick(1)
    w.until(lambda: any(isinstance(e, XidSeen) and e.xid == 13 for e in w.events))
    before = calls("nvmlEventSetCreate")
    time.sleep(1.0)
    assert calls("nvmlEventSetCreate") <= before + 2
    w.poller.close()


@fake_nvml("gpus 3\n@1 1 block nvmlDeviceGetUtilizationRates 60\n@2 1 block nvmlDeviceGetUtilizationRates 0\n")
def test_a_call_that_hangs_costs_its_gpu_only() -> None:
    w = Watched(wait=0.1, deadline=3.0)
    w.until(lambda: "xid_events" in w.facts())
    tick(1)
    took = []
    for _ in range(12):
        begun = time.monotonic()
        w.step()
        took.append(time.monotonic() - begun)
    assert max(took) < 5.0  # the session never waits for it
    assert w.changes() == [(1, "silent")]
    [silent] = [s for s in samples(w.events) if s.state == "silent"]
    assert (silent.index, silent.memory_used) == (1, None)
    assert [s.index for s in samples(w.step())] == [0, 2]
    assert 2 <= sum(t.name == "ftdoctor-nvml" for t in threading.enumerate()) <= 2  # one left behind, one at work
    tick(2)  # the call returns
    w.until(lambda: w.changes()[-1] == (1, "ok"))
    w.step()
    assert [s.index for s in samples(w.step())] == [0, 1, 2]
    assert sum(t.name == "ftdoctor-nvml" for t in threading.enumerate()) == 1
    w.poller.close()


@fake_nvml("gpus 2\n@1 * block nvmlDeviceGetMemoryInfo_v2 60\n")
def test_all_gpus_hang_and_close_does_not() -> None:
    w = Watched(wait=0.02, deadline=3.0)
    w.until(lambda: "xid_events" in w.facts())
    tick(1)
    w.until(lambda: sorted(w.changes()) == [(0, "silent"), (1, "silent")], seconds=1.0)
    for _ in range(20):
        assert w.step() == []
    assert sum(t.name == "ftdoctor-nvml" for t in threading.enumerate()) <= 3
    begun = time.monotonic()
    w.poller.close()
    assert time.monotonic() - begun < 15.0
    assert calls("nvmlShutdown") == 0  # never under a call that is still out
    import os

    os._exit(0)  # the blocked threads are daemons; do not wait for the fake's 60 seconds at exit


@fake_nvml("gpus 2\n@1 * block nvmlDeviceGetMemoryInfo_v2 0.06\n")
def test_slow_calls_and_clock_jumps_are_not_silence() -> None:
    w = Watched(wait=0.01, deadline=3.0)
    w.until(lambda: samples(w.events), seconds=1.0)
    tick(1)
    w.step(10_000.0)  # the machine slept
    before = len(samples(w.events))
    end = time.monotonic() + 20
    while len(samples(w.events)) < before + 8 and time.monotonic() < end:
        w.step(4.0)
        time.sleep(0.08)
    assert w.changes() == []
    assert len(samples(w.events)) >= before + 8
    w.poller.close()


@fake_nvml("gpus 1\n@0 - block nvmlInitWithFlags 1.0\n")
def test_a_driver_that_opens_slowly_or_never() -> None:
    w = Watched(wait=0.01)
    w.step(20.0)
    assert w.step(20.0) == []
    w.step()
    assert (w.facts()["nvml_error_reason"], w.poller.error is None) == ("silent", False)
    w.until(lambda: samples(w.events), seconds=1.0)
    assert (w.facts()["nvml_error"], w.poller.error) == (None, None)  # taken back
    w.poller.close()


def test_no_nvml_is_said_once() -> None:
    def opener() -> Nvml:
        raise NvmlUnavailable("library_not_found", "no NVIDIA driver library here")

    w = Watched(opener=opener)
    w.step()
    assert w.facts() == {"nvml_error": "no NVIDIA driver library here", "nvml_error_reason": "library_not_found"}
    assert [w.step() for _ in range(3)] == [[], [], []]
    assert w.poller.error == "no NVIDIA driver library here"
    w.poller.close()


def test_a_broken_driver_does_not_raise() -> None:
    def opener() -> Nvml:
        raise OSError("broken")

    w = Watched(opener=opener)
    w.step()
    assert "broken" in str(w.facts()["nvml_error"])
    w.poller.close()


@fake_nvml("gpus 2\n@0 1 error nvmlDeviceGetHandleByIndex_v2 4\n@0 * error nvmlDeviceRegisterEvents 4\n")
def test_what_may_not_be_read_is_said() -> None:
    w = Watched()
    w.until(lambda: "xid_events" in w.facts())
    assert w.facts()["xid_events"] is False
    assert w.facts()["gpu_count"] == 2
    assert (1, "unreadable") in w.changes()
    assert {s.index for s in samples(w.events)} == {0}
    w.poller.close()


@fake_nvml("gpus 1\n" + "".join("@1 0 ecc_event single\n" for _ in range(200)) + "@1 0 xid 31\n@1 0 xid 31\n")
def test_a_storm_of_ecc_events_is_told_once_a_poll_and_no_xid_is_lost() -> None:
    w = Watched()
    w.until(lambda: "xid_events" in w.facts())
    before = calls("nvmlEventSetWait_v2")
    tick(1)
    end = time.monotonic() + 20
    while calls("nvmlEventSetWait_v2") <= before + 203 and time.monotonic() < end:  # one call for each event
        time.sleep(0.05)
    w.step()
    assert w.changes() == [(0, "ecc_single_bit")]
    assert [e.xid for e in w.events if isinstance(e, XidSeen)] == [31, 31]
    w.poller.close()


@fake_nvml("""
    gpus 2
    @0 0 mig on
    @0 0 mig_instance 0 MIG-aaaa0000-1111-2222-3333-444444444444 9856 4000
    @0 0 mig_process 0 4242 3900
""")
def test_mig_in_the_run() -> None:
    w, run = Watched(), Run()
    for event in w.step():
        run.apply(event)
    assert {s.uuid[:4] if s.uuid else "" for s in run.gpu_latest.values()} == {"GPU-", "MIG-"}
    part = run.gpu_latest["MIG-aaaa0000-1111-2222-3333-444444444444"]
    assert (part.index, part.memory_used, part.utilization, part.parent) == (
        0,
        4000.0,
        None,
        "GPU-00000000-aaaa-bbbb-cccc-000000000000",
    )
    assert [g.index for g in run.gpus] == [0, 1]  # an instance is no GPU of the table
    w.poller.close()


def live(time: float, index: int, **values: object) -> GpuSample:
    return GpuSample(Origin("nvml", time=time), index, uuid=f"GPU-{index}", **{"state": "ok", **values})  # type: ignore[arg-type]


def test_the_run_keeps_the_latest_and_a_bounded_history() -> None:
    run = Run()
    for second in range(GPU_HISTORY + 100):
        for index in range(2):
            run.apply(live(float(second), index, memory_used=float(second)))
    assert {k: len(v) for k, v in run.gpu_history.items()} == {"GPU-0": GPU_HISTORY, "GPU-1": GPU_HISTORY}
    assert run.gpu_history["GPU-1"][-1] is run.gpu_latest["GPU-1"]
    times = [s.origin.time for s in run.gpus]
    assert times[:4] == [0.0, 0.0, 30.0, 30.0]  # whole tables, one in 30 seconds
    assert len(times) == 2 * ((GPU_HISTORY + 100 + 29) // 30)
    run.apply(live(5000.0, 1, state="lost"))
    assert run.gpu_latest["GPU-1"].state == "lost"
    assert run.gpu_history["GPU-1"][-1].state == "ok"
    assert run.last_origin is None  # GPUs are no sign of life of the run
    for number in range(3000):
        run.apply(XidSeen(Origin("nvml"), 0, "GPU-0", number))
    assert (len(run.xids), run.xids[-1].xid) == (1024, 2999)


def test_samples_survive_the_journal() -> None:
    events: list[Event] = [
        live(
            1.5,
            3,
            processes=(GpuProcess(1, "python", 3.5), GpuProcess(2)),
            nvlinks=NvLinks(17, (7,), 1, None, 2),
            remapped_rows=RemappedRows(1, 2, True, False),
            memory_includes_reserved=False,
        ),
        live(2.0, 3, processes=()),
        XidSeen(Origin("nvml", time=3.0, order=9), None, None, 79),
        GpuChanged(Origin("nvml"), 1, "GPU-1", "lost", "gone"),
        FactLearned(Origin("nvml"), "gpu_lost", None),
    ]
    assert [decode(encode(e)) for e in events] == events


COST = """
import itertools, json, time
from ftdoctor.sources.gpu import GpuPoller
p = GpuPoller(itertools.count(), wait=5.0)
now = 0.0
for _ in range(20):
    p.poll(now); now += 1.0
begun, rounds = time.process_time(), 400
for _ in range(rounds):
    p.poll(now); now += 1.0
print(json.dumps((time.process_time() - begun) / rounds * 1e6))
p.close()
"""


def cost(gpus: int, folder: Path) -> float:
    """CPU microseconds of one poll, all threads and the fake itself included, slow rounds in their share."""
    script = f"gpus {gpus}\n@0 * nvlink 18\n" + "".join(f"@0 {g} process {4000 + g} 60000\n" for g in range(gpus))
    env = environment(script, folder)
    done = subprocess.run([sys.executable, "-c", COST], env=env, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout))


def test_a_poll_of_eight_gpus_costs_little(tmp_path: Path) -> None:
    assert min(cost(8, tmp_path) for _ in range(2)) < 3000.0
