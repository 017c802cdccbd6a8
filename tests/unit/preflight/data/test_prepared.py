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

pa = pytest.importorskip("pyarrow")


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
    found = prepared.scan(save(tmp_path / "p", samples), 64)
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
        contract.scan(folder, {}, None)
    file.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        contract.scan(folder, {}, None)
    (tmp_path / "c.yml").write_text(
        yaml.safe_dump({"base_model": "a", "dataset_prepared_path": str(tmp_path / "none")})
    )
    assert main(["preprocess", str(tmp_path / "c.yml"), "--no-run"]) == 2
    assert "no prepared data set" in capsys.readouterr().err


def test_the_script_gives_the_same(tmp_path: Path) -> None:
    import subprocess
    import sys

    folder = save(tmp_path / "p", [sample(i) for i in range(10)])
    done = subprocess.run(
        [sys.executable, prepared.__file__, str(folder), "64"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == prepared.scan(folder, 64)
