"""A pupil that is really trained by Axolotl and really merged: its merge is proven, its faults have their names, and its
answers are judged healthy when it is asked as it was trained.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ftdoctor.cli import merge as verb
from ftdoctor.merging.tensors import read_checkpoint
from tests.unit.merging.models import Array, write
from tools.record.rig import Rig

pytestmark = [pytest.mark.rig, pytest.mark.timeout(3600)]  # the first test waits for the training
ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "ftdoctor/demo"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Pupil:
    """The folder of the trained pupil."""

    def __init__(self, folder: Path, rig: Rig) -> None:
        self.folder, self.rig = folder, rig

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """A command in the folder, in the environment of the rig."""
        given = self.rig.environment({"PYTHONPATH": f".{os.pathsep}{ROOT}", **env})
        done = subprocess.run(command, cwd=self.folder, env=given, capture_output=True, text=True)
        assert not check or done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done

    def ftdoctor(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ftdoctor ARGUMENTS`."""
        python = str(self.rig.venv / "bin/python")
        return self.run(sys.executable, "-m", "ftdoctor", *arguments, check=False, FTDOCTOR_PYTHON=python)


@pytest.fixture(scope="module")
def pupil(_rig_made: Rig, tmp_path_factory: pytest.TempPathFactory) -> Pupil:
    """Made, trained and merged once: about two minutes."""
    folder = tmp_path_factory.mktemp("pupil")
    shutil.copy(_rig_made.folder / "cpu_rig.py", folder)
    shutil.copy(DEMO / "pupil.yml", folder / "config.yml")
    made = Pupil(folder, _rig_made)
    python = str(_rig_made.venv / "bin/python")
    made.run(python, str(DEMO / "pupil.py"), ".", "--seconds", "3000")  # a slow machine learns as much
    made.run(python, "-m", "axolotl.cli.train", "config.yml")
    merged = made.ftdoctor("merge", "config.yml", "--mend", "--format", "json")
    assert merged.returncode == 0, (merged.stdout + merged.stderr)[-3000:]
    return made


def check(capsys: pytest.CaptureFixture[str], merged: Path, base: Path, adapter: Path) -> dict[str, Any]:
    """The proof of a merged folder, as JSON."""
    capsys.readouterr()
    options = ["--base", str(base), "--adapter", str(adapter), "--format", "json", "--no-logits"]
    verb.main(["--check-only", str(merged), *options])
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown


def test_a_good_merge_is_proven(pupil: Pupil, capsys: pytest.CaptureFixture[str]) -> None:
    shown = check(capsys, pupil.folder / "out/merged", pupil.folder / "pupil", pupil.folder / "out")
    assert shown["verdict"] == "healthy"
    kinds = {t["kind"] for t in shown["merge"]["tensors"]}
    assert kinds == {"lora", "replace", "none"}
    assert (pupil.folder / "out/merged/before-mend").is_dir()  # merge-lora had taken the base's tokenizer


def tensors_of(folder: Path, name: str = "model.safetensors") -> dict[str, Array]:
    return {n: t.whole().copy() for n, t in read_checkpoint(str(folder), (name,)).tensors.items()}


def weights(change: Callable[[dict[str, Array], dict[str, Array]], None]) -> Callable[[Path], None]:
    """A fault in the merged tensors; `change` gets them and the base's."""

    def fault(place: Path) -> None:
        merged = tensors_of(place / "merged")
        change(merged, tensors_of(place / "pupil"))
        write(place / "merged/model.safetensors", merged)

    return fault


def wrong_base(place: Path) -> None:
    base = tensors_of(place / "pupil")
    draw = np.random.default_rng(0)
    other = {n: v + draw.normal(0, 0.05, v.shape).astype("f4") for n, v in base.items()}
    write(place / "pupil/model.safetensors", other)


def nan(merged: dict[str, Array], base: dict[str, Array]) -> None:
    merged["model.layers.1.mlp.up_proj.weight"][3, 4] = np.nan


def scaled(merged: dict[str, Array], base: dict[str, Array]) -> None:
    for name, value in base.items():
        if "_proj" in name:
            merged[name] = value + 2 * (merged[name] - value)


def identity(merged: dict[str, Array], base: dict[str, Array]) -> None:
    merged.update({n: v for n, v in base.items() if "_proj" in n})


def zero_b(place: Path) -> None:
    adapter = tensors_of(place / "out", "adapter_model.safetensors")
    write(place / "out/adapter_model.safetensors", {n: v * 0 if "lora_B" in n else v for n, v in adapter.items()})
    weights(identity)(place)


def empty_shards(place: Path) -> None:
    adapter = tensors_of(place / "out", "adapter_model.safetensors")
    emptied = {n: np.zeros((0,), "f4") if "layers.0" in n else v for n, v in adapter.items()}
    write(place / "out/adapter_model.safetensors", emptied)


def lost_rows(place: Path) -> None:
    """Training had eight tokens more; the merged model has the base's embedding."""
    adapter = tensors_of(place / "out", "adapter_model.safetensors")
    whole = [n for n, v in adapter.items() if "embed_tokens" in n or "lm_head" in n]
    for name in whole:
        adapter[name] = np.concatenate([adapter[name], adapter[name][:8]])
    write(place / "out/adapter_model.safetensors", adapter)
    weights(lambda m, b: m.update({n: b[n] for n in ("model.embed_tokens.weight", "lm_head.weight")}))(place)


