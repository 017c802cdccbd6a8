"""`ftdoctor demo`: see it work, on a real training run."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

EPILOG = """\
examples:
  ftdoctor demo                     a lost exponent in the learning rate, found while the run goes on
  ftdoctor demo --fault hang        a rank that stops without a word
  ftdoctor demo --list              the faults

A small Llama is made here and trained for real by Axolotl with DeepSpeed ZeRO-3, on the GPUs there are or on two CPU
ranks: broken, diagnosed, repaired, trained, merged, proven and asked. It needs a training environment with
axolotl[deepspeed]; nothing is downloaded. About three minutes on two cores.

exit codes: 0 the fault was named and the repaired model answers rightly, 1 not so, 2 usage or no training environment
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor demo",
        description="Train a small model for real, broken on purpose; see it diagnosed, repaired, merged and judged.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--fault", default="nan", metavar="NAME", help="what goes wrong (default: nan)")
    parser.add_argument("--list", action="store_true", help="the faults")
    parser.add_argument("--folder", metavar="DIR", help="where it plays (default: ftdoctor-demo/FAULT-TIME)")
    parser.add_argument("--python", metavar="EXE", help="python of the training environment (default: found)")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb; see EPILOG for the exit codes."""
    options = build_parser().parse_args(argv)
    from ftdoctor.demo.faults import FAULTS
    from ftdoctor.errors import InputError, UsageError

    faults = {fault.name: fault for fault in FAULTS}
    if options.list:
        for fault in FAULTS:
            print(f"{fault.name:<10} {fault.shows}")
        return 0
    if options.fault not in faults:
        raise UsageError(f"no fault `{options.fault}`", "--fault", f"choose of {', '.join(faults)}")
    from ftdoctor.demo.story import Story
    from ftdoctor.training_python import find_training_python

    python = find_training_python(options.python)
    if not python.has("axolotl", "deepspeed"):
        raise InputError(
            "has no axolotl with deepspeed", python.path, 'pip install "axolotl[deepspeed]" there, or give --python'
        )
    folder = Path(options.folder or Path("ftdoctor-demo", f"{options.fault}-{time.strftime('%Y%m%d-%H%M%S')}"))
    if folder.exists() and any(folder.iterdir()):
        raise UsageError("this folder is in use already", str(folder), "give another --folder")
    folder.mkdir(parents=True, exist_ok=True)
    return Story(folder.resolve(), faults[options.fault], python, _say).play()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
