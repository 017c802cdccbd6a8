"""Axolotl's lm-eval on the model that was judged, and its table.

`axolotl lm-eval` runs `lm_eval --model hf` (EleutherAI's harness), which writes `results_<time>.json` somewhere below
its output folder: {"results": {task: {"acc,none": 0.5, "acc_stderr,none": 0.01, "alias": ...}}, ...}.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

from ftdoctor.errors import FtdoctorError, InputError
from ftdoctor.evaluation.generate import Generation
from ftdoctor.training_python import TrainingPython

LOG = "ftdoctor-lm-eval.log"


def run_lm_eval(python: str, config: str, tasks: str, model: Generation, near: Path) -> list[dict[str, Any]]:
    """Rows of {"task", "metric", "value", "stderr"}. `near` takes the log.

    Raises:
        FtdoctorError: the harness failed, or the model is an adapter, which Axolotl's lm-eval would not load.
    """
    if model.adapter is not None:
        raise InputError("lm-eval needs a whole model", str(model.adapter), "merge first: ftdoctor merge CONFIG")
    data = yaml.safe_load(Path(config).read_text(encoding="utf-8"))
    log = near / LOG
    with tempfile.TemporaryDirectory(prefix=".ftdoctor-lm-eval-", dir=near) as folder:
        path = Path(folder, "lm_eval.yml")
        data |= {"output_dir": folder, "lm_eval_model": model.model, "lm_eval_tasks": tasks.split(",")}
        data.pop("hub_model_id", None)
        path.write_text(yaml.safe_dump(data), encoding="utf-8")
        with log.open("w", encoding="utf-8") as kept:
            code = subprocess.run(
                [python, "-c", "from axolotl.cli.main import main; main()", "lm-eval", str(path)],
                stdin=subprocess.DEVNULL, stdout=kept, stderr=subprocess.STDOUT,
                env=TrainingPython(python, "").environment(),
            ).returncode  # fmt: skip
        found = sorted(Path(folder).rglob("results*.json"))
        if code or not found:
            last = next((x.strip() for x in reversed(log.read_text(errors="replace").split("\n")) if x.strip()), "")
            raise FtdoctorError(f"lm-eval ended with code {code}: {last[:200]}", str(log), "read its log")
        return [row for file in found for row in table(json.loads(file.read_text(encoding="utf-8")))]


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
