"""The parity proof: the tokens that training saw before an answer against those that inference will send.

Samples from all over the prepared set are found again among the raw rows by their text. Their conversations go through
`apply_chat_template(..., add_generation_prompt=True)` of the tokenizer that will be shipped, and the ids are compared
one by one. Where the raw rows are not here, only what stands in front of each answer is compared. `parity_worker.py`
does what needs the tokenizer.

    with Proof(python, data, folder, prepared) as proof:
        proof.about["ends"]           # ids that end an answer
        found = proof.compare()
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ftdoctor.errors import InputError
from ftdoctor.preflight import plan
from ftdoctor.preflight.data.check import files_of
from ftdoctor.preflight.data.conversation import Conversation, conversation
from ftdoctor.preflight.data.declared import declare
from ftdoctor.preflight.data.rows import NoReader, Row, read
from ftdoctor.training_python import TrainingPython

WORKER = Path(__file__).with_name("parity_worker.py")
SAMPLES = 64
SECONDS = 180.0  # the import alone takes 3 s, ten times that on a slow disk
RAW_BYTES = 256 << 20  # of each raw file, in the search for the samples' rows
_TAIL = 6


def tokenizer_job(data: Mapping[str, Any], folder: Path, shipped: str | None) -> dict[str, Any]:
    """What the worker must know to make the tokenizer; `shipped` is a folder that has it already."""
    named = data.get("tokenizer_config") or data.get("base_model_config") or data.get("base_model") or ""
    place = plan.find(str(named), folder)
    return {
        "folder": shipped, "path": str(place) if place is not None else str(named), "class": data.get("tokenizer_type"),
        "revision": data.get("revision_of_model") or data.get("model_revision"), "trust": data.get("trust_remote_code"),
        "special_tokens": {k: v for k, v in (data.get("special_tokens") or {}).items() if v},
        "tokens": data.get("tokens"), "template": data.get("chat_template"), "jinja": data.get("chat_template_jinja"),
        "kwargs": data.get("chat_template_kwargs"), "system": data.get("default_system_message"),
        "eot_tokens": data.get("eot_tokens"),
    }  # fmt: skip


class Proof:
    """The worker with its tokenizer loaded; a context manager, so that nothing is left behind.

    `about` is what it says of the tokenizer. One that cannot be loaded is said in `problem`.
    """

    def __init__(
        self,
        python: TrainingPython,
        data: Mapping[str, Any],
        folder: Path,
        prepared: Path,
        shipped: str | None = None,
        seconds: float = SECONDS,
    ) -> None:
        """Start it and read its samples; `folder` is that of the YAML. It is ended after `seconds`."""
        self._data, self._folder = data, folder
        self.about: dict[str, Any] = {}
        self.problem = ""
        self.total = 0
        self._noise: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        environment = python.environment() | {
            "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error",
        }  # fmt: skip
        self._process = subprocess.Popen(
            [python.path, str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._noise, text=True,
            encoding="utf-8", env=environment,
        )  # fmt: skip
        self._late = ""
        self._deadline = threading.Timer(seconds, self._kill, (seconds,))
        self._deadline.daemon = True
        self._deadline.start()
        job = {"tokenizer": tokenizer_job(data, folder, shipped), "prepared": str(prepared), "samples": SAMPLES}
        first = self._ask(job)
        self.about = dict(first.get("tokenizer") or {})
        self._rows: list[dict[str, Any]] = list(first.get("rows") or ())
        self.total = int(first.get("total") or 0)

    def __enter__(self) -> Proof:
        """It runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._deadline.cancel()
        with contextlib.suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        if kind is not None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._noise.close()

    def _kill(self, seconds: float) -> None:
        self._late = f"no answer within {seconds:g} s"
        self._process.kill()

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            self._process.wait()
            self._noise.seek(0)
            last = next((t.strip() for t in reversed(self._noise.read()[-4000:].split("\n")) if t.strip()), "")
            self.problem = (
                self._late or last[:300] or f"the tokenizer worker ended with code {self._process.returncode}"
            )
            return {}
        if answer.get("event") == "error":
            self.problem = f"{answer['type']}: {answer['message']}"[:300]
            return {}
        return answer

    def compare(self) -> dict[str, Any]:
        """The worker's `parity`, with `matched`: samples that were found among the raw rows. Empty with a `problem`."""
        if self.problem or not self._rows:
            return {}
        found = dict(
            match({int(r["row"]): str(r["text"]) for r in self._rows}, conversations(self._data, self._folder))
        )
        asked = [{"row": row, "messages": c.messages, "tools": c.tools} for row, c in sorted(found.items())]
        return {**self._ask({"conversations": asked}), "matched": len(found)}


