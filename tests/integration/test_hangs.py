"""Hangs and deaths of real two-rank ZeRO-3 runs under `ftdoctor launch`: the right rank, and where it stands."""

from __future__ import annotations

import pytest

from tests.integration.hangs import play
from tests.integration.rigs import RigFolder


@pytest.mark.rig
def test_a_stopped_rank_is_named_with_the_stacks(rig: RigFolder) -> None:
    story = play(rig, "stopped")
    assert story.finding is not None, story.stderr
    assert story.finding["rank"] == 1
    assert story.finding["severity"] == "error"
    assert "rank 1 is stopped" in story.finding["message"]
    assert "rank 0 waits in" in story.finding["message"]
    stacks = [e for e in story.finding["evidence"] if e["kind"] == "stack"]
    assert len(stacks) == 2
    assert "MainThread" in (story.run / "evidence/stack-rank0.txt").read_text()
    assert "MainThread" in (story.run / "evidence/stack-rank1.txt").read_text()
    assert story.seconds is not None
    assert story.seconds < 120  # the collective's own limit is 1800 s; seconds on an idle machine: tools/repeat_hang.py


@pytest.mark.rig
def test_a_rank_stuck_in_its_data_loader_is_named(rig: RigFolder) -> None:
    story = play(rig, "data")
    assert story.finding is not None, story.stderr
    assert story.finding["rank"] == 1
    assert "rank 1 is in the data loader" in story.finding["message"]
    assert "read_next_rows" in story.finding["message"]


@pytest.mark.rig
def test_uneven_batches_name_the_rank_that_left_the_loop(rig: RigFolder) -> None:
    story = play(rig, "uneven")
    assert story.finding is not None, story.stderr
    assert story.finding["rank"] == 1
    assert "after its training loop has ended" in story.finding["message"]


@pytest.mark.rig
def test_a_killed_rank_is_the_first_cause(rig: RigFolder) -> None:
    story = play(rig, "killed")
    assert story.finding is not None, story.stderr
    assert story.finding["rank"] == 1, story.finding
    assert (story.run / "evidence/exits.json").is_file()
