"""`evidence.tar.zst`: what a run left behind, small, without secrets, the same bytes for the same content.

Texts are redacted line by line; of a text that is too long the beginning and the end stay, with a line that says how
much is missing. Binary files other than flight-recorder dumps, links, and weights are left out and named in
CONTENTS.txt.
A journal keeps whole lines, so that it can be replayed.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ftdoctor.errors import InputError
from ftdoctor.faces.redact import redact
from ftdoctor.sources.files import is_log_name
from ftdoctor.sources.journal import is_journal

CONTENTS = "CONTENTS.txt"
MAX_FILES = 1000
HEAD = TAIL = 4 << 20
JOURNAL_BYTES = 256 << 20
LEVEL = 10
_TEXT = (".json", ".jsonl", ".yml", ".yaml", ".txt", ".log", ".jinja", ".csv", ".md", ".sh", ".toml", ".cfg", ".script")
_SKIP_FOLDERS = {"__pycache__", ".git", "wandb", "prepared", "last_run_prepared"}
_BIG_NAMES = ("tokenizer.json", "vocab.json", "merges.txt")


@dataclass
class Contents:
    """What went in, and what was left out with the reason."""

    inside: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For CONTENTS.txt."""
        parts = ["inside:", *(f"  {line}" for line in self.inside), "", "left out:"]
        return "\n".join([*parts, *(f"  {line}" for line in self.left_out or ["nothing"]), ""])


def bundle(run: Path, output: Path) -> Contents:
    """Write the archive of the run folder `run` to `output`, whole or not at all.

    Raises:
        InputError: `run` holds nothing, `output` exists, or it cannot be written.
    """
    import zstandard

    if not run.is_dir():
        raise InputError("no such folder", str(run), "give a run folder of ftdoctor launch, or an output folder")
    if output.exists():
        raise InputError("exists already", str(output), "give another name with -o")
    contents = Contents()
    partial = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with partial.open("xb") as raw:
            press = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
            with (
                press.stream_writer(raw, closefd=False) as packed,
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as archive,
            ):
                for path in _files(run, output, contents):
                    _add(archive, path, run, contents)
                if not contents.inside:
                    raise InputError("holds nothing to bundle", str(run), "give the folder with the run's logs")
                _member(archive, CONTENTS, contents.text().encode())
            raw.flush()
            os.fsync(raw.fileno())
        os.link(partial, output)  # fails where somebody made the name meanwhile: nothing is overwritten
    except FileExistsError:
        raise InputError("exists already", str(output), "give another name with -o") from None
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror}", str(output), "free space, or give another -o"
        ) from None
    finally:
        partial.unlink(missing_ok=True)
    return contents


def _files(run: Path, output: Path, contents: Contents) -> Iterator[Path]:
    """Regular files in a fixed order."""
    count = 0
    for folder, folders, names in os.walk(run):
        folders[:] = sorted(f for f in folders if f not in _SKIP_FOLDERS)
        for name in sorted(names):
            path = Path(folder, name)
            shown = path.relative_to(run).as_posix()
            if path.is_symlink() or not path.is_file():
                contents.left_out.append(f"{shown}: not a regular file")
            elif name.endswith((".part", ".tar.zst")) or path == output:
                continue
            elif count >= MAX_FILES:
                contents.left_out.append(f"{shown}: more than {MAX_FILES} files")
            else:
                count += 1
                yield path


def _add(archive: tarfile.TarFile, path: Path, run: Path, contents: Contents) -> None:
    name = path.relative_to(run).as_posix()
    try:
        with path.open("rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            flight = path.parent.name == "flight" and size <= HEAD + TAIL
            if not flight and not _wanted(path, handle):
                contents.left_out.append(f"{name}: {_size(size)}, not text")
                return
            if path.name in _BIG_NAMES and size > 1 << 16:
                contents.left_out.append(f"{name}: {_size(size)}, of the tokenizer")
                return
            if flight:
                data, note = handle.read(), ""
            else:
                limit = JOURNAL_BYTES if is_journal(path) else HEAD + TAIL
                data, note = _text(handle, size, limit, is_journal(path))
    except OSError as error:
        contents.left_out.append(f"{name}: {error.strerror}")
        return
    try:
        _member(archive, name, data)
    except ValueError:  # a name that a plain tar header cannot hold
        contents.left_out.append(f"{name[:200]}: its name is too long")
        return
    contents.inside.append(f"{name}: {_size(len(data))}{note}")


def _wanted(path: Path, handle: IO[bytes]) -> bool:
    if not (path.name.lower().endswith(_TEXT) or is_log_name(path.name) or path.suffix == ""):
        return False
    head = handle.read(8192)
    handle.seek(0)
    return b"\0" not in head


def _text(handle: IO[bytes], size: int, limit: int, lines: bool) -> tuple[bytes, str]:
    """The redacted text; of one that is too long the first and the last half."""
    if size <= limit:
        return _clean(handle.read(limit)), ""
    head = handle.read(limit // 2)
    handle.seek(size - limit // 2)
    tail = handle.read(limit // 2)
    head, tail = head[: head.rfind(b"\n") + 1], tail[tail.find(b"\n") + 1 :]
    left = size - len(head) - len(tail)
    cut = b"" if lines else f"[ftdoctor bundle: {_size(left)} left out here]\n".encode()
    return _clean(head) + cut + _clean(tail), f", {_size(left)} of its middle left out"


def _clean(data: bytes) -> bytes:
    """Line by line, so that a secret's context is its own line; bytes that are no text stay as they are."""
    text = data.decode("utf-8", "surrogateescape")
    return "".join(redact(line) for line in text.splitlines(keepends=True)).encode("utf-8", "surrogateescape")


def _member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """No owner, no time, fixed rights: the same content gives the same bytes."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 0
    archive.addfile(info, io.BytesIO(data))


def _size(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
