"""NVML through the real nvidia-ml-py on the fake library; the Xid table; CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ftdoctor.events import GpuProcess, GpuSample, NvLinks, Origin, RemappedRows
from ftdoctor.upstream.cuda_visible import visible_devices
from ftdoctor.upstream.nvml import FAST, FULL, SLOW, Nvml, NvmlUnavailable, throttle_names
from ftdoctor.upstream.xid import XIDS, EventSet, EventsFailed, xid
from tests.fake_nvml.build import ROOT, calls, environment, fake_nvml, tick

EXPENSIVE = ("nvmlDeviceGetPcieThroughput", "nvmlDeviceGetTotalEnergyConsumption")


# -- reading -----------------------------------------------------------------------------------------------------


@fake_nvml("""
    gpus 2
    driver 570.86.10
    cuda 12080
    @0 1 name NVIDIA H100 80GB HBM3
    @0 1 memory 81559 20000.5 615
    @0 1 util 97 31
    @0 1 power 412.5 700
    @0 1 temp 61 87
    @0 1 clocks 1755 2619 1980
    @0 1 throttle 0x44
    @0 1 ecc 3 1
    @0 1 remapped 1 2 1 0
    @0 1 nvlink 18
    @0 1 nvlink_down 7
    @0 1 nvlink_errors 5 6 7
    @0 1 process 4242 19000
    @0 1 process 77 -1
""")
def test_every_field_of_a_gpu() -> None:
    nvml = Nvml.open()
    assert (nvml.driver_version, nvml.cuda_version, len(nvml.devices)) == ("570.86.10", "12.8", 2)
    state, values, detail = nvml.devices[1].read(FULL)
    assert (state, detail) == ("ok", "")
    processes = values.pop("processes")
    assert [(p.pid, p.memory) for p in processes] == [(77, None), (4242, 19000.0)]  # not available is unknown, not 0
    assert values == {
        "uuid": "GPU-11111111-aaaa-bbbb-cccc-000000000001",
        "name": "NVIDIA H100 80GB HBM3",
        "pci_bus": "00000000:2D:00.0",
        "mig": False,
        "memory_used": 20000.5,
        "memory_total": 81559.0,
        "memory_reserved": 615.0,
        "memory_includes_reserved": False,
        "utilization": 97.0,
        "memory_utilization": 31.0,
        "power": 412.5,
        "power_limit": 700.0,
        "temperature": 61.0,
        "temperature_slowdown": 87.0,
        "sm_clock": 1755.0,
        "sm_clock_max": 1980.0,
        "memory_clock": 2619.0,
        "throttle_reasons": 0x44,
        "ecc_corrected": 3,
        "ecc_uncorrected": 1,
        "remapped_rows": RemappedRows(1, 2, True, False),
        "nvlinks": NvLinks(17, (7,), 5, 6, 7),
    }
    GpuSample(Origin("nvml"), 1, **values)  # all of them are fields of the event
    _, idle, _ = nvml.devices[0].read(FULL)
    assert idle["processes"] == ()
    assert "nvlinks" not in idle
    assert [calls(name) for name in EXPENSIVE] == [0, 0]


@fake_nvml("gpus 1\n@0 0 memory 100 40 10\n@0 - error nvmlInitWithFlags 0\n@0 0 error nvmlDeviceGetMemoryInfo_v2 13\n")
def test_memory_of_an_old_driver_is_flagged() -> None:
    device = Nvml.open().devices[0]
    for _ in range(3):
        _, values, _ = device.read()
        assert (values["memory_used"], values["memory_includes_reserved"]) == (50.0, True)
        assert "memory_reserved" not in values
    assert calls("nvmlDeviceGetMemoryInfo_v2") == 1


@fake_nvml("""
    gpus 1
    @0 0 error nvmlDeviceGetPowerUsage 3
    @0 0 error nvmlDeviceGetTotalEccErrors 4
    @0 0 error nvmlDeviceGetUtilizationRates 999
    @0 0 error nvmlDeviceGetCurrentClocksEventReasons 13
    @0 0 throttle 0x20
    @1 0 error nvmlDeviceGetUtilizationRates 0
