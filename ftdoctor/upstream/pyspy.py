"""py-spy: stacks of a running Python process, taken from outside.

    Process 23791: python -m axolotl.cli.train config.yml
    Thread 23791 (idle): "MainThread"
        all_reduce (torch/distributed/distributed_c10d.py:2501)
        wrapper (torch/distributed/c10d_logger.py:81)

py-spy is optional and needs the right to trace: root, the run's own user where the kernel allows it
(`kernel.yama.ptrace_scope` 0), or, with scope 1, to be an ancestor of the process. Frames in C++ are not shown: a rank
that waits for its GPU stands at the Python line that asked for the result.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SECONDS = 15.0
TRIES = 4
_THREAD = re.compile(r"^Thread (?:0x)?[0-9A-Fa-f]+ \((?P<state>[^)]*)\)(?:: \"(?P<name>[^\"]*)\")?")
_FRAME = re.compile(r"^\s+(?P<function>.+?) \((?P<file>[^()]*?)(?::(?P<line>\d+))?\)\s*$")
_PLUMBING = re.compile(
    r"c10d_logger\.py|_contextlib\.py|/threading\.py|torch/nn/modules/module\.py|contextlib\.py|deepspeed/utils/nvtx\.py"
    r"|torch/_dynamo/eval_frame\.py"
)
MAX_FRAMES = 400

# What a rank is doing, by the innermost frame that says so. File, then function; both must match.
_KINDS: tuple[tuple[str, str, str], ...] = (
    ("collective", r"torch/distributed/(?:distributed_c10d|_functional_collectives)\.py", ""),
    (
        "collective",
        r"deepspeed/comm/|torch/distributed/(?:nn/functional|utils)\.py|accelerate/utils/operations\.py",
        "",
    ),
    ("collective", r"torch/cuda/(?:__init__|streams)\.py", "synchronize|wait"),
    ("collective", r"deepspeed/runtime/zero/partition\w*\.py", "wait|all_gather|reduce"),
    ("download", r"huggingface_hub/|urllib3/|/http/client\.py|requests/|httpx/|httpcore/|/socket\.py", ""),
    ("compile", r"torch/utils/cpp_extension|torch/_inductor/|torch/_dynamo/|triton/(?:compiler|runtime|backends)", ""),
    ("data", r"torch/utils/data/|data_collator\.py|collators?/|(?:^|/)datasets/", ""),
    ("save", "", r"_?save(?:_\w+)?|save_file|fsync"),
    ("load", "", r"from_pretrained|load_state_dict|load_file|_load_\w+|safe_open"),
)
# What the run was about when it stood there, by the innermost frame further out.
_PHASES: tuple[tuple[str, str, str], ...] = (
    ("end", "", r"_finalize_training|store_flos|post_train\w*|save_trained_model|on_train_end"),
    ("save", "", r"_?save_(?:model|checkpoint|pretrained|adapter|trained_model)|_?save_\w*checkpoint|_?save"),
    ("eval", "", r"evaluation_loop|evaluate|prediction_step|_?maybe_log_save_evaluate"),
    ("backward", "", r"backward|_engine_run_backward|allreduce_gradients"),
    ("optimizer", "", r"optimizer_step|clip_grad_norm_?|_?take_model_step"),
    ("forward", "", r"compute_loss|forward|_?call_impl"),
    ("data", "", r"get_batch_samples|_next_data|__next__"),
    ("training", "", r"training_step|_?inner_training_loop"),
    ("load", "", r"load_model|from_pretrained|setup_model_and_trainer|load_model_and_tokenizer"),
)
WORDS = {
    "collective": "waits in a collective",
    "download": "waits for the network",
    "compile": "compiles",
    "data": "is in the data loader",
    "save": "is saving",
    "load": "is loading",
    "stopped": "is stopped (SIGSTOP, or a debugger)",
    "held": "is held by a debugger",
    "disk": "waits for the disk",
    "dead": "has died",
    "gone": "has gone",
}


@dataclass(frozen=True, slots=True)
class Frame:
    """One Python frame; `line` is 0 when py-spy did not know it."""

    function: str
    file: str
    line: int

    @property
    def name(self) -> str:
        """The function without class and enclosing functions: Python 3.11 names `Trainer.train`, older ones `train`."""
        return self.function.rpartition(".")[2]

    @property
    def shown(self) -> str:
        """`all_reduce (torch/distributed/distributed_c10d.py:2501)`."""
        return f"{self.function} ({self.file}:{self.line})" if self.line else f"{self.function} ({self.file})"


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread, innermost frame first; `state` is active, idle or active+gil."""

    name: str
    state: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank stands: `kind` of work ("" when no frame tells), the telling `frame`, the `phase` around it."""

    kind: str
    frame: str
    phase: str = ""


def program() -> str | None:
    """py-spy beside ftdoctor or on PATH; None where it is not installed."""
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.is_file() else shutil.which("py-spy")


def dump(executable: str, pid: int, seconds: float = SECONDS) -> tuple[str, str]:
    """(stacks, why there are none). The process is not paused."""
    command = [executable, "dump", "--nonblocking", "--pid", str(pid)]
    said = ""
    for _ in range(TRIES):  # a thread that runs on while it is read gives a torn stack
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds)
        except subprocess.TimeoutExpired:
            return "", f"py-spy did not answer within {seconds:.0f} s"
        except OSError as error:
            return "", f"py-spy cannot be started: {error.strerror}"
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout, ""
        said = " ".join(done.stderr.partition("Stack backtrace")[0].split())[:300] or f"exit code {done.returncode}"
    if re.search(r"(?i)permission|ptrace|Operation not permitted", said):
        said += (
            "; the kernel does not allow it: run as root, add CAP_SYS_PTRACE, or start the run with `ftdoctor launch`"
        )
    return "", said


def parse(text: str) -> list[Thread]:
    """Threads of a dump, in its order; anything else in the text is passed over."""
    threads: list[Thread] = []
    name, state = "", ""
    frames: list[Frame] | None = None
    for line in text.splitlines():
        head = _THREAD.match(line)
        if head is not None:
            if frames is not None:
                threads.append(Thread(name, state, tuple(frames)))
            name, state, frames = head["name"] or "", head["state"], []
            continue
        found = _FRAME.match(line[:4096]) if frames is not None else None
        if found is not None and frames is not None and len(frames) < MAX_FRAMES:
            frames.append(Frame(found["function"].strip(), found["file"], int((found["line"] or "0")[:9])))
    if frames is not None:
        threads.append(Thread(name, state, tuple(frames)))
    return threads


def place(threads: list[Thread]) -> Place | None:
    """Where the main thread stands; None when the dump has no frame of it."""
    main = next((t for t in threads if t.name == "MainThread"), threads[0] if len(threads) == 1 else None)
    if main is None or not main.frames:
        return None
    telling = [f for f in main.frames if not _PLUMBING.search(f.file)] or list(main.frames)
    kind, at = next(((kind, i) for i, frame in enumerate(telling) if (kind := _match(_KINDS, frame))), ("", -1))
    phase = next((phase for frame in telling[at + 1 :] if (phase := _match(_PHASES, frame))), "")
    if not kind and phase == "data":
        kind = "data"  # somebody's own reader, asked by the training loop for the next batch
    shown = telling[0] if kind != "collective" else telling[at]
    return Place(kind, shown.shown, phase)


def _match(table: tuple[tuple[str, str, str], ...], frame: Frame) -> str:
    for kind, file, function in table:
        if re.search(file, frame.file) and (not function or re.fullmatch(function, frame.name)):
            return kind
    return ""
