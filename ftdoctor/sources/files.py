"""Files and folders to byte chunks, whatever their compression or encoding.

`expand` turns what the user gave (files, folders, `-`) into inputs with a kind; `chunks` reads one input in bounded
memory. gzip and zstandard are recognised by content, UTF-16 by its byte order mark. Nothing is executed and no pickle
is opened.
"""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, cast

from ftdoctor.errors import InputError
from ftdoctor.sources.nodes import is_joined, node_folders

CHUNK = 1 << 16  # stays in the CPU's cache between read, scan and count: measured 0.87 s/GB against 1.4 s/GB at 1 MiB
MAX_FILES = 400
MAX_DEPTH = 6
_OWN_WORDS = {
    "run.json": ("report.txt",),
    "slurm.json": ("report.txt",),
    "pipeline.json": ("report.txt", "preflight.txt", "preprocess.txt", "merge.txt", "evaluate.txt"),
}
CUT = "journal-cut.jsonl"  # what launch makes of a journal that a full disk has cut off: the logs say more
_LOG_NAME = re.compile(
    r"\.(?:log|txt|out|err|stdout|stderr|console|nohup)(?:\.\d+)?(?:\.(?:gz|zst))?$|^(?:stdout|stderr|nohup|slurm-)|\.(?:o|e)\d+$",
    re.IGNORECASE,
)
_SKIP_FOLDERS = {".git", "__pycache__", ".venv", "venv", "node_modules", "wandb", ".cache", "site-packages"}
_RANK_NAME = re.compile(r"(?:^|[^a-z])(?:rank|local_rank|worker|proc)[_-]?(\d{1,4})(?!\d)", re.IGNORECASE)
_TORCHRUN_FOLDER = re.compile(r"^attempt_\d+$")


@dataclass(frozen=True, slots=True)
class Input:
    """One thing to read.

    `kind`: log | state (trainer_state.json) | yaml | json | safetensors | adapter_dir | heartbeat | nodes (run folders
    of several nodes). `node`: whose log it is.
    """

    path: str
    kind: str
    rank: int | None = None
    given: bool = True
    without: tuple[str, ...] = ()  # logs whose lines are left out of this one
    node: str | None = None

    @property
    def name(self) -> str:
        """What to show: `-` is standard input."""
        return "<stdin>" if self.path == "-" else self.path


def expand(paths: Iterable[str]) -> list[Input]:
    """Inputs in the order given; folders are searched.

    Raises:
        InputError: a path does not exist, or a folder holds nothing that can be read.
    """
    inputs: list[Input] = []
    seen: set[str] = set()
    for given in paths:
        path = Path(given)
        if given == "-":
            found = [Input("-", "log")]
        elif path.is_dir():
            found = list(_folder(path))
            if not found:
                raise InputError(
                    "no log, trainer_state.json or config in this folder",
                    given,
                    "give the file that holds the trainer's output",
                )
        elif path.exists():
            found = [Input(given, kind_of(path), rank_of(path))]
        else:
            raise InputError("no such file or folder", given, "check the path; use `-` to read standard input")
        for item in found:
            key = item.path if item.path == "-" else os.path.realpath(item.path)
            if key not in seen:
                seen.add(key)
                inputs.append(item)
    return inputs


def kind_of(path: Path) -> str:
    """Kind by name; the reader of each kind checks the content."""
    name = path.name.lower()
    if name.endswith((".yml", ".yaml")):
        return "yaml"
    if name == "trainer_state.json":
        return "state"
    if name.startswith("heartbeat-rank") and name.endswith(".jsonl"):
        return "heartbeat"
    if name.endswith((".json", ".jsonl")):
        return "json"
    if name.endswith(".safetensors"):
        return "safetensors"
    return "log"


def is_log_name(name: str) -> bool:
    """True for names that trainers' and launchers' logs have."""
    return _LOG_NAME.search(name) is not None


