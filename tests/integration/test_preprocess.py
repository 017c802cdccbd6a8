"""`ftdoctor preprocess` with the real `axolotl preprocess`, a tiny model and its tokenizer: the parity proof.

One process prepares six configurations, so that Axolotl is imported once; each is then judged with `--no-run`. One more
goes through the whole command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftdoctor.cli import preflight
from ftdoctor.cli.main import main
from tests.integration.conftest import PATIENCE
from tests.integration.rigs import RigFolder
from tools.record.rig import Rig

pytestmark = pytest.mark.rig
CHAT = {"path": "./chat.jsonl", "type": "chat_template"}
BROKEN: dict[str, dict[str, Any]] = {
    "good": {},
    "alpaca": {"datasets": [{"path": "./data.jsonl", "type": "alpaca"}]},
    "wrong_eos": {"special_tokens": {"pad_token": "<|end_of_text|>", "eos_token": "<|end_of_text|>"}},
    "doubled_bos": {"chat_template": "jinja"},
    "cut": {"datasets": [{**CHAT, "path": "./long.chat.jsonl"}], "excess_length_strategy": "truncate", "sequence_len": 64},
    "empty": {"datasets": [{"path": "./empty.jsonl", "type": "alpaca"}], "chat_template": "alpaca"},
}  # fmt: skip


def long_answers(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "chat.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row["messages"][1]["content"] = " ".join([row["messages"][1]["content"]] * (40 if number % 3 else 1))
    (folder / "long.chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def prepared(_rig_made: Rig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every configuration prepared, and the tokenizer that Axolotl itself would save with each."""
    folder = tmp_path_factory.mktemp("prepared") / "rig"
    shutil.copytree(_rig_made.folder, folder)
    long_answers(folder)
    base = yaml.safe_load((folder / "base.yml").read_text())
    found = [*_rig_made.venv.glob("lib/python*/site-packages/axolotl/utils/chat_templates/templates/llama3.jinja")]
    BROKEN["doubled_bos"]["chat_template_jinja"] = "{{ bos_token }}" + found[0].read_text()
    for name, changes in BROKEN.items():
        made = {**base, **changes, "dataset_prepared_path": f"./prepared_{name}", "output_dir": f"./out_{name}"}
        (folder / f"{name}.yml").write_text(yaml.safe_dump(made, sort_keys=False))
    script = Path(__file__).with_name("prepare_many.py")
    done = subprocess.run(
        [str(_rig_made.venv / "bin/python"), str(script), *(f"{name}.yml" for name in BROKEN)],
        cwd=folder, env=_rig_made.environment({}), capture_output=True, text=True, timeout=2 * PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return folder


@pytest.fixture
def inside(prepared: Path, training_python: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The prepared folder as the working folder."""
    monkeypatch.chdir(prepared)
    monkeypatch.setenv("FTDOCTOR_PYTHON", str(training_python))
    return prepared


def judged(name: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["preprocess", f"{name}.yml", "--no-run", "--format", "json", *more])
    return code, {f["id"]: f for f in json.loads(capsys.readouterr().out)["findings"]}


def test_a_healthy_chat_is_quiet(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judged("good", capsys) == (0, {})


def test_the_tokenizer_is_the_one_that_axolotl_saves(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["preprocess", "good.yml", "--no-run"])
    own = capsys.readouterr().out
    main(["preprocess", "good.yml", "--no-run", "--tokenizer", "good.tokenizer"])
    assert capsys.readouterr().out == own
    assert "64 samples, 64 answers: every token before each answer" in " ".join(own.split())
    # a merged folder often has the base model's tokenizer: another template, or none
    _, found = judged("good", capsys, "--tokenizer", "doubled_bos.tokenizer")
    assert found["template-mismatch"]["severity"] == "error"


def test_alpaca_under_llama3_is_another_prompt(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = judged("alpaca", capsys)
    assert (code, list(found)) == (1, ["template-mismatch"])
    one = found["template-mismatch"]
    assert one["severity"] == "error"
    assert "64 of 64" in one["message"]
    quoted = one["evidence"][0]["excerpt"].split("\n")
    assert [line[0] for line in quoted] == ["-", "+", "=", "-", "+"]
    assert "### Response:" in quoted[3]
    assert "<|eot_id|>" in quoted[4]
    assert all(len(line) <= 74 for line in quoted)


def test_preflight_proves_the_set_of_its_configuration(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sets lie side by side; the installed Axolotl's own name tells them apart, not the time of writing."""
    for name in ("good", "alpaca"):
        made = yaml.safe_load((inside / f"{name}.yml").read_text())
        del made["plugins"]  # the rig's own; without one, validation need not import all of Axolotl
        (inside / f"both_{name}.yml").write_text(yaml.safe_dump({**made, "dataset_prepared_path": "./both"}))
    for name in ("good", "alpaca"):  # the newest last
        shutil.copytree(next((inside / f"prepared_{name}").glob("*/state.json")).parent.parent, inside / "both",
                        dirs_exist_ok=True)  # fmt: skip
    assert len(list((inside / "both").glob("*/state.json"))) == 2
    capsys.readouterr()
    assert preflight.main(["both_good.yml", "--only", "data"]) == 0
    assert "64 samples, 64 answers: every token before each answer" in " ".join(capsys.readouterr().out.split())
    assert preflight.main(["both_alpaca.yml", "--only", "data", "--format", "json"]) == 1
    found = {f["id"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert list(found) == ["template-mismatch"]
    assert "64 of 64" in found["template-mismatch"]["message"]


def test_an_end_of_turn_outside_the_loss(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = judged("wrong_eos", capsys)
    assert (code, list(found)) == (1, ["eos-not-trained"])
    assert "400 of 400" in found["eos-not-trained"]["message"]


def test_two_begin_of_text_tokens(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = judged("doubled_bos", capsys)
    assert list(found) == ["template-not-applied"]
    assert "400 of 400" in found["template-not-applied"]["message"]


def test_cut_answers(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = judged("cut", capsys)
    assert list(found) == ["samples-dropped"]
    assert "266 of 400" in found["samples-dropped"]["message"]


def test_empty_answers(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = judged("empty", capsys)
    assert code == 1
    assert {"empty-outputs", "labels-all-masked"} == set(found)


def test_bots_are_never_trained(rig: RigFolder, training_python: Path) -> None:
    """The whole command: Axolotl is run, and its log stays where the evidence points."""
    data = [{"path": "./bots.jsonl", "type": "chat_template", "field_messages": "messages"}]
    rig.config(dataset_prepared_path="./own", datasets=data)
    done = subprocess.run(
        [sys.executable, "-m", "ftdoctor", "preprocess", "config.yml", "--format", "json", "--python", str(training_python)],
        cwd=rig.folder, env={**os.environ, **rig.environment(XDG_CACHE_HOME=str(rig.folder / "cache"))},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    findings = {f["id"]: f for f in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert findings["labels-all-masked"]["severity"] == "error"
    paths = [e["path"] for f in findings.values() for e in f["evidence"] if e["line_first"]]
    assert paths
    assert all((rig.folder / path).is_file() for path in paths)
