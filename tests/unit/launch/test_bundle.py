"""Evidence archives: the same findings elsewhere, no secrets, bounded, and no way out of the folder when unpacked."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftdoctor.errors import InputError
from ftdoctor.launch import bundle as module
from ftdoctor.launch.bundle import bundle
from ftdoctor.sources.evidence import is_archive, unpack

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123456789ABCD"
FAILING = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.22 GiB. GPU 5 has a total capacity of 79.10 GiB of which 3.00 MiB is free."


def run_folder(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "flight").mkdir(parents=True)
    (run / "train.log").write_text(f"export HF_TOKEN={TOKEN}\n[rank1]: {FAILING}\n")
    (run / "config.yml").write_text("base_model: x\nmicro_batch_size: 4\n")
    (run / "optimizer.bin").write_bytes(b"\0" * 5000)
    (run / "flight/rank_0").write_bytes(b"\x80\x02}q\0.")
    (run / "link.log").symlink_to("/etc/passwd")
    return run


def check(path: Path) -> dict[str, object]:
    command = [sys.executable, "-m", "ftdoctor", "check", str(path), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


def test_the_archive_gives_the_findings_of_the_folder(tmp_path: Path) -> None:
    run, out = run_folder(tmp_path), tmp_path / "evidence.tar.zst"
    bundle(run, out)
    there, here = check(out), check(run)
    assert there["root_cause"]["id"] == here["root_cause"]["id"] == "cuda-oom"  # type: ignore[index]
    assert [f["id"] for f in there["findings"]] == [f["id"] for f in here["findings"]]  # type: ignore[attr-defined]


def test_what_is_inside_and_what_is_not(tmp_path: Path) -> None:
    run, out = run_folder(tmp_path), tmp_path / "e.tar.zst"
    contents = bundle(run, out)
    into = tmp_path / "into"
    into.mkdir()
    assert unpack(out, into).left_out == ()
    assert {p.relative_to(into).as_posix() for p in into.rglob("*") if p.is_file()} == {
        "CONTENTS.txt", "config.yml", "flight/rank_0", "train.log",
    }  # fmt: skip
    assert TOKEN not in (into / "train.log").read_text()
    assert (into / "flight/rank_0").read_bytes() == (run / "flight/rank_0").read_bytes()
    said = (into / "CONTENTS.txt").read_text()
    assert said == contents.text()
    assert "optimizer.bin" in said.partition("left out:")[2]
    assert "link.log" in said.partition("left out:")[2]


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    run = run_folder(tmp_path)
    bundle(run, tmp_path / "a.tar.zst")
    os.utime(run / "train.log", (1, 1))
    bundle(run, tmp_path / "b.tar.zst")
    assert (tmp_path / "a.tar.zst").read_bytes() == (tmp_path / "b.tar.zst").read_bytes()


def test_a_long_log_keeps_its_beginning_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEAD", 2000)
    monkeypatch.setattr(module, "TAIL", 2000)
    run = run_folder(tmp_path)
    (run / "train.log").write_text("".join(f"line {n}\n" for n in range(5000)))
    bundle(run, tmp_path / "e.tar.zst")
    into = tmp_path / "into"
    into.mkdir()
    unpack(tmp_path / "e.tar.zst", into)
    text = (into / "train.log").read_text()
    assert text.startswith("line 0\n")
    assert text.endswith("line 4999\n")
    assert "left out here" in text
    assert len(text) < 4200


def test_nothing_is_overwritten_and_nothing_is_left_behind(tmp_path: Path) -> None:
    run, out = run_folder(tmp_path), tmp_path / "e.tar.zst"
    out.write_text("mine")
    with pytest.raises(InputError):
        bundle(run, out)
    assert out.read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError):
        bundle(empty, tmp_path / "f.tar.zst")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.tar.zst", "empty", "run"]


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path.write_bytes(zstandard.compress(raw.getvalue()))
    return path


@pytest.mark.parametrize(
    "name", ["../out.log", "/tmp/ftdoctor-out.log", "a/../../out.log", "a\\..\\out.log", "x" * 240 + ".log"]
)
def test_names_that_lead_elsewhere_are_left_out(tmp_path: Path, name: str) -> None:
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    path = archive(tmp_path / "e.tar.zst", (tarfile.TarInfo(name), b"bad"), (tarfile.TarInfo("train.log"), b"good\n"))
    found = unpack(path, into)
    assert len(found.left_out) == 1
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["e.tar.zst", "train.log"] or {
        p.name for p in tmp_path.rglob("*") if p.is_file()
    } == {"e.tar.zst", "train.log"}


def test_links_and_devices_are_left_out(tmp_path: Path) -> None:
    link, device = tarfile.TarInfo("link.log"), tarfile.TarInfo("dev.log")
    link.type, link.linkname, device.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.CHRTYPE
    path = archive(tmp_path / "e.tar.zst", (link, b""), (device, b""), (tarfile.TarInfo("train.log"), b"good\n"))
    into = tmp_path / "into"
    into.mkdir()
    assert len(unpack(path, into).left_out) == 2
    assert [p.name for p in into.iterdir()] == ["train.log"]


def test_a_bomb_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftdoctor.sources.evidence.MAX_BYTES", 1 << 20)
    path = archive(
        tmp_path / "e.tar.zst", (tarfile.TarInfo("a.log"), b"a\n"), (tarfile.TarInfo("b.log"), b"\n" * (8 << 20))
    )
    into = tmp_path / "into"
    into.mkdir()
    assert "too large" in unpack(path, into).left_out[0]
    assert [p.name for p in into.iterdir()] == ["a.log"]


def test_a_plain_compressed_log_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "a.zst").write_bytes(zstandard.compress(b"line\n" * 1000))
    (tmp_path / "b.log").write_bytes(b"line\n")
    assert not is_archive(tmp_path / "a.zst")
    assert not is_archive(tmp_path / "b.log")
    assert not is_archive(tmp_path / "none")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_archives_give_an_error_or_a_part(tmp_path: Path, data: st.DataObject) -> None:
    whole = archive(
        tmp_path / "w.tar.zst", (tarfile.TarInfo("a.log"), b"a\n" * 3000), (tarfile.TarInfo("b.log"), b"b\n" * 3000)
    ).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    noise = data.draw(st.binary(max_size=40))
    path = tmp_path / "d.tar.zst"
    path.write_bytes(whole[:cut] + noise + whole[cut + len(noise) :])
    into = tmp_path / f"into{len(list(tmp_path.iterdir()))}-{cut}-{noise.hex()}"
    into.mkdir(exist_ok=True)
    for old in into.rglob("*"):
        old.unlink()
    is_archive(path)
    with contextlib.suppress(InputError):
        unpack(path, into)
