"""`ftdoctor pipeline`: from the configuration to a model that was asked, each stage a gate for the next."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftdoctor.cli.stages import Pipeline

EPILOG = """\
stages: preflight, preprocess, train, vram, merge, evaluate

examples:
  ftdoctor pipeline config.yml                     all stages; again: those whose inputs are unchanged are left out
  ftdoctor pipeline config.yml --from merge        this stage and the later ones, done before or not
  ftdoctor pipeline config.yml --skip evaluate --launcher torchrun --processes 4
  ftdoctor pipeline config.yml --dry-run           what would be done
  ftdoctor pipeline config.yml -- --max_steps=50   what follows -- goes to axolotl train

Options of `ftdoctor launch` hold for the training. Everything is kept in ftdoctor-runs/CONFIG-pipeline: the state, the
run folders of the training, what each stage printed, report.txt and report.html. A training that was cut off goes on
from its last checkpoint. The tokenizer of the training is put beside the merged weights.

exit codes: 0 every stage went well, 1 a stage found an error or failed, 2 usage or unreadable input,
3 a stage could not be judged
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb; those of `launch` are among them."""
    from ftdoctor.cli.launch import build_parser as launch_parser
    from ftdoctor.pipeline.state import STAGES

    parser = argparse.ArgumentParser(
        prog="ftdoctor pipeline",
        usage="ftdoctor pipeline [options] CONFIG [-- ARGUMENTS]",
        description="Preflight, preprocess, train, check the VRAM, merge and ask the model; stop at the first failure.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[launch_parser()],
        conflict_handler="resolve",
    )
    add = parser.add_argument
    add("-h", "--help", action="help", help="show this help message and exit")
    add("--from", dest="start", choices=STAGES, metavar="STAGE", help="do this stage and the later ones anew")
    add(
        "--skip",
        action="append",
        default=[],
        choices=STAGES,
        metavar="STAGE",
        help="leave a stage out; may be repeated",
    )
    add("--name", help="name of the pipeline (default: the configuration's, with -pipeline)")
    add("--dry-run", action="store_true", help="print which stages would be done, and do nothing")
    add("--assume", metavar="GPUS", help="preflight: judge for this machine, for example 8xA100-80GB")
    add("--offline", action="store_true", help="preflight: do not ask the Hugging Face Hub")
    add("--no-validate", action="store_true", help="preflight: leave Axolotl's own validation out")
    add("--prompts", metavar="FILE", help="evaluate: your own prompts, JSON lines (default: the built-in suite)")
    add("--held-out", type=int, metavar="N", help="evaluate: ask N rows of the validation split too")
    add("--max-new-tokens", type=int, default=256, metavar="N", help="evaluate: limit of an answer (default: 256)")
    add("--no-logits", action="store_true", help="merge: compare tensors only")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb; see EPILOG for the exit codes."""
    arguments = list(argv)
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options, rest = build_parser().parse_args(arguments[:cut]), arguments[cut + 1 :]
    from ftdoctor.cli.stages import Pipeline
    from ftdoctor.errors import InputError, UsageError

    if options.config is None:
        raise UsageError("no configuration", "ftdoctor pipeline", "give an Axolotl YAML")
    if options.slurm or options.slurm_node:
        raise UsageError(
            "a pipeline runs where it is called", "--slurm", "give `ftdoctor launch --slurm` the training alone"
        )
    if options.prompts and not Path(options.prompts).is_file():
        raise InputError("no such file", options.prompts, "give a file of JSON lines with --prompts")
    pipeline = Pipeline(options, rest)
    if options.dry_run:
        for stage, told in pipeline.plan():
            print(f"{stage:<10}  {told}")
        return 0
    code = pipeline.run()
    sys.stdout.write(_report(pipeline))
    return code


def _report(pipeline: Pipeline) -> str:
    """Print and keep the one report of all stages."""
    from ftdoctor.cli import report as html
    from ftdoctor.errors import FtdoctorError
    from ftdoctor.faces import page, terminal
    from ftdoctor.launch import keeping
    from ftdoctor.pipeline import report

    folder, title = pipeline.state.folder, f"ftdoctor pipeline {pipeline.config}"
    lines, (diagnosis, curves) = report.table(pipeline.state, pipeline.ran), pipeline.diagnosis()
    try:
        keeping.write(folder / "report.txt", report.as_text(title, lines, diagnosis, page.Options()))
        html.write(folder / "report.html", report.as_html(str(pipeline.config), lines, diagnosis, curves))
    except (OSError, FtdoctorError) as error:
        print(f"ftdoctor: the report could not be kept: {error}", file=sys.stderr)
    shown = page.Options(
        width=terminal.width(),
        color=terminal.use_color(sys.stdout, "auto"),
        unicode=terminal.use_unicode(sys.stdout, page.GLYPHS),
    )
    return report.as_text(title, lines, diagnosis, shown) + f"\n  report   {folder / 'report.html'}\n"
