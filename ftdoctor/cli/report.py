"""`ftdoctor report`: `check` as one HTML file."""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

EPILOG = """\
examples:
  ftdoctor report outputs/run1                        writes ftdoctor-report.html
  ftdoctor report train.log --config qlora.yml -o report.html

The file needs nothing else: no network, no scripts. A file that is there is replaced only when it is such a report.

exit codes: those of `ftdoctor check`
"""
MARK = "<!-- ftdoctor report -->"


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb; all others are those of `check`."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor report",
        description="Diagnose a run as `ftdoctor check` does, into one HTML file to be shown, sent and kept.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="as for `ftdoctor check`")
    parser.add_argument("-o", "--output", default="ftdoctor-report.html", metavar="FILE", help="default: %(default)s")
    parser.add_argument("--config", metavar="YAML", help="the Axolotl YAML of the run")
    parser.add_argument("--rules", action="append", default=[], metavar="DIR", help="a folder of further rules")
    parser.add_argument("--profile", metavar="NAME", help="threshold overrides, as for `ftdoctor check`")
    parser.add_argument("--fail-on", choices=("error", "warning", "info", "never"), default="error")
    parser.add_argument("--no-fix", action="store_true", help="leave the fixes out")
    parser.add_argument(
        "--redact", action=argparse.BooleanOptionalAction, default=True, help="take tokens and passwords out"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    from ftdoctor.cli import check
    from ftdoctor.cli.main import print_error
    from ftdoctor.faces.redact import redacted

    given = build_parser().parse_args(argv)
    target = Path(given.output)
    refuse(target)
    options = argparse.Namespace(**{**vars(given), "format": "html", "apply_fix": None})
    check.validate(options)
    session = check.read(options)
    diagnosis = session.diagnose()
    shown = redacted(diagnosis) if options.redact else diagnosis
    write(target, check.render(shown, options, session))
    root = f": {diagnosis.root_cause.id}" if diagnosis.root_cause else ""
    print(f"{target}: {diagnosis.verdict}{root}")
    for error in session.unreadable:
        print_error(error)
    code = check.exit_code(diagnosis, options.fail_on)
    return 2 if session.unreadable and code != 1 else code


def refuse(target: Path) -> None:
    """Before anything is read.

    Raises:
        UsageError: something that is no report of ours stands there, or the folder is missing.
    """
    from ftdoctor.errors import UsageError

    if target.is_dir():
        raise UsageError("is a folder", str(target), "give the name of the file to write with --output")
    if not target.parent.is_dir():
        raise UsageError("no such folder", str(target.parent), "create it, or give another --output")
    if target.exists():
        with contextlib.suppress(OSError), target.open("rb") as handle:
            if MARK.encode() in handle.read(200):
                return
        raise UsageError("there is another file already", str(target), "give another name with --output")


def write(target: Path, text: str) -> None:
    """The whole file or nothing.

    Raises:
        FtdoctorError: the disk refuses.
    """
    from ftdoctor.errors import FtdoctorError

    temporary = ""
    try:
        number, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with open(number, "w", encoding="utf-8", errors="replace") as handle:
            handle.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise FtdoctorError(
            f"cannot be written: {error.strerror}", str(target), "free some space or give another --output"
        ) from None
