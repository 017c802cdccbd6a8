"""Decoded samples in the three layouts that Axolotl has printed."""

from __future__ import annotations

import pytest

from ftdoctor.events import FactLearned, Origin
from ftdoctor.upstream.axolotl import Samples

TOKENS = "Hi(-100, 13347) \n(-100, 198) Blue(10544, 10544) <|eot_id|>(128009, 128009)"
HEADS = [
    "[2026-01-02 10:00:00,000] [INFO] [axolotl.utils.tokenization] ",
    "[2025-01-02 10:00:00,000] [INFO] [axolotl.utils.tokenization.check_example_labels:70] [PID:811] [RANK:0] ",
    "[2023-10-02 10:00:00,000] [INFO] [axolotl.check_example_labels:36] [PID:811] [RANK:0] ",
]


@pytest.mark.parametrize("head", HEADS)
def test_text_and_labels(head: str) -> None:
    parser = Samples()
    for line in (head + TOKENS).split("\n"):
        assert not list(parser.feed(line, Origin("log")))
    facts = {event.name: event.value for event in parser.finish() if isinstance(event, FactLearned)}
    assert facts == {
        "sample.text": "Hi\nBlue<|eot_id|>",
        "sample.trained_text": "Blue<|eot_id|>",
        "sample.masked_text": "Hi\n",
    }


def test_counts_are_no_sample() -> None:
    parser = Samples()
    assert not list(parser.feed(HEADS[0] + "Total input len: 130", Origin("log")))
    assert not parser.open
