"""`ftdoctor bundle`: one file with the evidence of a run, to send or to keep."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

EPILOG = """\
examples:
  ftdoctor bundle ftdoctor-runs/qlora-20260102-101500
  ftdoctor bundle outputs/run1 -o run1.tar.zst
  ftdoctor check evidence.tar.zst              the same findings, on another machine

Tokens and passwords are taken out. Of long logs the beginning and the end are kept; weights and other binary files are
left out. CONTENTS.txt inside says what is there and what is not.
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor bundle",
        description="Pack what a run left behind into one small file without secrets.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run folder of ftdoctor launch, or an output folder")
    parser.add_argument(
        "-o", "--output", metavar="FILE", default="evidence.tar.zst", help="default: evidence.tar.zst here"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = build_parser().parse_args(argv)
    from ftdoctor.faces.terminal import printable
    from ftdoctor.launch.bundle import bundle

    output = Path(options.output)
    contents = bundle(Path(options.run), output)
    print(printable(contents.text()), end="")
    print(f"\n{output}: {output.stat().st_size:,} bytes")
    return 0
