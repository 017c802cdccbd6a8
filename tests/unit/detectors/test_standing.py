"""Which rank did not arrive, told from where all of them stand."""

from __future__ import annotations

import pytest

from ftdoctor.detectors import standing
from ftdoctor.detectors.base import DetectorSpec
from ftdoctor.detectors.cadence import CadenceRule
from ftdoctor.events import BarSeen, ExitSeen, FactLearned, Origin
from tests.unit.detectors.test_cadence import Story

WAIT = ("all_reduce (torch/distributed/distributed_c10d.py:2501)", "collective", "backward")
DATA = ("read_rows (rows.py:12)", "data", "data")


def look(story: Story, *places: tuple[str, str, str], moved: tuple[int, ...] = ()) -> Story:
    for rank, (frame, kind, phase) in enumerate(places):
        facts = {"stack": frame, "stack_kind": kind, "stack_phase": phase, "stack_moved": rank in moved}
        for name, value in facts.items():
            origin = Origin(f"evidence/stack-rank{rank}.txt", rank=rank, order=next(story.orders))
            story.tell(FactLearned(origin, f"{name}.{rank}", value))
    return story


@pytest.mark.parametrize(
    ("places", "ranks", "words"),
    [
        ((WAIT, DATA, WAIT, WAIT), (1,), "rank 1 is in the data loader, in read_rows (rows.py:12), while ranks 0, 2, 3 wait in all_reduce"),
        ((WAIT, DATA), (1,), "while rank 0 waits in all_reduce"),
        ((WAIT, ("x", "stopped", "")), (1,), "rank 1 is stopped"),
        ((WAIT, ("barrier (c10d.py:1)", "collective", "save")), (1,), "rank 1 waits in barrier (c10d.py:1) of the save phase"),
        ((WAIT, WAIT, ("item (model.py:3)", "", "forward")), (2,), "rank 2 stands in item (model.py:3) of the forward phase"),
        ((WAIT, ("all_gather (c10d.py:1)", "collective", "end")), (1,), "rank 1 waits in all_gather (c10d.py:1) after its training loop has ended"),
        ((DATA, DATA, WAIT), (0, 1), "ranks 0, 1 are in the data loader"),
    ],
)  # fmt: skip
def test_who_did_not_arrive(places: tuple[tuple[str, str, str], ...], ranks: tuple[int, ...], words: str) -> None:
    found = standing.culprit(look(Story().wait(1).steps(30), *places).run)
    assert found is not None
    assert found.ranks == ranks
    assert words in found.words


def test_no_culprit_where_all_stand_together() -> None:
    story = look(Story().wait(1).steps(30), WAIT, WAIT)
    assert standing.culprit(story.run) is None
    assert standing.shared(story.run).startswith("all 2 ranks: waits in all_reduce")


def test_counts_decide_where_stacks_do_not() -> None:
    story = look(Story().wait(1).steps(30), WAIT, WAIT, WAIT)
    for name, value in (("behind.ranks", "2"), ("behind.by", "NCCL's RAS")):
        story.tell(FactLearned(Origin("ras", order=next(story.orders)), name, value))
    found = standing.culprit(story.run)
    assert found is not None
    assert found.ranks == (2,)
    assert "NCCL's RAS counts rank 2 behind" in found.words


def test_a_look_from_before_the_last_step_says_nothing() -> None:
    assert standing.culprit(look(Story().wait(1).steps(30), WAIT, DATA).steps(2, start=30).run) is None


def test_stacks_make_it_certain_within_half_a_minute() -> None:
    story = look(Story().wait(1).steps(60), WAIT, DATA)
    assert story.wait(13).verdict() == "quiet"
    assert story.wait(4).verdict() == "error"
    (hit,) = CadenceRule().evaluate(DetectorSpec("cadence", {}), story.run)  # type: ignore[misc]
    assert hit.rank == 1
    assert [e.kind for e in hit.evidence] == ["log", "stack", "stack"]
    assert hit.evidence[1].path.endswith("stack-rank1.txt")


@pytest.mark.parametrize("kind", ["save", "compile", "load", "download"])
def test_slow_work_of_one_rank_is_given_its_time(kind: str) -> None:
    assert look(Story().wait(1).steps(60), WAIT, ("f (x.py:1)", kind, "")).wait(600).verdict() == "quiet"


def test_a_rank_that_still_moves_is_slow_and_not_stuck() -> None:
    story = look(Story().wait(1).steps(60), WAIT, WAIT, ("g (model.py:3)", "", "forward"), moved=(2,)).wait(40)
    assert story.verdict() == "warning"


def test_what_ends_a_hung_run_does_not_undo_the_hang() -> None:
    story = look(Story().wait(1).steps(60), WAIT, DATA).wait(20)
    story.tell(FactLearned(Origin("forensics", order=next(story.orders)), "hang.seconds", 20.0))
    story.tell(ExitSeen(story.origin(), 1, None, 7, "launcher"))
    assert story.wait(2).verdict() == "error"
    story.tell(BarSeen(story.origin(), "", 60, 1000, 60.0))  # drawn again by a process that ends
    assert story.verdict() == "error"


def test_a_run_that_ended_without_a_hang_has_none() -> None:
    story = Story().wait(1).steps(60)
    story.tell(ExitSeen(story.origin(), 1, None, 7, "launcher"))
    assert story.wait(300).verdict() == "quiet"
