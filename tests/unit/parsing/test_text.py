"""Prefixes, stamps and escapes as launchers really write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftdoctor.parsing.text import clean, stamp, strip_escapes


@pytest.mark.parametrize(
    ("line", "text", "rank", "node"),
    [
        ("[rank3]: ValueError: x", "ValueError: x", 3, None),
        ('[rank3]:   File "a.py"', '  File "a.py"', 3, None),
        ("[default5]:hello", "hello", 5, None),
        ("[default5]:[rank5]: hello", "hello", 5, None),
        ("3: hello", "hello", 3, None),
        ("[1,2]<stderr>:hello", "hello", 2, None),
        ("worker-1: hello", "hello", None, "worker-1"),
        ("10.0.0.4: hello", "hello", None, "10.0.0.4"),
        ("(RayTrainWorker pid=812, ip=10.0.0.4) hello", "hello", None, "10.0.0.4"),
        ("2024-06-03T22:01:14.610123Z [rank1]: hello", "hello", 1, None),
        (
            "[2026-11-23 22:59:04,292] [INFO] [axolotl.train] [RANK:2] hello",
            "[2026-11-23 22:59:04,292] [INFO] [axolotl.train] [RANK:2] hello",
            2,
            None,
        ),
        (
            "[rank0]:[E1026 04:01:29.500953846 ProcessGroupNCCL.cpp:683] [Rank 0] Watchdog",
            "[E1026 04:01:29.500953846 ProcessGroupNCCL.cpp:683] [Rank 0] Watchdog",
            0,
            None,
        ),
        (
            "|   0  NVIDIA H100 80GB HBM3          On  | 00000000:53:00.0 Off |",
            "|   0  NVIDIA H100 80GB HBM3          On  | 00000000:53:00.0 Off |",
            None,
            None,
        ),
        ("plain text", "plain text", None, None),
        ("{'loss': 1.0}", "{'loss': 1.0}", None, None),
    ],
)
def test_prefixes(line: str, text: str, rank: int | None, node: str | None) -> None:
    found = clean(line.encode())
    assert (found.text, found.rank, found.node) == (text, rank, node)


def test_two_ranks_are_two_streams() -> None:
    assert clean(b"[rank1]: a").stream != clean(b"[rank2]: a").stream
    assert clean(b"2024-06-03T22:01:14Z [rank1]: a").stream == clean(b"2024-06-03T22:01:15Z [rank1]: b").stream


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        ("[2026-11-23 22:59:04,292] x", 1795474744.292),
        ("2026-11-23 22:59:04.5 x", 1795474744.5),
        ("[rank0]:[E1123 22:59:04.250000000 ProcessGroupNCCL.cpp:607] x", 1795474744.25),
        ("no stamp", None),
        ("[2026-13-45 22:59:04,292] x", None),
    ],
)
def test_stamps(line: str, seconds: float | None) -> None:
    assert stamp(line, 2026) == pytest.approx(seconds) if seconds is not None else stamp(line, 2026) is None


def test_a_glog_stamp_without_a_year_is_no_time() -> None:
    assert stamp("E1123 22:59:04.250000 x") is None


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_nothing_that_steers_a_terminal_survives(text: str) -> None:
    out = strip_escapes(text)
    assert not any(ord(c) < 32 and c not in "\t\n" for c in out)
    assert not any(0x7F <= ord(c) <= 0x9F or 0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069 for c in out)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_line(data: bytes) -> None:
    clean(data, 2026)


def test_escape_sequences_leave_no_rest() -> None:
    assert strip_escapes("\x1b[31mERROR\x1b[0m \x1b]0;title\x07x\x1b[2K\x1b[1A") == "ERROR x"
