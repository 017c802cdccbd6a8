"""After a crash: who went first, with which signal, and what the kernel says of it, kept as evidence.

The kernel's own words (out-of-memory killer, Xid) are often the only trace of a rank that died of SIGKILL. They are
read with a deadline, narrowed to this run's time and processes, written to `evidence/kernel.log`, and judged as one
more log of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.events import Event, FactLearned, Origin, SourceChanged
from ftdoctor.sources.files import Input

if TYPE_CHECKING:
    from ftdoctor.session import Session

SECONDS = 5.0
MAX_LINES = 200
MAX_ERROR_FILE = 1 << 20
_STAMP = re.compile(r"^\[?\s*(?P<seconds>\d{1,12})\.(?P<fraction>\d{1,9})\]? ")
_KILLED = re.compile(r"(?:Killed process|oom-kill:.*\bpid=|segfault at .*|general protection fault|traps: .*)")
_PIDS = re.compile(r"(?:Killed process |\bpid=|\[)(?P<pid>\d{1,10})\b")
_XID = re.compile(r"NVRM: (?:Xid|GPU )")
_XID_PID = re.compile(r"pid='?(?P<pid>\d{1,10})'?")


def after_crash(session: Session, evidence: Path, folder: Path, code: int) -> list[Event]:
    """Facts of a run that ended with `code`; files in `evidence`. `folder` is the run's own."""
    run = session.run
    pids = set(run.processes) | set(run.rank_pids.values())
    pids |= {exit.pid for exit in run.exits if exit.pid is not None}
    began = min((s.origin.time for s in run.processes.values() if s.origin.time is not None), default=None)
    events: list[Event] = []
    lines = relevant(kernel_lines(began), pids)
    if lines:
        path = _write(evidence / "kernel.log", "\n".join(lines) + "\n")
        router = session.router(Input(path, "log", given=False))
        events.append(SourceChanged(Origin(path, order=session.next_order()), "opened"))
        events += router.feed(("\n".join(lines) + "\n").encode())
        events += router.finish()
    gone = sorted(
        (s.origin.time or 0.0, s.origin.rank, s.pid, s.state)
        for s in run.processes.values()
        if s.origin.rank is not None and s.state in ("gone", "Z", "X")
    )
    table = {
        "code": code,
        "signal": -code if code < 0 else None,
        "ranks_gone": [{"rank": rank, "pid": pid, "state": state, "seen": when} for when, rank, pid, state in gone],
        "exits": [{"rank": e.rank, "pid": e.pid, "code": e.code, "by": e.by} for e in run.exits],
        "errors": error_files(folder),
    }
    path = _write(evidence / "exits.json", json.dumps(table, indent=1, default=str))
    if len(gone) > 1 and gone[0][0] < gone[1][0]:
        rank = gone[0][1]
        origin = Origin(path, rank=rank, time=gone[0][0], order=session.next_order())
        events.append(FactLearned(origin, "first_gone", rank))
    return events


def kernel_lines(since: float | None, run: Callable[[list[str]], str] | None = None) -> list[str]:
    """The kernel's log since a time (seconds since the epoch), from journalctl or dmesg; nothing where neither may."""
    run = run or _output
    since = since or 0.0
    found = run(["journalctl", "-k", "--no-pager", "-q", "-o", "short-unix", "-n", "5000", "--since", f"@{since:.0f}"])
    if found.strip():
        return found.splitlines()
    boot = _boot_time()
    kept = []
    for line in run(["dmesg"]).splitlines()[-5000:]:
        stamp = _STAMP.match(line)
        if stamp is None or boot is None or boot + float(f"{stamp['seconds']}.{stamp['fraction']}") >= since - 2:
            kept.append(line)
    return kept


def relevant(lines: Iterable[str], pids: Iterable[int]) -> list[str]:
    """Lines of the out-of-memory killer and of faults that name one of `pids`, and the driver's Xids.

    An Xid that names a process of somebody else's is left out.
    """
    ours = set(pids)
    kept: list[str] = []
    for line in lines:
        line = line[:2000]
        if _XID.search(line):
            owner = _XID_PID.search(line)
            if owner is None or int(owner["pid"]) in ours:
                kept.append(line)
        elif _KILLED.search(line) and any(int(found["pid"]) in ours for found in _PIDS.finditer(line)):
            kept.append(line)
    return kept[-MAX_LINES:]


def error_files(folder: Path) -> list[dict[str, Any]]:
    """What torch elastic's error files below `folder` say: message and time, by file."""
    found: list[dict[str, Any]] = []
    for path in sorted({*folder.glob("error*.json"), *folder.glob("**/attempt_*/*/error.json")})[:256]:
        with contextlib.suppress(OSError, ValueError, RecursionError):
            if path.stat().st_size > MAX_ERROR_FILE:
                continue
            content = json.loads(path.read_text(encoding="utf-8", errors="replace"))
            message = content.get("message") if isinstance(content, dict) else None
            extra = message.get("extraInfo") if isinstance(message, dict) else None
            text = message.get("message") if isinstance(message, dict) else message
            if text is not None:
                stamp = extra.get("timestamp") if isinstance(extra, dict) else None
                found.append({"file": path.name, "message": str(text)[:2000], "timestamp": stamp})
    return found


def _output(command: list[str]) -> str:
    """Standard output within the deadline; empty when the program is missing, fails or is not allowed."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, errors="replace", timeout=SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _boot_time() -> float | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/stat").read_text().splitlines():
            if line.startswith("btime "):
                return float(line.split()[1])
    return None


def _write(path: Path, text: str) -> str:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", errors="replace")
    return str(path)
