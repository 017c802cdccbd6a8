"""Safetensors checkpoints read block by block with numpy; no torch, no pickle, never a whole tensor in memory.

Format: https://github.com/huggingface/safetensors#format - eight bytes of header length (little endian), a JSON header
of `{name: {dtype, shape, data_offsets}}`, then the bytes.
"""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]

INDEX = "model.safetensors.index.json"
AHEAD = 8 << 20
"""Bytes behind a block that the kernel is asked to fetch while the block is worked on: several streams of short reads
would otherwise wait for the disk in turn."""
HEADER_LIMIT = 100 << 20
SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I64": 8, "I32": 4, "I16": 2,
    "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = {"F64", "F32", "F16", "BF16"}
# Largest distance between neighbours, relative to the value, and the distance between the smallest values.
SPACING = {"F64": (2.0**-22, 0.0), "F32": (2.0**-22, 0.0), "F16": (2.0**-10, 2.0**-24), "BF16": (2.0**-7, 0.0)}


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where one tensor lies: `start` is the offset of its first byte in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: str
    start: int
    size: int

    @property
    def count(self) -> int:
        """Number of elements."""
        total = 1
        for side in self.shape:
            total *= side
        return total

    @property
    def rows(self) -> int:
        """Rows of the matrix view: the first dimension, 1 for a vector."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def columns(self) -> int:
        """Elements in a row of the matrix view."""
        return self.count // self.rows if self.rows else 0

    @property
    def is_float(self) -> bool:
        """True for the float formats whose arithmetic the proof knows."""
        return self.dtype in FLOATS

    def raw(self, first: int = 0, last: int | None = None) -> bytes:
        """Bytes of the rows `first` to `last` (excluded) of the matrix view."""
        width = self.columns * SIZES[self.dtype]
        last = self.rows if last is None else last
        handle = os.open(self.path, os.O_RDONLY)
        try:
            parts, at, left = [], self.start + first * width, (last - first) * width
            if hasattr(os, "posix_fadvise"):  # Linux
                begin = at + left + (AHEAD - left if first and left < AHEAD else 0)
                os.posix_fadvise(handle, begin, at + left + AHEAD - begin, os.POSIX_FADV_WILLNEED)
            while left:
                part = os.pread(handle, min(left, 1 << 30), at)
                if not part:
                    raise EOFError(f"{self.path} ends inside {self.name}")
                parts.append(part)
                at, left = at + len(part), left - len(part)
        finally:
            os.close(handle)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read(self, first: int = 0, last: int | None = None) -> Floats:
        """Rows `first` to `last` as float32 [rows, columns]."""
        return to_float(self.raw(first, last), self.dtype).reshape(-1, max(self.columns, 1))

    def whole(self) -> Floats:
        """All of it as float32 in its own shape; for the small tensors of an adapter."""
        return self.read().reshape(self.shape)


def to_float(data: bytes, dtype: str) -> Floats:
    """Stored bytes as float32.

    Raises:
        ValueError: not one of the formats in `FLOATS`.
    """
    if dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype(np.uint32)
        wide <<= 16
        return wide.view(np.float32)
    if dtype == "F32":
        return np.frombuffer(data, "<f4").astype(np.float32, copy=False)
    if dtype in ("F16", "F64"):
        return np.frombuffer(data, "<f2" if dtype == "F16" else "<f8").astype(np.float32)
    raise ValueError(f"no arithmetic for {dtype}")


def rounded(values: Floats, dtype: str) -> Floats:
    """`values` as they are after being stored in `dtype` (round to nearest, ties to even). May reuse the memory."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values).view(np.uint32)
        whole = bits >> 16
        whole &= np.uint32(1)
        whole += np.uint32(0x7FFF)
        whole += bits
        whole &= np.uint32(0xFFFF0000)
        result: Floats = whole.view(np.float32)
        return result
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    return values


