"""One root cause, with its consequences folded under it, across ranks, files and restarts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ftdoctor.detectors.base import DetectorSpec, Hit
from ftdoctor.diagnosis.attribution import attribute, verdict
from ftdoctor.diagnosis.engine import DETECTORS, evaluate
from ftdoctor.findings import Evidence, Finding
from ftdoctor.ruleset.load import load
from ftdoctor.ruleset.types import Rule, RuleSet
from ftdoctor.run_model.run import Run
from ftdoctor.session import check

RULES = load()


def rule(name: str, explains: tuple[str, ...] = (), role: str = "cause", generic: bool = False) -> Rule:
    return Rule(name, name, "error", role, (), (), (), explains, "", "", (), generic=generic)  # type: ignore[arg-type]


def finding(name: str, order: int, severity: str = "error", role: str = "cause", **more: object) -> Finding:
    return Finding(name, severity, role, name, name, order=order, **more)  # type: ignore[arg-type]


def judge(findings: list[Finding], *rules: Rule) -> tuple[str | None, dict[str, str | None]]:
    root, found = attribute(findings, {r.id: r for r in rules})
    return root.id if root else None, {f.id: f.explained_by for f in found}


def test_explanations_are_followed_to_their_end() -> None:
    root, by = judge(
        [finding("crash", 1), finding("timeout", 2), finding("disk", 3)],
        rule("disk", ("timeout",)), rule("timeout", ("crash",)), rule("crash"),
    )  # fmt: skip
    assert root == "disk"
    assert by == {"disk": None, "timeout": "disk", "crash": "disk"}


def test_specific_before_generic_even_when_later() -> None:
    root, _ = judge([finding("a", 1), finding("b", 9)], rule("a", generic=True), rule("b"))
    assert root == "b"


def test_cause_before_cascade_before_symptom() -> None:
    root, _ = judge(
        [finding("s", 1, role="symptom"), finding("c", 2, role="cascade"), finding("x", 3)],
        rule("s"),
        rule("c"),
        rule("x"),
    )
    assert root == "x"


def test_earlier_by_stamp_across_files() -> None:
    root, _ = judge([finding("late", 1, time=200.0), finding("early", 9, time=100.0)], rule("late"), rule("early"))
    assert root == "early"


def test_a_warning_does_not_explain_an_error() -> None:
    root, by = judge([finding("w", 1, "warning"), finding("e", 2)], rule("w", ("e",)), rule("e"))
    assert root == "e"
    assert by["e"] is None


def test_a_warning_is_root_only_without_errors_and_info_never() -> None:
    assert judge([finding("w", 1, "warning"), finding("i", 0, "info")], rule("w"), rule("i"))[0] == "w"
    assert judge([finding("i", 0, "info")], rule("i"))[0] is None


def test_circular_explanations_end() -> None:
    root, _ = judge([finding("a", 1), finding("b", 2)], rule("a", ("b",)), rule("b", ("a",)))
    assert root in (None, "a", "b")


def test_verdicts() -> None:
    assert verdict([finding("a", 1)], True) == "failing"
    assert verdict([finding("a", 1, "warning")], True) == "suspicious"
    assert verdict([finding("a", 1, "info")], True) == "healthy"
    assert verdict([], False) == "unknown"


def test_a_crashing_rule_is_one_outcome_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def evaluate(self, spec: DetectorSpec, run: Run) -> list[Hit]:
            raise ZeroDivisionError("boom")

    class Fires:
        def evaluate(self, spec: DetectorSpec, run: Run) -> list[Hit]:
            return [Hit(None, {}, (Evidence("fact"),))]

    monkeypatch.setitem(DETECTORS, "broken", Broken())
    monkeypatch.setitem(DETECTORS, "fires", Fires())
    bad = dataclasses.replace(rule("bad"), detect=(DetectorSpec("broken", {}),))
    good = dataclasses.replace(rule("good"), detect=(DetectorSpec("fires", {}),))
    findings, outcomes = evaluate(RuleSet((bad, good), ()), Run())
    assert [(o.id, o.outcome) for o in outcomes] == [("bad", "crashed"), ("good", "fired")]
    assert "boom" in outcomes[0].reason
    assert [f.id for f in findings] == ["good"]


OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.95 GiB. GPU 3 has a total capacity of 79.11 GiB\n"
)
METRIC = "{'loss': 1.5, 'grad_norm': 0.5, 'learning_rate': 0.0002, 'epoch': 0.%d}\n"


def test_an_error_that_training_survived_is_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(METRIC % 1 + OOM + "".join(METRIC % i for i in range(2, 7)))
    found = check([str(path)], RULES)
    (oom,) = [f for f in found.findings if f.id == "cuda-oom"]
    assert (oom.severity, oom.state) == ("warning", "survived")
    assert found.verdict == "suspicious"


def test_two_lines_from_another_rank_after_the_crash_are_no_survival(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(METRIC % 1 + OOM + METRIC % 2 + METRIC % 3)
    assert check([str(path)], RULES).verdict == "failing"


def test_per_rank_files_give_the_rank_and_one_finding(tmp_path: Path) -> None:
    for rank in range(4):
        text = OOM if rank == 2 else (
            f"[E1026 04:01:29.5 ProcessGroupNCCL.cpp:683] [Rank {rank}] Watchdog caught collective operation timeout: "
            "WorkNCCL(SeqNum=5, OpType=ALLREDUCE, NumelIn=1, NumelOut=1, Timeout(ms)=600000) ran for 600077 milliseconds before timing out.\n"
        )  # fmt: skip
        (tmp_path / f"rank{rank}.log").write_text(text)
    found = check([str(tmp_path)], RULES)
    assert found.root_cause is not None
    assert (found.root_cause.id, found.root_cause.rank) == ("cuda-oom", 2)
    assert [(f.id, f.explained_by) for f in found.findings[1:]] == [("nccl-timeout", "cuda-oom")]


def test_an_unknown_exception_names_the_users_frame(tmp_path: Path) -> None:
    path = tmp_path / "rank1.log"
    path.write_text(
        "Traceback (most recent call last):\n"
        '  File "/home/user/ft/train.py", line 12, in main\n    collate(rows)\n'
        '  File "/usr/lib/python3.11/site-packages/torch/utils/data/collate.py", line 171, in collate\n    raise Odd(elem)\n'
        "mylib.OddError: never seen before\n"
    )
    cause = check([str(path)], RULES).root_cause
    assert cause is not None
    assert (cause.id, cause.rank) == ("unclassified-error", 1)
    assert "/home/user/ft/train.py:12 in main" in cause.message
