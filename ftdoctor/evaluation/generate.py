"""Running the generation worker in the training python, and what its death means."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ftdoctor.errors import InputError
from ftdoctor.evaluation.suite import Prompt
from ftdoctor.training_python import TrainingPython, find_training_python

WORKER = Path(__file__).with_name("worker.py")
ROWS_WORKER = Path(__file__).with_name("rows_worker.py")
OnEvent = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class Generation:
    """What one model gave: `rows` by prompt index; `info` from the worker; `measured` numbers over all prompts.

    `died` says in words how the worker ended before its time, `code` and `noise` what it left.
    """

    name: str
    model: str
    adapter: str | None
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    measured: dict[str, dict[str, Any]] = field(default_factory=dict)
    base_loss: dict[int, float] = field(default_factory=dict)
    died: str = ""
    code: int = 0
    noise: str = ""


def training_python(explicit: str | None) -> str:
    """The python that has transformers; see `ftdoctor.training_python`.

    Raises:
        InputError: none was found, or the one given is no program.
    """
    return find_training_python(explicit).path


def check_model(model: str, adapter: str | None) -> None:
    """Refuse what cannot be loaded before anything is started.

    Raises:
        InputError: a folder is missing or is not what it was given as.
    """
    local = Path(model)
    if local.is_dir() and not (local / "config.json").is_file():
        if (local / "adapter_config.json").is_file():
            raise InputError("this is an adapter, not a model", model, "give --base MODEL --adapter THIS_FOLDER")
        raise InputError("no config.json in the folder", model, "give the folder of a saved model")
    if local.is_dir() and (local / "adapter_config.json").is_file() and not any(local.glob("model*.safetensors")):
        # Axolotl puts the base's config.json beside the adapter, and transformers would load the base by itself
        raise InputError("this is an adapter, not a model", model, "give --base MODEL --adapter THIS_FOLDER")
    if not local.is_dir() and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise InputError("no such folder", model, "give the folder of a saved model or a name on the Hub")
    if adapter is not None and not Path(adapter, "adapter_config.json").is_file():
        raise InputError("no adapter_config.json in the folder", adapter, "give the folder that training wrote")


class Worker:
    """The worker process: a job goes in, events come out. A context manager, so that nothing is left behind."""

    def __init__(self, python: str, target: Generation, job: dict[str, Any], script: Path = WORKER) -> None:
        """Start it and hand it the job."""
        self.target = target
        self._noise: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise, text=True,
            encoding="utf-8", env=TrainingPython(python, "").environment() | {"TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
        self.send(job)

    def __enter__(self) -> Worker:
        """Nothing to do: it runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it: at once when something went wrong here, else when it has read the end of its input."""
        if kind is not None:
            self._process.kill()
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        self._process.wait()
        self._noise.close()

    def send(self, what: Any) -> None:
        """One line to the worker; a dead one is noticed by `until_done`."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()

    def until_done(self, on_event: OnEvent = lambda _: None) -> bool:
        """Take events until the worker is done; False when it died, which is then said in the target."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if _take(line, self.target, on_event):
                return True
        target = self.target
        target.code = self._process.wait()
        self._noise.seek(0)
        target.noise = self._noise.read()[-20_000:]
        target.died = target.died or how_it_died(target.code, target.noise[-2000:])
        return False


def job_of(
    target: Generation, prompts: Sequence[Prompt], settings: dict[str, Any], score: Sequence[str] = ()
) -> dict[str, Any]:
    """The worker's job; see there."""
    return {
        "model": target.model,
        "adapter": target.adapter,
        "questions": [question(p) for p in prompts],
        "settings": settings,
        "have": sorted(target.rows),
        "score": list(score),
    }


def question(prompt: Prompt) -> dict[str, Any]:
    """One prompt for the worker."""
    made: dict[str, Any] = {"messages": list(prompt.messages), "seed": prompt.seed, "reference": prompt.reference}
    return {**made, "ids": list(prompt.ids)} if prompt.ids else made


def generate(
    python: str,
    target: Generation,
    prompts: Sequence[Prompt],
    settings: dict[str, Any],
    on_event: OnEvent = lambda _: None,
    score: Sequence[str] = (),
) -> Generation:
    """Fill `target.rows`; rows it already has are kept and not asked again.

    The likelihood of the texts in `score` is kept in `base_loss`.
    """
    with Worker(python, target, job_of(target, prompts, settings, score)) as worker:
        worker.until_done(on_event)
    return target


def held_out(python: str, config: str, number: int) -> tuple[tuple[Prompt, ...], int]:
    """Rows of the validation split of an Axolotl configuration as prompts, and how many there are in all.

    Raises:
        InputError: Axolotl cannot load them, or there is no validation split.
    """
    found = Generation("rows", config, None)
    with tempfile.TemporaryDirectory(prefix="ftdoctor-") as folder:
        job = {"config": config, "rows": number, "folder": folder}
        events: list[dict[str, Any]] = []
        with Worker(python, found, job, ROWS_WORKER) as worker:
            worker._process.stdin.close()  # type: ignore[union-attr]
            worker.until_done(events.append)
    event = next((e for e in events if e["event"] == "rows"), None)
    if event is None:
        raise InputError(f"its validation rows cannot be loaded: {found.died}", config, "leave out --held-out")
    if not event["rows"]:
        raise InputError(
            "it has no validation split", config, "set val_set_size or test_datasets, or leave out --held-out"
        )
    rows = tuple(
        Prompt("held-out", ({"role": "user", "content": str(r["prompt"])},), None, str(r["reference"]), tuple(r["ids"]))
        for r in event["rows"]
    )
    return rows, int(event["total"])


def _take(line: str, target: Generation, on_event: OnEvent) -> bool:
    try:
        event = json.loads(line)
    except ValueError:
        return False  # the end of a line that was being written when it died
    kind = event.pop("event", "")
    if kind == "answer":
        target.rows[int(event["index"])] = event
    elif kind == "loaded":
        target.info = event
    elif kind == "scored":
        target.base_loss[int(event["index"])] = float(event["loss"])
    elif kind in ("reference", "format", "speed"):
        target.measured[kind] = event
    elif kind == "error":
        target.died = f"{event['type']}: {event['message']}"
    on_event({"event": kind, **event})
    return bool(kind == "done")


def how_it_died(code: int, noise: str) -> str:
    """The end of a worker in words."""
    last = next((line.strip() for line in reversed(noise.split("\n")) if line.strip()), "")
    if code == -signal.SIGKILL:
        return "the worker was killed with SIGKILL: most often the machine ran out of memory"
    if code < 0:
        return f"the worker was ended by {signal.Signals(-code).name}"
    return f"the worker ended with code {code}: {last[:300]}"


def in_terminal() -> bool:
    """True when a progress line would be seen."""
    return bool(sys.stderr and sys.stderr.isatty())