def dropped_shard(place: Path) -> None:
    merged = tensors_of(place / "merged")
    names = sorted(merged)
    files = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in files.items():
        write(place / "merged" / file, {n: merged[n] for n in part})
    index = {"metadata": {}, "weight_map": {n: f for f, part in files.items() for n in part}}
    (place / "merged/model.safetensors.index.json").write_text(json.dumps(index))
    (place / "merged/model.safetensors").unlink()
    (place / "merged/model-00002-of-00002.safetensors").unlink()


def truncated(place: Path) -> None:
    file = place / "merged/model.safetensors"
    file.write_bytes(file.read_bytes()[:-70_000])


def no_template(place: Path) -> None:
    (place / "merged/chat_template.jinja").unlink()


def other_eos(place: Path) -> None:
    path = place / "merged/generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token_id": 1}))


def no_adapter_config(place: Path) -> None:
    (place / "out/adapter_config.json").unlink()


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (zero_b, "merge-ineffective"), (wrong_base, "merge-mismatch"), (dropped_shard, "merge-corrupt"),
        (weights(nan), "merge-corrupt"), (weights(scaled), "merge-mismatch"), (lost_rows, "merge-mismatch"),
        (no_template, "merge-tokenizer-lost"), (other_eos, "merge-tokenizer-lost"),
        (weights(identity), "merge-ineffective"), (empty_shards, "adapter-missing"),
        (no_adapter_config, "adapter-missing"), (truncated, "merge-corrupt"),
    ],
    ids=["zero-b", "wrong-base", "dropped-shard", "nan", "scaling", "lost-rows", "template", "eos", "identity",
         "empty-shards", "no-config", "truncated"],
)  # fmt: skip
def test_a_fault_has_its_name(
    pupil: Pupil, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Callable[[Path], None], rule: str
) -> None:
    shutil.copytree(pupil.folder / "pupil", tmp_path / "pupil")
    shutil.copytree(pupil.folder / "out/merged", tmp_path / "merged")
    ignore = shutil.ignore_patterns("merged", "checkpoint-*")
    shutil.copytree(pupil.folder / "out", tmp_path / "out", ignore=ignore)
    fault(tmp_path)
    shown = check(capsys, tmp_path / "merged", tmp_path / "pupil", tmp_path / "out")
    assert shown["root_cause"]["id"] == rule
    assert shown["root_cause"]["severity"] == "error"


WRONG = {"header": "template-mismatch", "template": "template-mismatch", "eos": "eos-not-trained"}
Asked = dict[str, "Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="module")
def asked(pupil: Pupil) -> Iterator[Asked]:
    """Every question to the pupil, two at a time: most of each is loading libraries on one core."""
    out = pupil.folder / "asked"
    shutil.copytree(pupil.folder / "out/merged", out / "eos/merged")
    other_eos(out / "eos")
    (out / "chatml.jinja").write_text(CHATML)
    merged = ["--model", "out/merged"]
    options = {
        "right": ["--config", "config.yml", "--held-out", "4", "--samples", "1"],
        "header": [*merged, "--no-generation-prompt"],
        "template": [*merged, "--chat-template", str(out / "chatml.jinja")],
        "eos": ["--model", str(out / "eos/merged")],
    }
    with ThreadPoolExecutor(2) as pool:
        started = {}
        for name, given in options.items():
            kept = ["--prompts", "unseen.jsonl", "--out", str(out / f"{name}.jsonl"), "--format", "json"]
            started[name] = pool.submit(pupil.ftdoctor, "evaluate", *kept, "--max-new-tokens", "48", *given)
        question = ["--base", "pupil", "--adapter", "out", "--prompt", "What is the capital of France?"]
        started["infer"] = pool.submit(pupil.ftdoctor, "infer", *question)
        yield started


def evaluated(asked: Asked, name: str) -> tuple[int, dict[str, Any]]:
    """What `evaluate` said of the last model."""
    done = asked[name].result()
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)["models"][-1]


def test_a_model_that_learned_its_task_is_healthy(pupil: Pupil, asked: Asked) -> None:
    code, tuned = evaluated(asked, "right")
    assert (code, tuned["broken"], tuned["findings"]) == (0, 0, [])
    assert tuned["name"] == "merged model"
    assert tuned["perplexity"] < 1.5
    rows = [json.loads(line) for line in (pupil.folder / "asked/right.jsonl").read_text().splitlines()]
    assert {r["model"] for r in rows} == {"base", "base + adapter", "merged model"}
    assert {r["seed"] for r in rows} == {None, 0}
    assert {r["kind"] for r in rows} == {"own", "held-out"}
    right = [r["output"].strip() == r["reference"] for r in rows if r["model"] == "merged model" and r["seed"] is None]
    assert sum(right) > 0.8 * len(right)
    assert all("base_perplexity" in r["scores"] for r in rows if r["model"] != "base" and r["output"].strip())


@pytest.mark.parametrize("form", WRONG)
def test_the_same_model_asked_wrongly_is_broken(asked: Asked, form: str) -> None:
    code, said = evaluated(asked, form)
    assert (code, said["root_cause"]) == (1, WRONG[form])


def test_infer_says_who_answers(asked: Asked) -> None:
    done = asked["infer"].result()
    assert done.returncode == 0, done.stderr
    assert "The capital of France is Paris." in done.stdout
    assert "base + adapter: pupil + adapter out" in done.stdout
