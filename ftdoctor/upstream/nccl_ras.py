"""NCCL's RAS service: what every rank's NCCL has launched, asked of any process of the job over TCP.

    CLIENT PROTOCOL 2 / SET FORMAT json / VERBOSE STATUS          (NCCL 2.24 and newer; JSON since 2.28.7)

Nothing has to be set up, no right is needed, and a stuck trainer answers, for NCCL keeps a thread for it. Counts are of
operations *launched*: the ranks with the lower count are those that did not arrive. A busy run differs by one or two for
an instant, so only counts that do not move between two looks mean anything.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ADDRESS = "localhost:28028"
MAX_BYTES = 8 << 20
_COUNT = re.compile(r"^\s*(?P<ranks>\d{1,7}) ranks? (?:has|have) launched up to operation (?P<count>\d{1,18})")
_RANK = re.compile(r"^\s*Rank (?P<rank>\d{1,7}) -- GPU")
_COMM = re.compile(r"^\s*#(?P<id>\d+-\d+) \((?P<hash>[0-9a-f]{1,32})\) (?P<error>\w+)")
_MISSING = re.compile(r"^\s*(?:The missing ranks?|Missing ranks?): (?P<ranks>\d[\d, -]{0,4000})")
_DEAD = re.compile(r"^\s*Process (?P<pid>\d{1,9}) on node \S+ managing GPUs? [\d,]+")
_NO_COMMA = re.compile(r"(?<=[^\s,\[{:])(\s*\n\s*)(?=\"\w+\":)")


@dataclass(frozen=True, slots=True)
class Communicator:
    """One communicator: ranks in it, operations each has launched (when told), ranks nobody heard of."""

    name: str
    size: int | None = None
    counts: Mapping[int, int] = field(default_factory=dict)
    lagging: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()


def behind(before: list[Communicator], after: list[Communicator]) -> tuple[int, ...]:
    """Ranks that launched less than the others and did not move between two looks; ranks that are missing."""
    earlier = {c.name: c for c in before}
    for now in after:
        then = earlier.get(now.name)
        if then is None:
            continue
        if now.missing and now.missing == then.missing:
            return now.missing
        if now.counts and dict(now.counts) == dict(then.counts) and len(set(now.counts.values())) > 1:
            most = max(now.counts.values())
            return tuple(sorted(r for r, n in now.counts.items() if n < most))
        if now.lagging and now == then:
            return now.lagging
    return ()


def ask(address: str = ADDRESS, seconds: float = 5.0) -> str:
    """The service's answer, as JSON where it knows that, else as its text.

    Raises:
        OSError: nobody answers there (no NCCL job, an older NCCL, another address).
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + seconds
    with socket.create_connection((host.strip("[]") or "localhost", int(port)), timeout=seconds) as link:
        lines = _Lines(link, end)
        link.sendall(b"CLIENT PROTOCOL 2\n")
        if not lines.next().startswith(b"SERVER PROTOCOL"):
            raise OSError("answers, but not as NCCL's RAS does")
        link.sendall(f"TIMEOUT {max(1, int(seconds) - 1)}\n".encode())
        lines.next()
        link.sendall(b"SET FORMAT json\n")
        lines.next()  # OK, or an error from an older NCCL, which then answers in text
        link.sendall(b"VERBOSE STATUS\n")
        return lines.rest().decode(errors="replace")


class _Lines:
    """A socket read by lines, with one deadline and a bound."""

    def __init__(self, link: socket.socket, end: float) -> None:
        self._link, self._end, self._held = link, end, b""

    def next(self) -> bytes:
        while b"\n" not in self._held:
            if not self._more():
                break
        line, _, self._held = self._held.partition(b"\n")
        return line

    def rest(self) -> bytes:
        """Everything until the service closes the connection or the time is over."""
        while len(self._held) < MAX_BYTES:
            try:
                if not self._more():
                    break
            except TimeoutError:
                break
        return self._held

    def _more(self) -> bool:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("NCCL's RAS did not answer in time")
        self._link.settimeout(left)
        data = self._link.recv(1 << 16)
        self._held += data
        return bool(data)


def parse(text: str) -> list[Communicator]:
    """Communicators of an answer in either format; nothing for anything else."""
    start = text.find("{")
    if start >= 0:
        content = _decoded(text[start:])
        if isinstance(content, dict) and "communicators" in content:
            return _json(content)
    return _text(text)


def _decoded(text: str) -> object:
    """The JSON value that `text` begins with; None when there is none.

    NCCL 2.28.9 leaves out the comma after `nvml_dev` of a missing rank (measured on two H200), so a line that ends in a
    value and is followed by a key gets one.
    """
    for attempt in (text, _NO_COMMA.sub(r",\1", text)):
        try:
            return json.JSONDecoder().raw_decode(attempt)[0]
        except (ValueError, RecursionError):
            continue
    return None


def _json(content: dict[str, Any]) -> list[Communicator]:
    found: list[Communicator] = []
    for item in _dicts(content.get("communicators")):
        counts: dict[int, int] = {}
        for rank in _dicts(item.get("ranks")):
            number, launched = rank.get("rank"), rank.get("collective_counts")
            if _count(number) and isinstance(launched, dict):
                counts[int(number)] = sum(int(n) for n in launched.values() if _count(n))  # type: ignore[arg-type]
        missing = tuple(sorted(int(r["rank"]) for r in _dicts(item.get("missing_ranks")) if _count(r.get("rank"))))
        size = item.get("size")
        name = str(item.get("hash", len(found)))[:64]
        found.append(Communicator(name, int(size) if _count(size) else None, counts, (), missing))  # type: ignore[arg-type]
    return found


def _text(text: str) -> list[Communicator]:
    """Only communicators with something odd are named in the text."""
    found: list[Communicator] = []
    name = ""
    groups: list[tuple[int, list[int]]] = []
    missing: list[int] = []

    def close() -> None:
        if name:
            most = max((count for count, _ in groups), default=0)
            lagging = sorted(rank for count, ranks in groups if count < most for rank in ranks)
            found.append(Communicator(name, None, {}, tuple(lagging), tuple(missing)))

    for line in text.splitlines():
        line = line[:4096]
        comm, count, rank, gone = _COMM.match(line), _COUNT.match(line), _RANK.match(line), _MISSING.match(line)
        if comm is not None:
            close()
            name, groups, missing = comm["hash"], [], []
        elif count is not None:
            groups.append((int(count["count"]), []))
        elif rank is not None and groups:
            groups[-1][1].append(int(rank["rank"]))
        elif gone is not None:
            missing += [int(n) for n in re.findall(r"\d{1,7}", gone["ranks"])]
    close()
    return found


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
