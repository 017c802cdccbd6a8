"""`ftdoctor.load_run`: the run as DataFrames."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ftdoctor

LOG = """\
[2026-01-02 10:00:00,000] [INFO] [axolotl.utils.data.sft] Maximum number of steps set at 40
\r 25%|##5       | 10/40 [00:10<00:30,  1.00s/it]
\r{'loss': '1.9', 'grad_norm': '0.5', 'learning_rate': '0.0002', 'epoch': '0.25'}
\r 50%|#####     | 20/40 [00:20<00:20,  1.00s/it]
\r{'loss': '1.5', 'grad_norm': 'nan', 'learning_rate': '0.0001', 'epoch': '0.5'}
\r{'eval_loss': '1.4', 'eval_runtime': '2.0', 'epoch': '0.5'}
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "train.log"
    path.write_text(LOG)
    return path


def test_metrics_are_columns_by_step(log: Path) -> None:
    run = ftdoctor.load_run(log)
    assert list(run.metrics.index) == [10, 20]
    assert run.metrics.loc[10, "loss"] == 1.9
    assert run.metrics.loc[20, "eval_loss"] == 1.4
    assert run.series("loss").tolist() == [1.9, 1.5]
    assert run.series("loss").index.tolist() == [10, 20]
    assert run.run.total_steps == 40


def test_an_unlogged_metric_names_the_logged_ones(log: Path) -> None:
    with pytest.raises(KeyError, match="grad_norm"):
        ftdoctor.load_run(log).series("reward")


def test_findings_have_the_fields_of_finding(tmp_path: Path) -> None:
    path = tmp_path / "oom.log"
    path.write_text(
        "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.95 GiB. GPU 3 has a total capacity of 79.11 GiB\n"
    )
    run = ftdoctor.load_run([path])
    assert run.root_cause is not None
    assert run.findings.loc[0, "id"] == "cuda-oom"
    assert run.findings.loc[0, "rank"] == 3


def test_the_command_does_not_import_pandas(log: Path) -> None:
    code = (
        "import sys; from ftdoctor.cli.main import main; "
        f"main(['check', {str(log)!r}, '--format', 'json']); "
        "sys.exit(bool({'pandas', 'numpy', 'textual', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
