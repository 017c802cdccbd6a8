"""The scanner gives the same events however the bytes arrive, and never breaks on any bytes."""

from __future__ import annotations

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ftdoctor.parsing.lines import CLIP, LineFinder
from ftdoctor.parsing.router import Router, Vocabulary
from ftdoctor.parsing.scanner import Anchors
from ftdoctor.ruleset.load import load

LITERALS = [(b"loss", False), (b"Traceback", False), (b"error", True)]
ANCHORS = Anchors(LITERALS)
RULES = load()
VOCABULARY = Vocabulary([p.anchors for p in RULES.patterns])

fragment = st.sampled_from(
    [
        b"{'loss': '1.5', 'grad_norm': '0.5', 'learning_rate': '0.0002', 'epoch': '0.1'}",
        b"\r 42%|####      | 20/48 [00:05<00:07,  3.9it/s]",
        b"Traceback (most recent call last):",
        b'  File "/home/user/ft/a.py", line 3, in main',
        b"    step()",
        b"ValueError: bad",
        b"[rank1]: Traceback (most recent call last):",
        b'[rank1]:   File "/home/user/ft/b.py", line 4, in step',
        b"[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB.",
        b"[2026-01-02 10:00:00,123] [INFO] [axolotl.cli.config] config:",
        b"{",
        b'  "world_size": 2',
        b"}",
        b"\x1b[31mERROR\x1b[39m",
        b"During handling of the above exception, another exception occurred:",
        b"\xff\xfe\x00",
        b"",
    ]
)
log = st.lists(st.tuples(fragment, st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b" "])), max_size=40).map(
    lambda parts: b"".join(a + b for a, b in parts)
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def events(pieces: list[bytes]) -> list[object]:
    router = Router("x.log", VOCABULARY, itertools.count(1))
    found: list[object] = []
    for piece in pieces:
        found += router.feed(piece)
    return found + list(router.finish())


def raw(pieces: list[bytes]) -> list[object]:
    finder = LineFinder(ANCHORS)
    found: list[object] = []
    for piece in pieces:
        found += finder.feed(piece)
    return found + list(finder.finish())


@settings(max_examples=300, deadline=None)
@given(log, st.lists(st.integers(0, 10_000), max_size=12))
def test_events_do_not_depend_on_chunks(data: bytes, places: list[int]) -> None:
    assert events(cut(data, places)) == events([data])


@settings(max_examples=100, deadline=None)
@given(log)
def test_byte_by_byte_equals_whole(data: bytes) -> None:
    assert events([data[i : i + 1] for i in range(len(data))]) == events([data])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=3000), st.lists(st.integers(0, 3000), max_size=6))
@example(b"loss", [2])
@example(b"\n\nloss\r\nError\n", [3, 4, 5])
def test_any_bytes_in_any_chunks(data: bytes, places: list[int]) -> None:
    assert raw(cut(data, places)) == raw([data])
    events([data])


def test_line_numbers_count_newlines_only() -> None:
    lines = raw([b"a\nb\r\nloss 1\r\nx\rloss 2\rloss 3\nloss 4"])
    assert [(line.number, line.data) for line in lines] == [
        (3, b"loss 1"),
        (4, b"loss 2"),
        (4, b"loss 3"),
        (5, b"loss 4"),
    ]


def test_a_line_of_100_mb_is_judged_by_its_beginning() -> None:
    finder = LineFinder(ANCHORS)
    found = list(finder.feed(b"loss " + b"x" * (1 << 20)))
    for _ in range(100):
        found += finder.feed(b"y" * (1 << 20))
        assert len(finder._carry) <= CLIP
    found += finder.feed(b" loss\nloss next\n")
    found += finder.finish()
    assert [line.data[:9] for line in found] == [b"loss xxxx", b"loss next"]
    assert [line.number for line in found] == [1, 2]
    assert finder.clipped == 1


def test_an_anchor_beyond_the_clip_does_not_count_in_any_chunking() -> None:
    data = b"x" * (CLIP - 2) + b"loss" + b"\nloss\n"
    assert raw([data]) == raw([data[: CLIP + 1], data[CLIP + 1 :]]) == raw(cut(data, [5, CLIP, CLIP + 3]))
    assert len(raw([data])) == 1
