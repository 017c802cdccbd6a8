"""`ftdoctor check` as its users meet it: what is printed where, and the exit code."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

OOM = """\
{'loss': '1.9203', 'grad_norm': '0.812', 'learning_rate': '1.9e-04', 'epoch': '0.01'}
[rank1]: Traceback (most recent call last):
[rank1]:   File "/home/user/train.py", line 12, in <module>
[rank1]:     main()
[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.25 GiB. GPU 1 has a total capacity of 79.15 GiB of which 1.04 GiB is free.
HF_TOKEN=hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567
"""
HEALTHY = "".join(
    f"{{'loss': '{2 - n / 20:.4f}', 'grad_norm': '0.5', 'learning_rate': '1.9e-04', 'epoch': '{n / 10:.1f}'}}\n"
    for n in range(1, 11)
)
NOTES = "shopping list: milk, bread\n"
YAML = "base_model: NousResearch/Llama-3.2-1B\nadapter: lora\nmicro_batch_size: 4  # per GPU\ngradient_accumulation_steps: 2\nlearning_rate: 0.0002\nsequence_len: 2048\n"


class Result:
    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        self.out = done.stdout.decode("utf-8", "surrogateescape")
        self.err = done.stderr.decode("utf-8", "surrogateescape")
        assert "Traceback" not in self.err
        assert "Exception ignored" not in self.err


ENV = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "PYTHONIOENCODING")} | {
    "TERM": "xterm",
    "PYTHONUTF8": "1",
}
COMMAND = [sys.executable, "-m", "ftdoctor", "check"]


def ftdoctor(*args: str, data: bytes = b"", env: dict[str, str] | None = None) -> Result:
    source = str(Path(__file__).resolve().parents[2])
    return Result(
        subprocess.run(
            [*COMMAND, *args],
            input=data,
            capture_output=True,
            timeout=60,
            env={**ENV, "PYTHONPATH": source, **(env or {})},
        )
    )


def shell(command: str) -> Result:
    source = str(Path(__file__).resolve().parents[2])
    command = command.replace("ftdoctor check", " ".join(COMMAND))
    return Result(
        subprocess.run(
            ["bash", "-c", command],
            capture_output=True,
            timeout=60,
            env={**ENV, "PYTHONPATH": source},
            stdin=subprocess.DEVNULL,
        )
    )


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in {"oom.log": OOM, "ok.log": HEALTHY, "notes.txt": NOTES, "qlora.yml": YAML}.items():
        Path(name).write_text(content)
    return tmp_path


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["oom.log"], 1),
        (["oom.log", "--fail-on", "warning"], 1),
        (["oom.log", "--fail-on", "info"], 1),
        (["oom.log", "--fail-on", "never"], 0),
        (["ok.log"], 0),
        (["ok.log", "oom.log"], 1),
        (["notes.txt"], 3),
        (["notes.txt", "--fail-on", "never"], 3),
        ([], 2),
        (["missing.log"], 2),
        (["--nonsense", "ok.log"], 2),
        (["ok.log", "--format", "xml"], 2),
        (["ok.log", "--rules", "missing"], 2),
        (["ok.log", "--config", "missing.yml"], 2),
        (["ok.log", "missing.log"], 2),
        (["oom.log", "missing.log"], 1),
    ],
    ids=str,
)
def test_exit_codes(args: list[str], code: int) -> None:
    assert ftdoctor(*args).code == code


def test_the_report_names_the_cause_and_shows_it() -> None:
    result = ftdoctor("oom.log", "qlora.yml")
    first, second = result.out.splitlines()[:2]
    assert first == "✗ FAILING  A GPU ran out of memory  cuda-oom"
    assert "rank 1" in second
    assert "oom.log:5" in result.out
    assert "- micro_batch_size: 4\n" in result.out
    assert "+ micro_batch_size: 2\n" in result.out
    assert result.err == ""
    assert max(map(len, result.out.splitlines())) <= 80


def test_secrets_are_masked_unless_asked(place: Path) -> None:
    Path("rules/train/my-rule").mkdir(parents=True)
    Path("rules/train/my-rule/rule.yaml").write_text(
        "id: my-rule\ntitle: t\nseverity: error\nrole: cause\nstages: [train]\ndetect:\n  - log_signature:\n      any: ['HF_TOKEN=\\S+']\n"
        "message: '{line}'\nwhy: w\nfixes: [{title: f}]\n"
    )
    for format in ("text", "json", "sarif", "markdown"):
        shown = ftdoctor("oom.log", "--rules", "rules", "--format", format, "-v").out
        assert "my-rule" in shown
        assert "AbCdEf" not in shown
        assert "AbCdEf" in ftdoctor("oom.log", "--rules", "rules", "--format", format, "--no-redact", "-v").out


def test_colour_and_characters() -> None:
    assert "\x1b[" not in ftdoctor("oom.log").out
    assert "\x1b[" in ftdoctor("oom.log", env={"FORCE_COLOR": "1"}).out
    assert "\x1b[" not in ftdoctor("oom.log", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).out
    assert "\x1b[" in ftdoctor("oom.log", "--color", "always", env={"NO_COLOR": "1"}).out
    assert ftdoctor("oom.log", "--ascii").out.isascii()
    assert ftdoctor("oom.log", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}).out.isascii()
    assert ftdoctor(
        "oom.log", "--format", "markdown", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ).out.isascii()
    assert max(map(len, ftdoctor("oom.log", env={"COLUMNS": "60"}).out.splitlines())) <= 60
    assert max(map(len, ftdoctor("oom.log", env={"COLUMNS": "500"}).out.splitlines())) <= 100


def test_no_fix_leaves_the_fixes_out() -> None:
    for format in ("text", "json", "markdown", "sarif"):
        assert "Halve" in ftdoctor("oom.log", "qlora.yml", "--format", format).out
        assert "Halve" not in ftdoctor("oom.log", "qlora.yml", "--format", format, "--no-fix").out


@pytest.mark.parametrize("format", ["json", "sarif"])
def test_stdout_holds_one_object_and_nothing_else(format: str) -> None:
    for args in (
        ["oom.log"],
        ["ok.log"],
        ["notes.txt"],
        ["ok.log", "missing.log"],
        ["oom.log", "--config", "qlora.yml", "--apply-fix", f"{format}.yml"],
    ):
        json.loads(ftdoctor(*args, "--format", format).out)


def test_errors_say_what_where_and_what_to_do() -> None:
    Path("empty").mkdir()
    for args, where, what in (
        ([], "", "nothing to read"),
        (["missing.log"], "missing.log", "no such file or folder"),
        (["empty"], "empty", "no log, trainer_state.json or config in this folder"),
        (["ok.log", "--config", "missing.yml"], "missing.yml", "no such file"),
        (["ok.log", "--config", "empty"], "empty", "is a folder"),
    ):
        result = ftdoctor(*args)
        lines = result.err.splitlines()
        assert result.code == 2
        assert result.out == ""
        assert lines[0] == f"ftdoctor: {where + ': ' if where else ''}{what}"
        assert lines[1].startswith("  try: ")
        assert len(lines) == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file() -> None:
    os.chmod("ok.log", 0)
    result = ftdoctor("ok.log")
    assert (result.code, result.out) == (2, "")
    assert "ok.log: cannot be read: Permission denied" in result.err


def test_of_several_inputs_one_that_cannot_be_read_is_said() -> None:
    result = ftdoctor("oom.log", "missing.log")
    assert "skipped: missing.log: no such file or folder" in result.out
    assert "ftdoctor: missing.log: no such file or folder" in result.err
    data = json.loads(ftdoctor("ok.log", "missing.log", "--format", "json").out)
    assert data["verdict"] == "healthy"
    assert data["run"]["skipped"] == ["missing.log: no such file or folder"]
    both = ftdoctor("missing1.log", "missing2.log")
    assert (both.code, both.out) == (2, "")


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 5000, b"\x7fELF" + bytes(range(256)) * 99, b"\x1f\x8b\x08\0broken", b"\xff\xfeo\0k\0"],
    ids=range(5),
)
def test_odd_files_end_in_words(content: bytes) -> None:
    Path("odd.log").write_bytes(content)
    result = ftdoctor("odd.log")
    assert result.code == 3
    assert result.out.startswith("? UNKNOWN")
    if content[:2] != b"\xff\xfe":
        assert "skipped: odd.log: " in result.out
    assert ftdoctor("oom.log", "odd.log").code == 1


def test_standard_input() -> None:
    assert ftdoctor("-", data=OOM.encode()).code == 1
    assert "<stdin>:5" in ftdoctor("-", data=OOM.encode()).out
    assert ftdoctor("-", data=gzip.compress(OOM.encode())).code == 1
    assert ftdoctor("-").code == 3
    closed = shell("ftdoctor check - <&-")
    assert closed.code == 2
    assert closed.err.splitlines() == [
        "ftdoctor: -: standard input is closed",
        "  try: pipe the log in, or give its path",
    ]


def test_a_closed_or_full_standard_output() -> None:
    piped = shell("ftdoctor check oom.log -v | head -n 1")
    assert piped.out.startswith("✗ FAILING")
    assert piped.err == ""
    assert shell("ftdoctor check oom.log >&-").code == 1
    if Path("/dev/full").exists():
        full = shell("ftdoctor check oom.log > /dev/full")
        assert full.code == 2
        assert full.err.startswith("ftdoctor: standard output: cannot be written: No space left on device")


def test_apply_fix_writes_a_copy_and_says_what_it_changed() -> None:
    result = ftdoctor("oom.log", "--config", "qlora.yml", "--apply-fix", "fixed.yml")
    assert result.code == 1
    assert Path("qlora.yml").read_text() == YAML
    assert Path("fixed.yml").read_text() == YAML.replace("size: 4", "size: 2").replace("steps: 2", "steps: 4")
    assert "wrote fixed.yml" in result.out
    assert "  micro_batch_size: 4 -> 2\n" in result.out
    again = ftdoctor("oom.log", "--config", "qlora.yml", "--apply-fix", "fixed.yml")
    assert (again.code, again.out) == (2, "")
    assert "exists already" in again.err
    found = ftdoctor("oom.log", "qlora.yml", "--apply-fix", "found.yml", "--format", "json")
    assert "wrote found.yml" in found.err


def test_apply_fix_without_anything_to_fix() -> None:
    before = sorted(os.listdir("."))
    for args, message in (
        (["ok.log", "--config", "qlora.yml"], "nothing to fix"),
        (["oom.log"], "no Axolotl YAML among the inputs"),
        (["notes.txt"], "nothing to fix"),
    ):
        result = ftdoctor(*args, "--apply-fix", "fixed.yml")
        assert result.code == 2
        assert message in result.err
        assert result.out
    assert sorted(os.listdir(".")) == before


def test_config_alone_and_with_a_log() -> None:
    assert ftdoctor("--config", "qlora.yml").code in (0, 1)
    data = json.loads(ftdoctor("ok.log", "--config", "qlora.yml", "--format", "json").out)
    assert data["run"]["sources"] == ["ok.log", "qlora.yml"]


def test_hostile_log_lines_reach_no_face() -> None:
    Path("evil.log").write_bytes(
        b"\x1b]0;owned\x07\x1b[2J\xe2\x80\xaetxt\x9b31m"
        + OOM.splitlines()[4].encode()
        + b" </details><script>alert(1)</script> ``` \x1b[31m\n"
    )
    for format in ("text", "json", "markdown", "sarif"):
        result = ftdoctor("evil.log", "--format", format, "-v")
        assert result.code == 1
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", result.out)
        assert "owned" not in result.out


def test_help_and_a_small_log_are_quick() -> None:
    Path("big.log").write_text(HEALTHY * 250 + OOM)
    ftdoctor("big.log")
    times = []
    for args in (["--help"], ["big.log"]):
        best = min(_seconds(args) for _ in range(3))
        times.append(best)
    assert times[0] < 1.0
    assert times[1] < 3.0


def _seconds(args: list[str]) -> float:
    start = time.perf_counter()
    ftdoctor(*args)
    return time.perf_counter() - start
