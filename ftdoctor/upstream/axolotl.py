"""What Axolotl prints: milestones of a run, the effective configuration, decoded samples.

Milestones in order (0.19, one node):

    Loading prepared dataset from disk at P | Unable to find prepared dataset in P
    Maximum number of steps set at N
    trainable params: 16,384 || all params: 141,888 || trainable%: 11.5471
    Starting trainer...
    Saving model checkpoint to D/checkpoint-N
    Training completed! Saving trained model to D.
    Model successfully saved to D

The configuration dump is `[axolotl.cli.config] config:` followed by pretty-printed JSON without prefixes; it holds the
values that were really used (defaults applied, world size, global batch size).

A decoded sample is one record of `text(label, id)` tokens; label -100 is masked. It is followed by
`Total input len: 130` and `Count of labels: 7`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import ClassVar

from ftdoctor.events import ConfigSeen, Event, FactLearned, Origin, Scalar
from ftdoctor.upstream.base import OneLine

Fact = tuple[str, Scalar]


def _int(text: str) -> int:
    return int(text.replace(",", ""))


_MILESTONES: tuple[tuple[str, re.Pattern[str], Callable[[re.Match[str]], list[Fact]]], ...] = (
    (
        "Maximum number of steps set at",
        re.compile(r"Maximum number of steps set at (\d+)"),
        lambda m: [("total_steps", int(m[1]))],
    ),
    (
        "Total optimization steps",
        re.compile(r"Total optimization steps\s*=\s*([\d,]+)"),
        lambda m: [("total_steps", _int(m[1]))],
    ),
    ("Num examples", re.compile(r"Num examples\s*=\s*([\d,]+)"), lambda m: [("train_rows", _int(m[1]))]),
    (
        "Instantaneous batch size per device",
        re.compile(r"Instantaneous batch size per device\s*=\s*(\d+)"),
        lambda m: [("micro_batch_size", int(m[1]))],
    ),
    (
        "trainable params:",
        re.compile(r"trainable params: ([\d,]+) \|\| all params: ([\d,]+)"),
        lambda m: [("trainable_params", _int(m[1])), ("all_params", _int(m[2]))],
    ),
    ("Starting trainer...", re.compile(r"Starting trainer\.\.\."), lambda m: [("stage", "train")]),
    ("***** Running training *****", re.compile(r"\*+ Running training \*+"), lambda m: [("stage", "train")]),
    ("Saving model checkpoint to", re.compile(r"Saving model checkpoint to (\S+)"), lambda m: [("checkpoint", m[1])]),
    ("Running evaluation step", re.compile(r"Running evaluation step"), lambda m: [("evaluating", True)]),
    ("***** Running Evaluation *****", re.compile(r"\*+ Running [Ee]valuation \*+"), lambda m: [("evaluating", True)]),
    (
        "Training completed!",
        re.compile(r"Training completed! Saving trained model to (\S+)"),
        lambda m: [("finished", True), ("stage", "save")],
    ),
    ("Training completed", re.compile(r"Training completed\. Do not forget to share"), lambda m: [("finished", True)]),
    ("Model successfully saved to", re.compile(r"Model successfully saved to (\S+)"), lambda m: [("saved", m[1])]),
    (
        "Success! Preprocessed data path",
        re.compile(r"Success! Preprocessed data path"),
        lambda m: [("preprocessed", True)],
    ),
    ("check_dataset_labels", re.compile(r"check_dataset_labels"), lambda m: [("stage", "preprocess")]),
    ("Merging LoRA with base model", re.compile(r"Merging LoRA with base model"), lambda m: [("stage", "merge")]),
    ("Running merge of LoRA", re.compile(r"Running merge of LoRA"), lambda m: [("stage", "merge")]),
    (
        "Applied LoRA to",
        re.compile(r"Applied LoRA to (\d+)/(\d+) tensors"),
        lambda m: [("stage", "merge"), ("merge.applied", int(m[1])), ("merge.tensors", int(m[2]))],
    ),
    (
        "Model successfully merged",
        re.compile(r"Model successfully merged and saved to:? *(\S+)"),
        lambda m: [("merged", m[1])],
    ),
    ("max_input_len:", re.compile(r"max_input_len: (\d+)"), lambda m: [("max_input_len", int(m[1]))]),
    ("min_input_len:", re.compile(r"min_input_len: (\d+)"), lambda m: [("min_input_len", int(m[1]))]),
    ("Dropped ", re.compile(r"Dropped (\d+) sequences outside valid range"), lambda m: [("dropped_long", int(m[1]))]),
    (
        "Dropped ",
        re.compile(r"Dropped (\d+) samples with no trainable tokens"),
        lambda m: [("dropped_untrainable", int(m[1]))],
    ),
    ("Dropped ", re.compile(r"Dropped (\d+) (?:long )?samples from dataset"), lambda m: [("dropped_long", int(m[1]))]),
    ("Dropping ", re.compile(r"Dropping (?:Long|Invalid) Sequences.*\| (\d+)/\1 \["), lambda m: [("rows", int(m[1]))]),
    ("Total input len:", re.compile(r"Total input len: (\d+)"), lambda m: [("sample.tokens", int(m[1]))]),
    ("Count of labels:", re.compile(r"Count of labels: (\d+)"), lambda m: [("sample.trained_tokens", int(m[1]))]),
    (
        "world_size",
        re.compile(r"\bworld[_ ]size[\"']?\s*[:=]?\s*(\d+)\b(?!\s*/)", re.IGNORECASE),
        lambda m: [("world_size", int(m[1]))],
    ),
    ("Setting ds_accelerator to", re.compile(r"Setting ds_accelerator to (\w+)"), lambda m: [("accelerator", m[1])]),
    ("Setting accelerator to", re.compile(r"Setting accelerator to (\w+)"), lambda m: [("accelerator", m[1].lower())]),
)


class Milestones(OneLine):
    """Single lines that tell where the run is, as facts (`total_steps`, `trainable_params`, `saved`, ...)."""

    anchors: ClassVar[tuple[bytes, ...]] = tuple(sorted({literal.encode() for literal, _, _ in _MILESTONES}))

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        for literal, pattern, facts in _MILESTONES:
            if literal in text:
                found = pattern.search(text)
                if found:
                    for name, value in facts(found):
                        yield FactLearned(origin, name, value)


class ConfigDump:
    """The effective configuration as one `ConfigSeen`; gives up after 3,000 lines."""

    anchors: ClassVar[tuple[bytes, ...]] = (b"[axolotl.cli.config",)
    limit = 3000

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._origin: Origin | None = None

    @property
    def open(self) -> bool:
        """True inside the JSON block."""
        return self._origin is not None

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        if "[axolotl.cli.config" in text:
            self._origin = origin if text.rstrip().endswith("config:") else None
            self._lines = []
            return
        if self._origin is None or origin.path != self._origin.path:
            return
        if not self._lines and text.strip() != "{":
            return
        self._lines.append(text)
        if text.rstrip() == "}" or len(self._lines) > self.limit:
            start, self._origin = self._origin, None
            try:
                data = json.loads("\n".join(self._lines))
            except ValueError:
                return  # another rank wrote into the block
            if isinstance(data, dict):
                yield ConfigSeen(start, "effective", data)

    def finish(self) -> Iterable[Event]:
        """An unfinished block is dropped."""
        self._origin = None
        return ()


_TOKEN = re.compile(r"(?P<text>.{0,200}?)\((?P<label>-?\d+), (?:[01], )?(?P<id>\d+)\)(?: |\n?$)", re.DOTALL)
_SAMPLE = re.compile(
    r"\[axolotl\.(?:utils\.tokenization)?\.?(?:check_example_labels:\d+)?\] (?:\[PID:\d+\] )?(?:\[RANK:\d+\] ?)?"
)


class Samples:
    """Decoded samples of `axolotl preprocess --debug`.

    Facts `sample.text` (decoded, at most 8 kB), `sample.trained_text`, `sample.masked_text`; the counts come from
    the milestones that follow the record.
    """

    anchors: ClassVar[tuple[bytes, ...]] = (b"[axolotl.utils.tokenization", b"[axolotl.check_example_labels")
    limit = 20_000

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._origin: Origin | None = None

    @property
    def open(self) -> bool:
        """True while the record's lines are awaited."""
        return self._origin is not None

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        head = _SAMPLE.search(text, 0, 300)
        if head:
            rest = text[head.end() :]
            events = list(self.finish())
            if _TOKEN.search(rest):
                self._origin, self._parts = origin, [rest]
            return events
        if self._origin is None:
            return ()
        if text.startswith("[20") or len(self._parts) > self.limit:
            return list(self.finish())
        self._parts.append(text)
        return ()

    def finish(self) -> Iterable[Event]:
        """Emit the record."""
        if self._origin is None:
            return
        origin, self._origin = self._origin, None
        tokens = [(m["text"], int(m["label"])) for m in _TOKEN.finditer("\n".join(self._parts))]
        self._parts = []
        yield FactLearned(origin, "sample.text", "".join(t for t, _ in tokens)[:8192])
        yield FactLearned(origin, "sample.trained_text", "".join(t for t, label in tokens if label != -100)[:8192])
        yield FactLearned(origin, "sample.masked_text", "".join(t for t, label in tokens if label == -100)[:8192])
