"""Draw the text report of a recorded run as an SVG for the README.

python -m tools.screenshot fixtures/failing/rank_killed docs/images/check.svg
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 86


def main() -> int:
    """Write the picture."""
    run, target = sys.argv[1:3]
    command = [str(ROOT / ".venv/bin/ftdoctor"), "check", run, "--color", "always"]
    environment = {"COLUMNS": str(WIDTH), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.from_ansi(f"$ ftdoctor check {run}\n\n{done.stdout}"))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(console.export_svg(title="ftdoctor check"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
