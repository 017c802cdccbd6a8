"""The `ftdoctor` command: dispatch to one module per verb, print errors as what was seen, where, and what to do."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ftdoctor.version import __version__

VERBS = {
    "preflight": "before the run: machine, configuration, data and memory, in seconds",
    "preprocess": "prepare the data with Axolotl and judge the samples it made",
    "init": "write a fine-tuning recipe for your model, data and GPUs",
    "pipeline": "all of it: preflight, preprocess, train, merge, ask the model",
    "launch": "run a fine-tune and watch it from its first second",
    "check": "read the logs of a run and name the first cause",
    "bundle": "pack the evidence of a run into one small file without secrets",
    "report": "the same as one HTML file, to be shown and kept",
    "watch": "beside a run that is going on: findings as they come",
    "merge": "merge an adapter and prove that the merged model is right",
    "evaluate": "judge a model by its answers, given or generated",
    "infer": "ask a model through its template and judge the answer",
    "demo": "a real run broken on purpose: diagnosed, repaired, merged, judged",
    "rules": "list, explain, lint and test the rules",
}


def build_parser() -> argparse.ArgumentParser:
    """The top-level parser; a verb's own options live in its module."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor",
        description="The doctor beside a multi-GPU LLM fine-tune: the first cause, the evidence, the fix.",
        epilog="`ftdoctor VERB --help` shows a verb's options and examples.",
    )
    parser.add_argument("--version", action="version", version=f"ftdoctor {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, summary in VERBS.items():
        verbs.add_parser(name, help=summary, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] not in VERBS:
        build_parser().parse_args(arguments)
        return 2
    from ftdoctor.errors import FtdoctorError

    module = importlib.import_module(f"ftdoctor.cli.{arguments[0]}")
    try:
        code: int = module.main(arguments[1:])
        sys.stdout.flush()
        return code
    except FtdoctorError as error:
        print_error(error)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130


def print_error(error: Exception) -> None:
    """What was seen, where, and one thing to do, on stderr."""
    where, remedy = getattr(error, "where", ""), getattr(error, "remedy", "")
    print(f"ftdoctor: {where + ': ' if where else ''}{error}", file=sys.stderr)
    for problem in getattr(error, "problems", []):
        print(f"  {problem}", file=sys.stderr)
    if remedy:
        print(f"  try: {remedy}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
