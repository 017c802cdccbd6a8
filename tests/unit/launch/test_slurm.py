"""`ftdoctor launch --slurm`: the script, and the run folder of several nodes read as one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ftdoctor.errors import InputError, UsageError
from ftdoctor.events import LogRecord, MetricSample, Origin, Tick
from ftdoctor.launch.plan import for_config
from ftdoctor.launch.slurm import ADDRESS, PORT, Job, Rendezvous, node_folder, rendezvous, script, submit
from ftdoctor.live import LiveSession
from ftdoctor.ruleset.load import load
from ftdoctor.session import Session, check
from ftdoctor.sources.journal import JournalWriter
from ftdoctor.sources.nodes import merged
from ftdoctor.training_python import TrainingPython

ROOT = Path(__file__).resolve().parents[3]
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.22 GiB. GPU 1 has a total capacity of 63.42 GiB"


def test_the_script_is_bash_and_asks_for_what_was_asked(tmp_path: Path) -> None:
    job = Job("my run", nodes=2, gpus=8, time="24:00:00", partition="a100", account="team", more=("--mem=0",))
    text = script(
        job, tmp_path / "r", tmp_path, "/venv/bin/python", ["my config.yml", "--slurm", "--", "--max_steps=5"]
    )
    head = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    for line in ('--job-name="my run"', "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8", "--time=24:00:00",
                 "--partition=a100", "--account=team", "--signal=B:USR1@300", "--mem=0"):  # fmt: skip
        assert f"#SBATCH {line}" in head
    assert f"launch 'my config.yml' --slurm --slurm-node {tmp_path}/r -- --max_steps=5 &" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert "gpus-per-node" not in script(Job("r", gpus=0), tmp_path, tmp_path, "python", ["c.yml"])


def test_what_slurm_would_refuse_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no time of SLURM"):
        Job("r", time="a day")
    with pytest.raises(UsageError, match="at least one node"):
        Job("r", nodes=0)
    with pytest.raises(UsageError, match="no quotes"):
        script(Job("it's"), tmp_path, tmp_path, "python", [])


def test_print_writes_nothing_and_needs_no_slurm(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text("base_model: org/model\noutput_dir: ./out\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "ftdoctor", "launch", "c.yml", "--slurm", "--print", "--nodes", "2", "--name", "r"]
    command += ["--gpus-per-node", "4", "--time", "1-00:00:00", "--sbatch=--mem=0", "--python", sys.executable]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --gpus-per-node=4\n" in done.stdout
    assert "#SBATCH --mem=0\n" in done.stdout
    assert f"--slurm-node {tmp_path}/ftdoctor-runs/r" in done.stdout
    assert "dynamic_checkpoint is off" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["c.yml"]


def test_without_slurm_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="no SLURM"):
        submit(tmp_path / "job.sbatch")


def test_a_job_that_slurm_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text("base_model: org/model\noutput_dir: ./out\n")
    tool = tmp_path / "bin/sbatch"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2; exit 1\n")
    tool.chmod(0o755)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{tool.parent}:/usr/bin:/bin"}
    command = [sys.executable, "-m", "ftdoctor", "launch", "c.yml", "--slurm", "--partition", "x", "--name", "r"]
    command += ["--python", sys.executable]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "invalid partition specified: x" in done.stderr
    assert not (tmp_path / "ftdoctor-runs/r").exists()


def test_each_node_joins_the_others(tmp_path: Path) -> None:
    environ = {"SLURM_JOB_NUM_NODES": "2", "SLURM_NODEID": "1", ADDRESS: "n1", PORT: "20007", "SLURMD_NODENAME": "n2"}
    meet = rendezvous(environ)
    assert meet == Rendezvous(2, 1, "n1", 20007)
    assert node_folder(tmp_path, environ) == tmp_path / "node-n2"
    assert node_folder(tmp_path, {**environ, "SLURM_RESTART_COUNT": "1"}) == tmp_path / "node-n2-again-1"
    with pytest.raises(InputError, match="not a step"):
        rendezvous({})
    (tmp_path / "c.yml").write_text("base_model: org/model\n")
    tool = tmp_path / "torchrun"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)

    def command(launcher: str, meet: Rendezvous | None, processes: int) -> list[str]:
        plan = for_config(
            tmp_path / "c.yml", [], TrainingPython(str(tmp_path / "python"), "given"), launcher=launcher,
            processes=processes, gpus=None, folder=tmp_path / "r", run_id="x", torch="2.8.0", heartbeat=False,
            environ={}, meet=meet,
        )  # fmt: skip
        return list(plan.command)

    told = command("torchrun", meet, 4)
    assert told[:9] == [
        str(tool), "--nnodes", "2", "--node_rank", "1", "--master_addr", "n1", "--master_port", "20007",
    ]  # fmt: skip
    assert told[9:11] == ["--nproc_per_node", "4"]
    assert command("torchrun", meet, 1)[0] == str(tool)  # one rank on each of two nodes still has to meet the other
    assert command("torchrun", None, 4)[:3] == [str(tool), "--nproc_per_node", "4"]
    with pytest.raises(UsageError, match="torchrun"):
        command("accelerate", meet, 4)


def node(run: Path, name: str, start: float, *lines: str, finished: bool = True) -> None:
    """A node's run folder as launch leaves it: one line a second."""
    folder = run / f"node-{name}"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "train.log").write_text("".join(f"{line}\n" for line in lines))
    session = Session(load(), JournalWriter(folder / "journal.jsonl"))
    assert session.journal is not None
    router = session.router(_log(folder / "train.log"))
    for second, line in enumerate(lines):
        session.apply([Tick(Origin("", time=start + second, order=session.next_order()))])
        session.apply(router.feed(f"{line}\n".encode()))
        session.apply(router.flush())
    session.apply(router.finish())
    session.journal.close()
    if finished:
        (folder / "exit.json").write_text("{}")


