"""Judges of logged numbers on drawn curves: each fault is found where it begins, and healthy shapes stay quiet."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor.detectors.numeric import JUDGES, Judgement, NumericContext, Result
from ftdoctor.events import MetricSample, Origin
from ftdoctor.run_model.series import Series

CURVES = ("loss", "grad_norm", "eval_loss", "learning_rate")


def context(task: str = "lora", **curves: list[float]) -> NumericContext:
    found = {}
    for name, values in curves.items():
        series = Series(name)
        for index, value in enumerate(values):
            series.add(
                MetricSample(Origin("run", index + 1, order=index), name, value, float(index + 1), "stated", None)
            )
        found[name] = series
    return NumericContext(found, task, {})


def judge(name: str, given_: NumericContext) -> Result:
    return JUDGES[name](given_, {})


def alarms(given_: NumericContext) -> dict[str, str]:
    results = {name: function(given_, {}) for name, function in JUDGES.items()}
    return {n: r.severity for n, r in results.items() if isinstance(r, Judgement) and r.severity != "info"}


def falling(points: int, start: float = 2.0, end: float = 0.9, noise: float = 0.1, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [end + (start - end) * math.exp(-4 * i / points) + rng.gauss(0, noise) for i in range(points)]


def norms(points: int, seed: int = 0) -> list[float]:
    rng = random.Random(seed)
    return [abs(rng.gauss(1.0, 0.3)) + 0.1 for _ in range(points)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("noise", [0.02, 0.15, 0.4])
def test_a_noisy_healthy_run_is_quiet(seed: int, noise: float) -> None:
    run = context(loss=falling(200, noise=noise, seed=seed), grad_norm=norms(200, seed))
    assert alarms(run) == {}


@pytest.mark.parametrize("start", [3, 50, 190])
def test_nan_loss_is_found_where_it_begins(start: int) -> None:
    values = falling(200)
    values[start:] = [math.nan] * (200 - start)
    found = judge("non_finite", context(loss=values))
    assert isinstance(found, Judgement)
    assert (found.severity, found.index_first) == ("error", start)


def test_one_infinite_gradient_under_fp16_is_no_nan_run() -> None:
    grads = norms(200)
    grads[40] = math.inf
    grads[120] = math.inf
    assert not isinstance(judge("non_finite", context(loss=falling(200), grad_norm=grads)), Judgement)


def test_nan_gradients_behind_the_filter_of_the_trainer() -> None:
    grads = norms(50) + [math.nan] * 10
    found = judge("non_finite", context(loss=falling(50) + [0.0] * 10, grad_norm=grads))
    assert isinstance(found, Judgement)
    assert found.series == "grad_norm"


def test_zero_loss_with_zero_gradients() -> None:
    found = judge("exact_zero_loss", context(loss=[0.0] * 20, grad_norm=[0.0] * 20))
    assert isinstance(found, Judgement)


def test_zero_loss_with_live_gradients_is_rounding() -> None:
    tail = [0.0] * 30
    assert judge("exact_zero_loss", context(loss=falling(60) + tail, grad_norm=norms(90))) is None


def test_a_loss_that_does_not_move() -> None:
    rng = random.Random(1)
    flat = [1.9 + rng.gauss(0, 0.05) for _ in range(120)]
    found = judge("loss_stuck", context(loss=flat, grad_norm=norms(120)))
    assert isinstance(found, Judgement)


def test_a_plateau_after_a_fall_is_not_stuck() -> None:
    values = falling(60, noise=0.03) + [0.9 + random.Random(2).gauss(0, 0.03) for _ in range(200)]
    assert not isinstance(judge("loss_stuck", context(loss=values)), Judgement)


def test_divergence_is_an_error_and_a_spike_is_not() -> None:
    climbing = falling(60, noise=0.05) + [1.0 + 0.1 * i for i in range(60)]
    found = judge("loss_diverging", context(loss=climbing))
    assert isinstance(found, Judgement)
    assert found.severity == "error"
    spike = falling(120, noise=0.05)
    spike[70] = 9.0
    assert judge("loss_diverging", context(loss=spike)) is None


def test_overfitting_needs_both_curves() -> None:
    evals = [1.4, 1.2, 1.1, 1.2, 1.35, 1.5]
    train = falling(120, end=0.2, noise=0.02)
    assert isinstance(judge("overfitting", context(loss=train, eval_loss=evals)), Judgement)
    level = [1.4, 1.2, 1.1, 1.11, 1.1, 1.1]
    assert judge("overfitting", context(loss=falling(120, end=0.6, noise=0.02), eval_loss=level)) is None
    gap = judge("overfitting", context(loss=train, eval_loss=level))
    assert isinstance(gap, Judgement)
    assert "by heart" in str(gap.values["how"])


def test_gradients_above_five_alone_are_no_error() -> None:
    """Measured: full fine-tunes and DPO live above 5; it is an error only with a loss that diverges."""
    high = [7.0 + random.Random(3).random() for _ in range(120)]
    quiet = judge("grad_norm_high", context(loss=falling(120), grad_norm=high))
    assert isinstance(quiet, Judgement)
    assert quiet.severity == "info"
    loud = judge("grad_norm_high", context(loss=[1.5] * 40 + [1.5 + 0.2 * i for i in range(80)], grad_norm=high))
    assert isinstance(loud, Judgement)
    assert loud.severity == "error"


@pytest.mark.parametrize(("rate", "name"), [(2e-6, "lr_too_low"), (5e-2, "lr_too_high")])
def test_learning_rates_outside_the_range_of_lora(rate: float, name: str) -> None:
    loss = [2.0] * 50 if name == "lr_too_low" else [2.0] * 20 + [2.0 + 0.3 * i for i in range(30)]
    assert isinstance(judge(name, context(loss=loss, learning_rate=[rate] * 50)), Judgement)
    assert not isinstance(judge(name, context(loss=falling(50), learning_rate=[2e-4] * 50)), Judgement)


number = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 10), st.sampled_from([0.0, math.nan, math.inf, 1.0])
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from(CURVES), st.lists(number, max_size=60)), st.sampled_from(["lora", "full", "rl"]))
def test_no_numbers_crash_a_judge(curves: dict[str, list[float]], task: str) -> None:
    run = context(task, **curves)
    for name, function in JUDGES.items():
        result = function(run, {})
        if isinstance(result, Judgement):
            length = len(run.series[result.series])
            assert 0 <= result.index_first <= result.index_last < length, name


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.3, 30.0))
def test_scale_of_the_loss_does_not_matter_to_health(seed: int, scale: float) -> None:
    values = [v * scale for v in falling(150, noise=0.05, seed=seed)]
    assert "loss_diverging" not in alarms(context(loss=values))
