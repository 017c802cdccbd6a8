"""Prepared samples, in the form that `datasets` saves them: counted right, judged right, damaged ones named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ftdoctor.cli.main import main
from ftdoctor.errors import InputError
from ftdoctor.preflight.data import contract, prepared
from ftdoctor.preflight.data.prepared import Asked

pa = pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def _no_training_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is judged here needs no tokenizer."""
    monkeypatch.setenv("FTDOCTOR_PYTHON", "/nonexistent/python")


def save(folder: Path, samples: list[tuple[list[int], list[int]]], per_batch: int = 7) -> Path:
    """An Arrow stream, a state.json: what `Dataset.save_to_disk` leaves."""
    folder.mkdir(parents=True)
    ids, labels = (
        pa.array([s[0] for s in samples], pa.list_(pa.int32())),
        pa.array([s[1] for s in samples], pa.list_(pa.int64())),
    )
    table = pa.table({"input_ids": ids, "labels": labels})
    with pa.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=per_batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


def sample(
    number: int, length: int = 10, trained: int = 4, start: tuple[int, ...] = (0, 2)
) -> tuple[list[int], list[int]]:
    ids = [*start, *(100 + number + i for i in range(length - len(start)))]
    return ids, [-100] * (length - trained) + ids[length - trained :]


def check(folder: Path, capsys: pytest.CaptureFixture[str], samples: Any, **top: Any) -> tuple[int, dict[str, Any]]:
    save(folder / "prepared/abc", samples)
    config = {"base_model": "org/m", "dataset_prepared_path": str(folder / "prepared"), "sequence_len": 64, **top}
    (folder / "c.yml").write_text(yaml.safe_dump(config))
    code = main(["preprocess", str(folder / "c.yml"), "--no-run", "--format", "json"])
    return code, {f["id"]: f for f in json.loads(capsys.readouterr().out)["findings"]}


def test_counts(tmp_path: Path) -> None:
    samples = [sample(i) for i in range(20)] + [sample(3), sample(50, 30, 0), sample(60, 64, 8, (5, 5))]
    found = prepared.scan(save(tmp_path / "p", samples), Asked(64))
    assert found["rows"] == 23
    assert found["tokens"] == 21 * 10 + 30 + 64
    assert found["trained"] == 21 * 4 + 8
    assert (found["masked"], found["masked_first"]) == (1, 22)
    assert (found["twins"], found["twin_first"]) == (1, [21, 4])
    assert (found["full"], found["doubled"], found["longest"]) == (1, 1, 64)
    assert sum(found["histogram"]) == 23


def test_healthy_samples_are_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, capsys, [sample(i) for i in range(40)]) == (0, {})


@pytest.mark.parametrize(
    ("samples", "top", "rule", "severity"),
    [
        ([sample(i, trained=0) for i in range(40)], {}, "labels-all-masked", "error"),
        ([sample(i, trained=0 if i == 5 else 3) for i in range(40)], {}, "labels-all-masked", "warning"),
        ([sample(i, 64) for i in range(40)], {"excess_length_strategy": "truncate"}, "samples-dropped", "warning"),
        ([sample(i, start=(0, 0)) for i in range(40)], {}, "template-not-applied", "warning"),
        ([sample(i % 20) for i in range(40)], {}, "duplicate-rows", "warning"),
    ],
)
def test_broken_samples(
    samples: Any, top: dict[str, Any], rule: str, severity: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = check(tmp_path, capsys, samples, **top)
    assert {r: f["severity"] for r, f in found.items()} == {rule: severity}
    assert code == int(severity == "error")


def test_the_first_sample_without_a_trained_token_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, found = check(tmp_path, capsys, [sample(i, trained=0 if i == 25 else 3) for i in range(40)])
    assert "sample 26" in found["labels-all-masked"]["message"]


def test_damaged_and_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save(tmp_path / "p", [sample(i) for i in range(40)])
    file = folder / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:900])
    with pytest.raises(InputError, match="cannot be read"):
        contract.scan(folder, Asked(), None)
    file.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        contract.scan(folder, Asked(), None)
    (tmp_path / "c.yml").write_text(
        yaml.safe_dump({"base_model": "a", "dataset_prepared_path": str(tmp_path / "none")})
    )
    assert main(["preprocess", str(tmp_path / "c.yml"), "--no-run"]) == 2
    assert "no prepared data set" in capsys.readouterr().err


