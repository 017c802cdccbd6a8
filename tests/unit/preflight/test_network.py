"""Topology, interfaces, room on the disk: real formats, a hanging nvidia-smi, what NCCL would read."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest

from ftdoctor.cli import preflight
from ftdoctor.preflight import environment, kept, memory, network, room, sizes
from ftdoctor.preflight.checks import Check, run_checks
from ftdoctor.training_python import TrainingPython
from tests.fake_nvml.build import fake_nvml

# `nvidia-smi topo -m`, driver 550, a workstation with two pairs of bridged A6000; the header is underlined
TWO_PAIRS = """\
\t\x1b[4mGPU0\tGPU1\tGPU2\tGPU3\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID\x1b[0m
GPU0\t X \tNV4\tSYS\tSYS\t0-31\t0\t\tN/A
GPU1\tNV4\t X \tSYS\tSYS\t0-31\t0\t\tN/A
GPU2\tSYS\tSYS\t X \tNV4\t32-63\t1\t\tN/A
GPU3\tSYS\tSYS\tNV4\t X \t32-63\t1\t\tN/A

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes (e.g., QPI/UPI)
"""


def test_the_matrix_of_nvidia_smi() -> None:
    assert network.matrix(TWO_PAIRS) == ["NV", "SYS", "SYS", "SYS", "SYS", "NV"]
    assert network.matrix("\tGPU0\tCPU Affinity\nGPU0\t X \t0-7\n") == []
    assert network.matrix("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.") is None


def program(folder: Path, text: str) -> Path:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_paths_between_gpus_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "matrix").write_text(TWO_PAIRS)
    program(tmp_path, f"cat {tmp_path / 'matrix'}")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    seen = network.topology()
    assert seen.facts == {"topology.worst": "SYS", "topology.nvlink": False}
    assert "some pairs have NVLink" in seen.summary


def test_a_hanging_nvidia_smi_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(tmp_path, "exec sleep 600")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(network, "SECONDS", 0.4)
    config = tmp_path / "c.yml"
    config.write_text("base_model: ./m\ndatasets: [{path: a, type: alpaca}]\n")
    code = preflight.main([str(config), "--only", "environment", "--offline", "--format", "json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert code == 1
    assert any(f["id"] == "gpu-hardware-fault" and "no answer" in f["message"] for f in findings), findings


def test_a_command_that_hangs_is_ended() -> None:
    import subprocess

    started = time.monotonic()
    check = Check("topology", "environment", 60, lambda: subprocess.run(["sleep", "60"], timeout=0.2, check=False))  # type: ignore[arg-type,return-value]
    (result,) = run_checks([check])
    assert (result.state, result.facts) == ("timed_out", {"silent.topology": True})
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("given", "fits"),
    [("eth0", True), ("eth", True), ("=eth", False), ("=eno1", True), ("ib0,eth9", True), ("^lo,docker", True),
     ("eth9", False), ("^eth,eno,docker,lo", False), ("=eno1:1", True)],
)  # fmt: skip
def test_interfaces_as_nccl_reads_them(given: str, fits: bool) -> None:
    names = ["docker0", "eno1", "eth0", "lo", *(["ib0"] if "ib0" in given else [])]
    assert network.matches(given, names) is fits


def test_an_interface_of_another_machine(tmp_path: Path) -> None:
    for name, state in (("lo", "unknown"), ("eno1", "up"), ("eno2", "down")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "operstate").write_text(state + "\n")
    seen = network.interfaces({"NCCL_SOCKET_IFNAME": "eth0"}, tmp_path)
    assert seen.facts == {"net.ifname_missing": "NCCL_SOCKET_IFNAME=eth0", "net.interfaces": "eno1"}
    assert network.interfaces({"NCCL_SOCKET_IFNAME": "eno"}, tmp_path).facts == {}


def test_room_for_checkpoints() -> None:
    model = memory.preset("Llama-3.1-8B")
    assert model is not None
    lora = {"adapter": "lora", "lora_r": 32, "optimizer": "adamw_bnb_8bit", "save_total_limit": 3}
    needed, told = room.needed(model, lora, sharded=True)
    assert 15 < needed < 20, told  # the merged model of 15 GiB, and three checkpoints of some 1.2 GiB
    full, _ = room.needed(model, {"save_total_limit": 2}, sharded=True)
    assert 200 < full < 230  # 2 x 14 bytes a parameter, and the model
    assert room.needed(model, {"save_strategy": "no"}, sharded=False)[0] == pytest.approx(15, abs=0.5)


def test_what_a_process_sees() -> None:
    assert environment.visible(None, 8) == 8
    assert environment.visible("0,1", 8) == 2
    assert environment.visible("", 8) == 0
    assert environment.visible("1,9,2", 8) == 1
    assert environment.visible("GPU-1,GPU-2", 4) == 2


@fake_nvml("gpus 2\n@0 * memory 24576 9000 400\n@0 0 process 4321 8192\n@0 1 lost\n")
def test_a_lost_gpu_and_a_stray_process() -> None:
    seen, _ = environment.gpus()
    assert "1 of 2 GPUs cannot be opened" in str(seen.facts["gpu.lost"])
    assert seen.facts["gpu.held"] == 8.0
    assert "4321" in seen.summary
    assert seen.state == "bad"


def test_answers_are_kept_until_the_environment_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    site = tmp_path / "site"
    (site / "axolotl-0.19.0.dist-info").mkdir(parents=True)
    monkeypatch.setattr(TrainingPython, "folders", lambda self: [site])
    python, made = TrainingPython("/x/python", "here"), []

    def make() -> dict[str, int]:
        made.append(1)
        return {"n": len(made)}

    assert [kept.ask(python, {"a": 1}, make) for _ in range(3)] == [{"n": 1}] * 3
    assert kept.ask(python, {"a": 2}, make) == {"n": 2}
    (site / "torch-2.13.dist-info").mkdir()
    assert kept.ask(python, {"a": 1}, make) == {"n": 3}
    (site / "axolotl-0.19.0.dist-info" / "direct_url.json").write_text('{"dir_info": {"editable": true}, "url": "x"}')
    assert [kept.ask(python, {"a": 1}, make)["n"] for _ in range(2)] == [4, 5]


def test_the_size_of_cached_and_known_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    place = tmp_path / "org___chats" / "default" / "0.0.0" / "abc"
    place.mkdir(parents=True)
    (place / "dataset_info.json").write_text('{"splits": {"train": {"num_examples": 700, "num_bytes": 70000}}}')
    assert sizes.of({"datasets": [{"path": "org/chats"}]}, tmp_path) == sizes.Size(700, 70000.0)
    assert sizes.of({"datasets": [{"path": "org/chats", "split": "train[:5%]"}]}, tmp_path) is None
    known = sizes.of({"datasets": [{"path": "yahma/alpaca-cleaned"}]}, tmp_path)
    assert known is not None
    assert known.rows == 51760


def _card(devices: Path, root: Path, path: str, kind: str = "0x030200", vendor: str = "0x10de") -> Path:
    """A device of the PCI tree: its place below `root`, the link in `devices`."""
    place = root / path
    place.mkdir(parents=True, exist_ok=True)
    (place / "class").write_text(kind + "\n")
    (place / "vendor").write_text(vendor + "\n")
    link = devices / place.name
    if not link.exists():
        link.symlink_to(place)
    return place


def _space(control: int | None, whole: bool = True) -> bytes:
    """A configuration space: another capability first, then Access Control Services with this control register."""
    space = bytearray(4096 if whole else 64)
    if whole:
        space[0x100:0x104] = (0x0001 | (1 << 16) | (0x148 << 20)).to_bytes(4, "little")
        if control is not None:
            space[0x148:0x14C] = (0x000D | (1 << 16)).to_bytes(4, "little")
            space[0x14E:0x150] = control.to_bytes(2, "little")
    return bytes(space)


@pytest.mark.parametrize(
    ("control", "whole", "virtual", "state", "says"),
    [
        (0x1D, True, False, "note", "0000:00:01.0"),
        (0x01, True, False, "good", "no bridge redirects"),
        (None, True, False, "good", "no bridge redirects"),
        (None, True, True, "absent", "virtual machine"),
        (0x1D, False, False, "absent", "only root"),
    ],
)
def test_access_control_services(
    control: int | None, whole: bool, virtual: bool, state: str, says: str, tmp_path: Path
) -> None:
    devices, root = tmp_path / "devices", tmp_path / "tree"
    devices.mkdir()
    bridge = _card(devices, root, "pci0000:00/0000:00:01.0", "0x060400", "0x8086")
    (bridge / "config").write_bytes(_space(control, whole))
    for card in ("0000:01:00.0", "0000:02:00.0"):
        _card(devices, root, f"pci0000:00/0000:00:01.0/{card}")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu vme" + (" hypervisor" if virtual else "") + "\n")
    seen = network.pcie(devices, cpuinfo)
    assert (seen.state, says in seen.summary) == (state, True), seen.summary
    assert ("pcie.acs" in seen.facts) == (state == "note")


def test_access_control_services_matter_between_gpus_only(tmp_path: Path) -> None:
    _card(tmp_path, tmp_path / "tree", "pci0000:00/0000:01:00.0")
    _card(tmp_path, tmp_path / "tree", "pci0000:00/0000:02:00.0", vendor="0x1002")
    assert "nothing to meet" in network.pcie(tmp_path, tmp_path / "none").summary
    assert network.pcie(tmp_path / "absent").state == "absent"
