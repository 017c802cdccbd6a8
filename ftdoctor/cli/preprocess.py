"""`ftdoctor preprocess`: prepare the data with Axolotl, and judge the samples it made."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftdoctor.cli.outcome import Outcome
    from ftdoctor.session import Session

EPILOG = """\
examples:
  ftdoctor preprocess config.yml                   run `axolotl preprocess`, then judge rows and samples
  ftdoctor preprocess config.yml --no-run          judge what was prepared last
  ftdoctor preprocess config.yml --prepared DIR    judge this prepared data set
  ftdoctor preprocess config.yml --no-run --tokenizer outputs/run1/merged
                                                   is what was trained what this folder's template will ask?

Axolotl runs with a scratch output_dir: `axolotl preprocess` would overwrite the debug.log of a training run.
exit codes: 0 nothing at or above --fail-on, 1 findings, 2 usage or unreadable input
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor preprocess",
        description="Prepare the data with Axolotl, and judge raw rows and prepared samples.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", metavar="CONFIG.yml", help="the Axolotl YAML")
    add("--no-run", action="store_true", help="judge what was prepared last")
    add("--prepared", metavar="DIR", help="judge this prepared data set; nothing is run")
    add(
        "--tokenizer",
        metavar="DIR",
        help="the tokenizer that inference will use (default: the one that Axolotl will save)",
    )
    add("--python", metavar="PATH", help="python of the training environment (default: found by itself)")
    add("--format", choices=("text", "json", "sarif", "markdown"), default="text", help="default: text")
    add("--fail-on", choices=("error", "warning", "info", "never"), default="error",
        help="lowest severity that makes exit code 1 (default: error)")  # fmt: skip
    add("--rules", action="append", default=[], metavar="DIR", help="a folder of further rules; may be given again")
    add("--redact", action=argparse.BooleanOptionalAction, default=True, help="take tokens out of the report")
    add("--color", choices=("auto", "always", "never"), default="auto", help="default: auto")
    add("--ascii", action="store_true", help="plain ASCII output")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb; see EPILOG for the exit codes."""
    return run(build_parser().parse_args(argv)).code


def run(options: argparse.Namespace) -> Outcome:
    """Prepare, judge and print."""
    from ftdoctor.cli.check import _write, render
    from ftdoctor.cli.outcome import Outcome
    from ftdoctor.faces.redact import redacted
    from ftdoctor.findings import SEVERITIES
    from ftdoctor.preflight.data import check
    from ftdoctor.ruleset.load import load
    from ftdoctor.session import Session

    config = Path(options.config)
    session = Session(load([Path(p) for p in options.rules]))
    data = _config(session, config)
    raw = check.judge(data, config.parent, None)
    _state(session, raw.facts())
    code = 0 if options.no_run or options.prepared else _run(session, config, options.python)
    lines = [("", line) for line in (*raw.lines, *raw.absent)]
    if code == 0:
        raw_rows = None if raw.absent or raw.cut or data.get("dataset_exact_deduplication") else raw.trained
        lines += _samples(session, config, data, options, raw_rows)
    diagnosis = session.diagnose()
    shown = redacted(diagnosis) if options.redact else diagnosis
    options.no_fix = options.verbose = False
    report = render(shown, options, session)
    if options.format == "text":
        report = _told(lines, options.ascii) + "\n" + report
    _write(report)
    limit = -1 if options.fail_on == "never" else SEVERITIES.index(options.fail_on)
    failed = code != 0 or any(SEVERITIES.index(f.severity) <= limit for f in diagnosis.findings)
    return Outcome(int(failed), diagnosis)


def _config(session: Session, config: Path) -> dict[str, Any]:
    from ftdoctor.errors import InputError
    from ftdoctor.sources.files import Input

    remedy = "give the Axolotl YAML of the run"
    if not config.is_file():
        raise InputError("is a folder" if config.is_dir() else "no such file", str(config), remedy)
    session.read_input(Input(str(config), "yaml"))
    view = session.run.configs.get("axolotl")
    if view is None:
        raise InputError("not an Axolotl YAML", str(config), remedy)
    return dict(view.data)


def _state(session: Session, facts: Any) -> None:
    from ftdoctor.events import FactLearned, Origin

    for name, value, (path, line) in facts:
        session.apply([FactLearned(Origin(path, line, order=session.next_order()), name, value)])


def _run(session: Session, config: Path, python: str | None) -> int:
    """Run `axolotl preprocess` in the training environment; its log is read as any other."""
    import os
    import subprocess
    import tempfile

    from ftdoctor.errors import InputError
    from ftdoctor.events import ExitSeen, Origin
    from ftdoctor.sources.files import Input
    from ftdoctor.training_python import REMEDY, find_training_python

    found = find_training_python(python)
    tool = found.tool("axolotl")
    if tool is None and not found.has("axolotl"):
        raise InputError("Axolotl is not installed there", found.path, REMEDY)
    # its program may lie elsewhere: pip's --target and --user, packages on PYTHONPATH
    program = [tool] if tool is not None else [found.path, "-m", "axolotl.cli.main"]
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"axolotl preprocess {config} ...\n")
    log = _log(config)
    with tempfile.TemporaryDirectory(prefix="ftdoctor-preprocess-") as scratch:
        command = [*program, "preprocess", str(config), "--no-download", "--output-dir", str(Path(scratch, "out"))]
        with open(log, "wb") as handle:
            try:
                code = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=handle, stderr=subprocess.STDOUT, check=False,
                    env={**found.environment(os.environ), "AXOLOTL_DO_NOT_TRACK": "1"},
                ).returncode  # fmt: skip
            except OSError as error:
                raise InputError(f"cannot be started: {error.strerror}", program[0], REMEDY) from None
    session.read_input(Input(str(log), "log"))
    if code:
        session.apply([ExitSeen(Origin("axolotl preprocess", order=session.next_order()), code)])
    return code


def _log(config: Path) -> Path:
    """Where the log of `axolotl preprocess` stays, so that the report can point into it: one for each configuration."""
    import hashlib
    import tempfile

    from ftdoctor.preflight import kept

    name = f"{config.stem}-{hashlib.sha256(str(config.absolute()).encode()).hexdigest()[:8]}.log"
    place = kept.folder().parent / "preprocess" / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="ftdoctor-preprocess-"), name)
    return place


def _samples(
    session: Session, config: Path, data: dict[str, Any], options: argparse.Namespace, raw_rows: int | None
) -> list[tuple[str, str]]:
    from ftdoctor.errors import InputError
    from ftdoctor.preflight.data import contract, parity, telling
    from ftdoctor.training_python import find_training_python

    folder, test = (Path(options.prepared), None) if options.prepared else contract.newest(data, config.parent)
    about: dict[str, Any] = {}
    found: dict[str, Any] = {}
    problem = ""
    try:
        python = find_training_python(options.python)
    except InputError as error:
        problem = error.seen
    else:
        about, found, problem = parity.prove(python, data, config.parent, folder, options.tokenizer)
    asked = contract.asked(data, about, test)
    scanned = contract.scan(folder, asked, options.python)
    for name, value in (*contract.facts(scanned, raw_rows), *contract.parity_facts(about, found)):
        session.state(name, value, str(folder))
    bars = telling.PLAIN if options.ascii else telling.BARS
    return [
        ("", f"{folder}:"),
        *telling.samples(scanned, data, raw_rows, bars),
        *telling.proof(about, found, problem, scanned, asked.ends),
    ]


def _told(lines: list[tuple[str, str]], ascii_only: bool) -> str:
    """The lines fitted to the terminal: labels in a column, their texts beside them, what is quoted below its label."""
    from ftdoctor.faces import terminal
    from ftdoctor.faces.page import Options, Page

    page = Page(Options(width=terminal.width(), unicode=not ascii_only))
    inside = False
    for label, text in lines:
        if label:
            inside = True
            for number, line in enumerate(terminal.wrap(page.clean(text), page.width - 12, keep_spaces=True)):
                page.line((f"  {'' if number else label}".ljust(12), ""), (line.lstrip() if number else line, ""))
        elif inside:
            page.line((f"    {page.clean(text)}", ""))
        else:
            for line in terminal.wrap(page.clean(text), page.width):
                page.line((line, ""))
    return page.text()