def test_the_script_gives_the_same(tmp_path: Path) -> None:
    import subprocess
    import sys

    folder, asked = save(tmp_path / "p", [sample(i) for i in range(10)]), Asked(64, (3, 109), 1, 0.2)
    done = subprocess.run(
        [sys.executable, prepared.__file__, str(folder), asked.json()], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == prepared.scan(folder, asked)


END = 7


def ended(number: int, length: int = 12, end: int = END, masked_end: bool = False) -> tuple[list[int], list[int]]:
    ids, labels = sample(number, length)
    return [*ids[:-1], end], [*labels[:-1], -100 if masked_end else end]


def test_ends_are_judged_by_token_ids(tmp_path: Path) -> None:
    samples = [ended(n) for n in range(20)]
    samples[4] = ended(104, masked_end=True)
    samples[9] = ended(109, end=8)
    samples[12] = sample(112, 64, 20)
    asked = Asked(64, (END,))
    found = prepared.scan(save(tmp_path / "p", samples), asked)
    assert (found["endless"], found["endless_first"]) == (2, 5)
    assert (found["cut"], found["cut_first"], found["full"]) == (1, 13, 1)
    told = dict(contract.facts(found))
    assert told["prepared.endless_rows"] == 2
    assert told["prepared.cut_rows"] == 1


def test_a_full_sample_with_its_end_is_not_cut(tmp_path: Path) -> None:
    found = prepared.scan(save(tmp_path / "p", [ended(n, 64) for n in range(20)]), Asked(64, (END,)))
    assert (found["full"], found["cut"], found["endless"]) == (20, 0, 0)
    assert "prepared.cut_rows" not in dict(contract.facts(found))


def test_only_the_begin_of_text_token_counts_as_doubled(tmp_path: Path) -> None:
    folder = save(tmp_path / "p", [sample(n, start=(5, 5)) for n in range(9)])
    assert prepared.scan(folder, Asked(64, bos=5))["doubled"] == 9
    assert prepared.scan(folder, Asked(64, bos=1))["doubled"] == 0


@pytest.mark.parametrize(("held", "leaked"), [(0.25, 1), (5, 1), (0.1, 0), (0, 0)])
def test_the_split_is_the_end_of_the_prepared_set(held: float, leaked: int, tmp_path: Path) -> None:
    samples = [sample(n) for n in range(20)]
    samples[16] = samples[3]  # among the last five, not among the last two
    found = prepared.scan(save(tmp_path / "p", samples), Asked(64, held=held))
    assert (found["twins"], found["leak"]) == (1, leaked)
    assert found["leak_first"] == ([17, 4] if leaked else [])


def test_leakage_into_a_test_set_of_its_own(tmp_path: Path) -> None:
    train = save(tmp_path / "a", [sample(n) for n in range(20)])
    test = save(tmp_path / "b", [sample(90), sample(5), sample(91)])
    found = prepared.scan(train, Asked(64, test=str(test)))
    assert (found["leak"], found["held"], found["leak_first"]) == (1, 3, [2, 6])


def test_the_leak_is_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = [sample(n) for n in range(40)]
    samples[39] = samples[0]
    code, found = check(tmp_path, capsys, samples, val_set_size=0.1)
    assert (code, list(found)) == (0, ["eval-leakage"])
    assert "1 of 4 samples" in found["eval-leakage"]["message"]


def test_rows_that_were_lost_on_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": f"a {n}"}]}
        for n in range(60)
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [{"path": str(tmp_path / "d.jsonl"), "type": "chat_template"}]
    _, found = check(tmp_path, capsys, [sample(n) for n in range(40)], datasets=data)
    assert found["samples-dropped"]["message"].startswith("20 of 60 rows are not among the prepared samples")


def test_packing_is_close_to_what_first_fit_gives() -> None:
    import random
    from bisect import bisect_left, insort
    from collections import Counter

    rng = random.Random(3)
    for _ in range(60):
        size = rng.choice([16, 64, 500])
        lengths = [rng.randint(1, size) for _ in range(rng.randint(1, 200))]
        free: list[int] = []
        bins = 0
        for length in sorted(lengths, reverse=True):
            at = bisect_left(free, length)
            rest = (size if at == len(free) else free[at]) - length
            bins += at == len(free)
            if at < len(free):
                free.pop(at)
            insort(free, rest)
        made = prepared.packed(dict(Counter(lengths)), size)
        assert made * size >= sum(lengths)
        assert abs(made - bins) <= 1 + bins // 50


def test_what_ends_an_answer() -> None:
    about = {"ends": [9, 3], "bos": 1}
    chat = {"datasets": [{"path": "a", "type": "chat_template"}], "sequence_len": 64, "val_set_size": 0.1}
    assert contract.asked(chat, about, None) == Asked(64, (3, 9), 1, 0.1)
    assert contract.asked({**chat, "rl": "dpo"}, about, None).ends == ()
    assert contract.asked({"datasets": [{"path": "a", "type": "completion"}]}, about, None).ends == ()
    assert contract.asked(chat, {}, None).ends == ()
    assert contract.asked({**chat, "dataset_exact_deduplication": True}, about, None).held == 0.0
