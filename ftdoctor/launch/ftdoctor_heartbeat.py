"""Heartbeat of one rank, written from inside the trainer. A single file with no need beyond the trainer's own packages.

`ftdoctor launch` copies it into the run folder and names it to Axolotl as a plugin (`ftdoctor_heartbeat.Plugin`). With
transformers alone: `Trainer(callbacks=[ftdoctor_heartbeat.callback(trainer)])` after the trainer is made.

Per rank one file `heartbeat-rankN.jsonl` in $FTDOCTOR_HEARTBEAT_DIR. A record per optimizer step:

    {"t": wall clock, "s": step, "p": "step", "dt": seconds since the last one, "loss": this rank's, as the Trainer
     sums it over micro batches, unrounded and before its NaN filter, "grad_norm": before clipping, "data": ..,
     "forward": .., "backward": .., "optimizer": .. (seconds in each), "mem": MiB allocated, "peak": MiB}

and one when a second passes in which the rank stays in a phase: {"t", "s", "p": phase, "since": wall clock, "rss": MiB
of the process}. Times are this machine's. What lies between a step and the fetch of the next batch (logging, callbacks)
is the phase `log`, and no part of `data`. Non-finite numbers are strings ("nan", "inf"), so that every line is JSON.

The training thread only appends to a list; a daemon thread writes. No failure here may reach the trainer: every entry
point swallows its own errors, nothing is printed, no rank waits for another, no GPU is waited for.
"""

# mypy: ignore-errors
# ruff: noqa: UP031, SIM105
import atexit
import faulthandler
import functools
import json
import os
import signal
import sys
import threading
import time
import traceback

FOLDER = "FTDOCTOR_HEARTBEAT_DIR"
RANK_LOGS = "FTDOCTOR_RANK_LOGS"  # folder where each rank's output is kept as well, see ftdoctor_rank_log.py
STACKS = "FTDOCTOR_STACK_SIGNAL"  # name of the signal that makes every thread write its stack, e.g. SIGURG
FORMAT = 1
FLUSH_SECONDS = 1.0
KEEP_PENDING = 20000  # records held while the disk refuses
PHASES, BACK = ("data", "forward", "backward", "optimizer"), object()


def _rank():
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


