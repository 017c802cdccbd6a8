"""Rank to GPU: proof by process id, the environment's word, and what must stay unknown."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from ftdoctor.events import FactLearned, GpuProcess, GpuSample, Origin
from ftdoctor.sources.ranks import RankGpu, lone_process, rank_facts, rank_gpus

HOST, INSIDE = "pid:[4026531836]", "pid:[4026532999]"


class Proc:
    """A made-up /proc."""

    def __init__(self, root: Path, namespace: str = HOST) -> None:
        self.root = root
        self._link("self/ns/pid", namespace)
        self._link("self/ns/mnt", "mnt:[1]")

    def add(self, pid: int, parent: int = 1, mnt: str = "mnt:[1]", **environ: object) -> None:
        folder = self.root / str(pid)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(
            f"{pid} (python) S {parent} 1 1 0 -1 0 0 0 0 0 9 0 0 0 20 0 7 0 500 123456 1000 0 0\n"
        )
        (folder / "environ").write_bytes(
            b"".join(f"{k}={v}".encode() + b"\0" for k, v in {"PATH": "/bin", **environ}.items())
        )
        self._link(f"{pid}/ns/mnt", mnt)

    def ranks(self, count: int, first: int = 100, **environ: object) -> None:
        for rank in range(count):
            self.add(
                first + rank,
                RANK=rank,
                LOCAL_RANK=rank,
                WORLD_SIZE=count,
                MASTER_ADDR="localhost",
                MASTER_PORT=29500,
                **environ,
            )

    def _link(self, name: str, target: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(target, path)


def gpus(
    count: int, processes: dict[int, list[tuple[int, float | None]]] | None = None, **more: object
) -> list[GpuSample]:
    held = processes or {}
    return [
        GpuSample(
            Origin("nvml"),
            n,
            uuid=f"GPU-{n}",
            name="H200",
            pci_bus=f"00000000:{16 + n:02X}:00.0",
            processes=tuple(GpuProcess(pid, None, memory) for pid, memory in held.get(n, [])),
            **more,  # type: ignore[arg-type]
        )
        for n in range(count)
    ]


def found(items: list[RankGpu]) -> list[tuple[int, str | None, str]]:
    return [(r.rank, r.uuid, r.how) for r in items]


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def test_proof_by_process_id(proc: Proc) -> None:
    proc.ranks(2)
    seen = rank_gpus(gpus(2, {0: [(100, 5000.0)], 1: [(101, 5000.0)]}), proc=proc.root)
    assert found(seen) == [(0, "GPU-0", "pid"), (1, "GPU-1", "pid")]
    assert (seen[1].local_rank, seen[1].world_size, seen[1].pid) == (1, 2, 101)


def test_two_ranks_on_one_gpu_are_seen_where_they_are(proc: Proc) -> None:
    proc.ranks(2)
    seen = rank_gpus(gpus(2, {0: [(100, 5000.0), (101, 5000.0)]}), proc=proc.root)
    assert found(seen) == [(0, "GPU-0", "pid"), (1, "GPU-0", "pid")]


def test_small_contexts_on_other_gpus_do_not_count(proc: Proc) -> None:
    proc.ranks(2)
    held = {0: [(100, 5000.0), (101, 520.0)], 1: [(101, 5000.0)]}
    assert found(rank_gpus(gpus(2, held), proc=proc.root)) == [(0, "GPU-0", "pid"), (1, "GPU-1", "pid")]
    swapped = {1: [(100, 5000.0), (101, 520.0)], 2: [(101, 6000.0)], 3: [(101, 520.0)]}
    assert found(rank_gpus(gpus(4, swapped), proc=proc.root))[0] == (0, "GPU-1", "pid")
    assert found(rank_gpus(gpus(4, {2: [(101, 6.0)], 3: [(101, 6.0)]}), proc=proc.root))[1] == (1, None, "unknown")


def test_loader_workers_and_other_processes_are_left_out(proc: Proc) -> None:
    proc.ranks(1)
    proc.add(200, parent=100, RANK=0, LOCAL_RANK=0, WORLD_SIZE=1, MASTER_ADDR="localhost", MASTER_PORT=29500)
    proc.add(201, parent=100)
    proc.add(300, RANK="none")
    (proc.root / "400").mkdir()  # its environment may not be read
    assert [r.pid for r in rank_gpus(gpus(1), proc=proc.root)] == [100]
    assert [r.pid for r in rank_gpus(gpus(1), pids=[201, 300, 999], proc=proc.root)] == []


def test_two_jobs_on_one_machine(proc: Proc) -> None:
    for job, port in ((0, 29500), (1, 29600)):
        proc.add(100 + job, RANK=0, LOCAL_RANK=0, MASTER_PORT=port, CUDA_VISIBLE_DEVICES=job)
    seen = rank_gpus(gpus(2), proc=proc.root)
    assert found(seen) == [(0, "GPU-0", "expected"), (0, "GPU-1", "expected")]
    assert len({r.job for r in seen}) == 2


def test_expected_from_the_environment(proc: Proc) -> None:
    proc.ranks(2, CUDA_VISIBLE_DEVICES="3,1")
    assert found(rank_gpus(gpus(4), proc=proc.root)) == [(0, "GPU-3", "expected"), (1, "GPU-1", "expected")]


def test_one_gpu_for_each_process_as_slurm_gives_it(proc: Proc) -> None:
    for rank in range(2):
        proc.add(100 + rank, SLURM_PROCID=4 + rank, SLURM_LOCALID=rank, SLURM_NTASKS=8, CUDA_VISIBLE_DEVICES=rank)
    seen = rank_gpus(gpus(2), proc=proc.root)
    assert found(seen) == [(4, "GPU-0", "expected"), (5, "GPU-1", "expected")]
    assert seen[0].world_size == 8


def test_a_rank_without_a_gpu_is_unknown(proc: Proc) -> None:
    proc.ranks(3, CUDA_VISIBLE_DEVICES="0,1")
    assert found(rank_gpus(gpus(2), proc=proc.root))[2] == (2, None, "unknown")
    assert found(rank_gpus([], proc=proc.root))[0] == (0, None, "unknown")


def test_in_a_container_foreign_process_ids_are_not_believed(tmp_path: Path) -> None:
    proc = Proc(tmp_path, INSIDE)
    proc.ranks(2)
    strange = gpus(2, {0: [(101, 5000.0)], 1: [(7001, 5000.0)]})  # 101 of the host is not our 101
    assert found(rank_gpus(strange, proc=proc.root)) == [(0, "GPU-0", "expected"), (1, "GPU-1", "expected")]
    translated = gpus(2, {0: [(101, 5000.0)], 1: [(100, 5000.0)]})
    assert found(rank_gpus(translated, proc=proc.root)) == [(0, "GPU-1", "pid"), (1, "GPU-0", "pid")]


def test_numbers_of_another_container_mean_nothing_here(proc: Proc) -> None:
    proc.add(100, mnt="mnt:[2]", RANK=0, LOCAL_RANK=0, CUDA_VISIBLE_DEVICES="0")
    proc.add(101, mnt="mnt:[2]", RANK=1, LOCAL_RANK=1, CUDA_VISIBLE_DEVICES="GPU-1")
    proc.add(102, mnt="mnt:[2]", RANK=2, LOCAL_RANK=2)
    assert found(rank_gpus(gpus(4), proc=proc.root)) == [
        (0, None, "unknown"),
        (1, "GPU-1", "expected"),
        (2, None, "unknown"),
    ]
    assert found(rank_gpus(gpus(4, {3: [(100, 5.0)]}), proc=proc.root))[0] == (0, "GPU-3", "pid")


def test_mig_instance_of_a_process(proc: Proc) -> None:
    proc.add(100, RANK=0, LOCAL_RANK=0)
    whole = gpus(1, {0: [(100, 4000.0)]}, mig=True)
    part = GpuSample(Origin("nvml"), 0, uuid="MIG-a", parent="GPU-0", processes=(GpuProcess(100, None, 4000.0),))
    assert found(rank_gpus([*whole, part], proc=proc.root)) == [(0, "MIG-a", "pid")]


def test_facts(proc: Proc) -> None:
    proc.ranks(3, CUDA_VISIBLE_DEVICES="0,1")
    seen = rank_gpus(gpus(2, {0: [(100, 5000.0)]}), proc=proc.root)
    facts = [e for e in rank_facts(seen, itertools.count(1), 9.0) if isinstance(e, FactLearned)]
    assert {e.name: e.value for e in facts} == {
        "rank_gpu.0": "GPU-0",
        "rank_gpu_expected.1": "GPU-1",
        "rank_pid.0": 100,
        "rank_pid.1": 101,
        "rank_pid.2": 102,
    }
    assert {(e.origin.rank, e.origin.time) for e in facts} == {(0, 9.0), (1, 9.0), (2, 9.0)}


def test_a_process_without_launcher_that_sees_several_gpus(proc: Proc) -> None:
    proc.add(300)
    proc.add(301, CUDA_VISIBLE_DEVICES="1")
    proc.add(302, RANK=0, WORLD_SIZE=1)
    held = {0: [(300, 5000.0)], 1: [(301, 5000.0), (302, 5000.0)]}
    samples = gpus(4, held)
    assert lone_process(samples, lambda pid: pid == 300, proc.root) == 4
    assert lone_process(samples, lambda pid: pid == 301, proc.root) == 1
    assert lone_process(samples, lambda pid: pid == 302, proc.root) is None  # a launcher gave it a rank
    assert lone_process(samples, lambda pid: pid in (300, 301), proc.root) is None  # two: not one process
    assert lone_process(samples, lambda pid: False, proc.root) is None
