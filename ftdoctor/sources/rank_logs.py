"""The logs that the ranks of one launch wrote each for itself, and what remains of the log where all of them meet.

    ranks/rank0.log, ranks/rank1.log    every line once, with its rank (`launch/ftdoctor_rank_log.py`)
    train.log                           the same lines mixed, and those of launchers and of the first seconds

A line is read from its rank's log; `Rest` leaves it out of the mixed one, where an empty line stays in its place, so
that line numbers hold. The rank's log is written first: whoever has read a mixed line finds it there already.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ftdoctor.sources.files import Input, chunks
from ftdoctor.sources.follow import Follower, Grown
from ftdoctor.sources.ranks import RUN_ID

FOLDER = "ranks"
MIXED = "train.log"
NAME = re.compile(r"^rank(\d{1,5})\.log$")
MAX_PENDING = 200_000  # lines of the ranks that were not met in the mixed log; above, the oldest are forgotten
MAX_BYTES = 64 << 20  # of finished runs: where the ranks wrote more, the mixed log alone is read
MAX_FILES = 256
WHOLE = 1 << 40  # bytes in one look: a rank's log may not lag behind the mixed one
_SEGMENT = re.compile(rb"[^\r\n]+")


def rank_logs(folder: Path) -> list[Path]:
    """Logs of ranks in a run folder, by rank."""
    try:
        found = [(int(match[1]), p) for p in (folder / FOLDER).iterdir() if (match := NAME.match(p.name))]
    except OSError:
        return []
    return [path for _, path in sorted(found)[:MAX_FILES]]


def small_enough(paths: Iterable[Path]) -> bool:
    """True when the logs can be held against the mixed one."""
    try:
        return sum(path.stat().st_size for path in paths) <= MAX_BYTES
    except OSError:
        return False


class Rest:
    """Takes the ranks' own lines out of the mixed log, whatever the chunks."""

    def __init__(self) -> None:
        self._pending: Counter[bytes] = Counter()
        self._torn: dict[str, bytes] = {}
        self._mixed = b""

    def own(self, path: str, data: bytes) -> None:
        """New bytes of a rank's log."""
        whole, self._torn[path] = _cut(self._torn.get(path, b"") + data)
        for segment in _SEGMENT.findall(whole):
            self._pending[segment] += 1
        while len(self._pending) > MAX_PENDING:
            del self._pending[next(iter(self._pending))]

    def left(self, data: bytes) -> bytes:
        """New bytes of the mixed log without what a rank said; whole lines only, the rest comes later."""
        whole, self._mixed = _cut(self._mixed + data)
        return self._without(whole)

    def last(self) -> bytes:
        """The mixed log has ended: its last line, unless a rank said it."""
        data, self._mixed = self._mixed, b""
        for torn in self._torn.values():
            self._pending[torn] += 1
        return self._without(data)

    def _without(self, data: bytes) -> bytes:
        def take(found: re.Match[bytes]) -> bytes:
            segment = found[0]
            count = self._pending.get(segment, 0)
            if not count:  # a launcher's line behind a rank's unfinished one, as a progress bar is
                torn = next((t for t in self._torn.values() if t and segment.startswith(t)), b"")
                return segment[len(torn) :]
            if count == 1:
                del self._pending[segment]
            else:
                self._pending[segment] = count - 1
            return b""

        return _SEGMENT.sub(take, data)


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """Whole lines, and the beginning of the next one. A line that never ends is let go in parts."""
    end = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
    if not end and len(data) > 1 << 20:
        end = len(data)
    return data[:end], data[end:]


def rest_of(item: Input) -> Iterator[bytes]:
    """A mixed log without the lines of the logs that it names; for runs that are over."""
    rest = Rest()
    for path in item.without:
        for chunk in chunks(Input(path, "log")):
            rest.own(path, chunk)
    for chunk in chunks(item):
        yield rest.left(chunk)
    yield rest.last()


def run_folder(paths: Iterable[str]) -> Path | None:
    """The folder of a run of `ftdoctor launch` that one of `paths` is, or whose log one of them is."""
    for path in map(Path, paths):
        folder = path if path.is_dir() else path.parent
        if (path.is_dir() or path.name == MIXED) and (folder / "run.json").is_file():
            return folder
    return None


def run_id(folder: Path) -> str | None:
    """What every process of the launched run in `folder` carries in its environment; None when it does not say."""
    try:
        found = json.loads((folder / "run.json").read_text(encoding="utf-8"))["added"][RUN_ID]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if isinstance(found, str) else None


class Ranks:
    """The rank logs of a run that goes on, as they grow."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the run folder; its logs need not exist yet."""
        self._folder = folder
        self._mixed = os.path.realpath(folder / MIXED)
        self._followers: dict[str, Follower] = {}
        self._rest = Rest()

    @property
    def named(self) -> tuple[str, ...]:
        """Files followed."""
        return tuple(self._followers)

    def apart(self, grown: Iterable[Grown]) -> Iterator[Grown]:
        """What is new in the ranks' logs, then `grown` with that left out of the mixed log."""
        waiting = list(grown)  # read before the ranks' logs: so each of its lines is in one of those already
        for path in rank_logs(self._folder):
            name = str(path)
            if name not in self._followers:
                self._followers[name] = Follower(Input(name, "log", int(path.stem.removeprefix("rank")), given=False))
            for part in self._followers[name].poll(WHOLE):
                self._rest.own(name, part.data)
                yield part
        for part in waiting:
            if Path(part.item.path).parent == self._folder / FOLDER:
                continue  # found in the folder as any other log, and read above
            mixed = os.path.realpath(part.item.path) == self._mixed
            yield Grown(part.item, self._rest.left(part.data), part.change) if mixed else part

    def close(self) -> tuple[str, bytes]:
        """Release the files; the mixed log and its unfinished last line."""
        for follower in self._followers.values():
            follower.close()
        return self._mixed, self._rest.last()
