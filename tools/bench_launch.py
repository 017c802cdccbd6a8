"""What `ftdoctor launch` costs a training: the step time under it against the bare command, alternated.

    python -m tools.bench_launch --venv .rig-venv [--pairs 5] [--steps 600]

Real Axolotl with the 125,000-parameter model of the rig on one CPU rank: steps are so short that any cost shows. The
heartbeat is on, as it is by default. The time is the Trainer's own (`train_runtime`), which leaves the start out.
Prints each pair and the mean difference with a 95 % interval (Student's t over the pairs).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tools.intervals import interval
from tools.record.rig import Rig

ROOT = Path(__file__).resolve().parent.parent
_RUNTIME = re.compile(r"'train_runtime': '?([\d.]+)")


def milliseconds_per_step(rig: Rig, steps: int, watched: bool, number: int) -> float:
    """One run to its end; milliseconds of one optimizer step."""
    shutil.rmtree(rig.folder / "out", ignore_errors=True)
    python = str(rig.venv / "bin/python")
    command = [python, "-m", "axolotl.cli.train", "bench.yml"]
    env = rig.environment({})
    if watched:
        command = [sys.executable, "-m", "ftdoctor", "launch", "bench.yml", "--launcher", "python", "--no-tui"]
        command += ["--python", python, "--name", f"bench-{number}"]
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env["PYTHONPATH"]])
    done = subprocess.run(
        command, cwd=rig.folder, env=env, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    found = _RUNTIME.findall(done.stdout)
    if not found:
        raise SystemExit(f"the run did not end well (exit code {done.returncode}):\n{done.stdout[-3000:]}")
    return 1000 * float(found[-1]) / steps


def main() -> None:
    """Run the pairs and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".rig-venv"), help="the training environment")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    if options.pairs < 2:
        parser.error("an interval needs two pairs")
    with tempfile.TemporaryDirectory() as place:
        rig = Rig(options.venv, Path(place))
        data = yaml.safe_load((rig.folder / "base.yml").read_text())
        data |= {"max_steps": options.steps, "val_set_size": 0, "save_steps": options.steps, "logging_steps": 10}
        for key in ("eval_steps", "evals_per_epoch", "saves_per_epoch", "deepspeed"):
            data.pop(key, None)
        (rig.folder / "bench.yml").write_text(yaml.safe_dump(data, sort_keys=False))
        milliseconds_per_step(rig, options.steps, False, 0)  # caches of the file system and of the prepared data
        bare: list[float] = []
        watched: list[float] = []
        for pair in range(1, options.pairs + 1):
            for under in (pair % 2 == 0, pair % 2 == 1):  # neither is always the first
                (watched if under else bare).append(milliseconds_per_step(rig, options.steps, under, pair))
            print(f"pair {pair}: bare {bare[-1]:.2f} ms, under launch {watched[-1]:.2f} ms a step", flush=True)
        mean, half = interval([w - b for w, b in zip(watched, bare, strict=True)])
        percent = 100 / statistics.mean(bare)
        print(
            f"difference {mean:+.2f} ms a step, 95 % interval {mean - half:+.2f} to {mean + half:+.2f} "
            f"({percent * mean:+.1f} %, {percent * (mean - half):+.1f} to {percent * (mean + half):+.1f} %)"
        )


if __name__ == "__main__":
    main()
