"""What the Trainer prints, in versions 4 and 5."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftdoctor.events import BarSeen, Event, MetricSample
from ftdoctor.parsing.router import Router, Vocabulary
from ftdoctor.run_model.run import Run
from ftdoctor.upstream.hf_trainer import metric_dict

VOCABULARY = Vocabulary([])


def read(log: str) -> list[Event]:
    router = Router("x.log", VOCABULARY, itertools.count(1))
    return [*router.feed(log.encode()), *router.finish()]


def run(log: str) -> Run:
    result = Run()
    for event in read(log):
        result.apply(event)
    return result


def samples(log: str) -> dict[str, float]:
    return {e.name: e.value for e in read(log) if isinstance(e, MetricSample)}


def test_version_4() -> None:
    found = samples("{'loss': 1.8421, 'grad_norm': nan, 'learning_rate': 2e-05, 'epoch': 0.12}\n")
    assert found["loss"] == 1.8421
    assert math.isnan(found["grad_norm"])
    assert found["learning_rate"] == 2e-5


def test_version_5_and_axolotl_keys() -> None:
    found = samples(
        "{'loss': '6.061', 'grad_norm': 'inf', 'learning_rate': '0.0008', 'ppl': '428.9', 'memory/max_active (GiB)': '0', "
        "'tokens/train_per_sec_per_gpu': '961.5', 'tokens/trainable': 84, 'epoch': '0.03158'}\n"
    )
    assert found["loss"] == 6.061
    assert math.isinf(found["grad_norm"])
    assert found["tokens/trainable"] == 84


@pytest.mark.parametrize(
    "line",
    [
        "{'role': 'user', 'content': 'what is loss?'}",
        "{'epochs': 3, 'batch': 2}",
        "config: {'learning_rate_schedule': 'cosine', 'epoch_count': 3}",
        "{'input_ids': [1, 2], 'labels': [-100, 2]}",
    ],
)
def test_other_dictionaries_are_no_metrics(line: str) -> None:
    assert metric_dict(line) == {}


def test_the_step_comes_from_the_training_bar() -> None:
    log = (
        "Maximum number of steps set at 48\n"
        "\r 21%|##        | 10/48 [00:05<00:19,  1.9it/s]\r\r{'loss': '2.0', 'grad_norm': '1', 'learning_rate': '0.1', 'epoch': '0.2'}\n"
        "\r 50%|#####     | 3/6 [00:01<00:01,  2.9it/s]\r"
        "{'eval_loss': '1.9', 'eval_runtime': '1', 'epoch': '0.2'}\n"
        "\r 42%|####      | 20/48 [00:10<00:14,  1.9it/s]{'loss': '1.8', 'grad_norm': '1', 'learning_rate': '0.1', 'epoch': '0.4'}\n"
    )
    result = run(log)
    assert list(result.series["loss"].steps) == [10, 20]
    assert list(result.series["eval_loss"].steps) == [10]
    assert result.last_step == 20


def test_bars_between_two_events_are_one_event() -> None:
    log = (
        "".join(f"\r {i}%|#         | {i}/100 [00:{i:02d}<01:00,  1.0s/it]" for i in range(50))
        + "\n{'loss': 1.0, 'epoch': 1.0}\n"
    )
    assert [e.n for e in read(log) if isinstance(e, BarSeen)] == [49]


def test_a_stated_step_wins() -> None:
    result = run("{'loss': 0.2, 'learning_rate': 1e-5, 'epoch': 0.04, 'global_step/max_steps': '500/12305'}\n")
    assert list(result.series["loss"].steps) == [500]
    assert result.total_steps == 12305


def test_home_made_loops() -> None:
    assert samples("Epoch 1 | step: 120/500 | loss: 1.8312 | grad_norm: 0.51 | lr: 1e-4\n") == {
        "loss": 1.8312,
        "grad_norm": 0.51,
    }
    assert samples("[2024-01-01 10:00:00] step 7: eval loss: 2.5\n") == {}


@given(st.text(max_size=300))
def test_any_text(text: str) -> None:
    metric_dict(text)
    read(text + "\n")


@pytest.mark.parametrize(
    ("line", "step", "loss"),
    [
        ("06/21 12:00:00 - mmengine - INFO - Iter(train) [  10/1200]  lr: 1.0e-05  eta: 1:00:00  loss: 1.25", 10, 1.25),
        ("mmengine - INFO - Epoch(train) [2][250/735]  lr: 2e-04  loss: 1.5  grad_norm: 2.1", 985, 1.5),
        ("1|25|Loss: 1.8547:   3%|#         | 25/880 [00:51<27:22,  1.92s/it]", 25, 1.8547),
        ("Epoch 1 | iter 240 step 60 | loss train: 1.344, val: n/a | iter time: 103.335 s (step)", 60, 1.344),
        ("steps:  18%|####      | 1750/10000 [24:56<1:57:33,  1.17it/s, avr_loss=0.438]", 1750, 0.438),
    ],
)
def test_losses_of_other_trainers(line: str, step: float, loss: float) -> None:
    found = [e for e in read(line + "\n") if isinstance(e, MetricSample) and e.name == "loss"]
    assert [(e.step, e.value) for e in found] == [(step, loss)]


def test_a_bar_that_is_drawn_again_is_one_sample_and_an_evaluation_is_none() -> None:
    bar = "\rEpoch 1:  12%|#   | 12/100 [00:30<03:40,  2.50s/it, loss=2.31]"
    assert len([e for e in read(bar * 5 + "\n") if isinstance(e, MetricSample)]) == 1
    assert not samples("Evaluating:  12%|#   | 12/100 [00:30<03:40,  2.50s/it, loss=2.31]\n")
