"""What a pipeline has done, in `pipeline.json` of its folder; every change of it is written whole.

A stage is done when it went well, what it was made from is unchanged, and what it made is still there as it was left.
What it was made from is kept as one digest: of files up to 16 MiB the content, of larger ones size and time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError
from ftdoctor.launch import keeping

FILE = "pipeline.json"
FORMAT = 1
STAGES = ("preflight", "preprocess", "train", "vram", "merge", "evaluate")
WHOLE = 16 << 20
MAX_FILES = 2000  # of a folder


@dataclass(slots=True)
class Record:
    """One stage as it stands.

    `status`: running | done | failed | skipped (asked for) | absent (nothing to do here). `inputs`: the digest.
    `outputs`: stamps of what was made. `seconds`: how long it took; `started`: seconds since 1970. `folder`: the run
    folder of `train`. `code`: the exit code of the verb.
    """

    status: str = "running"
    inputs: str = ""
    outputs: dict[str, str] = field(default_factory=dict)
    told: str = ""
    code: int = 0
    root: str | None = None
    started: float = 0.0
    seconds: float = 0.0
    folder: str = ""
    signalled: bool = False


@dataclass(slots=True)
class State:
    """The records, and where they are kept."""

    folder: Path
    config: str
    records: dict[str, Record] = field(default_factory=dict)

    def is_done(self, stage: str, inputs: str) -> bool:
        """Nothing would change if it ran again."""
        record = self.records.get(stage)
        return (
            record is not None
            and record.status == "done"
            and record.inputs == inputs
            and all(stamp(Path(path)) == was for path, was in record.outputs.items())
        )

    def begin(self, stage: str, inputs: str) -> Record:
        """A stage starts; what was known of it is forgotten."""
        record = Record(inputs=inputs, started=time.time())
        self.put(stage, record)
        return record

    def put(self, stage: str, record: Record) -> None:
        """Take the record up and write the file.

        Raises:
            InputError: the disk refuses.
        """
        self.records[stage] = record
        kept = {name: asdict(self.records[name]) for name in STAGES if name in self.records}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            keeping.write(self.folder / FILE, {"ftdoctor_pipeline": FORMAT, "config": self.config, "stages": kept})
        except OSError as error:
            raise InputError(
                f"cannot be written: {error.strerror}",
                str(self.folder / FILE),
                "free some space, or give another --runs",
            ) from None


def read(folder: Path, config: str) -> State:
    """The state in `folder`; a new one where there is none.

    Raises:
        InputError: the file is damaged, or belongs to another configuration.
    """
    place, remedy = folder / FILE, "give another --name"
    try:
        data = json.loads(place.read_text(encoding="utf-8"))
        names = Record.__dataclass_fields__
        records = {
            stage: Record(**{k: v for k, v in kept.items() if k in names})
            for stage, kept in data["stages"].items()
            if stage in STAGES
        }
        of = str(data["config"])
    except FileNotFoundError:
        if folder.exists() and any(folder.iterdir()):
            raise InputError("is the folder of something else", str(folder), remedy) from None
        return State(folder, config)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"cannot be read: {str(error)[:100]}", str(place), remedy) from None
    if of != config:
        raise InputError(f"belongs to the pipeline of {of}", str(folder), remedy)
    return State(folder, config, records)


def digest(paths: Iterable[Path], values: Mapping[str, Any]) -> str:
    """Of files and folders with their content, and of plain values."""
    total = hashlib.sha256()
    for path in paths:
        total.update(f"{path}\0{stamp(path, content=True)}\0".encode())
    total.update(json.dumps(dict(values), sort_keys=True, default=str).encode())
    return total.hexdigest()


def stamp(path: Path, content: bool = False) -> str:
    """What tells one version of a file or a folder from another; empty when it is not there.

    `content`: of small files the content counts, not the time.
    """
    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file())[:MAX_FILES]
            return " ".join(f"{p.relative_to(path)}:{stamp(p, content)}" for p in files)
        if content and path.stat().st_size <= WHOLE:
            return hashlib.sha256(path.read_bytes()).hexdigest()
        found = path.stat()
        return f"{found.st_size}:{found.st_mtime_ns}"
    except OSError:
        return ""
