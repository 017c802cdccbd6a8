"""Hangs are judged by the run's own rhythm, in seconds to a minute, and long pauses that are normal stay quiet."""

from __future__ import annotations

import itertools

import pytest

from ftdoctor.detectors.base import DetectorSpec, Hit, Missing
from ftdoctor.detectors.cadence import CadenceRule
from ftdoctor.events import BarSeen, Event, FactLearned, GpuSample, MetricSample, Origin, Tick
from ftdoctor.run_model.run import Run

RULE = DetectorSpec("cadence", {})


class Story:
    """A run told second by second."""

    def __init__(self) -> None:
        self.run = Run()
        self.time = 1_000_000.0
        self.orders = itertools.count(1)

    def origin(self) -> Origin:
        return Origin("train.log", 1, order=next(self.orders))

    def wait(self, seconds: float) -> Story:
        for _ in range(int(seconds)):
            self.time += 1
            self.run.apply(Tick(Origin("", time=self.time, order=next(self.orders))))
        return self

    def steps(self, count: int, seconds: float = 1.0, start: int = 0) -> Story:
        for n in range(start + 1, start + count + 1):
            self.wait(seconds)
            self.tell(BarSeen(self.origin(), "", n, 1000, n * seconds))
        return self

    def tell(self, event: Event) -> Story:
        self.run.apply(event)
        return self

    def fact(self, name: str, value: str | bool = True) -> Story:
        return self.tell(FactLearned(self.origin(), name, value))

    def verdict(self) -> str:
        result = CadenceRule().evaluate(RULE, self.run)
        if isinstance(result, Missing):
            return "missing"
        return str(result[0].severity) if result else "quiet"


def test_one_second_steps_that_stop_are_suspected_within_half_a_minute() -> None:
    story = Story().wait(1).steps(60)
    assert story.wait(28).verdict() == "quiet"
    assert story.wait(4).verdict() == "warning"
    assert story.wait(100).verdict() == "error"


def test_slow_steps_are_given_their_time() -> None:
    story = Story().wait(1).steps(12, 20)
    assert story.wait(200).verdict() == "quiet"
    assert story.wait(150).verdict() == "warning"


def test_a_pause_that_was_survived_widens_the_limit() -> None:
    story = Story().wait(1).steps(20).wait(40).steps(20, start=20)
    assert story.wait(60).verdict() == "quiet"
    assert story.wait(40).verdict() == "warning"


@pytest.mark.parametrize("name", ["checkpoint", "evaluating"])
def test_a_slow_save_or_evaluation_is_no_hang(name: str) -> None:
    assert Story().wait(1).steps(60).fact(name, "out/checkpoint-60").wait(600).verdict() == "quiet"


def test_loading_takes_its_time() -> None:
    assert Story().wait(1).fact("total_steps").wait(600).verdict() == "quiet"


def test_an_evaluation_bar_that_moves_is_a_sign_of_life() -> None:
    story = Story().wait(1).steps(60)
    for n in range(30):
        story.wait(5).tell(BarSeen(story.origin(), "", n, 50, n * 5.0))
    assert story.verdict() == "quiet"


@pytest.mark.parametrize("announced", [True, False])
def test_a_slow_evaluation_bar_is_no_hang_and_training_after_it_is_watched_again(announced: bool) -> None:
    story = Story().wait(1).steps(60)
    if announced:
        story.fact("evaluating")
    for n in range(20):
        story.tell(BarSeen(story.origin(), "", n, 63, n * 45.0)).wait(45)
        assert story.verdict() == "quiet"
    story.steps(30, start=60)
    assert story.wait(34).verdict() == "warning"


def test_an_announced_evaluation_of_a_run_without_a_training_bar() -> None:
    story = Story().wait(1)
    for n in range(60):
        story.wait(1).tell(MetricSample(story.origin(), "loss", 2.0 - n / 100))
    story.fact("evaluating")
    for n in range(20):
        story.tell(BarSeen(story.origin(), "", n, 63, n * 45.0)).wait(45)
        assert story.verdict() == "quiet"
    assert story.run.last_step is None  # the evaluation's bar counts no steps of training


@pytest.mark.parametrize("name", ["saved", "finished"])
def test_a_run_that_ended_does_not_hang(name: str) -> None:
    assert Story().wait(1).steps(60).fact(name, "out").wait(5000).verdict() == "quiet"


def test_spinning_gpus_make_it_certain_and_quick() -> None:
    story = Story().wait(1).steps(60)
    for _ in range(20):
        story.wait(1)
        for index in range(4):
            story.tell(
                GpuSample(
                    Origin("gpu", order=next(story.orders)),
                    index,
                    utilization=100,
                    power=127,
                    power_limit=700,
                    memory_used=50_000,
                )
            )
    assert story.verdict() == "error"


def test_a_log_without_ticks_is_not_judged() -> None:
    run = Run()
    run.apply(MetricSample(Origin("a"), "loss", 1.0))
    assert isinstance(CadenceRule().evaluate(RULE, run), Missing)


def test_the_message_has_its_numbers() -> None:
    story = Story().wait(1).steps(60).wait(40)
    result = CadenceRule().evaluate(RULE, story.run)
    assert isinstance(result, list)
    (hit,) = result
    assert isinstance(hit, Hit)
    assert hit.values["usual"] == "1.0 s"
    assert hit.values["last_step"] == 60