""")
def test_a_failed_call_is_unknown_and_never_zero() -> None:
    device = Nvml.open().devices[0]
    state, values, detail = device.read(FULL)
    assert state == "ok"
    assert "Unknown" in detail
    assert not {"power", "ecc_corrected", "ecc_uncorrected", "utilization", "memory_utilization"} & values.keys()
    assert values["throttle_reasons"] == 0x20  # the name of old drivers
    tick(1)
    _, values, detail = device.read(FULL)
    assert (values["utilization"], detail) == (0.0, "Insufficient Permissions")  # tried again; now a real 0
    assert calls("nvmlDeviceGetPowerUsage") == 1  # not supported: not asked again
    assert calls("nvmlDeviceGetTotalEccErrors") == 4


@fake_nvml("gpus 1\n@0 0 util 50 5\n@0 0 ecc 1 0\n@0 0 nvlink 2\n@1 0 util 60 5\n@1 0 ecc 2 0\n@1 0 nvlink_down 1\n")
def test_slow_values_are_kept_between_slow_rounds() -> None:
    device = Nvml.open().devices[0]
    device.read(FULL)
    tick(1)

    def seen(tier: int) -> tuple[float, int, int]:
        _, values, _ = device.read(tier)
        return values["utilization"], values["ecc_corrected"], values["nvlinks"].up

    assert seen(FAST) == (60.0, 1, 2)
    assert seen(SLOW) == (60.0, 2, 2)
    assert seen(FULL) == (60.0, 2, 1)
    before = calls("nvmlDeviceGetComputeRunningProcesses_v3")
    device.read(FAST)
    assert calls("nvmlDeviceGetComputeRunningProcesses_v3") == before


@fake_nvml(
    "gpus 2\n@1 1 lost\n@2 0 error nvmlDeviceGetMemoryInfo_v2 16\n@3 0 error nvmlDeviceGetMemoryInfo_v2 0\n@3 1 back\n"
)
def test_lost_and_reset_required() -> None:
    nvml = Nvml.open()
    tick(1)
    assert [d.read()[:2] for d in nvml.devices][1] == ("lost", {})
    assert nvml.devices[0].read()[0] == "ok"
    tick(2)
    assert nvml.devices[0].read()[0] == "reset_required"
    tick(3)
    assert [d.read()[0] for d in nvml.devices] == ["ok", "ok"]


@fake_nvml(
    "gpus 1\n"
    + "".join(
        f"@0 0 error {name} 999\n"
        for name in (
            "nvmlDeviceGetMemoryInfo_v2",
            "nvmlDeviceGetUtilizationRates",
            "nvmlDeviceGetPowerUsage",
            "nvmlDeviceGetTemperature",
            "nvmlDeviceGetClockInfo",
            "nvmlDeviceGetCurrentClocksEventReasons",
        )
    )
)
def test_a_gpu_that_answers_nothing_is_failing() -> None:
    assert Nvml.open().devices[0].read() == ("failing", {}, "Unknown Error")


@fake_nvml("""
    gpus 2
    @0 0 mig on
    @0 0 mig_instance 0 MIG-aaaa0000-1111-2222-3333-444444444444 9856 4000
    @0 0 mig_instance 2 MIG-bbbb0000-1111-2222-3333-444444444444 19968 100
    @0 0 mig_process 0 4242 3900
    @1 0 mig_instance 3 MIG-cccc0000-1111-2222-3333-444444444444 9856 0
