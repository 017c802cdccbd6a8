"""Ending a run so that its work is kept: a checkpoint where the trainer offers one, SIGTERM to the launcher, SIGKILL.

SIGINT is never passed on: under ZeRO-3 Axolotl answers it by overwriting the adapter with tensors of shape [0].
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from ftdoctor.launch.checkpoints import last_change, last_checkpoint
from ftdoctor.launch.child import Child, marked

CHECKPOINT_SECONDS = 60.0  # until the request is taken up, and then without a byte written
SETTLED_SECONDS = 1.0  # a whole checkpoint that did not change for so long has what the other ranks add to it
GRACE_SECONDS = 30.0  # what torch elastic gives its ranks as well
KILLED_SECONDS = 5.0


class Stopper:
    """A stop under way; call `advance` a few times a second until `over`. It never blocks."""

    def __init__(self, child: Child, say: Callable[[str], None], patience: float = CHECKPOINT_SECONDS) -> None:
        self._child, self._say = child, say
        self._patience = patience
        self._stage = "new"
        self._until = self._asked = self._written = 0.0
        self.over = False

    def advance(self, now: float, hurry: bool = False) -> None:
        """Do what is due; `now` is a steady clock in seconds, `hurry` ends all waiting."""
        if self.over:
            return
        if self._stage == "new":
            self._stage, self._until, self._asked = "checkpoint", now + self._patience, time.time()
            if self._child.code is not None or not ask_for_checkpoint(self._child):
                self._until = now
            else:
                self._say("asked for a checkpoint")
        if self._stage == "checkpoint":
            if self._child.code is None and not self._saved(now) and now < self._until and not hurry:
                return
            self._stage, self._until = "term", now + GRACE_SECONDS
            if self._child.code is None:
                self._say("SIGTERM to the launcher")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._child.pid, signal.SIGTERM)
        if self._stage == "term":
            left = marked(self._child.plan.run_id)
            for pid in left:
                wake(pid)
            if (left or self._child.code is None) and now < self._until and not hurry:
                return
            self._stage, self._until = "kill", now + KILLED_SECONDS
            if left:
                self._say(f"SIGKILL to {len(left)} process{'es' if len(left) > 1 else ''} that did not end")
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        if self._child.code is not None or now >= self._until:
            self.over = True

    def _saved(self, now: float) -> bool:
        """The checkpoint is whole. As long as it grows there is more time for it."""
        plan = self._child.plan
        if plan.output_dir is None or checkpoint_is_due(self._child):
            return False
        output = plan.cwd / plan.output_dir
        written = last_change(output)
        if written > max(self._written, self._asked):
            self._written, self._until = written, now + self._patience
        found = last_checkpoint(output, self._asked)
        if found is None or time.time() - written < SETTLED_SECONDS:
            return False
        self._say(f"the checkpoint is there: {found}")
        return True


def end_all(child: Child, say: Callable[[str], None]) -> None:
    """End what is left of a run whose launcher has gone; what has not gone after some seconds is killed."""
    stopper, until = Stopper(child, say, 0.0), time.monotonic() + KILLED_SECONDS
    while not stopper.over:
        stopper.advance(time.monotonic(), hurry=time.monotonic() > until)
        time.sleep(0.0 if stopper.over else 0.1)


def wake(pid: int) -> None:
    """Let a stopped process (SIGSTOP) go on when a SIGTERM waits for it: it dies of it before it does anything else."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
        if status["State"].startswith("T") and pending >> (signal.SIGTERM - 1) & 1:
            os.kill(pid, signal.SIGCONT)


def ask_for_checkpoint(child: Child) -> bool:
    """Request a checkpoint; False when this trainer offers none (Axolotl: `dynamic_checkpoint` is off)."""
    request = child.plan.checkpoint_request
    if request is None:
        return False
    try:
        request.parent.mkdir(parents=True, exist_ok=True)
        request.touch()
    except OSError:
        return False
    return True


def checkpoint_is_due(child: Child) -> bool:
    """The trainer has not taken up the request yet."""
    request = child.plan.checkpoint_request
    return request is not None and request.exists()
