"""The host: a made-up /proc and control groups, and the real ones of this machine."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ftdoctor.events import MachineSample, ProcessSample
from ftdoctor.run_model.run import Run
from ftdoctor.sources import machine
from ftdoctor.sources.machine import MachineWatch, ProcessWatch, processes, read_environ, read_stat

GIB = 1024.0
TICKS = os.sysconf("SC_CLK_TCK")


def fake(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def stat(
    pid: int, name: str = "python", state: str = "R", parent: int = 1, cpu: int = 0, start: int = 500, pages: int = 1000
) -> str:
    return f"{pid} ({name}) {state} {parent} 1 1 0 -1 0 0 0 0 0 {cpu} 0 0 0 20 0 7 0 {start} 123456 {pages} 0 0\n"


def sample(watch: MachineWatch, now: float = 0.0, stamp: float | None = None) -> MachineSample:
    [event] = watch.poll(now, stamp)
    assert isinstance(event, MachineSample)
    return event


MEMINFO = "MemTotal:       1056768000 kB\nMemFree: 1024 kB\nMemAvailable:    528384000 kB\nSwapTotal: 2097152 kB\nSwapFree: 1048576 kB\n"


def test_host_memory_and_group_version_2(tmp_path: Path) -> None:
    proc = fake(tmp_path / "proc", {"meminfo": MEMINFO, "self/cgroup": "0::/pod/run\n"})
    group = fake(
        tmp_path / "cgroup",
        {
            "cgroup.controllers": "memory",
            "pod/memory.max": str(64 << 30),
            "pod/memory.current": str(60 << 30),
            "pod/memory.stat": f"anon 5\ninactive_file {20 << 30}\n",
            "pod/run/memory.max": "max\n",
            "pod/run/memory.current": "1\n",
            "pod/run/memory.events": "low 0\noom 4\noom_kill 3\n",
        },
    )
    watch = MachineWatch(itertools.count(7), proc=proc, cgroup=group, shm=str(tmp_path))
    found = sample(watch, 5.0, 1_000.0)
    assert (found.memory_total, found.memory_available, found.swap_used) == (1032000.0, 516000.0, 1024.0)
    assert (found.limit, found.limit_used) == (64 * GIB, 40 * GIB)  # the parent's limit; the page cache is no use
    assert found.oom_kills == 3
    assert (found.origin.time, found.origin.order, found.origin.path) == (1_000.0, 7, "machine")
    assert found.shm_total
    assert found.shm_total >= (found.shm_free or 0) > 0
    assert (found.disk, found.disk_free, found.disk_silent) == (None, None, None)
    run = Run()
    run.apply(found)
    assert run.machine is found
    assert run.last_origin is None


def test_group_version_1_in_a_container(tmp_path: Path) -> None:
    """The path in /proc/self/cgroup is the host's; inside, the group's files are at the top."""
    proc = fake(tmp_path / "proc", {"meminfo": "", "self/cgroup": "9:cpu:/x\n4:memory,hugetlb:/docker/abc\n0::/\n"})
    group = fake(
        tmp_path / "cgroup",
        {
            "memory/memory.limit_in_bytes": str(8 << 30),
            "memory/memory.usage_in_bytes": str(3 << 30),
            "memory/memory.stat": f"cache 1\ntotal_inactive_file {1 << 30}\n",
            "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
        },
    )
    found = sample(MachineWatch(itertools.count(), proc=proc, cgroup=group))
    assert (found.limit, found.limit_used, found.oom_kills) == (8 * GIB, 2 * GIB, 1)
    assert found.memory_total is None
    (group / "memory/memory.limit_in_bytes").write_text("9223372036854771712\n")
    found = sample(MachineWatch(itertools.count(), proc=proc, cgroup=group))
    assert (found.limit, found.limit_used, found.oom_kills) == (None, None, 1)


def test_nothing_to_read_is_unknown(tmp_path: Path) -> None:
    found = sample(
        MachineWatch(itertools.count(), proc=tmp_path / "no", cgroup=tmp_path / "no", shm=str(tmp_path / "no"))
    )
    empty = MachineSample(found.origin)
    assert found == empty
    assert ProcessWatch(itertools.count(), proc=tmp_path / "no").poll(0.0, {1: 0}) == []
    assert (processes(tmp_path / "no"), read_environ(1, tmp_path / "no"), read_stat(1, tmp_path / "no")) == (
        [],
        None,
        None,
    )


def test_disk_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    found = sample(MachineWatch(itertools.count(), disk=tmp_path / "outputs" / "run1"))
    real = os.statvfs(tmp_path)
    assert found.disk == str(tmp_path / "outputs" / "run1")
    assert found.disk_total == real.f_blocks * real.f_frsize / 1048576
    assert found.disk_silent is False
    assert found.disk_free is not None
    assert found.disk_free > 0


def test_a_disk_that_hangs_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, asked, real = threading.Event(), [], machine._space

    def space(path: str) -> tuple[float, float] | None:
        if path == str(tmp_path):
            asked.append(path)
            if len(asked) > 1:
                release.wait(30)
        return real(path)

    monkeypatch.setattr(machine, "_space", space)
    watch = MachineWatch(itertools.count(), disk=tmp_path, disk_every=10.0, disk_deadline=5.0)
    assert sample(watch, 0.0).disk_free
    assert sample(watch, 9.0).disk_free
    assert len(asked) == 1
    begun = time.monotonic()
    assert sample(watch, 10.0).disk_silent is False
    late = [sample(watch, 10.0 + n) for n in range(1, 20)]
    assert time.monotonic() - begun < 15.0
    assert (late[3].disk_silent, late[3].disk_free is None) == (False, False)
    assert {(s.disk_silent, s.disk_free, s.disk_total) for s in late[5:]} == {
        (True, None, None)
    }  # unknown, not the old number
    assert len(asked) == 2  # no second thread beside the one that hangs
    release.set()
    deadline = time.monotonic() + 10
    while sample(watch, 40.0).disk_silent and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sample(watch, 41.0).disk_free


def test_processes_state_and_cpu(tmp_path: Path) -> None:
    proc = fake(tmp_path, {"41/stat": stat(41, "a) S (b", cpu=1000), "42/stat": stat(42, state="D")})
    watch = ProcessWatch(itertools.count(), proc=proc)
    first = watch.poll(10.0, {41: 0, 42: 1, 43: 2}, 1_000.0)
    assert all(isinstance(e, ProcessSample) for e in first)
    seen = {e.pid: e for e in first if isinstance(e, ProcessSample)}
    assert (seen[41].state, seen[41].cpu, seen[41].threads, seen[41].origin.rank) == ("R", None, 7, 0)
    assert seen[41].memory == 1000 * os.sysconf("SC_PAGE_SIZE") / 1048576
    assert (seen[42].state, seen[43].state) == ("D", "gone")
    fake(proc, {"41/stat": stat(41, cpu=1000 + TICKS), "42/stat": stat(42, state="D")})
    second = {e.pid: e for e in watch.poll(12.0, {41: 0, 42: 1, 43: 2}) if isinstance(e, ProcessSample)}
    assert (second[41].cpu, second[42].cpu) == (50.0, 0.0)
    assert 43 not in second  # said once
    fake(proc, {"41/stat": stat(41, cpu=5, start=501)})  # another process with the same number
    third = watch.poll(13.0, {41: 0, 42: 1})
    assert [(e.pid, e.state) for e in third if isinstance(e, ProcessSample)] == [(41, "gone"), (42, "D")]
    fourth = watch.poll(14.0, {41: 0, 42: 1})
    assert [e.pid for e in fourth if isinstance(e, ProcessSample)] == [42]


def test_damaged_stat_is_unknown(tmp_path: Path) -> None:
    for text in ("", "41", "41 (x) R 1", "41 (x) R a b c " + "x " * 30):
        fake(tmp_path, {"41/stat": text})
        assert read_stat(41, tmp_path) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux")
def test_a_real_process_and_the_real_host() -> None:
    spin = "import time\nwhile True: pass"
    child = subprocess.Popen([sys.executable, "-c", spin], env={**os.environ, "RANK": "5", "LOCAL_RANK": "1"})
    try:
        watch = ProcessWatch(itertools.count())
        watch.poll(time.monotonic(), {child.pid: 5})
        time.sleep(0.5)
        [event] = watch.poll(time.monotonic(), {child.pid: 5})
        assert isinstance(event, ProcessSample)
        assert event.state in "RS"
        assert event.cpu is not None
        assert 5 < event.cpu < 130
        environ = read_environ(child.pid)
        assert environ is not None
        assert (environ["RANK"], environ["LOCAL_RANK"]) == ("5", "1")
        assert child.pid in processes()
        found = read_stat(child.pid)
        assert found is not None
        assert found.parent == os.getpid()
    finally:
        child.kill()
        child.wait()
    [gone] = watch.poll(time.monotonic(), {child.pid: 5})
    assert isinstance(gone, ProcessSample)
    assert gone.state == "gone"
    found_machine = sample(MachineWatch(itertools.count(), disk="."))
    assert found_machine.memory_total
    assert 0 < (found_machine.memory_available or 0) <= found_machine.memory_total
