"""Evidence archives (`evidence.tar.zst`): recognised by content, unpacked with care.

An archive may come from anyone: only regular files with plain relative names are written, below one new folder, up to a
number of files and a number of bytes; links, devices and names that lead elsewhere are left out and named.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ftdoctor.errors import InputError

MAX_FILES = 5000
MAX_BYTES = 1 << 30
MAX_DEPTH = 12
ZSTD = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 16


@dataclass(frozen=True, slots=True)
class Unpacked:
    """The folder that holds the content, and what was left out with the reason."""

    folder: Path
    left_out: tuple[str, ...]


def is_archive(path: str | os.PathLike[str]) -> bool:
    """True for a zstandard file whose first bytes unpack to a tar header."""
    try:
        with open(path, "rb") as raw:
            if raw.read(4) != ZSTD:
                return False
            raw.seek(0)
            head = b"".join(_first(_unpack(raw), 512))
    except (OSError, InputError):
        return False
    return head[257:262] == b"ustar"


def unpack(path: Path, into: Path) -> Unpacked:
    """Unpack an archive into the folder `into`, which exists and is empty.

    Raises:
        InputError: it is damaged from its beginning. Damage further on ends the unpacking and is named.
    """
    left: list[str] = []
    files = total = 0
    try:
        with path.open("rb") as raw, tarfile.open(fileobj=_Stream(_unpack(raw)), mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                place = _place(member)
                if place is None:
                    if not member.isdir():
                        left.append(f"{member.name[:200]!r}: not a plain file below the archive")
                    continue
                if files >= MAX_FILES or total + member.size > MAX_BYTES:
                    left.append(f"{member.name[:200]!r} and what follows: the archive is too large")
                    break
                source = archive.extractfile(member)
                target = into / place
                if source is None or target.exists():
                    left.append(f"{member.name[:200]!r}: there twice")
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as handle:
                    while data := source.read(_CHUNK):
                        handle.write(data)
                files, total = files + 1, total + member.size
    except (tarfile.TarError, InputError, EOFError, OSError, ValueError) as error:
        if not files:
            raise InputError(f"is no readable evidence archive: {error}", str(path), "copy it again") from None
        left.append(f"the rest of the archive: {error}")
    return Unpacked(into, tuple(left))


def _place(member: tarfile.TarInfo) -> PurePosixPath | None:
    name = PurePosixPath(member.name)
    plain = member.isreg() and not name.is_absolute() and "\\" not in member.name and "\0" not in member.name
    if not plain or not name.parts or ".." in name.parts or len(name.parts) > MAX_DEPTH:
        return None
    return name if all(len(part) < 200 for part in name.parts) else None


def _unpack(raw: IO[bytes]) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise InputError(
            "zstandard data, and the package zstandard is not installed", "", "pip install zstandard"
        ) from None
    try:
        yield from zstandard.ZstdDecompressor(max_window_size=1 << 27).read_to_iter(raw, write_size=_CHUNK)
    except zstandard.ZstdError as error:
        raise InputError(f"zstandard data is damaged: {error}", "", "copy it again") from None


def _first(stream: Iterator[bytes], size: int) -> Iterator[bytes]:
    for data in stream:
        yield data[:size]
        size -= len(data)
        if size <= 0:
            return


class _Stream:
    """What tarfile's stream mode needs of a file: `read(n)`."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._held = chunks, bytearray()

    def read(self, size: int) -> bytes:
        while len(self._held) < size:
            data = next(self._chunks, None)
            if data is None:
                break
            self._held += data
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken
