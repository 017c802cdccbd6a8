"""Repeat the hang test on real runs and count right answers: `python -m tools.repeat_hang 10 [stopped|data|uneven]`.

Each repetition trains the rig's tiny model on two CPU ranks with ZeRO-3 under `ftdoctor launch`, breaks one rank (0 and
1 in turn) and asks whether the finding names that rank and has its stack, and after how many seconds of silence.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
from pathlib import Path

from tests.integration.hangs import KINDS, play
from tests.integration.rigs import RigFolder
from tools.record.rig import MARK, Rig, end_marked

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Print a line for each repetition and the count; 1 when an answer was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repeats", type=int)
    parser.add_argument("kind", nargs="?", default="stopped", choices=KINDS[:3])
    options = parser.parse_args()
    python = Path(os.environ.get("FTDOCTOR_TEST_PYTHON", ROOT / ".rig-venv/bin/python")).absolute()
    right, seconds = 0, []
    with tempfile.TemporaryDirectory() as temporary:
        made = Rig(python.parent.parent, Path(temporary, "rig"))
        for number in range(options.repeats):
            rank = 1 - number % 2
            folder = Path(temporary, f"run{number}")
            shutil.copytree(made.folder, folder, ignore=shutil.ignore_patterns("torch_extensions"))
            guest = RigFolder(folder, made)
            try:
                story = play(guest, options.kind, rank)
            finally:
                end_marked(f"{MARK}={guest.mark}")
            found = story.finding
            good = found is not None and found["rank"] == rank and any(e["kind"] == "stack" for e in found["evidence"])
            right += good
            if story.seconds is not None:
                seconds.append(story.seconds)
            said = found["message"] if found else "no hang found"
            after = "" if story.seconds is None else f" after {story.seconds:.0f} s, load {os.getloadavg()[0]:.1f}"
            print(f"{number + 1}: rank {rank} {'right' if good else 'WRONG'}{after}: {said}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
    shown = f"; median {statistics.median(seconds):.0f} s, longest {max(seconds):.0f} s of silence" if seconds else ""
    print(f"{right} of {options.repeats} right{shown}")
    return 0 if right == options.repeats else 1


if __name__ == "__main__":
    raise SystemExit(main())
