"""PyTorch's flight recorder: which collective each rank was in. Dumps are pickles (or JSON) and never unpickled freely.

    {"version": "2.10", "pg_config": {...}, "pg_status": {"0": {"last_enqueued_collective": 4, ...}},
     "entries": [{"collective_seq_id": 4, "profiling_name": "nccl:all_reduce", "state": "scheduled",
                  "process_group": ("0", "default_pg"), "retired": false, ...}]}

A pickle can run any program. The reader here knows containers, strings and numbers, no classes and no calls: a dump
holds nothing else (checked on dumps of torch 2.13), and whatever does is refused.

On demand: with TORCH_NCCL_DEBUG_INFO_PIPE_FILE=PREFIX set at start, a byte written to `PREFIX<rank>.pipe` makes that
rank write its dump and go on. NCCL process groups only.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

MAX_BYTES = 64 << 20
MAX_ENTRIES = 100_000


class BadDump(Exception):
    """Not a dump of the flight recorder, or one that asks for more than data."""


class _DataOnly(pickle.Unpickler):
    """Containers, strings, numbers; every class, function and persistent id is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise BadDump(f"asks for {module}.{name}")

    def persistent_load(self, pid: object) -> NoReturn:
        raise BadDump("asks for an outside object")

    def get_extension(self, code: int) -> NoReturn:
        raise BadDump("asks for a registered extension")


@dataclass(frozen=True, slots=True)
class Status:
    """One process group as one rank saw it: the collectives it had enqueued and completed, and the one it waits in."""

    group: str
    enqueued: int
    completed: int
    waiting: str = ""


def read(data: bytes) -> list[Status]:
    """Process groups of a dump, in its order.

    Raises:
        BadDump: it is something else, damaged, too large, or asks for more than data.
    """
    content = _load(data)
    if not isinstance(content, dict) or not isinstance(content.get("entries", []), (list, tuple)):
        raise BadDump("no flight-recorder dump")
    groups: dict[str, dict[str, Any]] = {}
    for entry in list(content.get("entries", []))[:MAX_ENTRIES]:
        if not isinstance(entry, dict) or entry.get("is_p2p"):
            continue
        number = entry.get("collective_seq_id")
        if not isinstance(number, int):
            continue
        seen = groups.setdefault(_group(entry.get("process_group")), {"last": 0, "done": 0, "waiting": (1 << 62, "")})
        seen["last"] = max(seen["last"], number)
        if entry.get("state") == "completed" or entry.get("retired") is True:
            seen["done"] = max(seen["done"], number)
        elif number < seen["waiting"][0]:
            name = str(entry.get("profiling_name", "")).rpartition(":")[2]
            seen["waiting"] = (number, name[:80])
    stated = content.get("pg_status")
    if isinstance(stated, dict):
        for key, status in stated.items():
            if isinstance(status, dict):
                _state(groups, str(key), status)
    return [Status(name, g["last"], g["done"], g["waiting"][1]) for name, g in groups.items()]


def behind(dumps: Mapping[int, list[Status]]) -> tuple[list[int], str] | None:
    """(ranks that enqueued fewer collectives than the others, the collective the others wait in); None when equal."""
    names = {status.group for statuses in dumps.values() for status in statuses}
    for name in sorted(names):
        counts = {rank: next((s for s in statuses if s.group == name), None) for rank, statuses in dumps.items()}
        known = {rank: status for rank, status in counts.items() if status is not None}
        if len(known) < 2 or len({s.enqueued for s in known.values()}) < 2:
            continue
        most = max(s.enqueued for s in known.values())
        waiting = next((s.waiting for s in known.values() if s.enqueued == most and s.waiting), "")
        return sorted(r for r, s in known.items() if s.enqueued < most), waiting
    return None


def ask(prefix: str, rank: int) -> str:
    """Ask a rank for a dump through its pipe; why that failed, or "". Never blocks: a dead rank has no reader."""
    path = f"{prefix}{rank}.pipe"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        return f"{path}: {error.strerror}"
    try:
        os.write(handle, b"1")
    except OSError as error:
        return f"{path}: {error.strerror}"
    finally:
        os.close(handle)
    return ""


def find(folder: Path, newer_than: float = 0.0) -> dict[int, Path]:
    """Dumps in a folder by rank (`rank_0`, `comm_lib_trace_rank_3.json`), those changed since `newer_than`."""
    found: dict[int, Path] = {}
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            number = path.name.removesuffix(".json").rpartition("_")[2].removeprefix("rank")
            if number.isdigit() and len(number) < 7 and path.is_file() and path.stat().st_mtime >= newer_than:
                found.setdefault(int(number), path)
    return found


def read_file(path: Path) -> list[Status]:
    """`read` of a file.

    Raises:
        BadDump: see `read`; also when the file cannot be read.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadDump("too large")
        return read(path.read_bytes())
    except OSError as error:
        raise BadDump(error.strerror or str(error)) from None


def _load(data: bytes) -> Any:
    if len(data) > MAX_BYTES:
        raise BadDump("too large")
    try:
        if data[:1] == b"{":
            return json.loads(data)
        return _DataOnly(io.BytesIO(data)).load()
    except BadDump:
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise BadDump(f"damaged: {type(error).__name__}") from None


def _group(value: object) -> str:
    """`("0", "default_pg")` or a plain name."""
    if isinstance(value, (list, tuple)) and value:
        return str(value[0])[:80]
    return str(value)[:80]


def _state(groups: dict[str, dict[str, Any]], key: str, status: dict[Any, Any]) -> None:
    """What the group itself says wins over its entries: the ring buffer forgets the oldest."""
    enqueued, completed = status.get("last_enqueued_collective"), status.get("last_completed_collective")
    seen = groups.setdefault(key, {"last": 0, "done": 0, "waiting": (1 << 62, "")})
    if isinstance(enqueued, int):
        seen["last"] = max(seen["last"], enqueued)
    if isinstance(completed, int):
        seen["done"] = max(seen["done"], completed)
