"""The runs of several nodes as one: their journals merged by time, each event with its node's name.

A journal carries the wall clock in its ticks, about one a second; what lies between two ticks has the first one's time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ftdoctor.events import Event, Tick

MARK = "slurm.json"
NODE = "node-"


def is_joined(folder: Path) -> bool:
    """True for the shared folder of a job of `ftdoctor launch --slurm`."""
    return (folder / MARK).is_file()


def node_folders(folder: Path) -> list[tuple[str, Path]]:
    """Name and run folder of each node that has begun."""
    found = sorted(p for p in folder.glob(f"{NODE}*") if (p / "run.json").is_file())
    return [(p.name.removeprefix(NODE), p) for p in found]


def node_of(root: Path, path: Path) -> str | None:
    """The node whose run folder below `root` holds `path`; None where `root` is no joined run."""
    first = path.relative_to(root).parts[0]
    return first.removeprefix(NODE) if first.startswith(NODE) and is_joined(root) else None


def merged(journals: Sequence[tuple[str, Iterable[Event]]], next_order: Callable[[], int]) -> Iterator[Event]:
    """Events of all nodes in the order in which they happened, numbered anew. `journals`: node and events."""
    streams = [_timed(number, node, events) for number, (node, events) in enumerate(journals)]
    for *_, node, event in heapq.merge(*streams, key=lambda item: item[:3]):
        origin = event.origin
        yield replace(event, origin=replace(origin, node=origin.node or node, order=next_order()))


def _timed(number: int, node: str, events: Iterable[Event]) -> Iterator[tuple[float, int, int, str, Event]]:
    now = 0.0
    for count, event in enumerate(events):
        if isinstance(event, Tick) and event.origin.time is not None:
            now = max(now, event.origin.time)
        yield now, number, count, node, event
