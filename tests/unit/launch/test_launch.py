"""`ftdoctor launch` on small children: output untouched, evidence kept, gentle stops, and a child that outlives us."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ftdoctor.launch.child import marked
from ftdoctor.launch.plan import MARK, for_command, variables, visible_gpus

ROOT = Path(__file__).resolve().parent.parent.parent.parent
STEP = "{'loss': '1.5', 'grad_norm': '0.4', 'learning_rate': '0.0002', 'epoch': '0.1'}"


def launch(tmp_path: Path, code: str, *options: str, **popen: object) -> subprocess.Popen[str]:
    script = tmp_path / "train.py"
    script.write_text(code)
    command = [sys.executable, "-m", "ftdoctor", "launch", "--no-gpu", "--name", "r", *options, "--", sys.executable]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, str(script)],
        cwd=tmp_path,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **popen,  # type: ignore[call-overload]
    )


def test_output_passes_through_and_everything_is_kept(tmp_path: Path) -> None:
    done = launch(tmp_path, f"print({STEP!r})\nprint('\\x1b[1mbold\\x1b[0m')\n")
    out, err = done.communicate(timeout=60)
    assert out == f"{STEP}\n\x1b[1mbold\x1b[0m\n"
    run = tmp_path / "ftdoctor-runs" / "r"
    assert (run / "train.log").read_text() == out
    assert json.loads((run / "exit.json").read_text())["code"] == 0
    assert json.loads((run / "diagnosis.json").read_text())["verdict"] in ("healthy", "unknown")
    assert {"journal.jsonl", "run.json", "report.txt"} <= {p.name for p in run.iterdir()}
    assert "ftdoctor-runs" in err


def test_the_code_of_the_trainer_and_the_cause(tmp_path: Path) -> None:
    done = launch(tmp_path, "import sys\nraise RuntimeError('CUDA error: an illegal memory access was encountered')\n")
    _, err = done.communicate(timeout=60)
    assert done.returncode == 1
    assert "cuda-error" in err


def test_a_secret_in_the_environment_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz0123456789")
    launch(tmp_path, "print(1)\n").communicate(timeout=60)
    assert "hf_abcdefghijkl" not in (tmp_path / "ftdoctor-runs/r/run.json").read_text()


def test_sigterm_ends_the_run_and_sigint_never_reaches_it(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *a: print('GOT SIGINT', flush=True))\n"
        "signal.signal(signal.SIGTERM, lambda *a: (print('GOT SIGTERM', flush=True), sys.exit(0)))\n"
        "print('ready', flush=True)\nwhile True: time.sleep(0.05)\n"
    )
    done = launch(tmp_path, code)
    log = tmp_path / "ftdoctor-runs/r/train.log"
    _wait(lambda: log.is_file() and "ready" in log.read_text())
    done.send_signal(signal.SIGINT)
    out, _ = done.communicate(timeout=60)
    assert "GOT SIGTERM" in out
    assert "GOT SIGINT" not in out


def test_a_stopped_process_does_not_hold_up_the_end(tmp_path: Path) -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        "rank = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "signal.signal(signal.SIGTERM, lambda *a: (rank.terminate(), rank.wait(), sys.exit(0)))\n"
        "os.kill(rank.pid, signal.SIGSTOP)\n"
        "print('ready', flush=True)\nwhile True: time.sleep(0.05)\n"
    )
    done = launch(tmp_path, code)
    log = tmp_path / "ftdoctor-runs/r/train.log"
    _wait(lambda: log.is_file() and "ready" in log.read_text())
    done.send_signal(signal.SIGTERM)
    _, err = done.communicate(timeout=60)
    assert "SIGTERM" in err
    assert "SIGKILL" not in err


def test_the_trainer_outlives_ftdoctor(tmp_path: Path) -> None:
    code = "import time\nfor n in range(40):\n    print('step', n, flush=True); time.sleep(0.1)\nprint('finished', flush=True)\n"
    done = launch(tmp_path, code)
    log = tmp_path / "ftdoctor-runs/r/train.log"
    _wait(lambda: log.is_file() and "step 3" in log.read_text())
    done.kill()
    done.communicate(timeout=30)
    _wait(lambda: "finished" in log.read_text())
    assert log.read_text().splitlines() == [*(f"step {n}" for n in range(40)), "finished"]


def test_a_lost_connection_ends_neither_the_run_nor_the_watch(tmp_path: Path) -> None:
    done = launch(tmp_path, "import time\nprint('ready', flush=True)\ntime.sleep(2)\nprint('finished', flush=True)\n")
    log = tmp_path / "ftdoctor-runs/r/train.log"
    _wait(lambda: log.is_file() and "ready" in log.read_text())
    done.send_signal(signal.SIGHUP)
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 3  # nothing that could be judged
    assert out == "ready\nfinished\n"  # a pipe is no terminal: it stays
    assert not json.loads((tmp_path / "ftdoctor-runs/r/exit.json").read_text())["signalled"]


def test_an_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ftdoctor-runs/r").mkdir(parents=True)
    done = launch(tmp_path, "print(1)\n")
    _, err = done.communicate(timeout=60)
    assert done.returncode == 2
    assert "exists already" in err


def test_dry_run_starts_nothing(tmp_path: Path) -> None:
    done = launch(tmp_path, "print(1)\n", "--dry-run")
    out, _ = done.communicate(timeout=60)
    assert "train.py" in out
    assert f"export {MARK}=" in out
    assert not (tmp_path / "ftdoctor-runs").exists()


def test_processes_of_a_run_are_found_by_their_mark() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], env={**os.environ, MARK: "t-e-s-t"})
    try:
        _wait(lambda: marked("t-e-s-t") == [child.pid])
    finally:
        child.kill()
        child.wait()
    assert marked("t-e-s-t") == []


@pytest.mark.parametrize(
    ("torch", "name"),
    [
        ("2.4.1", "TORCH_NCCL_TRACE_BUFFER_SIZE"),
        ("2.11.0+cu130", "TORCH_FR_BUFFER_SIZE"),
        (None, "TORCH_FR_BUFFER_SIZE"),
    ],
)
def test_the_flight_recorder_by_the_name_of_this_torch(torch: str | None, name: str) -> None:
    assert name in variables(Path("/x"), torch)
    assert not any(v.startswith("TORCH_NCCL_") for v in variables(Path("/x"), "2.1.0"))


def test_two_runs_ask_two_addresses_of_ras(tmp_path: Path) -> None:
    def address(run_id: str, **environ: str) -> str | None:
        plan = for_command(["train"], folder=tmp_path, run_id=run_id, gpus=None, environ=environ)
        return plan.environment.get("NCCL_RAS_ADDR")

    assert address("a") != address("b")
    assert address("a", NCCL_RAS_ADDR="localhost:1") == "localhost:1"


def test_visible_gpus() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,1,3"}, None) == 3
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, None) == 0
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0,1"}, "2") == 1
    assert visible_gpus({}, None) is None


def _wait(wanted, seconds: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < end
        time.sleep(0.05)
