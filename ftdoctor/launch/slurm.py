"""The batch script of `ftdoctor launch --slurm`: one ftdoctor on each node, one run folder for all of them.

    RUN/                     on a file system that all nodes see
      job.sbatch             what was submitted
      slurm.json             marks the folder: `ftdoctor check RUN` reads all nodes as one run
      slurm-JOB.log          what SLURM itself says (time limit, node failures)
      node-NAME/             the run folder of each node
      node-NAME.said         what its ftdoctor printed
      stop                   asks every ftdoctor to end the run gently
      report.txt             the joined diagnosis, when the job has ended

SLURM's own --signal reaches every process of a step, so it would kill ranks and launchers at once. It is sent to the
batch shell instead (B:), which leaves the file `stop`; each ftdoctor sees it, asks for a checkpoint and ends the ranks.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ftdoctor.errors import FtdoctorError, InputError, UsageError

MARK = "slurm.json"
STOP = "stop"
SCRIPT = "job.sbatch"
NODE = "node-"
ADDRESS, PORT = "FTDOCTOR_MASTER_ADDR", "FTDOCTOR_MASTER_PORT"
LEAD = 300  # seconds before the time limit at which the run is ended
_TIME = re.compile(r"\d+(?:-\d+(?::\d+){0,2}|(?::\d+){0,2})")


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked of SLURM. `gpus`: of each node; `lead`: seconds before the time limit; `more`: further options."""

    name: str
    nodes: int = 1
    gpus: int | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    lead: int = LEAD
    more: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.nodes < 1:
            raise UsageError("a job has at least one node", "--nodes", "give a number above zero")
        if self.time is not None and not _TIME.fullmatch(self.time):
            raise UsageError(f"`{self.time}` is no time of SLURM", "--time", "for example 24:00:00 or 2-12:00:00")


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """Where the launchers of the nodes meet. `node`: this one's number."""

    nodes: int
    node: int
    address: str
    port: int


def script(job: Job, folder: Path, cwd: Path, python: str, arguments: Sequence[str]) -> str:
    """The batch script. `arguments`: those of `ftdoctor launch` as they were typed; `python` runs ftdoctor."""
    asked = {
        "job-name": job.name, "nodes": job.nodes, "ntasks-per-node": 1, "gpus-per-node": job.gpus or None,
        "time": job.time, "partition": job.partition, "account": job.account, "signal": f"B:USR1@{job.lead}",
        "chdir": str(cwd), "output": f"{folder}/slurm-%j.log", "open-mode": "append",
    }  # fmt: skip
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH --{name}={_quoted(str(value))}" for name, value in asked.items() if value is not None]
    lines += [f"#SBATCH {option}" for option in job.more]
    cut = list(arguments).index("--") if "--" in arguments else len(arguments)
    node = ["--slurm-node", str(folder)]
    mine = shlex.join([python, "-m", "ftdoctor", "launch", *arguments[:cut], *node, *arguments[cut:]])
    run = shlex.quote(str(folder))
    lines += [
        "# one task on each node: an ftdoctor, which starts the ranks of its node",
        f"RUN={run}",
        'rm -f "$RUN/stop"',
        "# before the time limit (and on scancel --batch): every ftdoctor asks for a checkpoint, then ends its ranks",
        "trap 'touch \"$RUN/stop\"' USR1 TERM",
        f'export {ADDRESS}="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"',
        f"export {PORT}=$((20000 + SLURM_JOB_ID % 20000))",
        f'srun --kill-on-bad-exit=0 --output="$RUN/{NODE}%N.said" \\',
        f"  {mine} &",
        "step=$!",
        'wait "$step"; code=$?',
        "# a trapped signal ends `wait` early",
        'while kill -0 "$step" 2>/dev/null; do wait "$step"; code=$?; done',
        f'{shlex.join([python, "-m", "ftdoctor", "check"])} "$RUN" > "$RUN/report.txt.part" 2>&1; judged=$?',
        'mv -f "$RUN/report.txt.part" "$RUN/report.txt"',
        'if [ "$code" -eq 0 ] && [ "$judged" -eq 1 ]; then code=1; fi',
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    """A value in an #SBATCH line: blanks need quotes there."""
    if any(char in value for char in "\n\r\"'"):
        raise UsageError(f"SLURM takes no quotes and line ends: {value!r}", "--slurm", "give another name or folder")
    return f'"{value}"' if re.search(r"[\s#]", value) else value


def submit(place: Path) -> str:
    """Hand the script to SLURM; the number of the job.

    Raises:
        InputError: there is no sbatch. FtdoctorError: SLURM refused it; its own words are given.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise InputError("there is no SLURM on this machine", "sbatch", "call it on a login node, or add --print")
    try:
        done = subprocess.run([program, "--parsable", str(place)], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise FtdoctorError(f"cannot be run: {str(error)[:200]}", program, "try it by hand") from None
    if done.returncode:
        told = " ".join(done.stderr.split())[:300] or f"exit code {done.returncode}"
        raise FtdoctorError(told, f"sbatch {place}", "ask for what the partition has (sinfo), see --print")
    return done.stdout.strip().partition(";")[0]


def node_folder(run: Path, environ: Mapping[str, str]) -> Path:
    """This node's own run folder; a job that was requeued gets a new one."""
    name = environ.get("SLURMD_NODENAME") or os.uname().nodename.partition(".")[0]
    again = environ.get("SLURM_RESTART_COUNT", "0")
    return run / f"{NODE}{name}{'' if again in ('', '0') else f'-again-{again}'}"


def rendezvous(environ: Mapping[str, str]) -> Rendezvous:
    """From what SLURM and the batch script set.

    Raises:
        InputError: not inside such a job.
    """
    try:
        nodes = int(environ.get("SLURM_STEP_NUM_NODES") or environ["SLURM_JOB_NUM_NODES"])
        return Rendezvous(nodes, int(environ["SLURM_NODEID"]), environ[ADDRESS], int(environ[PORT]))
    except (KeyError, ValueError) as error:
        raise InputError(
            f"not a step of SLURM: {error}", "--slurm-node", "let `ftdoctor launch --slurm` start it"
        ) from None