def conversations(data: Mapping[str, Any], folder: Path) -> Iterator[Conversation]:
    """The raw rows of all training data that is here and in which somebody asks something."""
    listed = data.get("datasets")
    for item in listed if isinstance(listed, list) and not data.get("rl") else ():
        if not isinstance(item, Mapping) or not isinstance(item.get("path"), str):
            continue
        declared = declare(item)
        for path in files_of(item, folder):
            with contextlib.suppress(NoReader, OSError):
                for row in read(path, RAW_BYTES):
                    made = conversation(row.value, declared, item) if isinstance(row, Row) else None
                    if made is not None:
                        yield made


def match(samples: Mapping[int, str], rows: Iterator[Conversation]) -> Iterator[tuple[int, Conversation]]:
    """The conversation of each sample: its answer is the sample's end, and its question stands before that."""
    left = {row: _plain(text) for row, text in samples.items()}
    by_tail: dict[str, list[int]] = {}
    for row, text in left.items():
        by_tail.setdefault(text[-_TAIL:], []).append(row)
    for made in rows:
        if not left:
            return
        answer, question = _plain(made.answer), _plain(made.question)
        if not answer:
            continue
        near = by_tail.get(answer[-_TAIL:], ()) if len(answer) >= _TAIL else list(left)
        for row in near:
            text = left.get(row, "")
            if text.endswith(answer) and question in text[: len(text) - len(answer)]:
                del left[row]
                yield row, made
                break


def _plain(text: str) -> str:
    return " ".join(text.split())


@dataclass(frozen=True, slots=True)
class Part:
    """A run of tokens in both (`=`), only in training (`-`) or only at inference (`+`)."""

    sign: str
    text: str
    ids: tuple[int, ...]


def parts(first: Mapping[str, Any]) -> list[Part]:
    """The difference that the worker found, without the long middle of what agrees."""
    return [Part(str(sign), str(text), tuple(ids)) for sign, text, ids in first["diff"]]


def diff_lines(first: Mapping[str, Any], width: int = 74) -> list[str]:
    """One line for each run of tokens: sign, text as a literal, ids; no line is longer than `width`."""
    made = []
    for part in parts(first):
        ids = [str(i) for i in part.ids]
        told = f"{len(ids)}: {' '.join(ids[:6])}{' ...' if len(ids) > 6 else ''}"
        room = max(16, width - len(told) - 5)
        made.append(f"{part.sign} {_short(repr(part.text), room)}  {told}")
    return made


def _short(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    head = (room - 3) * 2 // 3
    return f"{text[:head]}...{text[len(text) - (room - 3 - head) :]}"


def frame(first: Mapping[str, Any], sign: str) -> str:
    """What stands apart on one side, for a message: the run nearest to the answer."""
    side = [p.text for p in parts(first) if p.sign == sign]
    return _short(repr(side[-1]), 60) if side else "nothing"


def prove(
    python: TrainingPython,
    data: Mapping[str, Any],
    folder: Path,
    prepared: Path,
    shipped: str | None,
    seconds: float = SECONDS,
) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The tokenizer's ids, the comparison, and why there is none.

    Raises:
        InputError: the folder given as the shipped tokenizer has none.
    """
    if shipped is not None and not any(Path(shipped, n).is_file() for n in ("tokenizer.json", "tokenizer_config.json")):
        raise InputError("no tokenizer in it", shipped, "give the folder of the adapter or of the merged model")
    with Proof(python, data, folder, prepared, shipped, seconds) as proof:
        return proof.about, proof.compare(), proof.problem
