"""Follow files that grow: late creation, truncation, rotation, growing folders, several logs at once.

`Follower.poll` gives what is new; it never blocks and never raises for what files do. `Watcher` wakes the caller when
something changed (watchdog: inotify, FSEvents), and only shortens the wait: on NFS, where no notification comes, the
caller's own interval is the bound.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftdoctor.sources.files import Input, is_log_name, own_words, rank_of
from ftdoctor.sources.nodes import node_of

CHUNK = 1 << 16
PER_POLL = 1 << 18  # bytes of one file per poll, so that a large backlog does not starve the other files or the screen
RESCAN_SECONDS = 2.0
MAX_FILES = 256


@dataclass(frozen=True, slots=True)
class Grown:
    """New bytes of one file. `change` is `opened`, `rotated` or `truncated` when the reader must start anew."""

    item: Input
    data: bytes
    change: str = ""


class Follower:
    """Reads one file as it grows."""

    def __init__(self, item: Input) -> None:
        self.item = item
        self._fd: int | None = None
        self._identity: tuple[int, int] | None = None
        self._offset = 0

    def poll(self, budget: int = PER_POLL) -> Iterator[Grown]:
        """What is new, in chunks of at most CHUNK bytes and `budget` bytes in all."""
        while budget > 0:
            if self._fd is None and not self._open():
                return
            assert self._fd is not None
            try:
                size = os.fstat(self._fd).st_size
                if size < self._offset:
                    self._offset = 0
                    os.lseek(self._fd, 0, os.SEEK_SET)
                    yield Grown(self.item, b"", "truncated")
                data = os.read(self._fd, min(CHUNK, budget))
            except OSError:
                self.close()
                return
            if data:
                first = self._offset == 0
                self._offset += len(data)
                budget -= len(data)
                yield Grown(self.item, data, "opened" if first else "")
                continue
            if not self._replaced():
                return
            self.close()
            yield Grown(self.item, b"", "rotated")

    @property
    def behind(self) -> int:
        """Bytes that are there and not read yet."""
        try:
            return max(0, os.fstat(self._fd).st_size - self._offset) if self._fd is not None else 0
        except OSError:
            return 0

    def close(self) -> None:
        """Release the file."""
        if self._fd is not None:
            os.close(self._fd)
        self._fd = None

    def _open(self) -> bool:
        try:
            self._fd = os.open(self.item.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            status = os.fstat(self._fd)
        except OSError:
            self.close()
            return False
        self._identity = (status.st_dev, status.st_ino)
        self._offset = 0
        return True

    def _replaced(self) -> bool:
        """True when the path leads to another file now."""
        try:
            status = os.stat(self.item.path)
        except OSError:
            return False  # moved away; wait for the new one
        return (status.st_dev, status.st_ino) != self._identity


class Logs:
    """All logs below the given files and folders; folders are searched again as they grow."""

    def __init__(self, paths: list[str]) -> None:
        self._folders = [Path(p) for p in paths if os.path.isdir(p)]
        self._followers: dict[str, Follower] = {}
        self._scanned: float | None = None
        self._given = [p for p in paths if not os.path.isdir(p)]
        for path in self._given:
            self._add(Input(path, "log", rank_of(Path(path))))

    @property
    def paths(self) -> list[str]:
        """Files followed."""
        return list(self._followers)

    @property
    def named(self) -> tuple[str, ...]:
        """Files followed, as they were given."""
        return tuple(f.item.name for f in list(self._followers.values()))

    @property
    def behind(self) -> int:
        """Bytes that are there and not read yet."""
        return sum(follower.behind for follower in self._followers.values())

    def poll(self, now: float) -> Iterator[Grown]:
        """What is new in any of them. `now` is the caller's monotonic clock in seconds."""
        if self._scanned is None or now - self._scanned >= RESCAN_SECONDS:
            self._scanned = now
            self._scan()
        for follower in list(self._followers.values()):
            yield from follower.poll()

    def close(self) -> None:
        """Release all files."""
        for follower in self._followers.values():
            follower.close()

    def _add(self, item: Input) -> None:
        key = os.path.realpath(item.path)
        if key not in self._followers and len(self._followers) < MAX_FILES:
            self._followers[key] = Follower(item)

    def _scan(self) -> None:
        for late in [p for p in self._given if os.path.isdir(p)]:  # it was not there yet, and became a folder
            self._given.remove(late)
            follower = self._followers.pop(os.path.realpath(late), None)
            if follower is not None:
                follower.close()
            self._folders.append(Path(late))
        for root in self._folders:
            for folder, folders, files in os.walk(root):
                depth = len(Path(folder).relative_to(root).parts)
                folders[:] = sorted(f for f in folders if not f.startswith(".") and depth < 5)
                own = own_words(Path(folder))
                for name in sorted(files):
                    if is_log_name(name) and name not in own:
                        path = Path(folder, name)
                        self._add(Input(str(path), "log", rank_of(path), given=False, node=node_of(root, path)))


class Watcher:
    """Wakes `wait` early when a followed file or folder changes."""

    def __init__(self, paths: list[str]) -> None:
        self._event = threading.Event()
        self._observer: Any = None
        self._handler: Any = None
        self._watched: set[str] = set()
        self._absent = [p for p in paths if not os.path.exists(p)]
        try:
            logging.getLogger("watchdog").addHandler(logging.NullHandler())  # its last words are no news
            from watchdog.events import FileSystemEventHandler
            from watchdog.observers import Observer

            woken = self._event

            class _Wake(FileSystemEventHandler):
                def on_any_event(self, event: Any) -> None:
                    if event.event_type in ("created", "modified", "moved"):
                        woken.set()

            self._observer, self._handler = Observer(), _Wake()
            for path in paths:
                self._watch(path)
            self._observer.daemon = True
            self._observer.start()
        except (ImportError, OSError, RuntimeError):
            self._observer = None  # no notifications here: the interval alone decides

    def _watch(self, path: str) -> None:
        """A folder with all below it, or the folder that holds a file."""
        folder = path if os.path.isdir(path) else str(Path(path).resolve().parent)
        if os.path.isdir(folder) and folder not in self._watched:
            self._watched.add(folder)
            self._observer.schedule(self._handler, folder, recursive=folder == path)

    @property
    def notified(self) -> bool:
        """The system says when something changes. Without it, and for what is not there yet (it may become a folder),
        only looking helps.
        """
        if self._observer is None:
            return False
        for path in [p for p in self._absent if os.path.exists(p)]:
            self._absent.remove(path)
            try:
                self._watch(path)
            except OSError:
                self._observer = None
                return False
        return not self._absent

    def wait(self, seconds: float) -> bool:
        """Sleep until something changed, at most `seconds`; True when woken early."""
        woken = self._event.wait(seconds)
        self._event.clear()
        return woken

    def wake(self) -> None:
        """End a wait now."""
        self._event.set()

    def close(self) -> None:
        """Stop watching."""
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(2)
