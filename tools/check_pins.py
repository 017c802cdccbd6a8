"""Prove that ftdoctor installs beside axolotl[deepspeed] without moving one of its pins, and alone without torch.

    python -m tools.check_pins

Resolves both sets with uv (metadata only, nothing is installed) and compares every version.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
AXOLOTL = "axolotl[deepspeed]==0.19.0"


def resolve(requirements: str, python: str) -> dict[str, str]:
    """Versions by package name.

    Raises:
        RuntimeError: the set cannot be resolved.
    """
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, "in.txt")
        file.write_text(requirements, encoding="utf-8")
        command = [
            uv,
            "pip",
            "compile",
            "--quiet",
            "--no-annotate",
            "--no-header",
            "--python-version",
            python,
            str(file),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-2000:])
    pins = (line.split(" ;")[0].split("==") for line in done.stdout.splitlines() if "==" in line)
    return {name.strip(): version.strip() for name, version in pins}


def main() -> int:
    """Exit code 1 when a pin moved or torch came along."""
    bad = 0
    for python in ("3.11", "3.12"):
        before = resolve(f"{AXOLOTL}\n", python)
        after = resolve(f"{AXOLOTL}\n{ROOT}\n", python)
        moved = [
            f"{name} {version} -> {after.get(name)}" for name, version in before.items() if after.get(name) != version
        ]
        added = sorted(set(after) - set(before))
        print(f"Python {python}: {len(before)} pins of {AXOLOTL}, {len(moved)} moved; ftdoctor adds {', '.join(added)}")
        bad += len(moved)
        for line in moved:
            print(f"  moved: {line}")
    for python in ("3.10", "3.13"):
        alone = resolve(f"{ROOT}\n", python)
        heavy = sorted({"torch", "transformers", "axolotl", "deepspeed", "peft", "accelerate"} & set(alone))
        print(f"Python {python}: alone {len(alone)} packages, of the training stack: {', '.join(heavy) or 'none'}")
        bad += len(heavy)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
