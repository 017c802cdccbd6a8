"""Rows of a data file, one by one, with the line each begins on; and what of the file is no row.

JSON Lines, JSON (a list of objects), CSV, Parquet and text, by the rules of `datasets.load_dataset`. Memory does not
grow with the file, except for a JSON list, which is read up to `LIST_BYTES`.

    for item in read(Path("train.jsonl"), limit=None):
        if isinstance(item, Flaw): ...
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

LIST_BYTES = 256 << 20
LINE_BYTES = 64 << 20  # a longer line is a file without line ends, not a row
SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".parquet", ".txt")
_BLANK = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: `number` and `line` count from 1; `line` is 0 where the format has no lines (Parquet)."""

    number: int
    line: int
    value: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Flaw:
    """A piece of the file that is no row. `kind`: json | encoding | shape | empty | file."""

    kind: str
    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Cut:
    """The rest was not read: `seen` of `size` bytes were."""

    seen: int
    size: int


class NoReader(Exception):
    """The format needs a library that is not installed."""


def read(path: Path, limit: int | None = None) -> Iterator[Row | Flaw | Cut]:
    """Everything in the file, in order; `limit` bytes at most.

    Raises:
        NoReader: Parquet without pyarrow.
        OSError: the file cannot be read.
    """
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from _parquet(path, limit)
        return
    size = path.stat().st_size
    with open(path, "rb") as handle:
        start = handle.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        yield Flaw("encoding", 1, "the file is UTF-16; the loader reads UTF-8")
        return
    if not size:
        yield Flaw("empty", 0, "the file is empty")
        return
    with _opened(path) as handle:
        try:
            if name.endswith(".csv"):
                yield from _csv(handle, size, limit)
            elif name.endswith(".txt"):
                yield from _text(handle, size, limit)
            else:
                yield from _json(handle, size, limit)
        except (EOFError, gzip.BadGzipFile) as error:
            yield Flaw("file", 0, f"the compressed file is damaged: {error}")


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _lines(handle: IO[bytes], size: int, limit: int | None) -> Iterator[tuple[int, str] | Flaw | Cut]:
    seen = 0
    for number, raw in enumerate(iter(lambda: handle.readline(LINE_BYTES), b""), 1):
        if limit is not None and seen >= limit:
            yield Cut(seen, size)
            return
        seen += len(raw)
        if len(raw) >= LINE_BYTES and not raw.endswith(b"\n"):
            yield Flaw(
                "json", number, f"a line of more than {LINE_BYTES >> 20} MiB: the rows are not on lines of their own"
            )
            return
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            bad = raw[error.start : error.start + 1].hex()
            yield Flaw(
                "encoding", number, f"not UTF-8 at character {error.start + 1} (byte 0x{bad}; Latin-1 or cp1252?)"
            )


def _json(handle: IO[bytes], size: int, limit: int | None) -> Iterator[Row | Flaw | Cut]:
    start = handle.read(4096)
    handle.seek(0)
    head = start.decode("utf-8", "replace").lstrip("\ufeff").lstrip()
    if head.startswith("[") or _spread(head):
        yield from _document(handle, limit, size)
        return
    row = 0
    for item in _lines(handle, size, limit):
        if not isinstance(item, tuple):
            yield item
            continue
        number, text = item
        if not text.strip():
            continue
        for value in _values(text):
            row += 1
            if isinstance(value, str):
                yield Flaw("json", number, value)
            else:
                yield _row(row, number, value[0])
    if not row:
        yield Flaw("empty", 0, "the file holds no rows")


def _spread(head: str) -> bool:
    """True when the first object goes over several lines, which the loader reads as well."""
    first, end, rest = head.partition("\n")
    if not first.startswith("{") or not end or not rest.strip() or rest.lstrip().startswith("{"):
        return False
    try:
        json.loads(first)
    except json.JSONDecodeError as error:
        return error.pos >= len(first.rstrip())
    return False


def _values(text: str) -> Iterator[tuple[Any] | str]:
    """The values on one line, mostly one; a text says what is wrong with it."""
    try:
        yield (json.loads(text),)
        return
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            yield _said(error, text)
            return
    except (ValueError, RecursionError) as error:
        yield _said(error, text)
        return
    decoder, at, text = json.JSONDecoder(), 0, text.strip()
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield _said(error, text)
            return
        yield (value,)
        at += len(text[at:]) - len(text[at:].lstrip())


def _row(number: int, line: int, value: object) -> Row | Flaw:
    if isinstance(value, dict):
        return Row(number, line, value)
    if value is None:  # the loader makes it a row of nulls
        return Row(number, line, {})
    return Flaw("shape", line, f"{_kind(value)} where an object with named columns is expected")


def _said(error: Exception, text: str) -> str:
    if not isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}"[:200]
    at = f"not JSON: {error.msg} at character {error.pos + 1}"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated"):
        return f"{at}: the line ends in the middle"
    if error.pos < len(text) and text[error.pos] == "'":
        return f"{at}: single quotes, as a Python dict prints"
    return f"{at}: {text[max(0, error.pos - 15) : error.pos + 15].strip()!r}"