def _log(path: Path):  # type: ignore[no-untyped-def]
    from ftdoctor.sources.files import Input

    return Input(str(path), "log")


@pytest.mark.parametrize("finished", [True, False])
def test_nodes_are_one_run_with_names(tmp_path: Path, finished: bool) -> None:
    run = tmp_path / "r"
    waits = "[rank0]:[E] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7, OpType=ALLREDUCE)"
    node(run, "alpha", 1000.0, "{'loss': '1.5', 'epoch': '0.1'}", "waiting", "waiting", waits, finished=finished)
    node(run, "beta", 1000.5, "starts", f"[rank8]: {OOM}", finished=finished)
    (run / "slurm.json").write_text("{}")
    (run / "report.txt").write_text(f"our own words: {OOM}\n")
    (run / "node-beta.said").write_text(f"our own words: {OOM}\n")
    (run / "slurm-7.log").write_text(
        "slurmstepd: error: *** JOB 7 ON alpha CANCELLED AT 2026-01-01T00:00:00 DUE TO TIME LIMIT ***\n"
    )
    found = check([str(run)], load())
    assert found.root_cause is not None
    assert found.root_cause.id == "cuda-oom"
    assert found.root_cause.node == "beta"
    assert not [p for p in found.run.sources if p.endswith((".said", "report.txt"))]
    assert {e.path for e in found.root_cause.evidence} == {str(run / "node-beta/train.log")}
    assert {f.id for f in found.findings} >= {"nccl-timeout", "interrupted"}


def test_journals_are_merged_by_time_and_numbered_anew() -> None:
    def events(path: str, start: float):  # type: ignore[no-untyped-def]
        for second in range(3):
            yield Tick(Origin("", time=start + second, order=second))
            yield MetricSample(Origin(path, order=second), "loss", float(second))

    numbers = iter(range(100))
    found = list(merged([("a", events("x", 10.0)), ("b", events("y", 9.5))], lambda: next(numbers)))
    assert [e.origin.node for e in found if isinstance(e, MetricSample)] == ["b", "a", "b", "a", "b", "a"]
    assert [e.origin.order for e in found] == list(range(12))
    assert not [e for e in found if isinstance(e, LogRecord)]
    assert json.dumps([e.origin.time for e in found if isinstance(e, Tick)]) == "[9.5, 10.0, 10.5, 11.0, 11.5, 12.0]"


def test_watching_a_job_names_the_nodes_and_leaves_our_own_words_out(tmp_path: Path) -> None:
    run = tmp_path / "r"
    node(run, "beta", 1000.5, f"[rank8]: {OOM}", finished=False)
    (run / "slurm.json").write_text("{}")
    for place in (run, run / "node-beta"):
        (place / "report.txt").write_text("Error: an illegal memory access was encountered\nCUDA error: an illegal\n")
    live = LiveSession(load(), [str(run)])
    live.step(0.0, 1000.0)
    found = live.finish()
    assert found.root_cause is not None
    assert (found.root_cause.id, found.root_cause.node) == ("cuda-oom", "beta")
    assert not [p for p in found.run.sources if p.endswith("report.txt")]
