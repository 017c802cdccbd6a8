"""`ftdoctor merge`: merge an adapter through Axolotl and prove the result."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ftdoctor.events import ExitSeen, MachineSample, Origin

if TYPE_CHECKING:
    from ftdoctor.cli.outcome import Outcome
    from ftdoctor.faces.page import Options
    from ftdoctor.findings import Diagnosis
    from ftdoctor.merging.check import Proof, Target
    from ftdoctor.session import Session

EPILOG = """\
examples:
  ftdoctor merge config.yml                                      merge through Axolotl, then prove the result
  ftdoctor merge config.yml --mend --adapter outputs/run/checkpoint-300
  ftdoctor merge --check-only outputs/run/merged                 prove a merge; the adapter is the folder above
  ftdoctor merge --check-only merged --base org/model --adapter outputs/run
  ftdoctor merge --check-only outputs/run/merged --mend          give it the tokenizer of the training

The proof: every update of the adapter is there (merged = base + scaling x B A, for LoRA, rsLoRA and DoRA), everything
else equals the base, nothing is NaN, empty, missing or left over, and the tokenizer is the one of the training.

A merge that fails leaves nothing behind but its log, ftdoctor-merge.log beside the output.
exit codes: 0 proven, 1 findings of severity error, 2 usage or unreadable input, 3 nothing could be proven;
Axolotl's own when the merge failed
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor merge",
        description="Merge an adapter into its base and prove that the merged model is what it should be.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", nargs="?", metavar="CONFIG", help="the Axolotl YAML of the run")
    add("--check-only", metavar="DIR", help="prove this merged model, whoever made it")
    add("--base", metavar="MODEL", help="the base: a folder or a name in the Hub's cache (default: the adapter's)")
    add("--adapter", metavar="DIR", help="the adapter (default: the folder above the merged one)")
    add("--output", metavar="DIR", help="the merged model's folder (default: merged in output_dir)")
    add("--replace", action="store_true", help="an --output that exists is moved aside instead of refused")
    add("--no-room-check", action="store_true", help="merge even where disk or memory look too small")
    add("--python", metavar="EXE", help="python of the training environment (default: found beside axolotl)")
    add("--mend", action="store_true", help="copy the tokenizer of the training into the merged folder")
    how = parser.add_mutually_exclusive_group().add_argument
    how("--logits", action="store_true", help="compare logits with base + adapter even where the model is large")
    how("--no-logits", action="store_true", help="compare tensors only")
    add("--threads", type=_positive, default=2, metavar="N", help="threads of the proof (default: 2)")
    add("--format", choices=("text", "json"), default="text", help="default: text")
    add("--color", choices=("auto", "always", "never"), default="auto", help="default: auto")
    add("--ascii", action="store_true", help="plain ASCII output")
    add("-v", "--verbose", action="store_true", help="every finding in full")
    return parser


def _positive(value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"not a whole number above zero: {value}")
    return int(value)


def main(argv: Sequence[str]) -> int:
    """Run the verb; see EPILOG for the exit codes."""
    options = build_parser().parse_args(argv)
    from ftdoctor.errors import UsageError
    from ftdoctor.merging.check import targets
    from ftdoctor.ruleset.load import load
    from ftdoctor.session import Session

    if bool(options.check_only) == bool(options.config):
        raise UsageError(
            "nothing to merge" if not options.config else "two tasks", "", "give CONFIG or --check-only DIR"
        )
    if options.config:
        return merge(options).code
    target = targets(options.check_only, options.base, options.adapter)
    return judge(Session(load()), target, options).code