def _document(handle: IO[bytes], limit: int | None, size: int) -> Iterator[Row | Flaw | Cut]:
    """A JSON list of objects, or objects over several lines: item by item, so that a fault has its place."""
    most = min(limit or LIST_BYTES, LIST_BYTES)
    raw = handle.read(most + 1)
    cut = len(raw) > most
    try:
        text = raw.decode("utf-8-sig", "ignore" if cut else "strict")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        yield Flaw(
            "encoding", line, f"not UTF-8 (byte 0x{raw[error.start : error.start + 1].hex()}; Latin-1 or cp1252?)"
        )
        return
    decoder = json.JSONDecoder()
    listed = text.lstrip().startswith("[")
    at = text.index("[") + 1 if listed else 0
    row, line, counted = 0, 1, 0
    while True:
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
        if at >= len(text) or (listed and text[at] == "]"):
            if listed and row and text[:at].rstrip().endswith(","):
                yield Flaw("json", line, "a comma before the end of the list")
            break
        line += text.count("\n", counted, at)
        counted = at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if not cut:
                pos = getattr(error, "pos", at)
                where = line + text.count("\n", counted, pos)
                msg = getattr(error, "msg", str(error))
                ends = ": the file ends in the middle" if pos >= len(text.rstrip()) or "Unterminated" in msg else ""
                yield Flaw("json", where, f"not JSON: {msg}{ends}")
            break
        row += 1
        yield _row(row, line, value)
    if listed and not cut and at >= len(text) and row:
        yield Flaw("json", line, "the list is not closed: the file ends in the middle")
    if not row:
        yield Flaw("empty", 0, "the file holds no rows")
    if cut:
        yield Cut(most, size)


def _csv(handle: IO[bytes], size: int, limit: int | None) -> Iterator[Row | Flaw | Cut]:
    quotes = 0

    def counted() -> Iterator[str]:
        nonlocal quotes
        for text in io.TextIOWrapper(handle, "utf-8-sig", newline=""):
            quotes += text.count('"')
            yield text

    lines = csv.reader(counted())
    header: list[str] | None = None
    row, line = 0, 1
    csv.field_size_limit(LINE_BYTES)
    while True:
        line = lines.line_num + 1
        try:
            cells = next(lines)
        except StopIteration:
            break
        except UnicodeDecodeError as error:
            yield Flaw("encoding", line, f"not UTF-8 ({error.reason}; Latin-1 or cp1252?)")
            return
        except csv.Error as error:
            yield Flaw("json", line, f"not CSV: {error}")
            return
        if not cells:
            continue
        if header is None:
            header = cells
            continue
        row += 1
        if len(cells) > len(header):
            yield Flaw("json", line, f"{len(cells)} fields under {len(header)} column names")
            continue
        filled = [cell or None for cell in cells] + [None] * (len(header) - len(cells))
        yield Row(row, line, dict(zip(header, filled, strict=True)))
        if limit is not None and row % 1000 == 0 and handle.tell() > limit:
            yield Cut(handle.tell(), size)
            return
    if quotes % 2:
        yield Flaw("json", line, "not CSV: a quote is not closed")
    if not row:
        yield Flaw("empty", 0, "the file holds no rows")


def _text(handle: IO[bytes], size: int, limit: int | None) -> Iterator[Row | Flaw | Cut]:
    row = 0
    for item in _lines(handle, size, limit):
        if isinstance(item, tuple):
            row += 1
            yield Row(row, item[0], {"text": item[1].rstrip("\r\n")})
        else:
            yield item


def _parquet(path: Path, limit: int | None) -> Iterator[Row | Flaw | Cut]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise NoReader("Parquet needs pyarrow: pip install 'ftdoctor[data]'") from None
    try:
        opened = parquet.ParquetFile(path)
    except (arrow.ArrowException, OSError) as error:
        yield Flaw("file", 0, f"not Parquet: {str(error).splitlines()[0][:200]}")
        return
    row, seen = 0, 0
    try:
        for batch in opened.iter_batches(batch_size=1024):
            for value in batch.to_pylist():
                row += 1
                yield Row(row, 0, value)
            seen += batch.nbytes
            if limit is not None and seen > limit and row < opened.metadata.num_rows:
                yield Cut(seen, path.stat().st_size)
                return
    except (arrow.ArrowException, OSError) as error:
        yield Flaw("file", 0, f"damaged after row {row}: {str(error).splitlines()[0][:200]}")
    if not row:
        yield Flaw("empty", 0, "the file holds no rows")


def _kind(value: object) -> str:
    return {str: "text", bool: "true or false", type(None): "null", list: "a list", dict: "an object"}.get(
        type(value), "a number"
    )


kind_of = _kind