""")
def test_mig_instances() -> None:
    parent, plain = Nvml.open().devices
    assert (parent.mig, plain.mig, plain.instances) == (True, False, [])
    first, second = parent.instances
    state, values, _ = first.read(FULL)
    assert state == "ok"
    assert (values["memory_used"], values["memory_total"], values["parent"]) == (4000.0, 9856.0, parent.uuid)
    assert [(p.pid, p.memory) for p in values["processes"]] == [(4242, 3900.0)]
    assert not {"utilization", "power", "temperature"} & values.keys()
    assert second.read()[1]["memory_total"] == 19968.0
    assert "utilization" not in parent.read(FULL)[1]
    tick(1)
    parent.read(FULL)
    assert parent.instances[:2] == [first, second]  # handles are kept
    assert [d.uuid[:8] for d in parent.instances if d.uuid] == ["MIG-aaaa", "MIG-bbbb", "MIG-cccc"]


@fake_nvml("gpus 3\n@0 1 error nvmlDeviceGetHandleByIndex_v2 4\n")
def test_a_gpu_without_permission_is_named_and_the_others_work() -> None:
    nvml = Nvml.open()
    assert [d.index for d in nvml.devices] == [0, 2]
    assert nvml.unreadable == [(1, "Insufficient Permissions")]


# -- no NVML -----------------------------------------------------------------------------------------------------


def reason() -> tuple[str, str]:
    try:
        Nvml.open()
    except NvmlUnavailable as error:
        return error.reason, str(error)
    return "", ""


@fake_nvml("@0 - error nvmlInitWithFlags 18\n")
def test_driver_mismatch() -> None:
    assert reason()[0] == "driver_mismatch"
    assert "reboot" in reason()[1]


@fake_nvml("@0 - error nvmlInitWithFlags 4\n")
def test_no_permission() -> None:
    assert reason()[0] == "no_permission"


@fake_nvml("@0 - error nvmlInitWithFlags 9\n")
def test_driver_not_loaded() -> None:
    assert reason()[0] == "driver_not_loaded"


@fake_nvml("@0 - error nvmlDeviceGetCount_v2 999\n")
def test_count_fails() -> None:
    assert reason()[0] == "unknown"
    assert calls("nvmlShutdown") == 2 - 1


def test_no_library(tmp_path: Path) -> None:
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    code = "from tests.unit.upstream.test_nvml import reason; print(reason()[0])"
    env = {**environment("", tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "library_not_found", done.stderr


def test_another_package_named_pynvml(tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("class NVMLError(Exception): pass\n")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from tests.unit.upstream.test_nvml import reason; print(reason()[0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.strip() == "package_shadowed", done.stderr


def test_pynvml_is_imported_in_one_place_and_only_when_asked() -> None:
    importers = [
        path.name
        for path in (ROOT / "ftdoctor").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(a.name == "pynvml" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and node.module == "pynvml")
    ]
    assert importers == ["nvml.py"]
    code = "import sys, ftdoctor.sources.gpu; sys.exit('pynvml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


# -- events ------------------------------------------------------------------------------------------------------


@fake_nvml("gpus 3\n@0 2 error nvmlDeviceRegisterEvents 3\n@1 1 xid 48\n@1 0 ecc_event double\n@2 1 lost\n")
def test_events() -> None:
    nvml = Nvml.open()
    events = EventSet(nvml)
    assert (events.registered, events.codes) == (2, [3])
    assert events.wait(10) is None
    tick(1)
    seen = [events.wait(100), events.wait(100)]
    assert [(e.kind, e.index, e.data) for e in seen if e] == [("xid", 1, 48), ("ecc_double_bit", 0, 0)]
    assert seen[0] is not None
    assert seen[0].uuid == nvml.devices[1].uuid
    tick(2)
    with pytest.raises(EventsFailed) as failed:
        events.wait(10)
    assert failed.value.code == 15
    events.close()
    again = EventSet(nvml)
    assert again.registered == 1  # without the lost one


def test_xid_table() -> None:
    assert (xid(79).kind, xid(79).level) == ("hardware", "gpu")
    assert "Reboot" in xid(79).remedy
    assert {n: xid(n).kind for n in (13, 31, 43, 45)} == dict.fromkeys((13, 31, 43, 45), "application")
    assert {xid(n).kind for n in (48, 63, 64, 74, 92, 94, 95)} == {"hardware"}
    assert {xid(n).level for n in (119, 120)} == {"gpu"}
    assert (xid(63).level, xid(94).level, xid(95).level) == ("note", "run", "gpu")
    assert (xid(4000).kind, xid(4000).name) == ("unknown", "Xid 4000")
    for entry in XIDS.values():
        assert entry.kind in ("hardware", "application", "driver")
        assert entry.level in ("gpu", "run", "note")
        assert entry.remedy.endswith(".")


def test_throttle_names() -> None:
    assert throttle_names(None) == throttle_names(0) == ()
    assert throttle_names(4 | 8 | 64) == ("software power cap", "hardware slowdown", "hardware thermal")
    assert throttle_names(1 << 20) == ("reason 0x100000",)


# -- CUDA_VISIBLE_DEVICES ----------------------------------------------------------------------------------------


def gpu(number: int, name: str = "H200", bus: int | None = None, **more: object) -> GpuSample:
    where = None if bus == -1 else f"00000000:{bus if bus is not None else 16 + number:02X}:00.0"
    return GpuSample(Origin("nvml"), number, uuid=f"GPU-{number}{number}aa-bb", name=name, pci_bus=where, **more)  # type: ignore[arg-type]


FOUR = [gpu(n) for n in range(4)]
U = [g.uuid for g in FOUR]


@pytest.mark.parametrize(
    ("value", "numbers"),
    [
        (None, [0, 1, 2, 3]),
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 3 , 1 ", [3, 1]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1,-1,2", [1]),
        ("0,9,1", [0]),
        ("9", []),
        ("1,1", []),
        ("1gpu,2x", [1, 2]),
        ("GPU-22aa-bb,GPU-00aa-bb", [2, 0]),
        ("GPU-3", [3]),
        ("GPU-3,GPU-3", []),
        ("GPU-3,GPU-nothing,GPU-1", [3]),
        ("GPU-", []),
    ],
)
@pytest.mark.parametrize("order", [None, "FASTEST_FIRST", "PCI_BUS_ID"])
def test_visible_devices(value: str | None, numbers: list[int], order: str | None) -> None:
    assert visible_devices(value, order, FOUR) == tuple(U[n] for n in numbers)


def test_visible_devices_in_bus_order_and_when_cuda_alone_knows() -> None:
    mixed = [gpu(0, "RTX 3060", 0x41), gpu(1, "RTX 4090", 0x01)]
    assert visible_devices("0", "PCI_BUS_ID", mixed) == (U[1],)
    assert visible_devices("0", None, mixed) is None
    assert visible_devices(None, None, mixed) is None
    assert visible_devices("", None, mixed) == ()
    assert visible_devices("GPU-0", None, mixed) == (U[0],)
    swapped = [gpu(0, bus=0x80), gpu(1, bus=0x20)]
    assert visible_devices("0", None, swapped) == (U[1],)
    assert visible_devices("0", None, [gpu(0, bus=-1), gpu(1, bus=-1)]) is None
    assert visible_devices("0", None, []) == ()


def test_visible_devices_with_mig() -> None:
    parts = [
        GpuSample(Origin("nvml"), 0, uuid=f"MIG-{n}000", parent=U[0], mig=None, processes=(GpuProcess(1),))
        for n in range(2)
    ]
    gpus = [gpu(0, mig=True), gpu(1, mig=False), *parts]
    assert visible_devices("MIG-1", None, gpus) == ("MIG-1000",)
    assert visible_devices("MIG-1,MIG-0", None, gpus) == ("MIG-1000",)  # a process gets one instance
    assert visible_devices("MIG-7", None, gpus) == ()
    assert visible_devices("MIG-GPU-00aa/1/0", None, gpus) is None
    assert visible_devices("0", "PCI_BUS_ID", gpus) is None
    assert visible_devices("GPU-1", None, gpus) == (U[1],)