def merge(options: argparse.Namespace) -> Outcome:
    """Check the room, merge, prove.

    Raises:
        FtdoctorError: refused before anything was started.
    """
    from ftdoctor.errors import InputError
    from ftdoctor.merging.adapter import read_adapter
    from ftdoctor.merging.check import targets
    from ftdoctor.merging.run import check_room, place, read_merge, run_axolotl, staging
    from ftdoctor.ruleset.load import load
    from ftdoctor.session import Session
    from ftdoctor.sources.files import Input
    from ftdoctor.training_python import find_training_python

    job = read_merge(options.config, options.adapter, options.base, options.output)
    if job.output.exists() and not options.replace:
        raise InputError(
            "is there already", str(job.output), "prove it with --check-only, or give --replace or --output"
        )
    session = Session(load())
    problems = read_adapter(job.adapter).problems
    if problems:
        session.state("stage", "merge", job.adapter)
        session.state("proof.adapter_problem", "; ".join(problems[:3]), job.adapter)
        return _failed(session, options, 1)
    if not options.no_room_check:
        check_room(job, available_memory(session))
    python = find_training_python(options.python)
    for note in job.notes:
        print(f"ftdoctor: {note}", file=sys.stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    with staging(job) as folder:
        log = os.path.join(os.path.relpath(job.output.absolute().parent), "ftdoctor-merge.log")
        router = session.router(Input(log, "log"))
        outcome = run_axolotl(
            python, job, folder, lambda data: session.apply(router.feed(data)), progress("merge", "shards")
        )
        session.apply(router.finish())
        if outcome.code or outcome.problems:
            session.apply([ExitSeen(Origin(log, order=session.next_order()), outcome.code, by="axolotl merge-lora")])
            for problem in outcome.problems:
                session.state("proof.damaged_file", problem, log)
            session.read_input(Input(options.config, "yaml"))
            code = outcome.code if outcome.code > 0 else 128 - outcome.code
            return _failed(session, options, code if outcome.code else 1)
        before = place(job, outcome.staged)
    if before is not None:
        print(f"ftdoctor: what was in {job.output} is now in {before}", file=sys.stderr)
    return judge(session, targets(str(job.output), job.base_folder, job.adapter), options)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def available_memory(session: Session) -> int | None:
    """Bytes of memory that may still be used, the control group's limit included; None when unknown."""
    from ftdoctor.sources.machine import MachineWatch

    for sample in MachineWatch(session.orders).poll(0.0):
        if isinstance(sample, MachineSample) and sample.memory_available is not None:
            free = sample.memory_available
            if sample.limit is not None and sample.limit_used is not None:
                free = min(free, sample.limit - sample.limit_used)
            return int(free * 1024 * 1024)
    return None


def _failed(session: Session, options: argparse.Namespace, code: int) -> Outcome:
    """The report of a merge that gave no model."""
    from ftdoctor.cli.outcome import Outcome
    from ftdoctor.faces import json_face, text
    from ftdoctor.faces.redact import redacted

    diagnosis = redacted(session.diagnose())
    if options.format == "json":
        sys.stdout.write(json_face.render(diagnosis))
    else:
        sys.stdout.write(text.render(diagnosis, _page(options)))
        print("\nNothing was merged; the output folder is as it was.")
    return Outcome(code, diagnosis)


def judge(session: Session, target: Target, options: argparse.Namespace) -> Outcome:
    """Prove, mend when asked to, print the report."""
    from ftdoctor.cli.outcome import Outcome
    from ftdoctor.faces.redact import redacted
    from ftdoctor.merging.check import facts, look_around, prove_folder
    from ftdoctor.merging.logits import compare_logits
    from ftdoctor.merging.logits import verdict as logits_verdict
    from ftdoctor.merging.readiness import embedding_rows
    from ftdoctor.merging.tokenizer import mend, read_tokenizer

    proof = prove_folder(target, progress("proof"), options.threads)
    if not options.no_logits:
        proof.logits = compare_logits(proof, options.python, available_memory(session), options.logits)
        if found := logits_verdict(proof.logits):
            session.state("logits.verdict", found, target.merged)
            for name in ("merged_base", "merged_adapter", "adapter_base"):
                session.state(f"logits.{name}", round(proof.logits[name], 4), target.merged)
    if options.mend and target.adapter:
        mended = mend(read_tokenizer(target.adapter), target.merged, embedding_rows(proof.model))
        look_around(proof)
        proof.mended = mended or ["nothing to mend: the tokenizer is as in training"]
    for name, value in facts(proof).items():
        session.state(name, value, target.merged)
    if proof.died:
        session.apply([ExitSeen(Origin("worker", order=session.next_order()), proof.code, by="the proof's worker")])
    diagnosis = redacted(session.diagnose())
    sys.stdout.write(_render(diagnosis, proof, options))
    return Outcome(diagnosis.exit_code("error"), diagnosis)


def _render(diagnosis: Diagnosis, proof: Proof, options: argparse.Namespace) -> str:
    from ftdoctor.faces import merge as face

    if options.format == "json":
        return face.as_json(diagnosis, proof)
    return face.render(diagnosis, proof, _page(options))


def _page(options: argparse.Namespace) -> Options:
    from ftdoctor.faces.page import GLYPHS, Options
    from ftdoctor.faces.terminal import use_color, use_unicode, width

    unicode = not options.ascii and use_unicode(sys.stdout, GLYPHS)
    color = use_color(sys.stdout, options.color)
    return Options(width=width(), color=color, unicode=unicode, verbose=options.verbose)


def progress(what: str, unit: str = "") -> Callable[[int, int], None]:
    """A line on standard error that is overwritten; silent where nobody looks."""
    shown = [-1]

    def show(done: int, total: int) -> None:
        percent = 100 * done // total if total else 100
        if percent != shown[0] and sys.stderr is not None and sys.stderr.isatty():
            shown[0] = percent
            end = "\n" if percent >= 100 else ""
            whole = f"{total} {unit}" if unit else f"{total / 1e9:.1f} GB"
            print(f"\r{what}: {percent:>3} % of {whole}", end=end, file=sys.stderr, flush=True)

    return show
