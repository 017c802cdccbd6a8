"""The samples that Axolotl prepared, read from their Arrow files: what of them is trained, cut, doubled or repeated.

    scan(Path("last_run_prepared/a056..."), Asked(4096, ends=(128009,)))["rows"]

Needs pyarrow and numpy alone, nothing of ftdoctor: where ftdoctor's own environment has no pyarrow, the training
python runs this file as a script (`prepared.py FOLDER ASKED_AS_JSON`). Memory does not grow with the data, except for
the hashes of the first `HASHED` samples.
"""

from __future__ import annotations

import json
import math
import sys
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

HASHED = 1_000_000
IGNORED = -100
LONGEST = 65536  # where sequence_len is not known


@dataclass(frozen=True)
class Asked:
    """What is known before the samples are read.

    `ends` are the ids of tokens that end an answer and `bos` the one that begins a text, both empty where the tokenizer
    is not known. `held` is val_set_size: Axolotl takes the last rows of the prepared set, without shuffling again.
    `test` is the prepared folder of `test_datasets`.
    """

    sequence_len: int | None = None
    ends: tuple[int, ...] = ()
    bos: int | None = None
    held: float = 0.0
    test: str | None = None

    def json(self) -> str:
        """For the script."""
        return json.dumps(asdict(self))