def _resident():
    """MiB of memory this process holds; None where the kernel does not say."""
    try:
        with open("/proc/self/statm") as place:
            return int(place.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (OSError, ValueError, IndexError):
        return None


def _number(value):
    """A float as JSON can hold it."""
    value = float(value)
    return value if value - value == 0.0 else str(value)


class Writer:
    """Records to a file from a thread of its own."""

    def __init__(self, folder):
        self.path = os.path.join(folder, "heartbeat-rank%d.jsonl" % _rank())
        self.pid = os.getpid()
        self.pending = []
        self.phase = ("load", time.time(), 0)
        self.split = None
        self._file = None
        self._said = None
        self._woken = threading.Event()
        self._lock = threading.Lock()
        head = {
            "ftdoctor_heartbeat": FORMAT,
            "rank": _rank(),
            "world_size": int(os.environ.get("WORLD_SIZE") or 1),
            "pid": self.pid,
            "t": time.time(),
        }
        self.pending.append(head)
        threading.Thread(target=self._loop, name="ftdoctor-heartbeat", daemon=True).start()
        atexit.register(self.flush)

    def _loop(self):
        while True:
            self._woken.wait(FLUSH_SECONDS)
            self._woken.clear()
            self.flush()
            if self.split is not None:
                try:
                    self.split.mend()
                except Exception:
                    self.split = None

    def flush(self):
        """Write what is pending; the disk may refuse, then it is tried again."""
        if os.getpid() != self.pid:
            return  # a fork of the rank: a data loader's worker
        try:
            with self._lock:
                records, self.pending = self.pending, []
                if not records or records[-1].get("p") != "step":
                    phase = self.phase
                    if phase != self._said or not records:
                        self._said = phase
                        records.append({"t": time.time(), "s": phase[2], "p": phase[0], "since": phase[1]})
                if records:
                    records[-1]["rss"] = _resident()
                try:
                    if self._file is None:
                        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115
                    data = "".join(json.dumps(r) + "\n" for r in records).encode()
                    if self._file.write(data) != len(data):
                        raise OSError("short write")
                except OSError:
                    self._file = None
                    self.pending = (records + self.pending)[-KEEP_PENDING:]
        except Exception:
            pass


class _Value:
    """A number that may still be on its way from the GPU."""

    __slots__ = ("event", "tensor")

    def __init__(self, tensor):
        self.event = None
        if getattr(tensor, "is_cuda", False):
            import torch

            host = torch.empty((), dtype=torch.float32, pin_memory=True)
            host.copy_(tensor.detach().float().reshape(()), non_blocking=True)
            self.event = torch.cuda.Event()
            self.event.record()
            tensor = host
        elif hasattr(tensor, "detach"):
            tensor = float(tensor.detach())
        self.tensor = tensor

    def ready(self):
        return self.event is None or self.event.query()

    def get(self):
        return float(self.tensor)


def _guarded(method):
    """Nothing of ours may raise in the trainer."""

    @functools.wraps(method)
    def safe(self, *args, **kwargs):
        try:
            if not self.dead:
                method(self, *args, **kwargs)
        except Exception:
            self.errors += 1
            self.dead = self.errors > 20

    return safe


class Beat:
    """What one rank is doing; the trainer's hooks call it."""

    def __init__(self, writer):
        self.writer = writer
        self.dead, self.errors = False, 0
        self.step = 0
        self.phase = "load"
        self.spent = dict.fromkeys(PHASES, 0.0)
        self.entered = self.stepped = time.perf_counter()
        self.losses = []
        self.norm = None
        self.unread = []
        self.cuda = None
        self.after = "log"  # phase that follows a step

    @_guarded
    def enter(self, phase):
        """The rank begins with `phase`."""
        now = time.perf_counter()
        if self.phase in self.spent:
            self.spent[self.phase] += now - self.entered
        if phase != self.phase:
            self.phase = phase
            self.writer.phase = (phase, time.time(), self.step)
        self.entered = now

    @_guarded
    def loss(self, value):
        """The loss of a micro batch, a detached tensor."""
        self.losses.append(_Value(value))

    @_guarded
    def grad_norm(self, value):
        """Norm of the gradients before clipping; a tensor, a number or None."""
        if value is not None:
            self.norm = _Value(value)

    @_guarded
    def start(self, step):
        """Training begins (again) at `step`."""
        self.step = step
        self.stepped = time.perf_counter()

    @_guarded
    def end(self, step):
        """An optimizer step is done."""
        self.enter(self.after)
        now = time.perf_counter()
        record = {"t": time.time(), "s": step, "p": "step", "dt": round(now - self.stepped, 6)}
        for name in PHASES:
            record[name] = round(self.spent[name], 6)
            self.spent[name] = 0.0
        self._memory(record)
        self.stepped, self.step = now, step
        self.unread.append((record, self.losses, self.norm))
        self.losses, self.norm = [], None
        self.deliver(False)

    @_guarded
    def deliver(self, all_of_them):
        """Hand over the records whose numbers have arrived."""
        while self.unread:
            record, losses, norm = self.unread[0]
            late = len(self.unread) > 64
            ready = all(v.ready() for v in losses) and (norm is None or norm.ready())
            if not ready and not late and not all_of_them:
                return
            self.unread.pop(0)
            if ready and losses:
                record["loss"] = _number(sum(v.get() for v in losses))
            if ready and norm is not None:
                record["grad_norm"] = _number(norm.get())
            if len(self.writer.pending) < KEEP_PENDING:
                self.writer.pending.append(record)

    def _memory(self, record):
        if self.cuda is None:
            import torch

            self.cuda = torch.cuda if torch.cuda.is_available() and torch.cuda.is_initialized() else False
        if self.cuda:
            record["mem"] = self.cuda.memory_allocated() >> 20
            record["peak"] = self.cuda.max_memory_allocated() >> 20


def _around(beat, owner, name, before=None, after=None, result=None):
    """Wrap `owner.name`: `before`, `after` are phases (BACK: that of the call), `result` gets what it returns."""
    original = getattr(owner, name, None)
    if original is None:
        return

    @functools.wraps(original)
    def call(*args, **kwargs):
        called_in = beat.phase
        if before:
            beat.enter(before)
        value = original(*args, **kwargs)
        if after:
            beat.enter(called_in if after is BACK else after if isinstance(after, str) else after())
        if result:
            result(value)
        return value

    try:
        setattr(owner, name, call)
    except Exception:
        pass


def watch(trainer, beat):
    """Put the hooks into a HF Trainer."""
    state = {"training": False}

    def in_training(phase, otherwise="eval"):
        return lambda: phase if state["training"] else otherwise

    def loss(value):
        beat.loss(value)
        beat.enter("optimizer")
        state["training"] = False

    step = getattr(trainer, "training_step", None)
    if step is not None:

        @functools.wraps(step)
        def training_step(*args, **kwargs):
            state["training"] = True
            beat.enter("forward")
            value = step(*args, **kwargs)
            loss(value)
            return value

        trainer.training_step = training_step
    _around(beat, trainer, "compute_loss", None, in_training("backward"))
    _around(beat, trainer, "get_batch_samples", "data", "data")
    beat.after = "log" if hasattr(trainer, "get_batch_samples") else "data"  # before 4.46 the fetch shows nowhere else
    _around(beat, trainer, "evaluate", "eval", BACK)
    _around(beat, trainer, "_save_checkpoint", "save", BACK)
    _around(beat, trainer, "save_model", "save", BACK)
    _around(beat, trainer, "_get_grad_norm", None, None, beat.grad_norm)
    if not hasattr(trainer, "_get_grad_norm"):  # transformers before 5
        _around(beat, getattr(trainer, "accelerator", None), "clip_grad_norm_", None, None, beat.grad_norm)


def callback(trainer, beat=None):
    """The HF callback for `trainer`, which is hooked as well."""
    from transformers import TrainerCallback

    beat = beat or begin()

    class Heartbeat(TrainerCallback):
        """Counts steps; everything else comes from the hooks."""

        def on_train_begin(self, args, state, control, **kwargs):
            if beat:
                beat.start(state.global_step)
                beat.enter("data")

        def on_step_end(self, args, state, control, **kwargs):
            if beat:
                beat.end(state.global_step)

        def on_train_end(self, args, state, control, **kwargs):
            if beat:
                beat.deliver(True)
                beat.enter("end")

    if beat:
        watch(trainer, beat)
    return Heartbeat()


_beat = None


def begin():
    """The beat of this process; None where no folder is given or nothing can be set up."""
    global _beat
    folder = os.environ.get(FOLDER)
    if _beat is None and folder:
        try:
            os.makedirs(folder, exist_ok=True)
            _beat = Beat(Writer(folder))
            _stacks(folder)
            _last_words(folder)
        except Exception:
            _beat = None
        else:
            _rank_log(_beat.writer)
    return _beat


def _rank_log(writer):
    """Keep this rank's output in a file of its own as well."""
    try:
        if os.environ.get(RANK_LOGS):
            import ftdoctor_rank_log

            writer.split = ftdoctor_rank_log.begin(os.environ[RANK_LOGS])
    except Exception:
        pass


def _stacks(folder):
    """Python stacks of all threads on a signal, even while the main thread is blocked in C."""
    name = os.environ.get(STACKS)
    number = getattr(signal, name, None) if name else None
    if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.SIG_IGN, None):
        place = open(os.path.join(folder, "stacks-rank%d.txt" % _rank()), "ab", buffering=0)  # noqa: SIM115
        faulthandler.register(number, file=place, all_threads=True, chain=False)
        _stacks.file = place  # must stay open


def _last_words(folder):
    """What ended this rank, as JSON, beside the heartbeat; then whatever handled exceptions before."""
    before = sys.excepthook

    def hook(kind, value, trace):
        try:
            words = {
                "t": time.time(),
                "rank": _rank(),
                "step": _beat.step,
                "phase": _beat.phase,
                "type": kind.__module__ + "." + kind.__qualname__,
                "message": str(value)[:4000],
                "traceback": "".join(traceback.format_exception(kind, value, trace))[-20000:],
            }
            with open(os.path.join(folder, "error-rank%d.json" % _rank()), "w") as place:
                json.dump(words, place)
        except Exception:
            pass
        before(kind, value, trace)

    sys.excepthook = hook


try:
    from axolotl.integrations.base import BasePlugin as _Base
except Exception:  # no Axolotl: the callback alone is of use
    _Base = object


class Plugin(_Base):
    """The Axolotl plugin."""

    def register(self, cfg):
        """Called by every command that reads a configuration, in every rank."""
        begin()

    def add_callbacks_post_trainer(self, cfg, trainer):
        """Called in every rank when the trainer is there."""
        try:
            return [callback(trainer)] if begin() else []
        except Exception:
            return []
