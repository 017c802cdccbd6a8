"""A fixed copy of a YAML: only the lines that had to change differ, and nothing is ever written over."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor import applyfix
from ftdoctor.applyfix import Change, apply_fix, patched
from ftdoctor.errors import FtdoctorError, InputError, UsageError
from ftdoctor.findings import Diagnosis, Finding, Fix, RunSummary

YAML = """\
# our best run so far
base_model: meta-llama/Llama-3.1-8B   # gated: log in first
datasets:
    - path: tatsu-lab/alpaca    # odd indentation, kept
      type: alpaca

adapter: qlora
load_in_4bit:   yes
learning_rate: 2e-4
micro_batch_size: 4   # per GPU
"quoted key": 'single'
wandb_project: "double"
special_tokens:
  pad_token: <|end_of_text|>   # Llama 3
  # a comment inside
lora_target_modules: [q_proj, v_proj]
fp16:
hub_model_id:     # none yet
text: |
  several
  lines
deepspeed: ds/zero3.json
output_dir: ./out"""  # no newline at the end

JSON = '{\n    "bf16": {"enabled": "auto"},\n    "zero_optimization": {\n        "stage": 3\n    }\n}\n'


def diagnosis(*fixes: Fix) -> Diagnosis:
    root = Finding("some-rule", "error", "cause", "t", "m", fixes=fixes)
    return Diagnosis(RunSummary(), "failing", root, (root,), ())


def patch(**values: object) -> dict[str, object]:
    return {f"axolotl.{key}": value for key, value in values.items()}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("ds").mkdir()
    Path("a.yml").write_text(YAML)
    Path("ds/zero3.json").write_text(JSON)
    return tmp_path


def applied(*fixes: Fix, text: str | None = None, deepspeed: str | None = None) -> tuple[Change, str]:
    if text is not None:
        Path("a.yml").write_bytes(text.encode())
    change = apply_fix(diagnosis(*fixes), Path("a.yml"), Path(deepspeed) if deepspeed else None, Path("b.yml"))
    return change, Path("b.yml").read_bytes().decode()


def changed_lines(before: str, after: str) -> list[str]:
    import difflib

    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=0, lineterm="")
    return [line for line in lines if not line.startswith(("---", "+++", "@@"))]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"micro_batch_size": 2}, ["-micro_batch_size: 4   # per GPU", "+micro_batch_size: 2   # per GPU"]),
        ({"learning_rate": 2e-5}, ["-learning_rate: 2e-4", "+learning_rate: 2.0e-05"]),
        ({"load_in_4bit": False}, ["-load_in_4bit:   yes", "+load_in_4bit:   false"]),
        ({"quoted key": "other"}, ["-\"quoted key\": 'single'", "+\"quoted key\": 'other'"]),
        ({"wandb_project": "x: y"}, ['-wandb_project: "double"', '+wandb_project: "x: y"']),
        ({"lora_target_modules": ["o_proj"]}, ["-lora_target_modules: [q_proj, v_proj]", "+lora_target_modules: [o_proj]"]),
        ({"fp16": False}, ["-fp16:", "+fp16: false"]),
        ({"hub_model_id": "me/x"}, ["-hub_model_id:     # none yet", "+hub_model_id: me/x     # none yet"]),
        ({"special_tokens.pad_token": "<pad>"}, ["-  pad_token: <|end_of_text|>   # Llama 3", '+  pad_token: "<pad>"   # Llama 3']),
        ({"special_tokens.eos_token": "</s>"}, ['+  eos_token: "</s>"']),
        ({"micro_batch_size": None}, ["-micro_batch_size: 4   # per GPU"]),
        ({"text": None}, ["-text: |", "-  several", "-  lines"]),
        ({"sample_packing": True}, ["+sample_packing: true"]),
        ({"output_dir": "./o2"}, ["-output_dir: ./out", "+output_dir: ./o2"]),
        ({"fsdp_config.offload_params": False}, ["+fsdp_config:", "+  offload_params: false"]),
        ({"bf16": True, "adapter": None, "micro_batch_size": 2},
         ["-adapter: qlora", "-micro_batch_size: 4   # per GPU", "+micro_batch_size: 2   # per GPU", "+bf16: true"]),
    ],
    ids=str,
)  # fmt: skip
def test_only_what_must_change_changes(place: Path, values: dict[str, object], expected: list[str]) -> None:
    _, text = applied(Fix("t", patch(**values)))
    assert changed_lines(YAML, text) == expected
    assert Path("a.yml").read_text() == YAML


@pytest.mark.parametrize(
    "text",
    ["{a: 1, micro_batch_size: 4}\n", "b: &x {c: 1}\nd:\n  <<: *x\nmicro_batch_size: 4 # c\n", "micro_batch_size:\n  4\n", "---\nmicro_batch_size: 4\n...\n",
     "a: 1\r\nmicro_batch_size: 4\r\nb: 2\r\n", "\ufeffmicro_batch_size: 4\n", "? micro_batch_size\n: 4\n", "é: 日本 # 😀\nmicro_batch_size: !!int 4\n",
     "micro_batch_size: &n 4\ngrad: *n\n"],
    ids=range(9),
)  # fmt: skip
def test_unusual_files(place: Path, text: str) -> None:
    change, after = applied(Fix("t", patch(micro_batch_size=2)), text=text)
    assert yaml.safe_load(after)["micro_batch_size"] == 2
    assert change.made == ["micro_batch_size: 4 -> 2"]
    if "\r\n" in text:
        assert after == text.replace("4", "2")


def test_the_round_trip_keeps_comments(place: Path) -> None:
    text = "# top\na: 1  # one\nd: {x: 1, micro: 4}  # flow\n\n# end\nquote: 'q'\nlist:\n    - 1\n    - 2\n"
    change, after = applied(Fix("t", {"axolotl.d.micro": 2e-5}), text=text)
    assert after == text.replace("micro: 4", "micro: 2.0e-05")
    assert change.written == [Path("b.yml")]


def test_the_first_fix_with_a_change_is_taken(place: Path) -> None:
    note, words = Fix("read", note="x"), Fix("halve", patch(micro_batch_size="half the current value"))
    same, real = (
        Fix("same", patch(micro_batch_size=4)),
        Fix("real", {**patch(micro_batch_size=1, x="twice the current value"), "axolotl.datasets[].type": "a"}),
    )
    change, after = applied(note, words, same, real)
    assert change.fix.title == "real"
    assert yaml.safe_load(after)["micro_batch_size"] == 1
    assert [text.partition(":")[0] for text in change.not_made] == ["x", "datasets[].type"]
    assert change.report().splitlines()[0] == "wrote b.yml: real"


def test_the_deepspeed_json_is_copied_beside(place: Path) -> None:
    fix = Fix(
        "t",
        {
            "deepspeed.zero_optimization.offload_param": {"device": "cpu"},
            "deepspeed.bf16.enabled": True,
            "axolotl.bf16": True,
        },
    )
    change, after = applied(fix, deepspeed="ds/zero3.json")
    assert changed_lines(YAML, after) == ["-deepspeed: ds/zero3.json", "+deepspeed: b.deepspeed.json", "+bf16: true"]
    new = Path("b.deepspeed.json").read_text()
    assert json.loads(new) == {
        "bf16": {"enabled": True},
        "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}},
    }
    assert new.startswith('{\n    "bf16"')
    assert Path("ds/zero3.json").read_text() == JSON
    assert change.written == [Path("b.yml"), Path("b.deepspeed.json")]


def test_deepspeed_inside_the_yaml(place: Path) -> None:
    text = "micro_batch_size: 1\ndeepspeed:\n  zero_optimization:\n    stage: 2  # two\nx: 1\n"
    _, after = applied(
        Fix("t", {"deepspeed.zero_optimization.stage": 3, "deepspeed.bf16.enabled": True}), text=text, deepspeed="a.yml"
    )
    assert after == text.replace("stage: 2", "stage: 3").replace("x: 1\n", "  bf16:\n    enabled: true\nx: 1\n")


def test_an_unknown_deepspeed_json_is_said(place: Path) -> None:
    change, _ = applied(Fix("t", {"deepspeed.zero_optimization.stage": 2, "axolotl.bf16": True}))
    assert "the DeepSpeed JSON was not found" in change.not_made[0]
    os.unlink("b.yml")
    with pytest.raises(UsageError, match="DeepSpeed JSON was not found"):
        applied(Fix("t", {"deepspeed.zero_optimization.stage": 2}))
    assert not Path("b.yml").exists()


def test_refusals_write_nothing(place: Path) -> None:
    fix = Fix("t", patch(micro_batch_size=2))
    healthy = dataclasses.replace(diagnosis(), root_cause=None, verdict="healthy")
    Path("taken.yml").write_text("mine")
    Path("dangling.yml").symlink_to("nowhere")
    before = sorted(os.listdir("."))
    cases: list[tuple[Any, Path | None, str, str]] = [
        (diagnosis(fix), Path("a.yml"), "a.yml", "exists already"),
        (diagnosis(fix), Path("a.yml"), "taken.yml", "exists already"),
        (diagnosis(fix), Path("a.yml"), "dangling.yml", "exists already"),
        (diagnosis(fix), Path("a.yml"), "no/such/b.yml", "folder does not exist"),
        (diagnosis(fix), Path("a.yml"), "b", "not the name of a YAML"),
        (diagnosis(fix), None, "b.yml", "no Axolotl YAML"),
        (diagnosis(Fix("read", note="n")), Path("a.yml"), "b.yml", "no change of the configuration"),
        (diagnosis(Fix("same", patch(micro_batch_size=4))), Path("a.yml"), "b.yml", "it is so already"),
        (diagnosis(Fix("t", {"axolotl.adapter.x": 1})), Path("a.yml"), "b.yml", "not a mapping"),
        (healthy, Path("a.yml"), "b.yml", "nothing to fix"),
    ]
    for found, config, out, message in cases:
        with pytest.raises(FtdoctorError, match=message) as caught:
            apply_fix(found, config, None, Path(out))
        assert caught.value.remedy
    assert sorted(os.listdir(".")) == before
    assert Path("taken.yml").read_text() == "mine"


def test_unreadable_sources(place: Path) -> None:
    fix = diagnosis(Fix("t", patch(micro_batch_size=2)))
    for content in (b"a: [", b"\xff\xfe\x00", b"- a\n"):
        Path("a.yml").write_bytes(content)
        with pytest.raises(InputError):
            apply_fix(fix, Path("a.yml"), None, Path("b.yml"))
    assert not Path("b.yml").exists()


def test_a_taken_json_name_is_refused_before_anything_is_written(place: Path) -> None:
    Path("b.deepspeed.json").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        applied(Fix("t", {"deepspeed.zero_optimization.stage": 2}), deepspeed="ds/zero3.json")
    assert not Path("b.yml").exists()
    assert Path("b.deepspeed.json").read_text() == "mine"


def test_a_failed_write_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(applyfix.os, "fsync", full)
    with pytest.raises(FtdoctorError, match="No space left"):
        applied(Fix("t", patch(micro_batch_size=2)))
    assert sorted(os.listdir(".")) == ["a.yml", "ds"]


def test_without_hard_links(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(applyfix.os, "link", no_links)
    _, text = applied(Fix("t", patch(micro_batch_size=2)))
    assert "micro_batch_size: 2" in text
    assert sorted(os.listdir(".")) == ["a.yml", "b.yml", "ds"]


def test_the_copy_is_as_private_as_the_original(place: Path) -> None:
    os.chmod("a.yml", 0o640)
    applied(Fix("t", patch(micro_batch_size=2)))
    assert os.stat("b.yml").st_mode & 0o777 == 0o640


names = st.sampled_from(["a", "b", "c", "some_key", "x y", "é"])
scalars = st.one_of(
    st.booleans(),
    st.integers(),
    st.integers(-(10**8), 10**8).map(lambda n: n / 1000),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
)
trees = st.dictionaries(names, st.one_of(st.none(), scalars, st.lists(scalars, max_size=3), st.dictionaries(names, st.one_of(scalars, st.dictionaries(names, scalars, max_size=2)), max_size=3)), min_size=1, max_size=5)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    trees,
    st.lists(names, min_size=1, max_size=3),
    st.one_of(st.none(), scalars, st.lists(scalars, max_size=2)),
    st.booleans(),
)
def test_any_mapping_gets_exactly_the_patch(tree: dict[str, Any], path: list[str], new: object, flow: bool) -> None:
    text = "# first\n" + yaml.safe_dump(tree, allow_unicode=True, default_flow_style=flow, sort_keys=False)
    data = yaml.safe_load(text)
    node: Any = data
    for part in path[:-1]:
        node = node.get(part, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        return
    wanted = applyfix._with(data, {tuple(path): new})
    if not wanted:
        return
    try:
        result = patched(text, data, {tuple(path): new}, Path("x.yml"))
    except InputError:
        assert (flow, new) == (
            True,
            None,
        )  # ruamel.yaml may not write a float with all its digits; then nothing is written
        return
    assert yaml.safe_load(result) == wanted
    assert "# first" in result
