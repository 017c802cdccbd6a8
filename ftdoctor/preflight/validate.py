"""Axolotl's own validation, run in the training environment and surfaced as it is, not repeated here."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftdoctor.events import Scalar
from ftdoctor.preflight import kept
from ftdoctor.preflight.checks import Seen
from ftdoctor.preflight.machines import Machine
from ftdoctor.training_python import TrainingPython
from ftdoctor.upstream.schema import axolotl_version

WORKER = Path(__file__).with_name("validate_worker.py")
SECONDS = 90.0  # the import of Axolotl alone takes 10 to 25 s on a slow disk
# the machine is described to Axolotl, so that a laptop can judge a configuration for eight A100s
_ANY = {"bf16": True, "fp8": False, "tf32": True, "n_gpu": 1, "n_node": 1, "compute_capability": "sm_90"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What Axolotl's validation gave; `result` is empty where it could not be run, with the reason in `problem`."""

    result: dict[str, Any]
    problem: str = ""

    @property
    def prepared(self) -> tuple[str, str | None] | None:
        """Names of the folders of prepared training and test data; None where this release does not tell."""
        names = self.result.get("prepared") or {}
        return (str(names["train"]), names.get("test")) if names.get("train") else None


def ask(python: TrainingPython, config: Path, machine: Machine | None, deepspeed: Path | None = None) -> Answer:
    """Have the installed Axolotl validate `config` for `machine`."""
    capabilities = dict(_ANY)
    if machine is not None:
        capabilities["n_gpu"] = machine.count
        if machine.capability is not None:
            capabilities |= {
                "bf16": machine.capability >= 8.0, "tf32": machine.capability >= 8.0, "fp8": machine.capability >= 8.9,
                "compute_capability": f"sm_{round(machine.capability * 10)}",
            }  # fmt: skip
    job = {"config": str(config), "capabilities": capabilities, "torch": None, "known": axolotl_version()}
    about = {"job": job, "files": [_text(p) for p in (WORKER, config, deepspeed) if p], "cwd": os.getcwd()}
    failed: list[str] = []
    result = kept.ask(python, about, lambda: _run(python, job, failed))
    if result:
        return Answer(result)
    return Answer({}, f"Axolotl's own validation could not run in {python.path}: {failed[0][:200]}")


def told(answer: Answer) -> Seen:
    """The verdict of the installed Axolotl: facts `axolotl.error` or `axolotl.accepted`, `axolotl.schema`."""
    result = answer.result
    if not result:
        return Seen(answer.problem, {}, "absent")
    version = f"Axolotl {result['axolotl']}"
    facts: dict[str, Scalar] = {"version.axolotl": result["axolotl"], "axolotl.schema": _schema(result)}
    if result["error"]:
        said = readable(result["error"])
        return Seen(f"{version} refuses it: {said}", facts | {"axolotl.error": said}, "bad")
    facts["axolotl.accepted"] = True
    notes = [readable(text) for text in result["warnings"]]
    if notes:
        return Seen(f"{version} accepts it and warns: {'; '.join(notes)}"[:1200], facts, "note")
    return Seen(f"{version} accepts it", facts)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _schema(result: dict[str, Any]) -> str | None:
    """The names that the installed release reads, as a file; None when they are the shipped ones."""
    schema = result.get("schema")
    if not schema or schema["axolotl"] == axolotl_version():
        return None
    path = kept.folder() / f"axolotl_schema_{re.sub(r'[^0-9A-Za-z.+-]', '_', str(schema['axolotl']))}.json"
    return str(path) if kept.store(path, json.dumps(schema)) else None


def _run(python: TrainingPython, job: dict[str, Any], failed: list[str]) -> dict[str, Any] | None:
    environment = python.environment() | {"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python.path, str(WORKER)], input=json.dumps(job), capture_output=True, text=True, timeout=SECONDS - 2,
        env=environment, check=False,
    )  # fmt: skip
    try:
        result = json.loads(done.stdout.strip().split("\n")[-1])
    except ValueError:
        failed.append(next((line.strip() for line in reversed(done.stderr.split("\n")) if line.strip()), "no output"))
        return None
    return result if isinstance(result, dict) else None


def readable(error: str) -> str:
    """The report of pydantic as one line: `field: what is wrong`."""
    found = re.findall(r"^(\S[^\n]*)\n  ([^\n]+?)(?: \[type=[^\n]*)?$", error, re.MULTILINE)
    told = [
        f"{where}: {what}" if not what.startswith("Value error, ") else what.removeprefix("Value error, ")
        for where, what in found
        if "validation error" not in where and not where.startswith("For further")
    ]
    if "validation error" in error.split("\n", 1)[0]:
        body = [line.strip() for line in error.split("\n")[1:] if line.strip() and "errors.pydantic.dev" not in line]
        body = [re.sub(r" ?\[type=.*$", "", line).removeprefix("Value error, ") for line in body]
        told = told or body
    return "; ".join(dict.fromkeys(told)) if told else " ".join(error.split())[:600]
