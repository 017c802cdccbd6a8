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
    lines = [*raw.lines, *raw.absent]
    if code == 0:
        lines.append(_samples(session, config, data, options))
    diagnosis = session.diagnose()
    shown = redacted(diagnosis) if options.redact else diagnosis
    options.no_fix = options.verbose = False
    report = render(shown, options, session)
    if options.format == "text":
        from ftdoctor.faces.page import Options, Page

        page = Page(Options(unicode=not options.ascii))
        report = "\n".join(page.clean(line) for line in lines) + "\n\n" + report
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
    if tool is None:
        raise InputError("Axolotl is not installed there", found.path, REMEDY)
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"axolotl preprocess {config} ...\n")
    with tempfile.TemporaryDirectory(prefix="ftdoctor-preprocess-") as scratch:
        log = Path(scratch, "preprocess.log")
        command = [tool, "preprocess", str(config), "--no-download", "--output-dir", str(Path(scratch, "out"))]
        with open(log, "wb") as handle:
            try:
                code = subprocess.run(
                    command, stdin=subprocess.DEVNULL, stdout=handle, stderr=subprocess.STDOUT, check=False,
                    env={**found.environment(os.environ), "AXOLOTL_DO_NOT_TRACK": "1"},
                ).returncode  # fmt: skip
            except OSError as error:
                raise InputError(f"cannot be started: {error.strerror}", tool, REMEDY) from None
        session.read_input(Input(str(log), "log"))
    if code:
        session.apply([ExitSeen(Origin("axolotl preprocess", order=session.next_order()), code)])
    return code


def _samples(session: Session, config: Path, data: dict[str, Any], options: argparse.Namespace) -> str:
    from ftdoctor.preflight import plan
    from ftdoctor.preflight.data import contract

    folder = Path(options.prepared) if options.prepared else contract.newest(data, config.parent)
    found = contract.scan(folder, data, options.python)
    for name, value in contract.facts(found):
        session.state(name, value, str(folder))
    length = plan.number(data.get("sequence_len"))
    return f"{folder}: {contract.told(found, int(length) if length else None)}"
