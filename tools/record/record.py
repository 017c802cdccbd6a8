"""Record fixtures: real runs of real Axolotl, healthy and with an injected fault.

    python -m tools.record.record list
    python -m tools.record.record --venv .rig-venv run lora_2rank_zero3 rank_killed
    python -m tools.record.record --venv .rig-venv run all

Each goes to fixtures/{healthy,failing}/<name>/: train.log, config.yml, origin.yaml (versions, command, exit code) and
expected.yaml. An existing expected.yaml is kept: it was checked by a person.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tools.record.rig import RIG, Rig, versions
from tools.record.scenarios import SCENARIOS as FIRST
from tools.record.scenarios import Scenario, unmount
from tools.record.scenarios_more import MORE

SCENARIOS = (*FIRST, *MORE)
ROOT = Path(__file__).resolve().parent.parent.parent
FIXTURES = ROOT / "fixtures"


def copy_kept(source: Path, target: Path, rig: Rig) -> None:
    """Copy a file the run left; text with the paths and host names of this machine replaced, tensors as they are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == ".safetensors":
        shutil.copyfile(source, target)
    else:
        target.write_text(rig.neutral(source.read_text(errors="replace")))


def record(scenario: Scenario, rig: Rig, facts: dict[str, str], into: Path = FIXTURES) -> Path:
    """Run one scenario and write its folder."""
    folder = rig.folder
    for name in ("out", "out2", "prepared", "nothing", "logs", "tiny_nan", "tiny96", "tiny_gpt2", "sitecustomize.py"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).unlink(missing_ok=True) if (folder / name).is_file() else None
    config: dict[str, Any] = yaml.safe_load((RIG / "base.yml").read_text())
    plain = dict(config)
    config.update(scenario.changes)
    config = {key: value for key, value in config.items() if value is not None}
    for name, text in scenario.files.items():
        if text:
            (folder / name).write_text(text)
    (folder / "config.yml").write_text(yaml.safe_dump(plain, sort_keys=False))
    for command in scenario.before:
        rig.call(command)
    (folder / "config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    log, code = rig.run(scenario.command, scenario.env, scenario.meddle, scenario.prefix)
    unmount(folder)
    kind = "healthy" if scenario.verdict == "healthy" else "failing"
    place = into / kind / scenario.name
    place.mkdir(parents=True, exist_ok=True)
    (place / "train.log").write_text(log)
    (place / "config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    for entry in scenario.keep:
        name, _, renamed = entry.partition("=")
        if (folder / name).is_file():
            copy_kept(folder / name, place / (renamed or name), rig)
    origin = {
        "shows": scenario.shows,
        "command": " ".join(scenario.command),
        "exit_code": code,
        "recorded": datetime.date.today().isoformat(),
        "cpu": True,
        "versions": facts,
    }
    (place / "origin.yaml").write_text(yaml.safe_dump(origin, sort_keys=False))
    if not (place / "expected.yaml").is_file():
        expected = {
            "root_cause": scenario.root,
            "verdict": scenario.verdict,
            "also": list(scenario.also),
            "inputs": list(scenario.inputs),
        }
        (place / "expected.yaml").write_text(yaml.safe_dump(expected, sort_keys=False))
    return place


def main() -> int:
    """Exit code 1 when a scenario could not be recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("list", "run"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--venv", type=Path, default=ROOT / ".rig-venv")
    parser.add_argument("--folder", type=Path, help="scratch folder (default: a temporary one)")
    parser.add_argument("--into", type=Path, default=FIXTURES, help="where the fixtures go (default: fixtures/)")
    options = parser.parse_args()
    if options.action == "list":
        for scenario in SCENARIOS:
            print(f"{scenario.name:26} {scenario.root or scenario.verdict:26} {scenario.shows}")
        return 0
    chosen = [s for s in SCENARIOS if s.name in options.names or options.names == ["all"]]
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        rig = Rig(options.venv, options.folder or Path(temporary) / "ft")
        facts = versions(options.venv)
        for scenario in chosen:
            try:
                place = record(scenario, rig, facts, options.into)
            except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                print(f"{scenario.name}: not recorded: {error}", flush=True)
                failed += 1
                continue
            lines = (place / "train.log").read_text().splitlines()
            print(f"{scenario.name}: {len(lines)} lines, last: {lines[-1][:100] if lines else ''}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
