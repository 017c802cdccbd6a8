"""Lines by number and matches, against a plain reading of the whole file."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor.parsing.logfile import LogFile, Matches

LINES = st.lists(st.text("ab \u00e9Error", max_size=12), max_size=1200)


@settings(max_examples=40, deadline=None)
@given(LINES, st.booleans(), st.integers(1, 50))
def test_equals_plain_reading(tmp_path_factory, lines: list[str], ended: bool, budget: int) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path_factory.mktemp("log") / "x.log"
    data = "\n".join(lines).encode() + (b"\n" if ended and lines else b"")
    path.write_bytes(data)
    log = LogFile(str(path))
    for _ in range(1 + len(data) // (budget * 97)):
        log.extend(budget * 97)
    plain = data.split(b"\n")
    if plain[-1] == b"":
        plain.pop()
    assert log.lines == len(plain)
    for first in (1, 255, 256, 257, 513, len(plain)):
        if 1 <= first <= len(plain):
            assert log.read(first, 3) == plain[first - 1 : first + 2]
    found = Matches(log, re.compile(rb"Error"))
    found.step()
    whole = plain if data.endswith(b"\n") else plain[:-1]
    assert list(found.numbers) == [n for n, line in enumerate(whole, 1) if b"Error" in line]


def test_grows_is_cut_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    log = LogFile(str(path))
    assert not log.extend()
    assert log.lines == 0
    path.write_text("one\ntw")
    log.extend()
    assert log.lines == 2
    with path.open("a") as file:
        file.write("o\nthree\n")
    log.extend()
    assert (log.lines, log.read(2, 2)) == (3, [b"two", b"three"])
    path.write_text("new\n")
    log.extend()
    assert (log.lines, log.generation, log.read(1, 5)) == (1, 1, [b"new"])


def test_a_bar_shows_its_last_state_and_long_lines_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"  0%|\r 50%|\r100%|\r\n" + b"x" * 9_000_000 + b"\nlast\n")
    log = LogFile(str(path))
    log.extend(1 << 26)
    assert log.lines == 3
    assert log.read(1, 1) == [b"100%|"]
    assert len(log.read(2, 1)[0]) == 4096
