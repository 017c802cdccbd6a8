"""NVML on a machine with an NVIDIA GPU. `pytest -m gpu tests/gpu`; skipped elsewhere."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftdoctor.events import Event, FactLearned, GpuChanged, GpuSample
from ftdoctor.sources.gpu import GpuPoller
from ftdoctor.sources.ranks import rank_gpus
from ftdoctor.upstream.nvml import FAST, FULL, SLOW, Nvml, throttle_names


def real_library() -> bool:
    if "FAKE_NVML_SCRIPT" in os.environ:
        return False
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return False
    return library.nvmlInit_v2() == 0


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not real_library(), reason="no NVIDIA driver here")]
ROOT = Path(__file__).resolve().parent.parent.parent
HOLD = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
device, context, memory = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_ulonglong()
def check(code):
    if code: sys.exit(f"CUDA error {code}")
check(cuda.cuInit(0))
check(cuda.cuDeviceGet(ctypes.byref(device), 0))
check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
check(cuda.cuCtxSetCurrent(context))
check(cuda.cuMemAlloc_v2(ctypes.byref(memory), ctypes.c_size_t(4096 << 20)))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder() -> Iterator[int]:
    """A process that looks like rank 0 and holds 4 GiB of one GPU."""
    env = {
        **os.environ,
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            pytest.skip("CUDA cannot be used here")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def smi(fields: str) -> list[list[str]]:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no nvidia-smi")
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [[part.strip() for part in line.split(",")] for line in done.stdout.splitlines()]


def first_samples(poller: GpuPoller, events: list[Event] | None = None) -> list[GpuSample]:
    events = [] if events is None else events
    for _ in range(200):
        events += poller.poll(time.monotonic(), time.time())
        found = [e for e in events if isinstance(e, GpuSample)]
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(events)


def test_agrees_with_nvidia_smi() -> None:
    rows = smi(
        "index,uuid,name,pci.bus_id,memory.total,memory.used,memory.reserved,power.limit,driver_version,clocks.max.sm"
    )
    nvml = Nvml.open()
    assert len(nvml.devices) == len(rows)
    for row, device in zip(rows, nvml.devices, strict=True):
        state, values, _ = device.read(FULL)
        assert state == "ok"
        assert [str(device.index), device.uuid, device.name, values["pci_bus"]] == row[:4]
        assert values["memory_total"] == pytest.approx(float(row[4]), abs=2)
        assert values["memory_used"] == pytest.approx(float(row[5]), abs=300)
        if values["memory_includes_reserved"] is False:
            assert values["memory_reserved"] == pytest.approx(float(row[6]), abs=2)
        assert values["power_limit"] == pytest.approx(float(row[7]), abs=1)
        assert nvml.driver_version == row[8]
        assert values["sm_clock_max"] == float(row[9])
        assert 0 <= values["utilization"] <= 100
        assert 5 < values["temperature"] < 110
        assert isinstance(throttle_names(values["throttle_reasons"]), tuple)
        print({k: v for k, v in values.items() if k != "uuid"})
    nvml.close()


def test_memory_and_process_of_a_rank(holder: int) -> None:
    poller = GpuPoller(itertools.count(), wait=1.0, slow=0.1)
    seen: list[GpuSample] = []
    for _ in range(30):
        seen = first_samples(poller)
        if any(p.pid == holder for s in seen for p in s.processes or ()):
            break
        time.sleep(0.3)
    used = max(s.memory_used or 0 for s in seen)
    assert used > 4096
    [rank] = [r for r in rank_gpus(seen) if r.pid == holder]
    print(rank, [s.processes for s in seen])
    assert rank.uuid in {s.uuid for s in seen}
    if any(p.pid == holder for s in seen for p in s.processes or ()):
        assert rank.how == "pid"
    poller.close()


def test_cost_of_a_poll() -> None:
    nvml = Nvml.open()
    took = {}
    for name, tier, rounds in (("fast", FAST, 200), ("slow", SLOW, 50), ("full", FULL, 20)):
        for device in nvml.devices:
            device.read(tier)
        begun, cpu = time.perf_counter(), time.process_time()
        for _ in range(rounds):
            for device in nvml.devices:
                device.read(tier)
        each = rounds * len(nvml.devices)
        took[name] = [
            round((time.perf_counter() - begun) / each * 1e6),
            round((time.process_time() - cpu) / each * 1e6),
        ]
    print(json.dumps({"microseconds per GPU [wall, cpu]": took}))
    nvml.close()
    assert took["fast"][0] < 1000
    assert took["slow"][0] < 5000


def test_polling_is_cheap_and_xids_are_watched() -> None:
    poller = GpuPoller(itertools.count())
    events: list[Event] = []
    first_samples(poller, events)
    begun = time.process_time()
    for _ in range(5):
        events += poller.poll(time.monotonic(), time.time())
        time.sleep(1.0)
    share = (time.process_time() - begun) / 5
    print(json.dumps({"share of a core": round(share, 5)}))
    assert share < 0.01
    facts = {e.name: e.value for e in events if isinstance(e, FactLearned)}
    print(facts, [e for e in events if isinstance(e, GpuChanged)])
    assert facts.get("xid_events") in (True, False)
    poller.close()
