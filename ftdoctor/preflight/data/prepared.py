"""The samples that Axolotl prepared, read from their Arrow files: what of them is trained, cut, doubled or repeated.

    scan(Path("last_run_prepared/a056..."), 4096)["rows"]

Needs pyarrow and numpy alone, nothing of ftdoctor: where ftdoctor's own environment has no pyarrow, the training
python runs this file as a script (`prepared.py FOLDER SEQUENCE_LEN`). Memory does not grow with the data, except for
the hashes of the first `HASHED` samples.
"""

from __future__ import annotations

import json
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

HASHED = 1_000_000
IGNORED = -100


def scan(folder: Path, sequence_len: int | None) -> dict[str, Any]:
    """Counts over all samples; the numbers of samples begin at 1.

    Raises:
        ImportError: no pyarrow here.
        OSError, ValueError: no prepared data set, or a damaged one.
    """
    import numpy as np
    import pyarrow as arrow

    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    files = [folder / str(item["filename"]) for item in state.get("_data_files", [])]
    found: dict[str, Any] = {
        "rows": 0, "tokens": 0, "trained": 0, "masked": 0, "masked_first": 0, "full": 0, "doubled": 0, "twins": 0,
        "twin_first": [], "longest": 0,
    }  # fmt: skip
    counts = np.zeros(64, dtype=np.int64)  # samples by length: 64 steps up to sequence_len
    step = max(1, (sequence_len or 65536) // 64)
    hashes: dict[bytes, int] = {}
    for path in files:
        with arrow.memory_map(str(path)) as source:
            for batch in arrow.ipc.open_stream(source):
                _batch(batch, found, hashes, counts, step, sequence_len)
    found["histogram"] = [int(n) for n in counts]
    found["step"] = step
    return found


def _batch(
    batch: Any, found: dict[str, Any], hashes: dict[bytes, int], counts: Any, step: int, most: int | None
) -> None:
    import numpy as np

    if not {"input_ids", "labels"} <= set(batch.schema.names):
        raise ValueError(f"no input_ids and labels in it (columns: {', '.join(batch.schema.names[:8])})")
    ids, labels = batch.column("input_ids"), batch.column("labels")
    offsets = np.asarray(ids.offsets)
    bounds = np.asarray(labels.offsets)
    values, marks = np.asarray(ids.values), np.asarray(labels.values)
    lengths = np.diff(offsets)
    ahead = np.concatenate([[0], np.cumsum(marks != IGNORED)])
    trained = ahead[bounds[1:]] - ahead[bounds[:-1]]
    masked = np.flatnonzero(trained == 0)
    if len(masked) and not found["masked_first"]:
        found["masked_first"] = found["rows"] + int(masked[0]) + 1
    found["masked"] += len(masked)
    found["tokens"] += int(lengths.sum())
    found["trained"] += int(trained.sum())
    found["longest"] = max(found["longest"], int(lengths.max(initial=0)))
    np.add.at(counts, np.minimum(np.maximum(lengths - 1, 0) // step, 63), 1)
    if most:
        found["full"] += int((lengths >= most).sum())
    starts = offsets[:-1][lengths > 1]
    found["doubled"] += int((values[starts] == values[starts + 1]).sum()) if len(starts) else 0
    for number in range(len(lengths)):
        if len(hashes) >= HASHED:
            break
        sample = values[offsets[number] : offsets[number + 1]].tobytes()
        key = blake2b(sample, digest_size=8).digest()
        first = hashes.setdefault(key, found["rows"] + number + 1)
        if first != found["rows"] + number + 1:
            found["twins"] += 1
            found["twin_first"] = found["twin_first"] or [found["rows"] + number + 1, first]
    found["rows"] += len(lengths)


if __name__ == "__main__":
    print(json.dumps(scan(Path(sys.argv[1]), int(sys.argv[2]) or None)))
