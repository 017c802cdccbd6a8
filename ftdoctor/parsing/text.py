"""Clean one log line: escapes out, launcher prefixes read and removed.

Prefixes seen in real logs, alone or stacked:

    [rank3]: ...                      torch's excepthook, c10d
    [default3]: / [default3]:[rank3]: torchrun --tee
    3: ...                            srun --label
    [1,3]<stderr>:                    mpirun --tag-output
    worker-1: ...                     DeepSpeed / pdsh (host name, colon)
    (RayTrainWorker pid=812, ip=10.0.0.4) ...
    2024-06-03T22:01:14.610Z ...      docker, Kubernetes
    [RANK:2] / [Rank 0]               Axolotl, DeepSpeed: inside the line
"""

from __future__ import annotations

import calendar
import re
from dataclasses import dataclass

_ANSI = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_][^\x1b]*(?:\x1b\\)?|[@-Z\\-_a-z])"
    r"|[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]"
)
_BIDI = re.compile("[\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")

_PREFIX = re.compile(
    r"""\s*(?:
        \[(?:rank|RANK)\s?(?P<rank>\d+)\]:?
      | \[(?:default|trainer|worker|role)_?(?P<tee>\d+)\]:
      | \[\d+,(?P<mpi>\d+)\]<std(?:err|out)>:
      | (?P<srun>\d{1,4}):(?=\s)
      | \((?P<actor>[A-Za-z_][\w.-]*)\s+(?:rank=\d+\s*,?\s*)?pid=\d+(?:,\s*ip=(?P<ip>[\w.:-]+))?\)
      | (?P<host>(?!https?:)(?:[a-z][\w-]*-\d+|node\d+|gpu\d+|worker\d+|\d{1,3}(?:\.\d{1,3}){3}))(?:\.[\w.-]+)?:(?=\s)
      | \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)(?=\s)
    )""",
    re.VERBOSE,
)
_INNER_RANK = re.compile(r"\[(?:RANK:|Rank |rank)(\d+)\]|\[PG (?:ID )?\S+ (?:PG GUID \S+ )?Rank (\d+)\]")
_STAMP = re.compile(
    r"(?P<y>20\d\d)-(?P<mo>\d\d)-(?P<d>\d\d)[ T_](?P<h>\d\d):(?P<mi>\d\d):(?P<s>\d\d)(?:[.,](?P<f>\d{1,9}))?"
    r"|\b[IWEF](?P<gmo>\d\d)(?P<gd>\d\d) (?P<gh>\d\d):(?P<gmi>\d\d):(?P<gs>\d\d)\.(?P<gf>\d+)"
)


@dataclass(frozen=True, slots=True)
class CleanLine:
    """A line without escapes; `text` is without prefixes too.

    `stream` tells apart writers that share a log (rank and node as the prefix has them).
    """

    text: str
    raw: str
    rank: int | None
    node: str | None
    time: float | None
    stream: str


def strip_escapes(text: str) -> str:
    """Remove terminal escapes, control characters and bidirectional overrides; keep tabs."""
    if not text.isascii() or not text.isprintable():
        text = _BIDI.sub("", _ANSI.sub("", text))
    return text


def clean(data: bytes, year: int | None = None) -> CleanLine:
    """Decode (UTF-8, bad bytes replaced), strip, and read rank, node and time.

    `year` completes glog stamps, which have none.
    """
    raw = strip_escapes(data.decode("utf-8", "replace"))
    rank: int | None = None
    node: str | None = None
    at = 0
    for _ in range(4):
        found = _PREFIX.match(raw, at)
        if found is None:
            break
        number = found["rank"] or found["tee"] or found["mpi"] or found["srun"]
        if number is not None and (rank is None or found["rank"]):
            rank = int(number)
        node = node or found["ip"] or found["host"]
        at = found.end()
    key = f"{'' if rank is None else rank}@{node or ''}"
    text = raw[at:]
    if at and text.startswith(" "):
        text = text[1:]
    if rank is None:
        inner = _INNER_RANK.search(text, 0, 300)
        if inner is not None:
            rank = int(inner[1] or inner[2])
    return CleanLine(text, raw.rstrip(), rank, node, stamp(raw, year), key)


def stamp(text: str, year: int | None = None) -> float | None:
    """Seconds since the Unix epoch of the first time stamp in the first 80 characters, else None."""
    found = _STAMP.search(text, 0, 80)
    if found is None:
        return None
    if found["y"]:
        parts = tuple(int(found[k]) for k in ("y", "mo", "d", "h", "mi", "s"))
        fraction = found["f"]
    elif year is not None:
        parts = (year, *(int(found[k]) for k in ("gmo", "gd", "gh", "gmi", "gs")))
        fraction = found["gf"]
    else:
        return None
    try:
        return calendar.timegm((*parts, 0, 0, 0)) + (float(f"0.{fraction}") if fraction else 0.0)
    except (ValueError, OverflowError):
        return None
