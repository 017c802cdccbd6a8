"""Axolotl's lm-eval on the model that was judged, and its table.

`axolotl lm-eval` runs `lm_eval --model hf` (EleutherAI's harness), which writes `results_<time>.json` somewhere below
its output folder: {"results": {task: {"acc,none": 0.5, "acc_stderr,none": 0.01, "alias": ...}}, ...}.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from ftdoctor.errors import FtdoctorError, InputError
from ftdoctor.evaluation.generate import Generation
from ftdoctor.training_python import TrainingPython

LOG = "ftdoctor-lm-eval.log"
BATCH = 8
_TASK = re.compile(r"(?m)^task:[ \t]*[\"']?([\w./-]+)")


def run_lm_eval(python: str, config: str, tasks: str, model: Generation, near: Path) -> list[dict[str, Any]]:
    """Rows of {"task", "metric", "value", "stderr"}. `near` takes the log.

    Raises:
        FtdoctorError: the harness failed, or the model is an adapter, which Axolotl's lm-eval would not load.
    """
    if model.adapter is not None:
        raise InputError("lm-eval needs a whole model", str(model.adapter), "merge first: ftdoctor merge CONFIG")
    environment = TrainingPython(python, "")
    harness = environment.tool("lm_eval")
    if harness is None:
        raise InputError("lm_eval is not installed there", python, "pip install lm-eval, in the training environment")
    data = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    names, place = named(tasks)
    log, variables = near / LOG, environment.environment()
    with tempfile.TemporaryDirectory(prefix=".ftdoctor-lm-eval-", dir=near) as folder:
        path = Path(folder, "lm_eval.yml")
        data |= {"output_dir": folder, "lm_eval_model": model.model, "lm_eval_tasks": names}
        data.pop("hub_model_id", None)
        data.setdefault("lm_eval_batch_size", BATCH)  # without it Axolotl passes "None", which the harness cannot read
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        if place is not None:
            variables["PATH"] = os.pathsep.join([_with_folder(Path(folder), harness, place), variables["PATH"]])
        with log.open("w", encoding="utf-8") as kept:
            code = subprocess.run(
                [python, "-c", "from axolotl.cli.main import main; main()", "lm-eval", str(path)],
                stdin=subprocess.DEVNULL, stdout=kept, stderr=subprocess.STDOUT, env=variables,
            ).returncode  # fmt: skip
        found = sorted(Path(folder).rglob("results*.json"))
        if code or not found:
            last = next((x.strip() for x in reversed(log.read_text(errors="replace").split("\n")) if x.strip()), "")
            raise FtdoctorError(f"lm-eval ended with code {code}: {last[:200]}", str(log), "read its log")
        return [row for file in found for row in table(json.loads(file.read_text(encoding="utf-8")))]


def named(tasks: str) -> tuple[list[str], Path | None]:
    """Names of the tasks, and the folder of those that were given as files.

    Raises:
        InputError: a file names no task, or two lie in different folders, of which the harness takes one.
    """
    names, folders = [], set()
    for task in filter(None, (part.strip() for part in tasks.split(","))):
        file = Path(task)
        if file.suffix not in (".yaml", ".yml"):
            names.append(task)
            continue
        found = _TASK.search(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else None
        if found is None:
            seen = "has no line `task: NAME`" if file.is_file() else "no such file"
            raise InputError(seen, task, "give the harness's name of a task, or its YAML file")
        names.append(found[1])
        folders.add(file.absolute().parent)
    if len(folders) > 1:
        raise InputError("task files in two folders", tasks, "put them into one")
    return names, next(iter(folders), None)


def _with_folder(folder: Path, harness: str, place: Path) -> str:
    """A folder with an `lm_eval` that knows the tasks of `place`: Axolotl's command has no option for it."""
    beside = folder / "bin"
    beside.mkdir()
    script = beside / "lm_eval"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(harness)} "$@" --include_path {shlex.quote(str(place))}\n')
    script.chmod(0o755)
    return str(beside)


def table(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The numbers of one results file."""
    rows = []
    for task, values in (results.get("results") or {}).items():
        for key, value in values.items():
            metric, _, how = key.partition(",")
            if isinstance(value, (int, float)) and how and not metric.endswith("_stderr"):
                spread = values.get(f"{metric}_stderr,{how}")
                rows.append(
                    {
                        "task": str(task),
                        "metric": metric if how == "none" else f"{metric} ({how})",
                        "value": float(value),
                        "stderr": float(spread) if isinstance(spread, (int, float)) else None,
                    }
                )
    return rows
