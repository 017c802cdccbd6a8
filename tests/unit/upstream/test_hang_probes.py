"""py-spy dumps, NCCL's RAS and flight-recorder dumps: what they say, and that no input of any kind breaks the reader.

The stacks and the flight-recorder dumps were recorded on real runs (ZeRO-3 on two CPU ranks, torch 2.13, gloo). The RAS
text is the one NVIDIA documents; the JSON has the fields that NCCL 2.28.9 was seen to answer with.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftdoctor.upstream import flight_recorder, nccl_ras, pyspy

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"


# -- py-spy ----------------------------------------------------------------------------------------------------------


def test_a_rank_that_waits_for_the_others() -> None:
    found = pyspy.place(pyspy.parse((FIXTURES / "stacks/zero3-rank0-waits.txt").read_text()))
    assert found is not None
    assert (found.kind, found.phase) == ("collective", "backward")
    assert found.frame.startswith("AllGatherHandle.wait (deepspeed/runtime/zero/partition_parameters.py:")


def test_a_rank_that_computes() -> None:
    found = pyspy.place(pyspy.parse((FIXTURES / "stacks/zero3-rank1-stopped.txt").read_text()))
    assert found is not None
    assert (found.kind, found.phase) == ("", "forward")


@pytest.mark.parametrize(
    ("frames", "kind", "phase"),
    [
        (["_try_get_data (torch/utils/data/dataloader.py:1275)", "get_batch_samples (transformers/trainer.py:5)"], "data", "data"),
        (["read (rows.py:3)", "fetch (torch/utils/data/_utils/fetch.py:54)"], "data", ""),
        (["all_reduce (torch/distributed/distributed_c10d.py:2501)", "Tensor.backward (torch/_tensor.py:1)"], "collective", "backward"),
        (["barrier (torch/distributed/distributed_c10d.py:9)", "save_model (transformers/trainer.py:1)"], "collective", "save"),
        (["synchronize (torch/cuda/__init__.py:9)"], "collective", ""),
        (["save_file (safetensors/torch.py:3)"], "save", ""),
        (["recv_into (ssl.py:3)", "read (urllib3/response.py:3)"], "download", ""),
        (["wait (torch/utils/file_baton.py:9)", "load (torch/utils/cpp_extension.py:3)"], "compile", ""),
    ],
)  # fmt: skip
def test_kinds_of_work(frames: list[str], kind: str, phase: str) -> None:
    dump = 'Thread 9 (idle): "worker"\n    poll (selectors.py:1)\nThread 1 (active): "MainThread"\n'
    found = pyspy.place(pyspy.parse(dump + "".join(f"    {f}\n" for f in frames)))
    assert found is not None
    assert (found.kind, found.phase) == (kind, phase)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_any_text_for_a_dump(text: str) -> None:
    pyspy.place(pyspy.parse(text))
    pyspy.place(pyspy.parse('Thread 1 (active): "MainThread"\n    ' + text))


# -- flight recorder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["rank_{}", "json_{}.json"])
def test_the_rank_that_did_not_enqueue(form: str) -> None:
    dumps = {rank: flight_recorder.read_file(FIXTURES / "flight_recorder" / form.format(rank)) for rank in (0, 1)}
    assert flight_recorder.behind(dumps) == ([1], "broadcast")


def test_equal_ranks_are_not_behind() -> None:
    one = flight_recorder.read_file(FIXTURES / "flight_recorder/rank_0")
    assert flight_recorder.behind({0: one, 1: one}) is None


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/ftdoctor-was-here",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_something_is_refused(protocol: int) -> None:
    with pytest.raises(flight_recorder.BadDump):
        flight_recorder.read(pickle.dumps({"entries": [_Evil()]}, protocol=protocol))
    assert not Path("/tmp/ftdoctor-was-here").exists()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 1400))
def test_damaged_dumps(noise: bytes, at: int) -> None:
    whole = (FIXTURES / "flight_recorder/rank_0").read_bytes()
    for data in (noise, whole[:at], whole[:at] + noise + whole[at + len(noise) :]):
        with contextlib.suppress(flight_recorder.BadDump):
            flight_recorder.read(data)


def test_asking_a_rank_never_blocks(tmp_path: Path) -> None:
    prefix = str(tmp_path / "fr_")
    assert flight_recorder.ask(prefix, 0)  # no pipe
    os.mkfifo(f"{prefix}1.pipe")
    assert flight_recorder.ask(prefix, 1)  # nobody reads: the rank is dead
    reader = os.open(f"{prefix}1.pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert flight_recorder.ask(prefix, 1) == ""
    assert os.read(reader, 10) == b"1"
    os.close(reader)


# -- NCCL RAS --------------------------------------------------------------------------------------------------------

TEXT = """\
NCCL version 2.24.3 compiled with CUDA 12.6

