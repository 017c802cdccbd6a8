"""The text report: golden pages, and what must hold for any content."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import unicodedata
from pathlib import Path

import pytest
from face_samples import ALL, FAILING, OOM, RUN
from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor.faces import text
from ftdoctor.faces.page import GLYPHS, Options
from ftdoctor.faces.patch import as_yaml
from ftdoctor.faces.terminal import (
    cells,
    cut_around,
    cut_end,
    cut_middle,
    cut_path,
    printable,
    to_ascii,
    use_color,
    use_unicode,
    wrap,
)
from ftdoctor.findings import Diagnosis, Evidence, Finding, Fix, RuleOutcome, RunSummary

GOLDEN = Path(__file__).parent / "golden"
PAGES = {
    **{f"{name}-80": (name, Options()) for name in ALL},
    **{f"{name}-80-ascii": (name, Options(unicode=False)) for name in ("failing", "nested", "healthy")},
    "failing-60": ("failing", Options(width=60)),
    "failing-100": ("failing", Options(width=100)),
    "failing-80-verbose": ("failing", Options(verbose=True)),
    "failing-80-no-fix": ("failing", Options(fixes=False)),
    "failing-80-color": ("failing", Options(color=True)),
}


@pytest.mark.parametrize("page", PAGES)
def test_golden(page: str) -> None:
    """`UPDATE_GOLDEN=1 pytest tests/faces` writes the pages anew; read the difference before committing it."""
    name, options = PAGES[page]
    shown = text.render(ALL[name], options)
    path = GOLDEN / f"{page}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")


def check_page(shown: str, options: Options) -> None:
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown) if options.color else shown
    assert plain.endswith("\n")
    for line in plain[:-1].split("\n"):
        assert cells(line) <= options.width, line
        assert line == line.rstrip()
        for char in line:
            assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp"), hex(ord(char))
            assert options.unicode or char.isascii()
    assert "\n\n\n" not in plain


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("verbose", [False, True])
@pytest.mark.parametrize("width", [60, 61, 79, 80, 100])
def test_samples_fit(name: str, verbose: bool, width: int) -> None:
    for unicode in (True, False):
        for color in (True, False):
            options = Options(width=width, unicode=unicode, color=color, verbose=verbose)
            check_page(text.render(ALL[name], options), options)


anything = st.text(st.characters(), max_size=200)
nasty = st.sampled_from(
    ["\x1b[2J", "\x1b]0;title\x07", "\u202eabc", "\u200b" * 3, "a\u0301\u0301\u0301\u0301\u0301\u0301", "日本語のログ" * 20, "x" * 500, "\r\n\r\n",
     "\x9b31m", "👩‍👩‍👧‍👦" * 30, "\u2028line\u2029", "\ud800", "\t\t", "a b " * 200, "\x00\x08\x7f", "é" * 200, "```", "<script>alert(1)</script>"]
)  # fmt: skip
content = st.one_of(anything, nasty, st.tuples(anything, nasty, anything).map("".join))
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    content,
    st.lists(content, max_size=3),
    st.dictionaries(content, content, max_size=3),
)
evidence = st.builds(
    Evidence,
    st.sampled_from(["log", "stack", "config"]),
    content,
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    content,
)
keys = st.tuples(st.sampled_from(["axolotl.", "deepspeed.", ""]), content).map("".join)
fixes = st.builds(Fix, content, st.dictionaries(keys, values, max_size=3), st.dictionaries(content, content, max_size=2), content, content, content,
                  st.dictionaries(keys, values, max_size=3))  # fmt: skip
findings = st.builds(
    Finding,
    st.sampled_from(["one", "two", "three-and-a-long-name-of-a-rule"]),
    st.sampled_from(["error", "warning", "info"]),
    st.sampled_from(["cause", "cascade", "symptom"]),
    content,
    content,
    why=content,
    rank=st.one_of(st.none(), st.integers(0, 4096)),
    node=st.one_of(st.none(), content),
    step=st.one_of(st.none(), st.floats()),
    time=st.one_of(st.none(), st.floats()),
    count=st.integers(1, 10**6),
    evidence=st.lists(evidence, max_size=4).map(tuple),
    fixes=st.lists(fixes, max_size=3).map(tuple),
    explained_by=st.one_of(st.none(), st.sampled_from(["one", "two"])),
    ranks=st.lists(st.integers(0, 4096), max_size=20).map(tuple),
)
outcomes = st.builds(
    RuleOutcome,
    content,
    st.sampled_from(["fired", "quiet", "not_evaluated", "crashed"]),
    st.lists(content, max_size=2).map(tuple),
    content,
)
number = st.one_of(st.none(), st.floats())
runs = st.builds(
    RunSummary, st.one_of(st.none(), content), st.one_of(st.none(), st.integers(1, 4096)), number, number, number,
    st.dictionaries(st.sampled_from(["loss", "grad_norm", "x"]), st.floats()), st.one_of(st.none(), st.integers(-64, 255)),
    st.one_of(st.none(), st.booleans()), st.lists(content, max_size=3).map(tuple), st.lists(content, max_size=3).map(tuple),
)  # fmt: skip


@st.composite
def diagnoses(draw: st.DrawFn) -> Diagnosis:
    found = draw(st.lists(findings, max_size=4, unique_by=lambda f: f.id))
    verdict = draw(st.sampled_from(["failing", "suspicious"] if found else ["healthy", "unknown"]))
    root = draw(st.one_of(st.none(), st.sampled_from(found))) if found else None
    return Diagnosis(draw(runs), verdict, root, tuple(found), tuple(draw(st.lists(outcomes, max_size=3))))


options = st.builds(Options, st.integers(60, 100), st.booleans(), st.booleans(), st.booleans(), st.booleans())


@settings(max_examples=250, deadline=None)
@given(diagnoses(), options)
def test_any_content_fits_and_nothing_raw_gets_out(diagnosis: Diagnosis, chosen: Options) -> None:
    check_page(text.render(diagnosis, chosen), chosen)


def test_a_hundred_megabyte_excerpt_is_cut_soon() -> None:
    huge = dataclasses.replace(
        OOM, evidence=(Evidence("log", "a.log", 1, 1, "x y" * 30_000_000),), message="m " * 10_000_000
    )
    shown = text.render(Diagnosis(RUN, "failing", huge, (huge,), ()), Options())
    assert len(shown) < 10_000


def test_the_part_that_matched_is_never_cut_out() -> None:
    line = (
        "UserWarning: "
        + "something else, " * 40
        + "CUDA out of memory. Tried to allocate 502.00 MiB"
        + " and so on" * 60
    )
    item = Evidence("log", "a.log", 1, 1, line, "CUDA out of memory. Tried to allocate 502.00 MiB")
    found = dataclasses.replace(OOM, evidence=(item,))
    for width in (60, 80, 100):
        shown = text.render(Diagnosis(RUN, "failing", found, (found,), ()), Options(width=width))
        quoted = " ".join(line.partition("│ ")[2] for line in shown.splitlines() if "│ " in line)
        assert item.focus in quoted


def test_colour_carries_no_information() -> None:
    plain = text.render(FAILING, Options())
    coloured = text.render(FAILING, Options(color=True))
    assert coloured != plain
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("choice", "environ", "tty", "expected"),
    [
        ("auto", {"TERM": "xterm"}, True, True),
        ("auto", {"TERM": "xterm"}, False, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {}, True, False),
        ("auto", {"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        ("auto", {"TERM": "xterm", "NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"FORCE_COLOR": "0"}, False, False),
        ("auto", {"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1", "TERM": "xterm"}, True, False),
    ],
)
def test_when_to_colour(choice: str, environ: dict[str, str], tty: bool, expected: bool) -> None:
    assert use_color(Terminal() if tty else io.StringIO(), choice, environ) is expected


def test_when_to_use_unicode() -> None:
    assert use_unicode(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), GLYPHS)
    assert not use_unicode(io.TextIOWrapper(io.BytesIO(), encoding="latin-1"), GLYPHS)
    assert not use_unicode(io.TextIOWrapper(io.BytesIO(), encoding="ascii"), GLYPHS)
    assert not use_unicode(None, GLYPHS)


def test_printable_removes_what_a_terminal_acts_on() -> None:
    assert printable("\x1b[31mred\x1b[0m\x07 \u202etxt.exe\u2066\x9b1m") == "red txt.exe1m"
    assert printable("a\tb\r\nc\u2028d\u00a0e") == "a    b\nc\nd e"
    assert printable("x" + "\u0301" * 50) == "x" + "\u0301" * 3
    assert printable("\ud800\ue000") == "\ufffd\ufffd"


def test_cells_and_cuts() -> None:
    assert cells("日本") == 4
    assert cells("e\u0301") == 1
    assert cut_end("日本語", 5) == "日本…"
    assert cut_path("/a/very/long/path/of/folders/logs/rank3.log:1012", 24) == "…/logs/rank3.log:1012"
    assert cut_middle("begin " + "x " * 50 + "the end", 30) == "begin x x x … x x x the end"
    assert cut_middle("short", 10) == "short"
    assert (
        cut_around("lead " * 20 + "CUDA out of memory" + " tail" * 20, 50, "CUDA out of memory")
        == "lead lead … lead CUDA out of memory tail tail…"
    )
    assert cut_around("a b c", 50, "zzz") == "a b c"
    assert wrap("loss  step 1: 2  step 2: 3", 16, columns=True) == ["loss  step 1: 2", "step 2: 3"]
    assert wrap("日本 語", 3) == ["日", "本", "語"]
    assert wrap("a  b", 10) == ["a b"]
    assert wrap("  a  b", 10, keep_spaces=True) == ["  a  b"]
    assert to_ascii("naïve — 80 % … 日") == "naive - 80 % ... ?"


@pytest.mark.parametrize(
    "value",
    [2e-5, 1e-8, 2.5, 1e22, 3, True, False, None, "true", "no", "1e3", "2e-5", "", "~", "a: b", "#x", "a #b", "[x]", "- x", "x:", "<|end_of_text|>",
     "0x1f", "1_000", "12:30", "2024-01-01", "é", "a\nb", "\x07", "\ud7ff\ue000", "😀", " x ", "q_proj", "./deepspeed_configs/zero3.json",
     [1, "a", [2e-5]], {"device": "cpu", "pin_memory": True}, {"on": "off"}, ".inf", "1.", "+1", "null", "=", "<<", "!tag", "@x", "`x`", "%x",
     "a, b", "a'b", 'a"b', "\\", float("inf"), -1.5e-7, "auto", "0o17", "017", "1.2.3", ".5", "_1"],
)  # fmt: skip
def test_yaml_values_read_back_as_they_are(value: object) -> None:
    import yaml

    alone, in_list = (
        yaml.safe_load(f"key: {as_yaml(value)}")["key"],
        yaml.safe_load(f"key: [{as_yaml(value)}, x]")["key"][0],
    )
    assert alone == in_list == value
    assert type(alone) is type(in_list) is type(value)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_string_reads_back(value: str) -> None:
    import yaml

    assert yaml.safe_load(f"key: {as_yaml(value)}") == {"key": value}