def scan(folder: Path, asked: Asked) -> dict[str, Any]:
    """Counts over all samples; the numbers of samples begin at 1.

    `masked` have no trained token; `full` reach sequence_len; `doubled` begin with the same token (or `bos`) twice;
    `twins` repeat another sample, and are in `leak` when that one is on the other side of the split; `endless` are
    trained and never on a token of `ends`; `cut` are full and their last token is trained and no end. `histogram`
    counts samples by length in steps of `step`; `bins` is how many sequences of sequence_len packing makes of them.

    Raises:
        ImportError: no pyarrow here.
        OSError, ValueError: no prepared data set, or a damaged one.
    """
    import numpy as np

    most = asked.sequence_len or LONGEST
    found: dict[str, Any] = {
        "rows": 0, "tokens": 0, "trained": 0, "masked": 0, "masked_first": 0, "full": 0, "doubled": 0, "twins": 0,
        "twin_first": [], "longest": 0, "endless": 0, "endless_first": 0, "cut": 0, "cut_first": 0, "leak": 0,
        "leak_first": [], "judged_ends": bool(asked.ends),
    }  # fmt: skip
    total = sum(batch.num_rows for batch in _batches(folder))
    held = math.ceil(asked.held * total) if 0 < asked.held < 1 else int(asked.held)
    found["held"] = held = min(held, total)
    lengths = np.zeros(most + 1, dtype=np.int64)  # samples by length
    hashes: dict[bytes, int] = {}
    for batch in _batches(folder):
        _batch(batch, found, hashes, lengths, asked, total - held)
    if asked.test:
        found["held"] = 0
        for batch in _batches(Path(asked.test)):
            _tested(batch, found, hashes)
    step = max(1, -(-most // 64))
    counts = np.add.reduceat(lengths[1:], np.arange(0, most, step))
    found["histogram"], found["step"] = [int(n) for n in counts], step
    found["median"] = int(np.searchsorted(np.cumsum(lengths), found["rows"] / 2)) if found["rows"] else 0
    found["bins"] = packed({n: int(lengths[n]) for n in map(int, np.flatnonzero(lengths)) if n}, most)
    return found


def packed(lengths: dict[int, int], size: int) -> int:
    """How many bins of `size` tokens samples take: best fit, the longest first, as packing does in its groups."""
    room: dict[int, int] = {}  # free tokens to number of bins
    free: list[int] = []
    bins = 0
    for length in sorted(lengths, reverse=True):
        left = lengths[length]
        while left:
            at = bisect_left(free, length)
            if at == len(free):
                each = max(1, size // length)
                new = max(1, left // each)
                taken = min(left, new * each)
                bins += new
                rest, number = size - length * (min(each, left)), new
                left -= taken
            else:
                gap = free[at]
                number = min(room[gap], left)
                left -= number
                room[gap] -= number
                if not room[gap]:
                    free.pop(at)
                rest = gap - length
            if rest:
                if not room.get(rest):
                    insort(free, rest)
                room[rest] = room.get(rest, 0) + number
    return bins


def _batches(folder: Path) -> Iterator[Any]:
    import pyarrow as arrow

    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    for item in state.get("_data_files", []):
        with arrow.memory_map(str(folder / str(item["filename"]))) as source:
            yield from arrow.ipc.open_stream(source)


def _batch(batch: Any, found: dict[str, Any], hashes: dict[bytes, int], counts: Any, asked: Asked, train: int) -> None:
    import numpy as np

    ids, labels = _columns(batch)
    offsets = np.asarray(ids.offsets)
    bounds = np.asarray(labels.offsets)
    values, marks = np.asarray(ids.values), np.asarray(labels.values)
    lengths = np.diff(offsets)

    def per_row(tokens: Any) -> Any:
        ahead = np.concatenate([[0], np.cumsum(tokens)])
        return ahead[bounds[1:]] - ahead[bounds[:-1]]

    trained = per_row(marks != IGNORED)
    _first(found, "masked", trained == 0)
    found["tokens"] += int(lengths.sum())
    found["trained"] += int(trained.sum())
    found["longest"] = max(found["longest"], int(lengths.max(initial=0)))
    np.add.at(counts, np.minimum(lengths, len(counts) - 1), 1)
    full = lengths >= asked.sequence_len if asked.sequence_len else np.zeros(len(lengths), dtype=bool)
    found["full"] += int(full.sum())
    starts = offsets[:-1][lengths > 1]
    same = values[starts] == values[starts + 1]
    found["doubled"] += int((same if asked.bos is None else same & (values[starts] == asked.bos)).sum())
    if asked.ends:
        last = np.where(lengths > 0, bounds[1:] - 1, 0)
        ended = np.isin(marks, asked.ends)
        cut = full & (lengths > 0) & (marks[last] != IGNORED) & ~ended[last]
        _first(found, "cut", cut)
        _first(found, "endless", (trained > 0) & (per_row(ended) == 0) & ~cut)
    for number, key in enumerate(_keys(offsets, values)):
        if len(hashes) >= HASHED:
            break
        row = found["rows"] + number + 1
        first = hashes.setdefault(key, row)
        if first == row:
            continue
        found["twins"] += 1
        found["twin_first"] = found["twin_first"] or [row, first]
        if first <= train < row:
            found["leak"] += 1
            found["leak_first"] = found["leak_first"] or [row, first]
    found["rows"] += len(lengths)


def _tested(batch: Any, found: dict[str, Any], hashes: dict[bytes, int]) -> None:
    import numpy as np

    ids, _ = _columns(batch)
    for key in _keys(np.asarray(ids.offsets), np.asarray(ids.values)):
        found["held"] += 1
        if key in hashes:
            found["leak"] += 1
            found["leak_first"] = found["leak_first"] or [found["held"], hashes[key]]


def _columns(batch: Any) -> tuple[Any, Any]:
    if not {"input_ids", "labels"} <= set(batch.schema.names):
        raise ValueError(f"no input_ids and labels in it (columns: {', '.join(batch.schema.names[:8])})")
    return batch.column("input_ids"), batch.column("labels")


def _keys(offsets: Any, values: Any) -> Iterator[bytes]:
    for number in range(len(offsets) - 1):
        yield blake2b(values[offsets[number] : offsets[number + 1]].tobytes(), digest_size=8).digest()


def _first(found: dict[str, Any], name: str, rows: Any) -> None:
    """Count `rows` (a mask of this batch) under `name`, and remember the first."""
    import numpy as np

    places = np.flatnonzero(rows)
    if len(places) and not found[f"{name}_first"]:
        found[f"{name}_first"] = found["rows"] + int(places[0]) + 1
    found[name] += len(places)


if __name__ == "__main__":
    print(json.dumps(scan(Path(sys.argv[1]), Asked(**json.loads(sys.argv[2])))))