def own_words(folder: Path) -> set[str]:
    """Texts in `folder` that ftdoctor wrote itself: what they quote is no evidence."""
    return {name for mark, names in _OWN_WORDS.items() if (folder / mark).is_file() for name in names}


def rank_of(path: Path) -> int | None:
    """The rank a per-rank log's name states: `rank3.log`, `.../attempt_0/3/stderr.log`."""
    found = _RANK_NAME.search(path.name)
    if found:
        return int(found[1])
    parent = path.parent
    if parent.name.isdigit() and _TORCHRUN_FOLDER.match(parent.parent.name):
        return int(parent.name)
    return None


def _folder(root: Path) -> Iterator[Input]:
    """What an output folder holds, most telling first: logs, the newest trainer state, configs, adapter weights.

    A finished run folder of `ftdoctor launch` is its journal: that has the logs' events and what stood beside the run.
    """
    if is_joined(root):
        yield from _nodes(root)
        return
    trained = sorted(root.glob("train-*/run.json"), key=lambda p: p.stat().st_mtime)
    if (root / "pipeline.json").is_file() and trained:  # of `ftdoctor pipeline`: its last training
        yield from _folder(trained[-1].parent)
        return
    journal = root / "journal.jsonl"
    if (root / "exit.json").is_file() and (root / "run.json").is_file() and _is_journal(journal):
        yield Input(str(journal), "json", given=False)
        return
    launched = (root / "run.json").is_file() and (journal.is_file() or (root / CUT).is_file())
    logs: list[Path] = []
    states: list[Path] = []
    configs: list[Path] = []
    weights: list[Path] = []
    beats: list[Path] = []
    for folder, folders, files in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        folders[:] = sorted(f for f in folders if f not in _SKIP_FOLDERS and depth < MAX_DEPTH)
        if launched and depth == 0:
            folders[:] = [f for f in folders if f != "evidence"]
        own = own_words(Path(folder))
        files = [f for f in files if f not in own]
        for name in sorted(files):
            path = Path(folder, name)
            if name == "trainer_state.json":
                states.append(path)
            elif kind_of(path) == "heartbeat":
                beats.append(path)
            elif name.endswith(".safetensors") and name.startswith(("adapter_model", "model")):
                weights.append(path)
            elif name.endswith((".yml", ".yaml")) or (
                name.endswith(".json") and re.search(r"ds_|deepspeed|zero", name, re.IGNORECASE)
            ):
                configs.append(path)
            elif is_log_name(name):
                logs.append(path)
    yield from _logs(root, logs[:MAX_FILES])
    for path in beats[:MAX_FILES]:
        yield Input(str(path), "heartbeat", rank_of(path), given=False)
    if states:
        newest = max(states, key=lambda p: (_checkpoint_number(p), p.stat().st_mtime))
        yield Input(str(newest), "state", given=False)
    for path in configs[:20]:
        if depth_of(path, root) <= 1:
            yield Input(str(path), kind_of(path), given=False)
    for path in weights[:8]:
        if depth_of(path, root) <= 1:
            yield Input(str(path), "safetensors", given=False)
    if (root / "adapter_config.json").is_file():
        yield Input(str(root), "adapter_dir", given=False)


def _logs(root: Path, paths: list[Path]) -> Iterator[Input]:
    """Logs; of a launch the ranks' own ones, and of the one where they meet what is left."""
    from ftdoctor.sources import rank_logs

    own = rank_logs.rank_logs(root) if (root / "run.json").is_file() else []
    use = bool(own) and rank_logs.small_enough(own)
    for path in paths:
        if path in own and not use:
            continue
        mixed = use and path == root / rank_logs.MIXED
        yield Input(str(path), "log", rank_of(path), False, tuple(map(str, own)) if mixed else ())


def _nodes(root: Path) -> Iterator[Input]:
    """A job on several nodes: the journals of the finished ones together, the files of the others, SLURM's own log."""
    found = node_folders(root)
    if any((folder / "exit.json").is_file() for _, folder in found):
        yield Input(str(root), "nodes", given=False)
    for node, folder in found:
        if not (folder / "exit.json").is_file():
            yield from (replace(item, node=node) for item in _folder(folder))
    for path in sorted(p for p in root.glob("slurm-*.log") if p.stat().st_size):
        yield Input(str(path), "log", given=False)


