"""How a run ended, what a GPU table shows, and how long a log was silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftdoctor.findings import Diagnosis
from ftdoctor.ruleset.load import load
from ftdoctor.session import check

RULES = load()
FAILED = "E1118 17:03:58.{ms} 4410 torch/distributed/elastic/multiprocessing/api.py:826] failed (exitcode: {code}) local_rank: {rank} (pid: {pid}) of binary: python"


def diagnose(tmp_path: Path, text: str) -> Diagnosis:
    path = tmp_path / "train.log"
    path.write_text(text)
    return check([str(path)], RULES)


def root(diagnosis: Diagnosis) -> str | None:
    return diagnosis.root_cause.id if diagnosis.root_cause else None


@pytest.mark.parametrize(
    ("code", "cause"), [(-9, "host-oom"), (-11, "rank-crashed"), (-15, "interrupted"), (1, "rank-crashed")]
)
def test_the_first_exit_names_the_cause(tmp_path: Path, code: int, cause: str) -> None:
    found = diagnose(tmp_path, FAILED.format(ms="100000", code=code, rank=2, pid=44) + "\n")
    assert root(found) == cause
    assert found.root_cause is not None
    assert found.root_cause.rank == 2


def test_sigkill_by_the_launcher_after_a_failure_is_not_host_memory(tmp_path: Path) -> None:
    lines = [FAILED.format(ms="100000", code=1, rank=0, pid=43), FAILED.format(ms="900000", code=-9, rank=1, pid=44)]
    assert root(diagnose(tmp_path, "\n".join(lines) + "\n")) == "rank-crashed"


def table(*rows: tuple[int, int, int]) -> str:
    """An nvidia-smi table: MiB used, utilisation in percent, watts of 700."""
    lines = ["| NVIDIA-SMI 560.35.03    Driver Version: 560.35.03      CUDA Version: 12.6     |"]
    for index, (used, busy, watts) in enumerate(rows):
        lines += [
            f"|   {index}  NVIDIA H100 80GB HBM3     On  |   00000000:{16 + index:02X}:00.0 Off |            0 |",
            f"| N/A   40C    P0    {watts}W / 700W |  {used}MiB / 81559MiB |    {busy}%      Default |",
        ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("rows", "cause"),
    [
        ([(70000, 99, 650), (14, 0, 60), (14, 0, 60)], "gpu0-only"),
        ([(70000, 99, 650), (70000, 98, 640)], None),
        ([(71000, 97, 650), (50000, 98, 640), (50000, 98, 640)], "gpu-memory-imbalance"),
        ([(60000, 99, 650), (60000, 30, 300), (60000, 28, 300)], "gpu-util-skew"),
        ([(60000, 100, 118)] * 8, "hang"),
        ([(615, 0, 60)] * 4, None),
    ],
)
def test_gpu_tables(tmp_path: Path, rows: list[tuple[int, int, int]], cause: str | None) -> None:
    assert root(diagnose(tmp_path, table(*rows))) == cause


def test_a_long_silence_before_the_end_is_a_hang_and_before_more_steps_is_not(tmp_path: Path) -> None:
    before = "[2026-01-02 10:00:00,000] [INFO] [axolotl.train] step 1\n{'loss': '1.9', 'grad_norm': '0.5', 'learning_rate': '1e-4', 'epoch': '0.1'}\n"
    after = "[2026-01-02 14:00:00,000] [INFO] [launch.py:328:sigkill_handler] Main process received SIGINT, exiting\n"
    stamped = "[2026-01-02 10:00:05,000] [INFO] [axolotl.train] checkpoint\n"
    assert root(diagnose(tmp_path, before + stamped + after)) == "hang"
    more = "{'loss': '1.8', 'grad_norm': '0.5', 'learning_rate': '1e-4', 'epoch': '0.2'}\n" * 3
    resumed = "[2026-01-02 14:00:00,000] [INFO] [axolotl.train] evaluation done\n"
    assert root(diagnose(tmp_path, before + stamped + resumed + more)) is None


def test_the_year_of_a_glog_stamp_is_that_of_the_full_stamps(tmp_path: Path) -> None:
    text = "[2024-03-06 02:05:37,751] [INFO] [logging.py:128:log_dist] [Rank 0] ready\n" + FAILED.replace(
        "1118 17:03:58", "0306 02:06:01"
    ).format(ms="1", code=-11, rank=3, pid=5)
    assert root(diagnose(tmp_path, text + "\n")) == "rank-crashed"