def not_finite(data: bytes, dtype: str) -> tuple[int, int]:
    """Number of (NaN, infinite) elements, without a conversion to float32 for the two-byte formats."""
    if dtype in ("BF16", "F16"):
        limit = np.uint16(0x7F80 if dtype == "BF16" else 0x7C00)
        bits = np.frombuffer(data, "<u2") & np.uint16(0x7FFF)
        if not bits.size or bits.max() < limit:
            return 0, 0
        return int((bits > limit).sum()), int((bits == limit).sum())
    if dtype in ("F32", "F64"):
        values = np.frombuffer(data, "<f4" if dtype == "F32" else "<f8")
        if np.isfinite(values).all():
            return 0, 0
        return int(np.isnan(values).sum()), int(np.isinf(values).sum())
    return 0, 0


@dataclass(slots=True)
class Checkpoint:
    """The weights of a folder. `problems` are sentences: files that are missing, cut off or unreadable."""

    folder: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    pickled: bool = False

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(t.size for t in self.tensors.values())


def read_header(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Tensors of one file, and what is wrong with it. Tensors that end beyond the file are left out."""
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            prefix = handle.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(size - 8, HEADER_LIMIT):
                return {}, [f"{path.name}: no safetensors header in {size} bytes"]
            header: dict[str, Any] = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        found, cut, wrong = {}, [], []
        for name, entry in header.items():
            first, last = entry["data_offsets"]
            tensor = Tensor(name, entry["dtype"], tuple(entry["shape"]), str(path), 8 + length + first, last - first)
            if 8 + length + last > size:
                cut.append(name)
            elif tensor.dtype not in SIZES or tensor.count * SIZES[tensor.dtype] != tensor.size:
                wrong.append(name)
            else:
                found[name] = tensor
    except OSError as error:
        return {}, [f"{path.name}: {error.strerror or error}"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, [f"{path.name}: its header cannot be read: {error}"]
    problems = []
    if cut:
        problems.append(f"{path.name} is cut off at {size} bytes: {len(cut)} tensor(s) lost, the first is {cut[0]}")
    if wrong:
        problems.append(f"{path.name}: size and shape of {len(wrong)} tensor(s) disagree, the first is {wrong[0]}")
    return found, problems


def read_checkpoint(folder: str, names: tuple[str, ...] = ("model.safetensors",)) -> Checkpoint:
    """Headers of a model folder (`names` for an adapter); no tensor data is read."""
    result, root = Checkpoint(folder), Path(folder)
    index = root / INDEX
    expected: dict[str, str] = {}
    files = [root / name for name in names if (root / name).is_file()]
    if names == ("model.safetensors",):
        if index.is_file():
            try:
                expected = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                result.problems.append(f"{INDEX} cannot be read: {error}")
            files = [root / name for name in sorted(set(expected.values()))]
        if not files:
            files = sorted(p for p in root.glob("*.safetensors") if not p.name.startswith(("adapter", "consolidated")))
            _numbered(files, result)
    for path in files:
        if not path.is_file():
            result.problems.append(f"{path.name} is missing: {INDEX} names it")
            continue
        found, problems = read_header(path)
        result.files.append(path.name)
        result.tensors.update(found)
        result.problems += problems
    lost = [n for n, file in expected.items() if n not in result.tensors and (root / file).is_file()]
    if lost and not any("cut off" in p or "header" in p for p in result.problems):
        result.problems.append(f"{len(lost)} tensor(s) of {INDEX} are in no shard, the first is {lost[0]}")
    if not files:
        result.pickled = any(root.glob("*.bin")) or any(root.glob("*.pt"))
    return result


def _numbered(files: list[Path], result: Checkpoint) -> None:
    """`model-00002-of-00004.safetensors` says how many there are, index or not."""
    for path in files:
        total = path.stem.rpartition("-of-")[2]
        if "-of-" in path.stem and total.isdigit() and len(files) < int(total):
            result.problems.append(f"{len(files)} of {int(total)} shards are there and {INDEX} is not")
            return