Warnings
========

#0-0 (27a079b828ff1a75) MISMATCH
  Communicator ranks have different collective operation counts
  26 ranks have launched up to operation 6650
  2 ranks have launched up to operation 6649
  Rank 0 -- GPU 0 managed by process 483072 on node 172.16.64.210
  Rank 2 -- GPU 2 managed by process 483074 on node 172.16.64.210
"""


def answer(*counts: int, missing: tuple[int, ...] = ()) -> str:
    ranks = [
        {"rank": n, "host": "n1", "pid": 9 + n, "cuda_dev": n, "nvml_dev": n, "status": {"init_state": 0},
         "collective_counts": {"Broadcast": 2, "Reduce": 0, "AllGather": c, "ReduceScatter": 0, "AllReduce": 1}}
        for n, c in enumerate(counts)
    ]  # fmt: skip
    comm = {"hash": "0x5", "size": len(counts), "ranks_count": len(counts), "missing_ranks_count": len(missing),
            "ranks": ranks, "missing_ranks": [{"rank": r} for r in missing]}  # fmt: skip
    return json.dumps({"nccl_version": "2.28.9", "communicators": [comm], "ras": {"timeouts_count": 0}})


def test_counts_that_do_not_move_name_the_rank() -> None:
    first, second = nccl_ras.parse(answer(7, 7, 6, 7)), nccl_ras.parse(answer(7, 7, 6, 7))
    assert nccl_ras.behind(first, second) == (2,)


def test_counts_that_move_are_a_run_at_work() -> None:
    assert nccl_ras.behind(nccl_ras.parse(answer(7, 6)), nccl_ras.parse(answer(8, 7))) == ()
    assert nccl_ras.behind(nccl_ras.parse(answer(7, 7)), nccl_ras.parse(answer(7, 7))) == ()
    assert nccl_ras.behind([], nccl_ras.parse(answer(7, 6))) == ()


def test_missing_ranks() -> None:
    found = nccl_ras.parse(answer(7, 7, missing=(2, 3)))
    assert nccl_ras.behind(found, found) == (2, 3)


def test_the_text_of_older_versions() -> None:
    found = nccl_ras.parse(TEXT)
    assert found[0].lagging == (0, 2)
    assert nccl_ras.behind(found, found) == (0, 2)
    assert nccl_ras.behind(found, nccl_ras.parse(TEXT.replace("6650", "6651").replace("Rank 2", "Rank 3"))) == ()


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=300), st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda c: st.lists(c, max_size=4) | st.dictionaries(st.sampled_from(["rank", "ranks", "hash", "collective_counts", "missing_ranks", "size"]), c, max_size=4), max_leaves=20).map(lambda v: json.dumps({"communicators": v}))))  # fmt: skip
def test_any_answer(text: str) -> None:
    found = nccl_ras.parse(text)
    nccl_ras.behind(found, found)


def serve(replies: dict[bytes, bytes]) -> int:
    """A server that speaks the line protocol; the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk() -> None:
        link, _ = listener.accept()
        with link, link.makefile("rb") as lines:
            for line in lines:
                link.sendall(replies.get(line.strip(), b"OK\n"))
                if line.strip() == b"VERBOSE STATUS":
                    break
        listener.close()

    threading.Thread(target=talk, daemon=True).start()
    return int(listener.getsockname()[1])


def test_the_protocol() -> None:
    port = serve({b"CLIENT PROTOCOL 2": b"SERVER PROTOCOL 2\n", b"VERBOSE STATUS": answer(3, 2).encode()})
    found = nccl_ras.parse(nccl_ras.ask(f"127.0.0.1:{port}", 30))
    assert dict(found[0].counts) == {0: 6, 1: 5}


def test_somebody_else_on_the_port() -> None:
    port = serve({b"CLIENT PROTOCOL 2": b"HTTP/1.1 400 Bad Request\n"})
    with pytest.raises(OSError, match="RAS"):
        nccl_ras.ask(f"127.0.0.1:{port}", 30)


def test_ras_of_a_stopped_rank_as_nccl_2_28_writes_it() -> None:
    text = (FIXTURES / "nccl_ras/two_h200_rank_stopped.txt").read_text()
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(text)  # NCCL's own JSON lacks a comma
    found = nccl_ras.parse(text)
    assert [c.missing for c in found] == [(1,), (1,)]
    assert [c.counts for c in found] == [{0: 400}, {0: 4393}]
    assert nccl_ras.behind(found, found) == (1,)
