"""`evaluate --lm-eval`: Axolotl and the harness are stand-ins that read and write what the real ones do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ftdoctor.errors import FtdoctorError, InputError
from ftdoctor.evaluation.generate import Generation
from ftdoctor.evaluation.lm_eval import named, run_lm_eval, table

# as axolotl.integrations.lm_eval.cli of Axolotl 0.19 does: str(None) where no batch size is given
AXOLOTL = """
import subprocess, sys, yaml
def main():
    cfg = yaml.safe_load(open(sys.argv[2]))
    assert sys.argv[1] == "lm-eval" and "hub_model_id" not in cfg
    subprocess.run(["lm_eval", "--model_args", "pretrained=" + cfg["lm_eval_model"], "--tasks", ",".join(cfg["lm_eval_tasks"]),
                    "--batch_size", str(cfg.get("lm_eval_batch_size")), "--output_path", cfg["output_dir"] + "/lm"], check=True)
"""
HARNESS = """#!{python}
import json, os, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
int(given["--batch_size"])
os.makedirs(given["--output_path"] + "/out__merged")
rows = {{t: {{"alias": t, "acc,none": 0.75, "acc_stderr,none": 0.1, "seen": given.get("--include_path", "")}} for t in given["--tasks"].split(",")}}
json.dump({{"results": rows}}, open(given["--output_path"] + "/out__merged/results_2024-01-01.json", "w"))
"""


@pytest.fixture
def python(tmp_path: Path) -> str:
    package = tmp_path / "site/axolotl/cli"
    package.mkdir(parents=True)
    for file in (package.parent / "__init__.py", package / "__init__.py"):
        file.touch()
    (package / "main.py").write_text(AXOLOTL)
    found = tmp_path / "bin/python"
    found.parent.mkdir()
    found.write_text(f'#!/bin/sh\nPYTHONPATH="{tmp_path / "site"}" exec "{sys.executable}" "$@"\n')
    found.chmod(0o755)
    (tmp_path / "config.yml").write_text("base_model: base\nhub_model_id: me/mine\noutput_dir: out\n")
    return str(found)


def harness(tmp_path: Path, text: str = HARNESS) -> None:
    script = tmp_path / "bin/lm_eval"
    script.write_text(text.format(python=sys.executable))
    script.chmod(0o755)


def test_names_and_files_of_tasks(python: str, tmp_path: Path) -> None:
    harness(tmp_path)
    (tmp_path / "mine.yaml").write_text("# of my own\ntask: capitals\noutput_type: multiple_choice\n")
    model = Generation("m", "out/merged", None)
    rows = run_lm_eval(python, str(tmp_path / "config.yml"), f"arc_easy,{tmp_path / 'mine.yaml'}", model, tmp_path)
    assert [(r["task"], r["metric"], r["value"], r["stderr"]) for r in rows] == [
        ("arc_easy", "acc", 0.75, 0.1), ("capitals", "acc", 0.75, 0.1),
    ]  # fmt: skip
    assert not list(tmp_path.glob(".ftdoctor*"))


def test_what_goes_wrong_is_said(python: str, tmp_path: Path) -> None:
    config, model = str(tmp_path / "config.yml"), Generation("m", "out/merged", None)
    with pytest.raises(InputError, match="not installed"):
        run_lm_eval(python, config, "arc_easy", model, tmp_path)
    harness(tmp_path, "#!{python}\nraise SystemExit('no task of that name')\n")
    with pytest.raises(FtdoctorError, match="code 1"):
        run_lm_eval(python, config, "arc_easy", model, tmp_path)
    assert "no task of that name" in (tmp_path / "ftdoctor-lm-eval.log").read_text()
    with pytest.raises(InputError, match="whole model"):
        run_lm_eval(python, config, "arc_easy", Generation("m", "base", "out"), tmp_path)
    with pytest.raises(InputError, match="no such file"):
        named(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("group: x\n")
    with pytest.raises(InputError, match="task: NAME"):
        named(str(tmp_path / "bad.yaml"))


def test_the_table() -> None:
    results = {
        "results": {
            "gsm8k": {
                "alias": "gsm8k",
                "exact_match,strict-match": 0.5,
                "exact_match_stderr,strict-match": "N/A",
                "n": 3,
            }
        }
    }
    assert table(json.loads(json.dumps(results))) == [
        {"task": "gsm8k", "metric": "exact_match (strict-match)", "value": 0.5, "stderr": None}
    ]
