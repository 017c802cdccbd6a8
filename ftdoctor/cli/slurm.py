"""`ftdoctor launch --slurm`: hand the run to SLURM, and what its job runs on each node."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftdoctor.launch.plan import Plan
    from ftdoctor.launch.slurm import Rendezvous

CHECKPOINT = "dynamic_checkpoint: {enabled: true, check_interval: 1}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of SLURM."""
    group = parser.add_argument_group("SLURM")
    add = group.add_argument
    add("--slurm", action="store_true", help="write a batch script for this run and submit it")
    add("--print", action="store_true", dest="show", help="with --slurm: print the script and do nothing")
    add("--nodes", type=int, default=1, metavar="N", help="machines (default: 1); one ftdoctor runs on each")
    add("--gpus-per-node", type=int, metavar="M", help="GPUs of each machine, and so its ranks unless --processes says")
    add("--time", metavar="LIMIT", help="time limit, as 24:00:00 or 2-00:00:00")
    add("--partition", metavar="NAME")
    add("--account", metavar="NAME")
    add("--lead", type=int, default=300, metavar="SECONDS",
        help="how long before the time limit the run is ended, so that it can save (default: 300)")  # fmt: skip
    add("--sbatch", action="append", default=[], metavar="OPTION", help="a further option, as --sbatch=--mem=0")
    add("--slurm-node", metavar="DIR", help=argparse.SUPPRESS)


def submit(options: argparse.Namespace, plan: Plan, arguments: Sequence[str]) -> int:
    """Write the script into the shared run folder and submit it, or print it.

    Raises:
        FtdoctorError: SLURM is not there or refuses the job.
    """
    from ftdoctor.errors import FtdoctorError
    from ftdoctor.launch import keeping, slurm

    folder = plan.folder.absolute()
    job = slurm.Job(
        plan.folder.name, options.nodes, options.gpus_per_node, options.time, options.partition, options.account,
        options.lead, tuple(options.sbatch),
    )  # fmt: skip
    text = slurm.script(job, folder, plan.cwd, sys.executable, arguments)
    if plan.config is not None and not plan.dynamic_checkpoint:
        _say(f"dynamic_checkpoint is off in {plan.config}: at the time limit only what save_steps left is kept; add")
        _say(f"  {CHECKPOINT}")
    if options.show:
        print(text, end="")
        return 0
    try:
        folder.mkdir(parents=True)
        keeping.write(folder / slurm.SCRIPT, text)
        keeping.write(folder / slurm.MARK, {"ftdoctor_slurm": 1, "nodes": options.nodes})
    except OSError as error:
        raise FtdoctorError(f"cannot be written: {error.strerror}", str(folder), "give another --runs") from None
    try:
        number = slurm.submit(folder / slurm.SCRIPT)
    except FtdoctorError:  # nothing was run: the name stays free
        shutil.rmtree(folder, ignore_errors=True)
        raise
    keeping.write(folder / slurm.MARK, {"ftdoctor_slurm": 1, "nodes": options.nodes, "job": number})
    print(f"job {number}, run folder {plan.folder}")
    _say(f"ftdoctor watch {plan.folder}    while it runs; `scancel --signal=USR1 --batch {number}` ends it gently")
    _say(f"ftdoctor check {plan.folder}    all nodes as one run; report.txt is there when the job has ended")
    return 0


def here(options: argparse.Namespace) -> tuple[Path, Rendezvous]:
    """On a node: its run folder, and where it meets the others. `options` are filled in from SLURM.

    Raises:
        InputError: not inside a job of ours.
    """
    from ftdoctor.launch import slurm

    meet = slurm.rendezvous(os.environ)
    if options.processes is None and options.gpus_per_node:
        options.processes = options.gpus_per_node
    if meet.address in ("localhost", socket.gethostname()) and meet.nodes == 1:
        os.environ.setdefault("MASTER_PORT", str(meet.port))  # two jobs may share a machine
    return slurm.node_folder(Path(options.slurm_node), os.environ), meet


def _say(text: str) -> None:
    print(f"ftdoctor: {text}", file=sys.stderr)
