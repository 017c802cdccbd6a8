"""Steps of metric lines: by the bar, by counting where the bar lags, by the bar again after a jump."""

from __future__ import annotations

import itertools
import json

from ftdoctor.parsing.router import Router, Vocabulary
from ftdoctor.run_model.run import Run

VOCABULARY = Vocabulary([])


def run(log: str) -> Run:
    result = Run()
    router = Router("x.log", VOCABULARY, itertools.count(1))
    for event in [*router.feed(log.encode()), *router.finish()]:
        result.apply(event)
    return result


def bar(n: int, total: int = 120) -> str:
    return f"\r {n}%|#         | {n}/{total} [00:{n // 10:02d}<00:21,  5.59it/s]"


def config(**keys: object) -> str:
    return "[2026-01-02 10:00:00,000] [INFO] [axolotl.cli.config] config:\n" + json.dumps(keys, indent=2) + "\n"


METRIC = "\r{'loss': '1.5', 'grad_norm': '0.5', 'learning_rate': '0.0002', 'epoch': '0.1'}\n"
EVAL = "\r{'eval_loss': '1.4', 'eval_runtime': '1', 'epoch': '0.1'}\n"


def test_a_bar_that_lags_is_corrected_by_counting() -> None:
    log = config(logging_steps=1, max_steps=120) + "".join(bar(n) + METRIC for n in (1, 1, 2, 2, 4, 4))
    assert list(run(log).series["loss"].steps) == [1, 2, 3, 4, 5, 6]


def test_max_steps_wins_over_the_steps_of_the_epochs() -> None:
    result = run(config(logging_steps=10, max_steps=120) + "Maximum number of steps set at 95\n" + bar(10) + METRIC)
    assert result.total_steps == 120
    assert list(result.series["loss"].steps) == [10]


def test_a_jump_of_the_bar_is_believed() -> None:
    log = config(logging_steps=1) + bar(1) + METRIC + bar(60) + METRIC + bar(61) + METRIC
    assert list(run(log).series["loss"].steps) == [1, 60, 61]


def test_a_resumed_run_starts_where_the_bar_is() -> None:
    log = config(logging_steps=5) + bar(55) + METRIC + bar(60) + METRIC
    assert list(run(log).series["loss"].steps) == [55, 60]


def test_evaluations_do_not_advance_the_clock() -> None:
    log = config(logging_steps=1) + bar(0) + EVAL + bar(1) + METRIC + bar(2) + METRIC + EVAL + bar(3) + METRIC
    result = run(log)
    assert list(result.series["loss"].steps) == [1, 2, 3]
    assert list(result.series["eval_loss"].steps) == [0, 2]


def test_without_a_bar_no_step_is_invented() -> None:
    result = run(METRIC + METRIC)
    assert [s for s in result.series["loss"].steps if s == s] == []
