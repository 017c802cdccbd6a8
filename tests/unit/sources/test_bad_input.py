"""Bad input gives a clear answer: never a traceback, a hang or unbounded memory."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftdoctor.errors import InputError
from ftdoctor.findings import Diagnosis
from ftdoctor.ruleset.load import load
from ftdoctor.session import check

RULES = load()
OOM = b"[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.95 GiB. GPU 3 has a total capacity of 79.11 GiB\n"
NAMES = [
    "train.log",
    "trainer_state.json",
    "config.yml",
    "ds_config.json",
    "adapter_model.safetensors",
    "x.jsonl",
    "weird",
]


def judge(path: Path) -> Diagnosis:
    return check([str(path)], RULES)


def root(path: Path) -> str | None:
    cause = judge(path).root_cause
    return cause.id if cause else None


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(NAMES), data=st.binary(max_size=2000))
def test_any_bytes_under_any_name(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    found = judge(path)
    assert not [o for o in found.outcomes if o.outcome == "crashed"]


json_value = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "log_history",
                    "step",
                    "loss",
                    "epoch",
                    "eval_loss",
                    "x",
                    "max_steps",
                    "zero_optimization",
                    "stage",
                    "grad_norm",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=25,
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["trainer_state.json", "ds.json", "config.yml"]), value=json_value)
def test_any_json(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / name
    path.write_text(json.dumps(value))
    found = judge(path)
    assert not [o for o in found.outcomes if o.outcome == "crashed"]


axolotl = st.dictionaries(
    st.sampled_from(
        [
            "base_model",
            "datasets",
            "adapter",
            "learning_rate",
            "micro_batch_size",
            "bf16",
            "fp16",
            "chat_template",
            "deepspeed",
            "warmup_steps",
            "load_in_4bit",
            "special_tokens",
            "sequence_len",
            "optimizer",
            "output_dir",
        ]
    ),
    json_value,
    min_size=1,
    max_size=8,
)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=axolotl)
def test_any_axolotl_yaml(tmp_path: Path, value: dict[str, object]) -> None:
    path = tmp_path / "config.yml"
    path.write_text(json.dumps(value))
    found = judge(path)
    assert not [o for o in found.outcomes if o.outcome == "crashed"]


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.touch()
    found = judge(path)
    assert found.verdict == "unknown"
    assert "empty" in found.run.skipped[0]


def test_binary(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    path.write_bytes(b"\x80\x02}q\x00(X\x05\x00\x00\x00" * 500 + OOM)
    found = judge(path)
    assert (found.verdict, found.findings) == ("unknown", ())
    assert "binary" in found.run.skipped[0]


def test_missing_and_folder_without_logs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        judge(tmp_path / "nothing.log")
    (tmp_path / "picture.png").write_bytes(b"x")
    with pytest.raises(InputError, match="no log"):
        judge(tmp_path)


def test_gzip_and_zstandard(tmp_path: Path) -> None:
    (tmp_path / "a.log.gz").write_bytes(gzip.compress(b"x\n" * 100_000 + OOM))
    (tmp_path / "a.log.zst").write_bytes(zstandard.compress(b"x\n" * 100_000 + OOM))
    assert root(tmp_path / "a.log.gz") == root(tmp_path / "a.log.zst") == "cuda-oom"


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_truncated_archives_are_read_as_far_as_they_go(tmp_path: Path, cut: int) -> None:
    noise = b"\n".join(os.urandom(40).hex().encode() for _ in range(9000))
    for name, data in (("a.log.gz", gzip.compress(OOM + noise)), ("a.log.zst", zstandard.compress(OOM + noise))):
        path = tmp_path / name
        path.write_bytes(data[: len(data) - cut])
        found = judge(path)
        assert found.run.skipped
        assert found.root_cause is not None


def test_utf16_as_powershell_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(OOM.decode().encode("utf-16"))
    assert root(path) == "cuda-oom"


def test_latin1_and_broken_utf8(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_bytes(b"caf\xe9 \xff\xfe\n" + OOM)
    assert root(path) == "cuda-oom"


def test_bare_nan_in_a_trainer_state(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text('{"log_history": [{"step": 1, "loss": NaN, "grad_norm": Infinity}], "max_steps": -1}')
    assert judge(path).run.last_step == 1


def test_truncated_json_and_yaml_name_the_problem(tmp_path: Path) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text('{"log_history": [{"step": 1, "lo')
    assert "not valid JSON" in judge(path).run.skipped[0]


def test_deeply_nested_json_and_yaml(tmp_path: Path) -> None:
    for name in ("trainer_state.json", "config.yml"):
        path = tmp_path / name
        path.write_text("[" * 50_000)
        judge(path)


def test_a_yaml_bomb_stays_small(tmp_path: Path) -> None:
    lines = ["base_model: x", "a: &a [x,x,x,x,x,x,x,x,x]"]
    for old, new in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]")
    path = tmp_path / "config.yml"
    path.write_text("\n".join(lines))
    judge(path)


def test_stdin(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ftdoctor", "check", "-", "--format", "json"], input=OOM, capture_output=True
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["root_cause"]["id"] == "cuda-oom"


def test_memory_stays_flat_on_a_long_line(tmp_path: Path) -> None:
    path = tmp_path / "long.log"
    with path.open("wb") as handle:
        for _ in range(100):
            handle.write(b"z" * (1 << 20))
        handle.write(b"\n" + OOM)
    code = "import sys; from ftdoctor.cli.main import main; main(sys.argv[1:]); print(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, "check", str(path), "--format", "json"], capture_output=True, text=True
    )
    assert json.loads(done.stdout)["root_cause"]["id"] == "cuda-oom"
    kib = int(done.stderr.split()[-2])  # VmHWM; ru_maxrss would count the test runner this was forked from
    assert kib < 150_000
