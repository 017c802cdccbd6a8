"""`ftdoctor launch --slurm` on a real SLURM: controller and two node daemons on this machine, from the distribution.

Skipped where it is not installed (Debian: slurm-wlm, munge) or this is not root. Adds no rig run: the trainer is a
stand-in of some lines; about two minutes, most of them waiting for the time limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ftdoctor.ruleset.load import load
from ftdoctor.session import check

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("sbatch", "srun", "scontrol", "slurmctld", "slurmd", "munged")
PATIENCE = 240.0  # a time limit of three minutes is among it
CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
AuthType=auth/munge
AuthInfo=socket={place}/munge.sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool-%n
SlurmctldPidFile={place}/ctld.pid
SlurmdPidFile={place}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerType=sched/builtin
SelectType=select/linear
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
KillWait=10
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={one} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={two} CPUs=1
PartitionName=all Nodes=n1,n2 Default=YES State=UP
"""


def free_ports(number: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which sbatch finds the cluster."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if any(shutil.which(name, path=path) is None for name in NEEDED):
        pytest.skip("no SLURM here (apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("the daemons of SLURM want root")
    place = Path(tempfile.mkdtemp(prefix="ftslurm-", dir="/tmp"))  # a socket's path must be short
    place.chmod(0o755)
    for name in ("state", "spool-n1", "spool-n2"):
        (place / name).mkdir()
    (place / "key").write_bytes(os.urandom(1024))
    (place / "key").chmod(0o400)
    ctld, one, two = free_ports(3)
    conf = CONF.format(host=socket.gethostname().partition(".")[0], place=place, ctld=ctld, one=one, two=two)
    (place / "slurm.conf").write_text(conf)
    env = {**os.environ, "PATH": path, "SLURM_CONF": str(place / "slurm.conf"), "PYTHONPATH": str(ROOT)}
    munge = [f"--{name}={place}/{file}" for name, file in
             (("key-file", "key"), ("socket", "munge.sock"), ("pid-file", "munge.pid"), ("seed-file", "seed"),
              ("log-file", "munge.log"))]  # fmt: skip
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with (place / f"{command[0]}.out").open("ab") as out:
            started.append(subprocess.Popen(command, env=env, stdout=out, stderr=out, stdin=subprocess.DEVNULL))

    def sees(*wanted: str) -> bool:
        done = subprocess.run(["sinfo", "--noheader", "--format=%D %T"], env=env, capture_output=True, text=True)
        return done.stdout.split() == [*wanted]

    try:
        start("munged", "--foreground", "--force", *munge)
        until((place / "munge.sock").exists, "munged", 30)
        start("slurmctld", "-D", "-c")
        start("slurmd", "-D", "-N", "n1")
        start("slurmd", "-D", "-N", "n2")
        end = time.monotonic() + 60
        while not sees("2", "idle"):
            if time.monotonic() > end or started[0].poll() is not None:
                told = "".join(p.read_text()[-2000:] for p in sorted(place.glob("*.out")))
                pytest.skip(f"SLURM does not start here: {told}")  # the machine's matter, not ours
            time.sleep(0.5)
        yield env
    finally:
        for process in reversed(started):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(place, ignore_errors=True)


def launch(env: dict[str, str], folder: Path, *arguments: str) -> Path:
    """Submit; the run folder."""
    command = [sys.executable, "-m", "ftdoctor", "launch", "--slurm", "--no-gpu", "--name", "r", *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("job ")
    return folder / "ftdoctor-runs/r"


def ended(env: dict[str, str], run: Path) -> str:
    """Wait for the end of the job; its state and exit code as SLURM tells them."""
    number = json.loads((run / "slurm.json").read_text())["job"]

    last = [""]

    def over() -> bool:
        done = subprocess.run(["scontrol", "show", "job", number], env=env, capture_output=True, text=True)
        last[0] = done.stdout
        state = done.stdout.partition("JobState=")[2].split(" ")[0]
        return state not in ("", "PENDING", "CONFIGURING", "RUNNING", "COMPLETING")

    until(over, f"job {number}")
    return last[0]


@pytest.mark.timeout(600)
def test_two_nodes_are_one_run(slurm: dict[str, str], tmp_path: Path) -> None:
    recorded = ROOT / "fixtures/failing/h100_oom/train.log"
    (tmp_path / "train.py").write_text(
        "import os, sys, time\n"
        "node = os.environ['SLURM_NODEID']\n"
        "print('meets at', os.environ['FTDOCTOR_MASTER_ADDR'], os.environ['FTDOCTOR_MASTER_PORT'], flush=True)\n"
        "time.sleep(2)\n"
        f"if node == '1': sys.stderr.write(open({str(recorded)!r}).read()); sys.exit(1)\n"
        "print(\"{'loss': '1.5', 'grad_norm': '0.4', 'learning_rate': '0.0002', 'epoch': '0.1'}\", flush=True)\n"
    )
    run = launch(slurm, tmp_path, "--nodes", "2", "--", sys.executable, "train.py")
    state = ended(slurm, run)
    assert "ExitCode=1:0" in state, state
    assert sorted(p.name for p in run.glob("node-*/")) == ["node-n1", "node-n2"]
    for node in ("n1", "n2"):
        assert "meets at n1" in (run / f"node-{node}/train.log").read_text()
    found = check([str(run)], load())
    assert found.root_cause is not None
    assert (found.root_cause.id, found.root_cause.node) == ("cuda-oom", "n2")
    assert "cuda-oom" in (run / "report.txt").read_text()


TRAINER = '''\
"""Stands in for axolotl.cli.train with dynamic_checkpoint: saves when asked to, slowly, and dies of SIGTERM and SIGUSR1."""
import json, pathlib, sys, time, yaml
cfg = yaml.safe_load(open(sys.argv[1]))
out = pathlib.Path(cfg["output_dir"])
out.mkdir(exist_ok=True)
asked = out / "axolotl_checkpoint.save"
for step in range(1, 2000):
    print({"loss": "1.5", "grad_norm": "0.4", "learning_rate": "0.0002", "epoch": "0.1"}, flush=True)
    if asked.exists():
        asked.unlink()
        place = out / f"checkpoint-{step}"
        place.mkdir()
        (place / "adapter_model.safetensors").write_bytes(b"x")
        time.sleep(3)
        (place / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    time.sleep(0.2)
'''


@pytest.mark.timeout(600)
def test_at_the_time_limit_the_adapter_is_saved(slurm: dict[str, str], tmp_path: Path) -> None:
    package = tmp_path / "site/axolotl/cli"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "train.py").write_text(TRAINER)
    (tmp_path / "c.yml").write_text(
        "base_model: org/model\noutput_dir: ./out\nadapter: lora\ndynamic_checkpoint: {enabled: true, check_interval: 1}\n"
    )
    env = {**slurm, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path / "site")])}
    # SLURM may send the signal up to a minute early: of the three minutes the run gets ten seconds or more
    run = launch(env, tmp_path, "c.yml", "--launcher", "python", "--python", sys.executable, "--time", "3", "--lead", "110",
                 "--no-heartbeat")  # fmt: skip
    state = ended(env, run)
    assert "JobState=FAILED" in state, state  # cut off, but by us and in time
    assert "ExitCode=143:0" in state, state
    saved = list((tmp_path / "out").glob("checkpoint-*/trainer_state.json"))
    assert len(saved) == 1
    assert not (tmp_path / "out/axolotl_checkpoint.save").exists()
    told = "".join(place.read_text() for place in run.glob("node-*.said"))  # %N is the machine here, not n1
    assert "asked for a checkpoint" in told
    assert "SIGTERM to the launcher" in told
    assert json.loads((run / "node-n1/exit.json").read_text())["signalled"] is True
    assert "its last checkpoint is" in (run / "node-n1/report.txt").read_text()
    assert "interrupted" in (run / "report.txt").read_text()
