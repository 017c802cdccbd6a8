"""The sentence of a log line, without what loggers put before it."""

from __future__ import annotations

import pytest

from ftdoctor.detectors.log_signature import MAX_SAID, said

GLOG = "W1124 12:03:42.731000 20829 torch/distributed/elastic/agent/server/api.py:753] "


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("  4%|▍         | 1/24 [00:00<00:16,  1.39it/s]" + GLOG + "Received 2 death signal", "Received 2 death signal"),
        (GLOG + "Received 15 death signal, shutting down", "Received 15 death signal, shutting down"),
        ("[E1116 09:00:00.000 ProcessGroupNCCL.cpp:616] [Rank 3] Watchdog caught", "[Rank 3] Watchdog caught"),
        ("[2026-06-27 09:02:11,690] [INFO] [launch.py:328:sigkill_handler] Main process received SIGINT", "Main process received SIGINT"),
        ("ERROR:torch.distributed.elastic.multiprocessing.api:failed (exitcode: 1)", "failed (exitcode: 1)"),
        ("2026-01-02 10:00:00,123 - ERROR - no space", "no space"),
        ("RuntimeError: CUDA error: unspecified launch failure", "RuntimeError: CUDA error: unspecified launch failure"),
        ("[INFO]", "[INFO]"),
        ("", ""),
    ],
)  # fmt: skip
def test_said(line: str, sentence: str) -> None:
    assert said(line) == sentence


def test_long_lines_end_at_a_word() -> None:
    text = said("word " * 200)
    assert len(text) <= MAX_SAID + 4
    assert text.endswith("word ...")
