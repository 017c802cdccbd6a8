"""The trainer as a child that outlives ftdoctor.

It runs in a session of its own, writes straight to a file, and reads nothing from us: a crash or a SIGKILL of ftdoctor,
or a closed terminal, changes nothing for it. Its processes are found again by a mark in their environment, because
torchrun gives every rank a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path

from ftdoctor.launch.ftdoctor_rank_log import TEE
from ftdoctor.launch.plan import MARK, Plan


def marked(run_id: str) -> list[int]:
    """Processes of the run that are still there."""
    wanted = f"{MARK}={run_id}".encode()
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
    return sorted(found)


def readers(run_id: str) -> bool:
    """True while one of the processes that write the ranks' own logs has not seen their end."""
    wanted = f"{TEE}={run_id}".encode()
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in (place / "environ").read_bytes().split(b"\0"):
                    return True
    return False


def ranks(run_id: str) -> dict[int, int]:
    """RANK -> pid of the processes that a launcher started; a rank's own children come after it and are left out."""
    found: dict[int, int] = {}
    for pid in marked(run_id):
        with contextlib.suppress(OSError, ValueError):
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            rank = next((e.partition(b"=")[2] for e in environ if e.startswith(b"RANK=")), None)
            if rank is not None:
                found.setdefault(int(rank), pid)
    return dict(sorted(found.items()))


class Child:
    """The running trainer."""

    def __init__(self, plan: Plan) -> None:
        """Start it.

        Raises:
            OSError: the program cannot be started.
        """
        self.plan = plan
        self.started = time.time()
        plan.folder.mkdir(parents=True, exist_ok=True)
        # folders are made by `keeping.begin`
        with plan.log.open("ab") as log:
            self._process = subprocess.Popen(
                plan.command,
                cwd=plan.cwd,
                env=plan.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code (negative: the signal); None while it runs."""
        return self._process.poll()
