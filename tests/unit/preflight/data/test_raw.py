"""Raw rows against their declared type: every broken file named with its row, healthy ones quiet."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor.cli.main import main
from ftdoctor.preflight.data.declared import declare
from ftdoctor.preflight.data.raw import Judge
from ftdoctor.preflight.data.rows import Cut, Flaw, Row, read

ALPACA = [{"instruction": f"Say {i}", "input": "", "output": f"{i}."} for i in range(20)]
CHAT = [
    {"messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": f"{i}."}]}
    for i in range(20)
]
SHARED = [
    {"conversations": [{"from": "human", "value": f"Say {i}"}, {"from": "gpt", "value": f"{i}."}]} for i in range(20)
]
MAPPED = {
    "type": "chat_template", "field_messages": "conversations",
    "message_property_mappings": {"role": "from", "content": "value"},
}  # fmt: skip


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def put(rows: list[Any], at: int, row: Any) -> list[Any]:
    return [*rows[: at - 1], row, *rows[at:]]


def look(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes, dataset: Any, name: str = "d.jsonl", **top: Any
) -> Any:
    (folder / name).write_bytes(content)
    config = {"base_model": "org/model", "datasets": [{"path": str(folder / name), **dataset}], **top}
    (folder / "c.yml").write_text(yaml.safe_dump(config))
    code = main(["preflight", str(folder / "c.yml"), "--only", "data", "--format", "json"])
    found = json.loads(capsys.readouterr().out)
    return code, {f["id"]: f for f in found["findings"]}


def chat(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


BROKEN: dict[str, tuple[bytes, dict[str, Any], str, str, int, str]] = {
    # content, data set, id, severity, line, words of the message
    "a line cut in the middle": (lines(ALPACA)[:-10], {"type": "alpaca"}, "dataset-format-invalid", "error", 20, "ends in the middle"),
    "single quotes": (lines(ALPACA[:4]) + b"{'instruction': 'x'}\n", {"type": "alpaca"}, "dataset-format-invalid", "error", 5, "single quotes"),
    "a missing comma": (lines(ALPACA[:2]) + b'{"instruction": "x" "output": "y"}\n', {"type": "alpaca"}, "dataset-format-invalid", "error", 3, "not JSON"),
    "Latin-1": (lines(ALPACA[:6]) + '{"instruction": "é", "output": "x"}\n'.encode("latin-1"), {"type": "alpaca"}, "dataset-format-invalid", "error", 7, "0xe9"),
    "UTF-16": (lines(ALPACA).decode().encode("utf-16"), {"type": "alpaca"}, "dataset-format-invalid", "error", 1, "UTF-16"),
    "a number among objects": (lines(put(ALPACA, 9, 3)), {"type": "alpaca"}, "dataset-format-invalid", "error", 9, "a number"),
    "an empty file": (b"", {"type": "alpaca"}, "dataset-format-invalid", "error", 0, "empty"),
    "blank lines only": (b"\n\n\n", {"type": "alpaca"}, "dataset-format-invalid", "error", 0, "no rows"),
    "other columns": (lines([{"prompt": "a", "completion": "b"}] * 3), {"type": "alpaca"}, "dataset-format-invalid", "error", 1, "instruction, output (columns: prompt, completion)"),
    "ShareGPT rows as messages": (lines(SHARED), {"type": "chat_template"}, "dataset-format-invalid", "error", 1, "no row has messages (columns: conversations)"),
    "ShareGPT turns unmapped": (lines(SHARED), {"type": "chat_template", "field_messages": "conversations"}, "dataset-format-invalid", "error", 1, "no turn has role (a turn's keys: from, value)"),
    "messages null": (lines(put(CHAT, 4, {"messages": None})), {"type": "chat_template"}, "dataset-format-invalid", "error", 4, "messages is null"),
    "messages a text": (lines(put(CHAT, 5, {"messages": "hello"})), {"type": "chat_template"}, "dataset-format-invalid", "error", 5, "no JSON"),
    "messages an object": (lines(put(CHAT, 6, {"messages": {"role": "user"}})), {"type": "chat_template"}, "dataset-format-invalid", "error", 6, "not a list"),
    "a turn that is text": (lines(put(CHAT, 7, {"messages": ["hello"]})), {"type": "chat_template"}, "dataset-format-invalid", "error", 7, "no object"),
    "a turn without role": (lines(put(CHAT, 8, {"messages": [{"content": "x"}]})), {"type": "chat_template"}, "dataset-format-invalid", "error", 8, "no role"),
    "an answer that is a number": (lines(put(ALPACA, 3, {"instruction": "2+2", "output": 4})), {"type": "alpaca"}, "dataset-format-invalid", "error", 3, "a number"),
    "a null instruction": (lines(put(ALPACA, 3, {"instruction": None, "output": "x"})), {"type": "alpaca"}, "dataset-format-invalid", "warning", 3, "instruction is null"),
    "an empty output": (lines(put(ALPACA, 11, {"instruction": "x", "output": ""})), {"type": "alpaca"}, "empty-outputs", "warning", 11, "row 11"),
    "a null output": (lines(put(ALPACA, 12, {"instruction": "x", "output": None})), {"type": "alpaca"}, "empty-outputs", "warning", 12, "row 12"),
    "blank outputs everywhere": (lines([{**r, "output": "  \n"} for r in ALPACA]), {"type": "alpaca"}, "empty-outputs", "error", 1, "20 of 20"),
    "an empty assistant turn": (lines(put(CHAT, 13, chat(("user", "x"), ("assistant", "")))), {"type": "chat_template"}, "empty-outputs", "warning", 13, "row 13"),
    "an empty text": (lines([{"text": "a"}, {"text": ""}, {"text": "b"}]), {"type": "completion"}, "empty-outputs", "warning", 2, "row 2"),
    "text in another column": (lines([{"body": "a"}]), {"type": "completion"}, "dataset-format-invalid", "error", 1, "no row has text"),
    "a named text column": (lines([{"text": "a"}]), {"type": "completion", "field": "body"}, "dataset-format-invalid", "error", 1, "no row has body"),
    "bots nobody trains": (lines([chat(("user", "x"), ("bot", f"{i}")) for i in range(6)]), {"type": "chat_template"}, "labels-all-masked", "error", 1, "6 of 6"),
    "one row without an answer": (lines(put(CHAT, 14, chat(("user", "only")))), {"type": "chat_template"}, "labels-all-masked", "warning", 14, "row 14"),
    "an unknown role among others": (lines(put(CHAT, 15, chat(("narrator", "x"), ("assistant", "y")))), {"type": "chat_template"}, "labels-all-masked", "warning", 15, "narrator"),
    "segments without label": (lines([{"segments": [{"text": "x"}]}]), {"type": "input_output"}, "dataset-format-invalid", "error", 1, "label or text"),
    "segments that teach nothing": (lines([{"segments": [{"label": False, "text": "x"}]}]), {"type": "input_output"}, "labels-all-masked", "error", 1, "row 1"),
    "a custom type's column": (lines(ALPACA), {"type": {"field_instruction": "instruction", "field_output": "answer", "format": "{instruction}"}}, "dataset-format-invalid", "error", 1, "answer"),
    "a placeholder as answer": (lines(put(ALPACA, 2, {"instruction": "x", "output": "{output}"})), {"type": "alpaca"}, "placeholder-in-sample", "warning", 2, "{output}"),
    "copies": (lines(ALPACA + ALPACA), {"type": "alpaca"}, "duplicate-rows", "warning", 21, "row 21 repeats row 1"),
    "copies in other case": (lines(ALPACA + [{**r, "instruction": r["instruction"].upper() + "  "} for r in ALPACA]), {"type": "alpaca"}, "duplicate-rows", "warning", 21, "row 21"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, dataset, rule, severity, line, words = BROKEN[name]
    code, found = look(tmp_path, capsys, content, dataset)
    assert rule in found, found
    finding = found[rule]
    assert finding["severity"] == severity
    assert words in finding["message"]
    assert finding["evidence"][0]["line_first"] == line
    assert code == (1 if severity == "error" else 0)
    assert set(found) == {rule}


HEALTHY: dict[str, tuple[bytes, dict[str, Any]]] = {
    "alpaca": (lines(ALPACA), {"type": "alpaca"}),
    "alpaca without input": (lines([{"instruction": f"{i}", "output": "x"} for i in range(4)]), {"type": "alpaca"}),
    "alpaca with nothing in input": (lines([{**r, "input": None} for r in ALPACA]), {"type": "alpaca"}),
    "alpaca:chat": (lines(ALPACA), {"type": "alpaca:chat"}),
    "a list": (json.dumps(ALPACA, indent=1).encode(), {"type": "alpaca"}),
    "objects over several lines": (b"\n".join(json.dumps(r, indent=2).encode() for r in ALPACA), {"type": "alpaca"}),
    "with a byte order mark": (b"\xef\xbb\xbf" + lines(ALPACA), {"type": "alpaca"}),
    "blank lines between": (lines(ALPACA).replace(b"\n", b"\n\n"), {"type": "alpaca"}),
    "messages": (lines(CHAT), {"type": "chat_template"}),
    "messages as text": (lines([{"messages": json.dumps(r["messages"])} for r in CHAT]), {"type": "chat_template"}),
    "ShareGPT, mapped": (lines(SHARED), MAPPED),
    "roles mapped": (
        lines([chat(("human", f"{i}"), ("bot", "x")) for i in range(5)]),
        {"type": "chat_template", "roles": {"user": ["human"], "assistant": ["bot"]}},
    ),
    "tool calls": (
        lines([{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [{"id": 1}]},
                             {"role": "tool", "content": "4"}, {"role": "assistant", "content": "4"}]}]),
        {"type": "chat_template"},
    ),
    "completion": (lines([{"text": f"text {i}"} for i in range(5)]), {"type": "completion"}),
    "input_output": (
        lines([{"segments": [{"label": False, "text": "Q"}, {"label": True, "text": f"A{i}"}]} for i in range(3)]),
        {"type": "input_output"},
    ),
    "custom": (
        lines([{"q": f"{i}", "a": "x"} for i in range(3)]),
        {"type": {"field_instruction": "q", "field_output": "a", "format": "{instruction}"}},
    ),
    "a type whose columns are not known": (lines([{"x": 1}]), {"type": "my_module.load"}),
    "tokenised already": (lines([{"input_ids": [1], "labels": [1], "attention_mask": [1]}]), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert look(tmp_path, capsys, *HEALTHY[name]) == (0, {})


def test_csv_and_parquet_and_gzip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with open(tmp_path / "rows.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, ["instruction", "input", "output"])
        writer.writeheader()
        writer.writerows([*ALPACA[:3], {"instruction": 'a "quoted"\nline', "output": ""}, *ALPACA[4:]])
    _, found = look(tmp_path, capsys, (tmp_path / "rows.csv").read_bytes(), {"type": "alpaca"}, "d.csv")
    assert found["empty-outputs"]["evidence"][0]["line_first"] == 5
    pq.write_table(pa.Table.from_pylist(put(ALPACA, 4, {"instruction": "x", "output": None})), tmp_path / "x.parquet")
    _, found = look(tmp_path, capsys, (tmp_path / "x.parquet").read_bytes(), {"type": "alpaca"}, "d.parquet")
    assert "row 4" in found["empty-outputs"]["message"]
    _, found = look(tmp_path, capsys, b"PAR1 no", {"type": "alpaca"}, "e.parquet")
    assert "not Parquet" in found["dataset-format-invalid"]["message"]
    packed = gzip.compress(lines(put(ALPACA, 4, {"instruction": "x", "output": ""})))
    _, found = look(tmp_path, capsys, packed, {"type": "alpaca"}, "d.jsonl.gz")
    assert "row 4" in found["empty-outputs"]["message"]
    _, found = look(tmp_path, capsys, packed[:40], {"type": "alpaca"}, "f.jsonl.gz")
    assert "damaged" in found["dataset-format-invalid"]["message"]


def test_test_rows_in_the_training_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = tmp_path / "t.jsonl"
    held.write_bytes(lines([{"instruction": "new", "output": "x"}, ALPACA[6]]))
    code, found = look(
        tmp_path, capsys, lines(ALPACA), {"type": "alpaca"}, test_datasets=[{"path": str(held), "type": "alpaca"}]
    )
    assert (code, set(found)) == (0, {"eval-leakage"})
    assert (
        "1 of 2 rows of t.jsonl are in the training data: row 2 is row 7 of d.jsonl" in found["eval-leakage"]["message"]
    )


def test_a_data_set_in_the_cache_of_the_hub(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "hub/datasets--org--rows/snapshots/1a2b/data"
    place.mkdir(parents=True)
    (place / "train-00000.jsonl").write_bytes(lines(put(ALPACA, 3, {"instruction": "x", "output": ""})))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "c.yml").write_text(
        yaml.safe_dump(
            {
                "base_model": "a/b",
                "datasets": [{"path": "org/rows", "type": "alpaca"}, {"path": "org/other", "type": "alpaca"}],
            }
        )
    )
    main(["preflight", str(tmp_path / "c.yml"), "--only", "data"])
    told = capsys.readouterr().out
    assert "row 3" in told
    assert "org/other: on the Hub and not in the cache" in told


def test_a_large_file_is_judged_by_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(lines(ALPACA * 100))
    items = list(read(path, 5000))
    assert isinstance(items[-1], Cut)
    assert 50 < len(items) < 200


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "d.jsonl").write_bytes(lines(put(ALPACA, 11, {"instruction": "x", "output": ""})))
    (tmp_path / "c.yml").write_text(
        yaml.safe_dump({"base_model": "a/b", "datasets": [{"path": str(tmp_path / "d.jsonl"), "type": "alpaca"}]})
    )
    assert main(["preflight", str(tmp_path / "c.yml"), "--only", "data", "--ascii"]) == 0
    told = capsys.readouterr().out
    assert "20 rows as alpaca" in told
    assert "d.jsonl:11" in told


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=400),
    suffix=st.sampled_from([".jsonl", ".json", ".csv", ".txt", ".jsonl.gz"]),
    kind=st.sampled_from(["alpaca", "chat_template", "input_output", "completion"]),
)
def test_any_bytes(content: bytes, suffix: str, kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(content)
    judged = Judge(declare({"type": kind}), path.name)
    for item in read(path):
        judged.take(item)
        assert not isinstance(item, (Row, Flaw)) or item.line >= 0
    judged.close()
    assert judged.rows or judged.found


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["messages", "role", "content", "instruction", "output", "segments", "label", "text", "tool_calls"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    rows=st.lists(JSON, min_size=1, max_size=5),
    kind=st.sampled_from(["alpaca", "chat_template", "input_output", "completion"]),
)
def test_any_rows_have_their_numbers(rows: list[Any], kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(lines(rows))
    judged = Judge(declare({"type": kind}), path.name)
    seen = []
    for item in read(path):
        if isinstance(item, (Row, Flaw)):
            seen.append(item.line)
        judged.take(item)
    judged.close()
    if not isinstance(rows[0], list) or len(rows) == 1:
        assert isinstance(rows[0], list) or seen == list(range(1, len(rows) + 1))
