"""Files that grow, vanish, come late, rotate and are truncated."""

from __future__ import annotations

import os
from pathlib import Path

from ftdoctor.sources.files import Input
from ftdoctor.sources.follow import Follower, Logs


def drain(follower: Follower) -> tuple[bytes, list[str]]:
    grown = list(follower.poll())
    return b"".join(g.data for g in grown), [g.change for g in grown if g.change]


def test_growth(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    follower = Follower(Input(str(path), "log"))
    assert drain(follower) == (b"", [])
    path.write_bytes(b"one\n")
    assert drain(follower) == (b"one\n", ["opened"])
    with path.open("ab") as handle:
        handle.write(b"two\n")
    assert drain(follower) == (b"two\n", [])
    assert drain(follower) == (b"", [])


def test_truncation_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"a long first run\n")
    follower = Follower(Input(str(path), "log"))
    drain(follower)
    path.write_bytes(b"new\n")
    assert drain(follower) == (b"new\n", ["truncated", "opened"])


def test_rotation_reads_the_old_file_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")
    follower = Follower(Input(str(path), "log"))
    drain(follower)
    with path.open("ab") as handle:
        handle.write(b"last words\n")
    os.rename(path, tmp_path / "a.log.1")
    path.write_bytes(b"fresh\n")
    assert drain(follower) == (b"last words\nfresh\n", ["rotated", "opened"])


def test_moved_away_without_successor_keeps_the_open_file(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(b"one\n")
    follower = Follower(Input(str(path), "log"))
    drain(follower)
    os.rename(path, tmp_path / "b.log")
    with (tmp_path / "b.log").open("ab") as handle:
        handle.write(b"still\n")
    assert drain(follower) == (b"still\n", [])


def test_one_large_file_does_not_starve_the_others(tmp_path: Path) -> None:
    (tmp_path / "big.log").write_bytes(b"x" * 99 + b"\n" + b"y" * (20 << 20))
    (tmp_path / "small.log").write_bytes(b"here\n")
    logs = Logs([str(tmp_path)])
    sizes: dict[str, int] = {}
    for grown in logs.poll(0.0):
        sizes[Path(grown.item.path).name] = sizes.get(Path(grown.item.path).name, 0) + len(grown.data)
    assert sizes["small.log"] == 5
    assert sizes["big.log"] <= 9 << 20
    assert logs.behind > 10 << 20


def test_new_files_in_a_folder_are_found(tmp_path: Path) -> None:
    logs = Logs([str(tmp_path)])
    assert list(logs.poll(0.0)) == []
    (tmp_path / "attempt_0" / "1").mkdir(parents=True)
    (tmp_path / "attempt_0" / "1" / "stderr.log").write_bytes(b"x\n")
    assert list(logs.poll(0.5)) == []
    (grown,) = logs.poll(3.0)
    assert grown.item.rank == 1
