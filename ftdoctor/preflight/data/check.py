"""The data sets a YAML names, read and judged; the result as facts for the rules.

Facts: `data.rows`, `data.broken` (what keeps the loader from reading a file), `data.columns`, `data.null`,
`data.no_answer` (+ `_rows`), `data.untrained` (+ `_rows`), `data.roles`, `data.placeholder`, `data.twins` (+ `_rows`),
`data.leak` (+ `_rows`). The text facts name file and rows; each has the place of its first row as origin.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftdoctor.events import Event, FactLearned, Origin, Scalar
from ftdoctor.preflight import plan
from ftdoctor.preflight.checks import Seen
from ftdoctor.preflight.data.declared import declare, rows_of_split
from ftdoctor.preflight.data.raw import Judge, Sighting
from ftdoctor.preflight.data.rows import SUFFIXES, Cut, NoReader, read

BYTES = 32 << 20  # of each data set, in a preflight; `ftdoctor preprocess` reads all
SECONDS = 30.0
# a problem of rows to the fact that rules ask for
_FACTS = {
    "json": "broken", "encoding": "broken", "shape": "broken", "empty": "broken", "file": "broken", "broken": "broken",
    "not_text": "broken", "columns": "columns", "null": "null", "no_answer": "no_answer",
    "untrained": "untrained", "role": "roles", "placeholder": "placeholder", "twin": "twins",
}  # fmt: skip
_COUNTED = ("no_answer", "untrained", "twins", "leak")


@dataclass(slots=True)
class Found:
    """All data sets together; `trained` counts those of `datasets` alone, `cut` says that some were not read whole."""

    rows: int = 0
    trained: int = 0
    cut: bool = False
    lines: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def problem(self, fact: str, path: str, line: int, text: str, count: int) -> None:
        """One more problem of a kind; the first has the word on the place."""
        self.texts.setdefault(fact, []).append(text)
        self.places.setdefault(fact, (path, line))
        self.counts[fact] = self.counts.get(fact, 0) + count

    def facts(self) -> Iterator[tuple[str, Scalar, tuple[str, int]]]:
        """Name, value and place of each."""
        if self.rows:
            yield "data.rows", self.rows, ("data: rows", 0)
        for fact, texts in self.texts.items():
            more = f"; and {len(texts) - 3} more" if len(texts) > 3 else ""
            yield f"data.{fact}", "; ".join(texts[:3]) + more, self.places[fact]
            if fact in _COUNTED:
                yield f"data.{fact}_rows", self.counts[fact], self.places[fact]


def judge(data: Mapping[str, Any], folder: Path, limit: int | None = BYTES) -> Found:
    """Read every data set that lies on this machine."""
    found = Found()
    trained: dict[int, tuple[str, int]] = {}
    for key in ("datasets", "test_datasets"):
        listed = data.get(key)
        for item in listed if isinstance(listed, list) else ():
            if not isinstance(item, Mapping) or not isinstance(item.get("path"), str):
                continue
            held = key == "test_datasets"
            for path, judged in _data_set(item, folder, bool(data.get("rl")), limit, found):
                _report(path, judged, found, data)
                if held:
                    _leaks(path, judged, trained, found)
                else:
                    found.trained += judged.judged
                    found.cut |= judged.cut is not None or bool(item.get("shards")) or _sliced(item)
                    for seen, row in judged.hashes.items():
                        trained.setdefault(seen, (judged.name, row))
    return found


def _sliced(item: Mapping[str, Any]) -> bool:
    """True when a part of the rows is taken that is not counted here."""
    return "[" in str(item.get("split") or "") and rows_of_split(item) is None


def _data_set(
    item: Mapping[str, Any], folder: Path, preference: bool, limit: int | None, found: Found
) -> Iterator[tuple[Path, Judge]]:
    files = files_of(item, folder)
    name = str(item["path"])
    if not files:
        if not plan.is_local(name, item):
            found.absent.append(f"{name}: on the Hub and not in the cache, not judged")
        return
    declared = declare(item, preference)
    most = rows_of_split(item)
    for path in files:
        judged = Judge(declared, path.name)
        try:
            for row in read(path, limit):
                judged.take(row)
                if most is not None and judged.rows >= most:
                    break
        except NoReader as error:
            found.absent.append(f"{path.name}: {error}")
            continue
        except OSError as error:
            found.problem("broken", str(path), 0, f"{path.name} cannot be read: {error.strerror or error}", 1)
            continue
        judged.close()
        yield path, judged


def files_of(item: Mapping[str, Any], folder: Path) -> list[Path]:
    """The files of a data set that are here: local, or in the cache of the Hub. Nothing is downloaded."""
    given = item.get("data_files")
    names = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    root = plan.find(str(item["path"]), folder)
    if root is None and "://" not in str(item["path"]):
        root = _cached(str(item["path"]))
    if root is None:
        return []
    if root.is_file():
        return [root]
    if names:
        chosen = [p for n in names if isinstance(n, str) for p in (root / n, folder / n, Path(n)) if p.is_file()]
        return list(dict.fromkeys(chosen))
    every = sorted(p for p in root.rglob("*") if p.is_file() and p.name.removesuffix(".gz").endswith(SUFFIXES))
    every = [p for p in every if p.name not in ("dataset_info.json", "dataset_infos.json", "state.json", "README.txt")]
    training = [p for p in every if "train" in p.name]
    return (training or every)[:16]


def _cached(name: str) -> Path | None:
    home = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"), "hub"
    )
    snapshots = Path(home, "datasets--" + name.replace("/", "--"), "snapshots")
    try:
        return max(snapshots.iterdir(), key=lambda p: p.stat().st_mtime, default=None)
    except OSError:
        return None


def _report(path: Path, judged: Judge, found: Found, data: Mapping[str, Any]) -> None:
    found.rows += judged.judged
    for kind, seen in judged.found.items():
        fact = _FACTS[kind]
        if fact == "twins" and data.get("dataset_exact_deduplication") is True:
            continue
        found.problem(fact, str(path), seen.rows[0][1] if seen.rows else 0, _told(kind, judged, seen), seen.count)
    kind = judged.declared.type or "no type"
    told = f"{path.name}: {judged.judged:,} rows as {kind}"
    if judged.declared.kind == "unknown":
        told += " (this type's columns are not judged)"
    if judged.tokenized:
        told += " (tokenised already)"
    if isinstance(judged.cut, Cut):
        told += f" (the first {judged.cut.seen / (1 << 20):.0f} of {judged.cut.size / (1 << 20):.0f} MiB)"
    found.lines.append(told)


def _told(kind: str, judged: Judge, seen: Sighting) -> str:
    name = judged.name
    if kind in ("empty", "file"):
        return f"{name}: {seen.text}"
    if kind in ("json", "encoding", "shape"):
        line = seen.rows[0][1]
        more = f"; {seen.count - 1:,} more such lines" if seen.count > 1 else ""
        return f"{name} line {line:,}: {seen.text}{more}"
    if kind == "columns":
        return f"{name}: {seen.text}"
    if kind == "role":
        roles = ", ".join(judged.unknown_roles())
        return f"{name}: {roles} ({seen.where()})"
    if kind == "twin":
        return f"{name}: {seen.count:,} of {judged.rows:,} rows, {seen.text}"
    return f"{name}: {seen.text}, {seen.where()}"


def _leaks(path: Path, judged: Judge, trained: Mapping[int, tuple[str, int]], found: Found) -> None:
    shared = [(row, trained[key]) for key, row in judged.hashes.items() if key in trained]
    if shared:
        row, (name, other) = shared[0]
        text = f"{len(shared):,} of {judged.rows:,} rows of {path.name} are in the training data: row {row:,} is row "
        line = row if path.suffix == ".jsonl" else 0
        found.problem("leak", str(path), line, f"{text}{other:,} of {name}", len(shared))


def look(data: Mapping[str, Any], folder: Path, limit: int | None = BYTES) -> Seen:
    """The preflight's check of the rows."""
    found = judge(data, folder, limit)
    events: tuple[Event, ...] = tuple(
        FactLearned(Origin(path, line), name, value) for name, value, (path, line) in found.facts()
    )
    grave = {"broken", "columns", "untrained"} & found.texts.keys()
    lines = [*found.lines, *found.absent]
    if not lines:
        return Seen("no data set here to be judged", {}, "absent")
    state = "bad" if grave else "note" if found.texts else "good" if found.lines else "absent"
    return Seen("\n".join(lines), {}, state, events=events)
