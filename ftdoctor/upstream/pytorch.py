"""What torchrun, accelerate's and DeepSpeed's launchers, srun, mpirun and shells say about how processes ended.

torch elastic's failure table (2.x):

    E0306 02:05:41 torch/distributed/elastic/multiprocessing/api.py:826] failed (exitcode: -9) local_rank: 3 (pid: 2044) of binary: python
    Failures:
    [1]:
      rank      : 5 (local_rank: 5)
      exitcode  : 1 (pid: 2046)
    Root Cause (first observed failure):
    [0]:
      rank      : 3 (local_rank: 3)
      exitcode  : -9 (pid: 2044)
      traceback : Signal 9 (SIGKILL) received by PID 2044

"Root Cause" is only what the agent saw first when it polled; ranks that die within one poll are listed by local rank. The
entries above it carry `OTHER` in `by`: they never were the first failure.

Shells write `Killed`, `Aborted (core dumped)` or `job.sh: line 28:  8156 Killed   python train.py`; Slurm writes
`srun: error: node-1: task 0: Out Of Memory`; people add `exit code 137` or the answer to `echo $?`.

Lines that say that somebody ended the run on purpose give the fact `interrupted` (why); a SIGKILL beside it is no sign of a
full host memory.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from typing import ClassVar

from ftdoctor.events import Event, ExitSeen, FactLearned, Origin
from ftdoctor.upstream.base import OneLine

ELASTIC = "torch elastic"
OTHER = "torch elastic, a later failure"

_RANK = re.compile(r"^\s*rank\s*:\s*(\d+)\s*\(local_rank:\s*(\d+)\)")
_CODE = re.compile(r"^\s*exitcode\s*:\s*(-?\d+)\s*\(pid:\s*(\d+)\)")
_FAILED = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+) \(pid: (\d+)\)")
_DEEPSPEED = re.compile(r"exits with return code = (-?\d+)")
_DIED_WITH = re.compile(r"died with <Signals\.(SIG\w+): (\d+)>")
_NON_ZERO = re.compile(r"returned non-zero exit status (\d+)")
_OF_A_RUN = re.compile(r"python|torchrun|accelerate|deepspeed|axolotl|srun|mpirun")
_SRUN = re.compile(
    r"(?:srun: error|slurmstepd: error): (?P<node>\S+): tasks? (?P<task>\d+)[^:]*: "
    r"(?:Exited with exit code (?P<code>\d+)|(?P<word>Killed|Terminated|Aborted|Segmentation fault|Bus error|Out Of Memory))"
)
_SPAWN = re.compile(r"process (\d+) terminated with (?:exit code (\d+)|signal (SIG\w+))")
_MPI = re.compile(r"noticed that process rank (\d+) .*exited on signal (\d+)")
_SHELL = re.compile(
    r"^(?:\S[^:]*: line \d+:\s+\d+ |\[\d+\]\s?[+-]?\s+|zsh: )?(?P<word>[Kk]illed|[Tt]erminated|[Aa]borted|abort|[Ss]egmentation fault|[Bb]us error)"
    r"(?:\s+\(core dumped\))?(?:\s{2,}\S.*)?\s*$"
)
_STATED = re.compile(
    r"(?:^|\b)(?:process (?:finished|exited)|command (?:exited|failed|terminated)|job (?:exited|finished)|exited|finished|exit(?:ed)?(?: status| code)?)"
    r"[^\n]{0,20}?\b(?:exit )?(?:code|status)[ :=]+(-?\d+)\s*\.?(?:\s*\([^()]*\))?$",
    re.IGNORECASE,
)
_ECHO = re.compile(r"\becho \$\?\s*$")
_WORDS = {
    "killed": 9,
    "out of memory": 9,
    "terminated": 15,
    "aborted": 6,
    "abort": 6,
    "segmentation fault": 11,
    "bus error": 7,
}
_INTERRUPTED = (
    (b"DUE TO TIME LIMIT", "the scheduler's time limit"),
    (b"DUE TO PREEMPTION", "preemption"),
    (b"death signal", "a signal to the launcher"),
    (b"got signal: ", "a signal to the launcher"),
    (b"Main process received SIG", "a signal to the launcher"),
    (b"KeyboardInterrupt", "Ctrl-C"),
)


def broken_off(tail: bytes) -> str:
    """`^C` when that is the last thing a source holds, else nothing.

    A terminal echoes it when somebody presses Ctrl-C, and Python then prints KeyboardInterrupt below it. A notebook
    (Colab) prints it, and nothing more, when it takes a process away whose memory ran out.
    """
    return "^C" if tail.rstrip().endswith(b"^C") else ""


def _signed(code: int) -> int:
    """128 + n, as shells report a signal, to -n."""
    return 128 - code if 128 < code < 160 else code


class Exits(OneLine):
    """Process ends, one `ExitSeen` per statement; a code above 128 is read as 128 + signal where a launcher says so."""

    anchors: ClassVar[tuple[bytes, ...]] = (
        b"(local_rank: ",
        b"exitcode ",
        b"(exitcode: ",
        b"Failures:",
        b"Root Cause (first observed",
        b"exits with return code",
        b"died with <Signals",
        b"returned non-zero exit status",
        b"srun: error: ",
        b" terminated with ",
        b"exited on signal",
        b"exit code",
        b"exit status",
        b"exited with code",
        b"exited with status",
        b"Exit code",
        b"Exit Code",
        b"echo $?",
        b"illed",
        b"erminated",
        b"borted",
        b"zsh: ",
        b"egmentation fault",
        b"us error",
        *(text for text, _ in _INTERRUPTED),
    )

    def __init__(self) -> None:
        self._rank: int | None = None
        self._root = True
        self._echo = False

    @property
    def open(self) -> bool:
        """True for the line after `echo $?`."""
        return self._echo

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        if self._echo:
            self._echo = False
            if text.strip().isdigit():
                yield from self._stated(int(text), origin)
                return
        if _ECHO.search(text):
            self._echo = True
            return
        for literal, why in _INTERRUPTED:
            if literal.decode() in text:
                yield FactLearned(origin, "interrupted", why)
        yield from self._launchers(text, origin)

    def _launchers(self, text: str, origin: Origin) -> Iterable[Event]:
        if text.startswith(("Failures:", "Root Cause (first")):
            self._root = text.startswith("Root")
            return
        found = _RANK.search(text)
        if found:
            self._rank = int(found[1])
            return
        found = _CODE.search(text)
        if found:
            yield ExitSeen(origin, int(found[1]), self._rank, int(found[2]), ELASTIC if self._root else OTHER)
            self._rank = None
            return
        found = _FAILED.search(text)
        if found:
            yield ExitSeen(origin, int(found[1]), int(found[2]), int(found[3]), ELASTIC)
            return
        found = _DEEPSPEED.search(text)
        if found:
            yield ExitSeen(origin, _signed(int(found[1])), origin.rank, None, "deepspeed launcher")
            return
        found = _DIED_WITH.search(text)
        if found:
            yield ExitSeen(origin, -int(found[2]), origin.rank, None, "launcher")
            return
        found = _SRUN.search(text)
        if found:
            code = int(found["code"]) if found["code"] else -_WORDS[found["word"].lower()]
            yield ExitSeen(origin, _signed(code), int(found["task"]), None, "srun")
            return
        found = _SPAWN.search(text)
        if found:
            code = (
                int(found[2])
                if found[2]
                else -int(signal.Signals[found[3]])
                if found[3] in signal.Signals.__members__
                else 1
            )
            yield ExitSeen(origin, code, int(found[1]), None, "torch.multiprocessing")
            return
        found = _MPI.search(text)
        if found:
            yield ExitSeen(origin, -int(found[2]), int(found[1]), None, "mpirun")
            return
        found = _NON_ZERO.search(text)
        if found:
            by = "launcher" if _OF_A_RUN.search(text) else "subprocess"
            yield ExitSeen(origin, _signed(int(found[1])), origin.rank, None, by)
            return
        found = _SHELL.match(text)
        if found:
            yield ExitSeen(origin, -_WORDS[found["word"].lower()], origin.rank, None, "shell")
            return
        found = _STATED.search(text)
        if found:
            yield from self._stated(int(found[1]), origin)

    def _stated(self, code: int, origin: Origin) -> Iterable[Event]:
        yield FactLearned(origin, "exit_code", code)
        if _signed(code) != code:
            yield ExitSeen(origin, _signed(code), origin.rank, None, "shell")
