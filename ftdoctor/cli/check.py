"""`ftdoctor check`: the post-mortem."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftdoctor.applyfix import Change
    from ftdoctor.findings import Diagnosis
    from ftdoctor.session import Session

EPILOG = """\
examples:
  ftdoctor check train.log                    one merged log
  ftdoctor check rank0.log rank1.log          one log per rank
  ftdoctor check outputs/run1                 an output folder: logs, trainer_state.json, config, adapter
  ftdoctor check train.log --config qlora.yml --apply-fix qlora-fixed.yml
  kubectl logs job/train | ftdoctor check -

exit codes: 0 nothing at or above --fail-on, 1 findings, 2 usage or unreadable input, 3 nothing could be judged
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor check",
        description="Read the logs of a run, name what went wrong first, show the proof and the change that fixes it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "paths",
        nargs="*",
        metavar="PATH",
        help="log files, output and run folders, evidence.tar.zst, trainer_state.json, .gz, .zst, or - for stdin",
    )
    add("--config", metavar="YAML", help="the Axolotl YAML of the run")
    add("--format", choices=("text", "json", "sarif", "markdown", "html"), default="text", help="default: text")
    add("--fail-on", choices=("error", "warning", "info", "never"), default="error",
        help="lowest severity that makes exit code 1 (default: error)")  # fmt: skip
    add("--rules", action="append", default=[], metavar="DIR", help="a folder of further rules; may be given again")
    add(
        "--profile",
        metavar="NAME",
        help="threshold overrides: lora, qlora, full, dpo, or a YAML file (default: from the run)",
    )
    add("--apply-fix", metavar="OUT.yml", help="write a copy of the YAML with the root cause's change, comments kept")
    add("--no-fix", action="store_true", help="leave the fixes out of the report")
    add(
        "--redact",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take tokens and passwords out of the report",
    )
    add(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="default: auto (NO_COLOR and FORCE_COLOR count)",
    )
    add("--ascii", action="store_true", help="plain ASCII output")
    add("-v", "--verbose", action="store_true", help="every finding in full, and every rule that could not be judged")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb; see EPILOG for the exit codes."""
    options = build_parser().parse_args(argv)
    if sys.stdout is None:  # closed by the caller: judge for the exit code alone
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    from ftdoctor.cli.main import print_error
    from ftdoctor.faces.redact import redacted

    validate(options)
    session = read(options)
    diagnosis = session.diagnose()
    shown = redacted(diagnosis) if options.redact else diagnosis
    _write(render(shown, options, session))
    for error in session.unreadable:
        print_error(error)
    if options.apply_fix:
        _apply(session, diagnosis, options)
    code = exit_code(diagnosis, options.fail_on)
    return 2 if session.unreadable and code != 1 else code


def validate(options: argparse.Namespace) -> None:
    """What can be refused before anything is read."""
    from ftdoctor.errors import InputError, UsageError

    if not options.paths and not options.config:
        raise UsageError(
            "nothing to read", "", "give a log file, several, the run's output folder, or - for standard input"
        )
    if "-" in options.paths and sys.stdin is None:
        raise InputError("standard input is closed", "-", "pipe the log in, or give its path")
    if options.config and not os.path.isfile(options.config):
        seen = "is a folder" if os.path.isdir(options.config) else "no such file"
        raise InputError(seen, options.config, "give the Axolotl YAML of the run with --config")
    if options.apply_fix:
        from ftdoctor.applyfix import refuse_existing

        refuse_existing(Path(options.apply_fix))


def read(options: argparse.Namespace) -> Session:
    """All that was given, in one session."""
    from ftdoctor.ruleset.load import load
    from ftdoctor.session import Session
    from ftdoctor.sources.files import Input

    rules = load([Path(p) for p in options.rules])
    task = None
    if options.profile:
        from ftdoctor.ruleset.profile import apply_profile, load_profile

        profile = load_profile(options.profile)
        rules, task = apply_profile(rules, profile), profile.task
    session = Session(rules)
    if task is not None:
        session.state("task", task, options.profile)
    if "-" in options.paths and sys.stdin.isatty():
        print("ftdoctor: reading standard input; end it with Ctrl-D", file=sys.stderr)
    session.read(_unpacked(options.paths, session))
    if options.config:
        session.read_input(Input(options.config, "yaml"))
    return session


def _unpacked(paths: Sequence[str], session: Session) -> list[str]:
    """The paths, with a folder in place of each evidence archive (`ftdoctor bundle`)."""
    from ftdoctor.sources.evidence import is_archive, unpack

    found: list[str] = []
    for path in paths:
        if path == "-" or not os.path.isfile(path) or not is_archive(path):
            found.append(path)
            continue
        import atexit
        import shutil
        import tempfile

        folder = tempfile.mkdtemp(prefix="ftdoctor-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        unpacked = unpack(Path(path), Path(folder))
        for said in unpacked.left_out:
            session.skip(path, said)
        found.append(folder)
    return found


def render(shown: Diagnosis, options: argparse.Namespace, session: Session) -> str:
    """The report in the format asked for."""
    fixes = not options.no_fix
    if options.format == "json":
        from ftdoctor.faces import json_face

        return json_face.render(shown, fixes)
    if options.format == "sarif":
        from ftdoctor.faces import sarif

        return sarif.render(shown, fixes)
    if options.format == "markdown":
        from ftdoctor.faces import markdown

        return markdown.render(shown, fixes)
    if options.format == "html":
        from ftdoctor.faces import html_face
        from ftdoctor.faces.curves import Curves

        name = (options.paths or [options.config])[0]
        name = "standard input" if name == "-" else name
        return html_face.render(shown, Curves(session.rules).of(session.run), name, fixes)
    from ftdoctor.faces import page, terminal, text

    return text.render(
        shown,
        page.Options(
            width=terminal.width(),
            color=terminal.use_color(sys.stdout, options.color),
            unicode=not options.ascii and terminal.use_unicode(sys.stdout, page.GLYPHS),
            verbose=options.verbose,
            fixes=fixes,
        ),
    )


def _write(report: str) -> None:
    """Print the report. Letters that the stream's encoding lacks are escaped; a full disk is an error."""
    from ftdoctor.errors import FtdoctorError

    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(report.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still buffered would fail again at exit
        raise FtdoctorError(
            f"cannot be written: {error.strerror}", "standard output", "free some space or write elsewhere"
        ) from None


def _apply(session: Session, diagnosis: Diagnosis, options: argparse.Namespace) -> None:
    from ftdoctor.applyfix import apply_fix

    configs = session.run.configs
    written = configs.get("axolotl")
    deepspeed = configs.get("deepspeed")
    change = apply_fix(
        diagnosis,
        Path(written.origin.path) if written else None,
        Path(deepspeed.origin.path) if deepspeed else None,
        Path(options.apply_fix),
    )
    stream = sys.stdout if options.format == "text" else sys.stderr
    gap = "\n" if stream is sys.stdout else ""
    print(gap + _said(change, options), file=stream)


def _said(change: Change, options: argparse.Namespace) -> str:
    from ftdoctor.faces.redact import redact
    from ftdoctor.faces.terminal import printable, to_ascii

    said = printable(change.report())
    said = redact(said) if options.redact else said
    return to_ascii(said) if options.ascii else said


def exit_code(diagnosis: Diagnosis, fail_on: str) -> int:
    """0, 1 or 3 as the contract says."""
    return diagnosis.exit_code(fail_on)
