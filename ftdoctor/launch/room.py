"""Room for the log of a run, kept free before the disk is full: a trainer whose output cannot be written dies of it.

The child writes straight into its log. Blocks behind the log's end are reserved (fallocate with FALLOC_FL_KEEP_SIZE,
Linux: ext4, xfs, btrfs, tmpfs, NFS 4.2), so when checkpoints have filled the disk the log still grows into its own
blocks. Where the file system cannot do that, nothing is reserved and nothing is lost that was not lost before.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from pathlib import Path

RESERVE = 32 << 20
SHARE = 8  # at most this part of what is free
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of linux/falloc.h
LOW = 1 << 20  # free bytes below which the disk counts as full


class Room:
    """Blocks behind the end of one log."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._until = 0
        self._works = True
        self._said = False

    def look(self) -> str | None:
        """Reserve what is missing. What to say when the disk has become full; None otherwise, and said once only."""
        try:
            size = self._log.stat().st_size
            free = shutil.disk_usage(self._log.parent).free
        except OSError:
            return None
        wanted = min(RESERVE, free // SHARE)
        if self._works and size + wanted // 2 > self._until and wanted:
            if error := _allocate(self._log, size, wanted):
                self._works = error == errno.ENOSPC
            else:
                self._until = size + wanted
        if free >= LOW or self._said:
            return None
        self._said = True
        left = max(0, self._until - size)
        kept = f"its log has {left / (1 << 20):.1f} MiB of its own left" if left else "its output may get lost"
        return f"the disk of {self._log.parent} is full ({free / (1 << 20):.1f} MiB free): the run goes on, {kept}"

    def give_back(self) -> None:
        """Free the blocks behind the end; the run is over."""
        with contextlib.suppress(OSError):
            os.truncate(self._log, self._log.stat().st_size)


def _allocate(path: Path, offset: int, length: int) -> int:
    """Reserve blocks; 0, or the number of the error."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if call is None:
        return errno.ENOSYS
    try:
        handle = os.open(path, os.O_WRONLY)
    except OSError as error:
        return error.errno or errno.EIO
    try:
        done = call(ctypes.c_int(handle), ctypes.c_int(KEEP_SIZE), ctypes.c_int64(offset), ctypes.c_int64(length))
        return ctypes.get_errno() if done else 0
    finally:
        os.close(handle)
