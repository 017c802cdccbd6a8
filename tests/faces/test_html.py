"""The HTML report: self-contained, escaped, complete; `report` never replaces a file of the user's."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftdoctor.cli import main as cli
from ftdoctor.faces import html_face
from ftdoctor.faces.curves import Curve
from ftdoctor.faces.html_plot import plot
from ftdoctor.findings import Diagnosis, Evidence, Finding, Fix, RuleOutcome, RunSummary

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "div", "span", "section", "table",
    "tr", "th", "td", "p", "b", "code", "pre", "figure", "figcaption", "svg", "line", "polyline", "circle", "path", "text",
    "details", "summary", "ul", "li", "footer", "wbr",
}  # fmt: skip
VOID = {"meta", "wbr", "line", "polyline", "circle", "path"}


class Reader(HTMLParser):
    """Tags, attributes and text; every tag must be known and closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.names: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        self.names.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), name
            assert name not in ("href", "src", "action", "style"), name
            assert "javascript" not in (value or "") or tag == "svg"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def diagnosis(said: str) -> Diagnosis:
    finding = Finding(
        id="cuda-oom", severity="error", role="cause", title=said, message=said, why=said, rank=0,
        evidence=(Evidence("log", said, 3, 3, said, said[:5]),),
        fixes=(Fix(said, {"axolotl.micro_batch_size": said}, {"A": said}, said, said, said),),
    )  # fmt: skip
    outcomes = (RuleOutcome("a", "crashed", (), said), RuleOutcome("b", "not_evaluated", (said,), said))
    return Diagnosis(RunSummary(sources=(said,), skipped=(said,)), "failing", finding, (finding,), outcomes)


@given(
    st.text(max_size=60) | st.sampled_from(["<script>alert(1)</script>", '"><img src=x onerror=y>', "]]>--></style>"])
)
def test_any_text_shows_as_text(said: str) -> None:
    page = html_face.render(diagnosis(said), run=said)
    reader = Reader(page)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", page)
    if said.isascii() and said.isprintable() and said.strip() == said:
        assert reader.text.count(said) >= 8


def test_nothing_is_loaded_from_anywhere() -> None:
    page = html_face.render(diagnosis("x"))
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import|https?://", page)


@given(
    st.lists(st.tuples(st.floats(0, 1e9), st.floats(-1e300, 1e300)), min_size=1, max_size=30),
    st.lists(st.tuples(st.floats(0, 1e9), st.floats()), max_size=5),
)
def test_any_curve_can_be_drawn(points: list[tuple[float, float]], marks: list[tuple[float, float]]) -> None:
    points.sort()
    xs, ys = zip(*points, strict=True)
    drawn = plot(Curve("loss", "loss", xs, ys, (), tuple(marks)))
    assert "nan" not in re.sub(r"<text.*?</text>|aria-label=\"[^\"]*\"|<figcaption>.*?</figcaption>", "", drawn)
    Reader(drawn)


def test_check_prints_the_report_with_curves_and_diff(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(FIXTURES / "failing/full_lr_1"), "--format", "html", "--fail-on", "warning"]) == 1
    reader = Reader(capsys.readouterr().out)
    assert reader.names.count("svg") == 3
    for part in ("SUSPICIOUS".lower(), "lr-too-high", "learning_rate: 1.0", "2.0e-05", "gradient norm", "train.log:"):
        assert part in reader.text, part


def test_report_writes_and_replaces_only_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.html"
    for _ in range(2):
        assert cli.main(["report", str(FIXTURES / "failing/rank_killed"), "-o", str(target)]) == 1
        assert "failing: host-oom" in capsys.readouterr().out
    Reader(target.read_text())
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    target.write_text("<html>my thesis</html>")
    assert cli.main(["report", str(FIXTURES / "failing/rank_killed"), "-o", str(target)]) == 2
    assert target.read_text() == "<html>my thesis</html>"
    assert cli.main(["report", str(FIXTURES / "failing/rank_killed"), "-o", str(tmp_path)]) == 2
    assert cli.main(["report", str(FIXTURES / "failing/rank_killed"), "-o", str(tmp_path / "no/r.html")]) == 2


def test_secrets_are_taken_out(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text("OSError: [Errno 28] No space left on device: 'https://u:hunter2secret@host/x'\n")
    cli.main(["report", str(log), "-o", str(tmp_path / "r.html")])
    page = (tmp_path / "r.html").read_text()
    assert "No space left" in page
    assert "hunter2secret" not in page
