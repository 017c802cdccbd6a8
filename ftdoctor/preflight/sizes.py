"""How much data an Axolotl YAML names: rows and characters, where that can be told without a network.

Local JSONL is counted, Parquet and Hub data are read from their own footers (`dataset_info.json` in the cache of
`datasets`), and for the data sets that every guide uses the size is known.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_DATA = 512 << 20  # a larger file is not read for its number of rows
# rows (from the data sets' cards) and about how many characters one row has in its prompt format
KNOWN = {"tatsu-lab/alpaca": (52002, 500.0), "yahma/alpaca-cleaned": (51760, 800.0)}


@dataclass(frozen=True, slots=True)
class Size:
    """Rows, and characters over all rows."""

    rows: int
    chars: float


def of(data: Mapping[str, Any], folder: Path) -> Size | None:
    """All training data together; None when one part cannot be told."""
    rows, chars = 0, 0.0
    for item in datasets(data):
        size = _one(item, folder)
        if size is None:
            return None
        rows, chars = rows + size.rows, chars + size.chars
    return Size(rows, chars) if rows else None


def datasets(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The records under `datasets`."""
    listed = data.get("datasets")
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, Mapping):
            yield item


def find(path: str, folder: Path) -> Path | None:
    """The file where the run would look for it (the working folder) or beside the YAML."""
    given = Path(path).expanduser()
    return next((p for p in (given, folder / given) if p.exists()), None)


def hf_home() -> str:
    """The cache of the Hugging Face libraries."""
    return os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface")


def _one(item: Mapping[str, Any], folder: Path) -> Size | None:
    name = str(item.get("path"))
    split = str(item.get("split") or "train")
    if item.get("shards") or item.get("data_files") or "[" in split:
        return None
    path = find(name, folder)
    if path is not None:
        return _lines(path) if path.is_file() and path.suffix in (".jsonl", ".json") else None
    if name in KNOWN:
        return Size(KNOWN[name][0], KNOWN[name][0] * KNOWN[name][1])
    return _cached(name, str(item.get("name") or "default"), split)


def _lines(path: Path) -> Size | None:
    """One JSON record a line; None for a JSON list and for what is too large to count."""
    if path.stat().st_size > MAX_DATA:
        return None
    rows, chars = 0, 0
    with open(path, "rb") as handle:
        for line in handle:
            if rows == 0 and line.strip() and not line.lstrip().startswith(b"{"):
                return None
            rows += bool(line.strip())
            chars += len(line)
    return Size(rows, float(chars))


def _cached(name: str, config: str, split: str) -> Size | None:
    """What the cache of `datasets` says of a data set of the Hub."""
    place = os.environ.get("HF_DATASETS_CACHE") or os.path.join(hf_home(), "datasets")
    for path in sorted(Path(place, name.replace("/", "___"), config).glob("*/*/dataset_info.json")):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["splits"][split]
            return Size(int(found["num_examples"]), float(found["num_bytes"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None