def _is_journal(path: Path) -> bool:
    from ftdoctor.sources.journal import is_journal

    return is_journal(path)


def depth_of(path: Path, root: Path) -> int:
    """Folders between `root` and the file."""
    return len(path.relative_to(root).parts) - 1


def _checkpoint_number(path: Path) -> int:
    found = re.search(r"checkpoint-(\d+)$", path.parent.name)
    return int(found[1]) if found else 1 << 60


def chunks(item: Input) -> Iterator[bytes]:
    """The content, decompressed and as UTF-8 (or what was there), in chunks of about CHUNK bytes.

    Raises:
        InputError: the file cannot be opened. A damaged archive ends early with `Damaged`.
    """
    try:
        raw: IO[bytes] = sys.stdin.buffer if item.path == "-" else open(item.path, "rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", item.name, "check the path and its permissions") from None
    with raw:
        head = _read(raw, CHUNK)
        yield from _recode(_decompress(head, raw, item))


class Damaged(Exception):
    """The rest of a source cannot be read; what came before is good."""


def _read(raw: IO[bytes], size: int) -> bytes:
    try:
        return raw.read(size) or b""
    except IsADirectoryError:
        raise Damaged("is a folder") from None
    except OSError as error:
        raise Damaged(f"reading stopped: {error.strerror or error}") from None


def _decompress(head: bytes, raw: IO[bytes], item: Input) -> Iterator[bytes]:
    if head[:2] == b"\x1f\x8b":
        yield from _gunzip(head, raw)
    elif head[:4] == b"\x28\xb5\x2f\xfd":
        yield from _unzstd(head, raw, item)
    else:
        while head:
            yield head
            head = _read(raw, CHUNK)


class _Joined(io.RawIOBase):
    """`head` followed by the rest of `raw`."""

    def __init__(self, head: bytes, raw: IO[bytes]) -> None:
        self._head = head
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] if self._head else _read(self._raw, len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def _gunzip(head: bytes, raw: IO[bytes]) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=io.BufferedReader(cast("io.RawIOBase", _Joined(head, raw)), CHUNK)) as stream:
        while True:
            try:
                data = stream.read1(CHUNK)
            except (OSError, EOFError, zlib.error) as error:
                raise Damaged(f"gzip data ends early or is damaged: {error}") from None
            if not data:
                return
            yield data


def _unzstd(head: bytes, raw: IO[bytes], item: Input) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise InputError(
            "zstandard data, and the package zstandard is not installed", item.name, "pip install zstandard"
        ) from None
    frame = zstandard.ZstdDecompressor().decompressobj()
    data, fed = head, False
    while data:
        # in small pieces: a few bytes can unpack to 128 KiB
        for at in range(0, len(data), 1024):
            piece = data[at : at + 1024]
            while piece:
                try:
                    yield frame.decompress(piece)
                except zstandard.ZstdError as error:
                    raise Damaged(f"zstd data is damaged: {error}") from None
                fed = not frame.eof
                piece = frame.unused_data if frame.eof else b""
                if frame.eof:
                    frame = zstandard.ZstdDecompressor().decompressobj()
        data = _read(raw, CHUNK)
    if fed:
        raise Damaged("zstd data ends early")


def _recode(stream: Iterator[bytes]) -> Iterator[bytes]:
    """UTF-16 (PowerShell's `>` writes it) to UTF-8; everything else unchanged."""
    decoder: codecs.IncrementalDecoder | None = None
    first = True
    for data in stream:
        if first:
            first = False
            if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
                decoder = codecs.getincrementaldecoder("utf-16")("replace")
            elif data[:3] == b"\xef\xbb\xbf":
                data = data[3:]
        yield decoder.decode(data).encode("utf-8", "replace") if decoder else data
