"""How long a preflight takes: a first one with empty caches, the next one, and the lint alone.

    python -m tools.time_preflight --python PYTHON_WITH_AXOLOTL [--config tests/unit/preflight/guide.yml]

Prints seconds of the clock and of the processor, children included; on a machine that does other things the second
number is the one to compare. The aims: 10 s for a first preflight without the Hub, 1 s for the lint alone.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def measure(arguments: list[str], cache: str) -> tuple[float, float]:
    """Wall and processor seconds of `ftdoctor preflight`."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "ftdoctor", "preflight", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        check=False,
    )
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode == 2:
        sys.exit(2)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="python of the training environment")
    parser.add_argument("--config", default=str(ROOT / "tests/unit/preflight/guide.yml"))
    options = parser.parse_args()
    given = [options.config, "--assume", "4xA100-40GB", "--fail-on", "never"]
    whole = [*given, "--offline", "--python", options.python]
    with tempfile.TemporaryDirectory() as cache:
        for name, arguments in (("first", whole), ("again", whole), ("lint alone", [*given, "--only", "config"])):
            wall, processor = measure(arguments, cache)
            print(f"{name:<11} {wall:6.1f} s, {processor:5.1f} s of processor", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
