"""`ftdoctor launch`: the training run, watched from its first second."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftdoctor.launch.plan import Plan
    from ftdoctor.launch.runner import Launch
    from ftdoctor.launch.slurm import Rendezvous

EPILOG = """\
examples:
  ftdoctor launch config.yml                       axolotl train, as many processes as GPUs are visible
  ftdoctor launch config.yml --gpus 1,2,3,4 --launcher torchrun
  ftdoctor launch config.yml -- --max_steps=50     what follows -- goes to axolotl
  ftdoctor launch -- python train.py               any other trainer
  ftdoctor launch config.yml --dry-run             what would be run, as a shell script
  ftdoctor launch config.yml --slurm --nodes 2 --gpus-per-node 8 --time 24:00:00      as a job of SLURM

On a terminal the screen of `ftdoctor watch` shows the run; q asks what becomes of it. Anywhere else, and with
--no-tui, its output passes through. It is kept in the run folder in both cases, for each rank as well.

The run goes on when ftdoctor ends in any way, or the terminal closes. Ctrl-C and SIGTERM end the run gently (a
checkpoint where Axolotl's dynamic_checkpoint is on, then SIGTERM); a second Ctrl-C at once.

exit codes: the trainer's own when it is not 0; else those of `ftdoctor check`
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    from ftdoctor.cli.slurm import add_options

    parser = argparse.ArgumentParser(
        prog="ftdoctor launch",
        usage="ftdoctor launch [options] CONFIG [-- ARGUMENTS]\n       ftdoctor launch [options] -- COMMAND ...",
        description="Run a fine-tune and watch it: evidence is kept from the first second on.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="an Axolotl YAML")
    parser.add_argument("--gpus", metavar="LIST", help="GPUs to use, as in CUDA_VISIBLE_DEVICES")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="ranks on this machine (default: one per visible GPU)"
    )
    parser.add_argument("--launcher", help="accelerate, torchrun or python (default: accelerate; under SLURM torchrun)")
    parser.add_argument("--python", metavar="EXE", help="python of the training environment (default: found)")
    parser.add_argument("--name", help="name of the run (default: the configuration's, with the time)")
    parser.add_argument("--runs", default="ftdoctor-runs", metavar="DIR", help="where run folders go")
    parser.add_argument(
        "--heartbeat",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="a plugin beside the trainer's own writes each rank's step, phase, exact loss and log (default: on)",
    )
    parser.add_argument("--no-env", action="append", default=[], metavar="NAME", help="do not set this variable")
    parser.add_argument(
        "--on-finding",
        action="append",
        default=[],
        metavar="ID=ACTION",
        help="stop, checkpoint, notify or ignore",
    )
    parser.add_argument(
        "--retry-with-fix",
        action="store_true",
        help="when the run fails of a cause with a safe fix (out of memory: micro batch halved, accumulation doubled), "
        "restart it once with that change, from its last checkpoint",
    )
    parser.add_argument("--no-tui", action="store_true", help="no screen: the run's output as it comes")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run, and run nothing")
    parser.add_argument("--no-gpu", action="store_true", help="do not look at the GPUs")
    parser.add_argument("--fail-on", choices=("error", "warning", "info", "never"), default="error")
    add_options(parser)
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    arguments = list(argv)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options, rest = build_parser().parse_args(arguments[:cut]), arguments[cut + 1 :]
    if options.slurm_node:
        return _on_node(options, rest)
    plan = make_plan(options, rest)
    if options.slurm:
        from ftdoctor.cli.slurm import submit

        return submit(options, plan, arguments)
    from ftdoctor.launch.policy import read_policy
    from ftdoctor.ruleset.load import load

    rules = load()
    policy = read_policy(options.on_finding, rules.by_id())
    if options.dry_run:
        print(plan.shown())
        return 0
    from ftdoctor.launch.runner import Launch, Settings

    screen = not options.no_tui and sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()
    settings = Settings(gpus=not options.no_gpu, fail_on=options.fail_on, screen=screen)
    first = Launch(plan, rules, policy, settings)
    return attempts(first, options, rest)[0]


def _on_node(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """One node of a job of SLURM. The exit code is the trainer's: the run is judged when all nodes have ended."""
    from ftdoctor.cli.slurm import here
    from ftdoctor.launch.policy import read_policy
    from ftdoctor.launch.runner import Launch, Settings
    from ftdoctor.launch.slurm import STOP
    from ftdoctor.launch.stopping import GRACE_SECONDS
    from ftdoctor.ruleset.load import load

    folder, meet = here(options)
    plan = make_plan(options, rest, folder=folder, meet=meet)
    rules = load()
    settings = Settings(
        gpus=not options.no_gpu, quiet=True, stop_file=folder.parent / STOP,
        patience=max(1.0, options.lead - 2 * GRACE_SECONDS),
    )  # fmt: skip
    _, last = attempts(Launch(plan, rules, read_policy(options.on_finding, rules.by_id()), settings), options, rest)
    if last.ended is None:
        return 1
    code = last.ended.code if last.ended.code >= 0 else 128 - last.ended.code
    return code or int(last.ended.signalled)  # a job that was cut off has not done its work


def attempts(first: Launch, options: argparse.Namespace, rest: Sequence[str]) -> tuple[int, Launch]:
    """Run `first`, and a second attempt where there is one; the exit code and the last attempt."""
    code = first.run()
    second = _second(first, options, rest) if options.retry_with_fix else None
    return (second.run(), second) if second is not None else (code, first)


def _second(first: Launch, options: argparse.Namespace, rest: Sequence[str]) -> Launch | None:
    """The second attempt, ready to be run; None where there is none, which is then said."""
    from ftdoctor import retry
    from ftdoctor.errors import FtdoctorError
    from ftdoctor.launch.runner import Launch
    from ftdoctor.launch.stopping import end_all

    ended = first.ended
    if ended is None or not ended.failed:
        return None
    end_all(ended.child, first.say)  # ranks left over would hold the GPUs' memory
    try:
        found = retry.prepare(first.plan, ended.diagnosis, ended.deepspeed, ended.child.started, rest)
        folder = retry.folder_of(first.plan.folder)
        lines = found.told(first.plan.folder, Path(options.config))
        retry.note_in_first(first.plan, lines, folder)
        plan = make_plan(options, found.arguments, found.config, folder)
    except retry.NoRetry as why:
        first.say(f"no second attempt: {why}")
        return None
    except FtdoctorError as error:
        first.say(f"no second attempt: {error.where}: {error}")
        return None
    if first.signals:
        return None
    fresh = [type(witness)() for witness in first.witnesses]
    second = Launch(plan, first.rules, first.policy, first.settings, fresh, heading=lines)
    second.signals = first.signals  # a Ctrl-C between the two attempts ends the second one
    return second


def make_plan(
    options: argparse.Namespace,
    rest: Sequence[str],
    config: Path | None = None,
    folder: Path | None = None,
    meet: Rendezvous | None = None,
) -> Plan:
    """What the options ask for; `config` and `folder` take the place of those that they name. `meet`: see `for_config`.

    Raises:
        FtdoctorError: nothing to launch, or the run folder exists.
    """
    from ftdoctor.errors import UsageError
    from ftdoctor.launch.plan import for_command, for_config
    from ftdoctor.training_python import find_training_python

    run_id = uuid.uuid4().hex
    stem = options.name or (Path(options.config).stem if options.config else Path(rest[0]).stem if rest else "run")
    folder = folder or Path(options.runs) / (options.name or f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    if folder.exists():
        raise UsageError("this run folder exists already", str(folder), "give another --name")
    if options.config is None:
        if not rest:
            raise UsageError("launch what?", "ftdoctor launch", "give an Axolotl YAML, or `-- COMMAND ...`")
        if options.retry_with_fix:
            raise UsageError(
                "there is no YAML to change", "--retry-with-fix", "give an Axolotl YAML instead of a command"
            )
        return for_command(rest, folder=folder, run_id=run_id, gpus=options.gpus, without=options.no_env)
    python = find_training_python(options.python)
    return for_config(
        config or Path(options.config),
        rest,
        python,
        launcher=options.launcher or ("accelerate" if meet is None else "torchrun"),
        processes=options.processes,
        gpus=options.gpus,
        folder=folder,
        run_id=run_id,
        torch=_torch_version(python.path),
        without=options.no_env,
        heartbeat=options.heartbeat,
        meet=meet,
    )


def _torch_version(python: str) -> str | None:
    """From the package's metadata; torch is not imported."""
    code = "import importlib.metadata as m; print(m.version('torch'))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
