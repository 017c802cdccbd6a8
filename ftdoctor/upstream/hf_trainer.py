"""What transformers' Trainer (and the trainers that imitate it) prints.

Metric dictionaries, one a line, values bare (transformers 4) or quoted (transformers 5), `nan` unquoted in 4:

    {'loss': 1.8421, 'grad_norm': nan, 'learning_rate': 0.0002, 'epoch': 0.12}
    {'loss': '6.061', 'grad_norm': '0.6675', 'learning_rate': '0.0008', 'ppl': '428.9', 'epoch': '0.03158'}
    {'train_runtime': '11.26', 'train_loss': '6.04', 'epoch': '0.03158'}

Progress bars of tqdm:

     42%|####      | 20/48 [00:05<00:07,  3.9it/s]

Lines have no step number; the run model takes it from the last training bar. Values keep four significant digits
in transformers 5. A NaN loss is hidden by `logging_nan_inf_filter` and reads 0.0 or an older average.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from ftdoctor.events import BarSeen, Event, FactLearned, MetricSample, Origin
from ftdoctor.upstream.base import OneLine

_DICT = re.compile(r"\{\s*['\"][^{}]*\}")
_PAIR = re.compile(
    r"""['"](?P<key>[^'"{}]{1,80})['"]\s*:\s*(?:'(?P<q>[^']*)'|"(?P<dq>[^"]*)"|(?P<bare>[^,{}\s'"\[]+))"""
)
_METRIC_KEYS = ("loss", "eval_loss", "train_loss", "grad_norm", "learning_rate", "train_runtime", "eval_runtime")
_STEP_OF = re.compile(r"^(\d+)/(\d+)$")
_TAGGED = re.compile(
    r"""\b(?:global[_ ]?)?(?:step|iter(?:ation)?)s?\s*[:=\[ ]\s*(?P<step>\d+)\s*(?:/\s*(?P<total>\d+))?\]?
        (?=.*?\b(?:train[_ ]|lm[_ ]|training[_ ])?loss\s*[:=]?\s*\(?(?P<loss>[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|nan|inf))\b)
        (?:.*?\bg(?:rad)?[_ ]?norm\s*[:=]\s*(?P<norm>[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf))\b)?""",
    re.VERBOSE | re.IGNORECASE,
)
_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|nan|inf)"
# mmengine (xtuner): "Epoch(train) [1][240/735]  lr: 1.98e-04  ...  loss: 2.5128  grad_norm: nan", "Iter(train) [ 240/735]"
_MMENGINE = re.compile(
    rf"\b(?:Epoch|Iter)\(train\)\s+(?:\[(?P<epoch>\d+)\])?\[\s*(?P<n>\d+)/\s*(?P<total>\d+)\]"
    rf"(?=.*?\bloss: (?P<loss>{_NUMBER}))(?:.*?\bgrad_norm: (?P<norm>{_NUMBER}))?"
)
# torchtune: "1|240|Loss: 1.402"; litgpt: "Epoch 1 | iter 240 step 60 | loss train: 1.344, val: n/a"
_TORCHTUNE = re.compile(rf"^\s*\d+\|(?P<step>\d+)\|Loss: (?P<loss>{_NUMBER})")
_LITGPT = re.compile(rf"\biter\s+\d+ step (?P<step>\d+) \| loss train: (?P<loss>{_NUMBER})")
# tqdm with a postfix (OpenRLHF, ColossalAI, own loops): " 12%|#  | 12/100 [00:30<03:40,  2.5s/it, loss=0.69, lr=1e-5]"
_POSTFIX = re.compile(
    rf"(?P<text>[^|]*?)\d+%\|[^|]*\|\s*(?P<step>\d+)/\d+ \[[^\]]*?(?:s/it|it/s)\b[^\]]*?[ ,](?:avg_|avr_|train_|gpt_)?loss=(?P<loss>{_NUMBER})\b"
)
_NOT_PROGRESS = re.compile(r"\b(?:eval|valid|validation|test|best)[_ ]?loss|loss[_ ]?scale", re.IGNORECASE)


def number(text: str) -> float | None:
    """A trainer's number, `nan` and `inf` included; None for anything else."""
    try:
        return float(text)
    except ValueError:
        return None


def metric_dict(text: str) -> dict[str, str]:
    """Key and value texts of the metric dictionary in a line; empty when there is none."""
    for found in _DICT.finditer(text):
        pairs = {m["key"]: m["q"] or m["dq"] or m["bare"] or "" for m in _PAIR.finditer(found[0])}
        if any(key in pairs and number(pairs[key]) is not None for key in _METRIC_KEYS):
            return pairs
        if "epoch" in pairs and any(k.startswith(("eval_", "train_", "test_", "rewards/")) for k in pairs):
            return pairs
    return {}


class Metrics(OneLine):
    """Metric dictionaries to `MetricSample`s, in the order of their keys."""

    anchors: ClassVar[tuple[bytes, ...]] = (
        b"'loss'",
        b'"loss"',
        b"'eval_",
        b'"eval_',
        b"'train_runtime'",
        b'"train_runtime"',
        b"'grad_norm'",
        b'"grad_norm"',
        b"'epoch':",
        b"'learning_rate':",
    )

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        pairs = metric_dict(text)
        if not pairs:
            return
        epoch = number(pairs.get("epoch", ""))
        step, total, basis = _stated_step(pairs)
        if total is not None:
            yield FactLearned(origin, "total_steps", total)
        if "train_runtime" in pairs:
            yield FactLearned(origin, "finished", True)
        for key, raw in pairs.items():
            value = number(raw)
            if value is not None and key not in ("epoch", "step", "global_step"):
                yield MetricSample(origin, key, value, step, basis, epoch)


def _stated_step(pairs: dict[str, str]) -> tuple[float | None, float | None, str]:
    for key in ("global_step/max_steps", "global_step", "step"):
        raw = pairs.get(key)
        if raw is None:
            continue
        of = _STEP_OF.match(raw)
        if of:
            return float(of[1]), float(of[2]), "stated"
        value = number(raw)
        if value is not None:
            return value, None, "stated"
    return None, None, "none"


class TaggedMetrics(OneLine):
    """`step 120 loss 1.83` and its relatives, as DeepSpeed examples, Megatron and home-made loops print them."""

    anchors: ClassVar[tuple[bytes, ...]] = (b"loss:", b"loss =", b"loss=", b"loss ", b"Loss:", b"Loss ", b"Loss=")

    def __init__(self) -> None:
        self._bar = (-1.0, "")  # step and loss of the last bar: a bar is drawn again and again

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        if "'" in text[:3] or len(text) > 1000 or "it/s" in text or "s/it" in text or _NOT_PROGRESS.search(text):
            yield from self._drawn(text, origin)
            return
        other = _TORCHTUNE.search(text) or _LITGPT.search(text)
        if other is not None:
            yield MetricSample(origin, "loss", float(other["loss"]), float(other["step"]), "stated")
            return
        other = _MMENGINE.search(text)
        if other is not None:
            step = float(other["n"]) + (float(other["epoch"] or 1) - 1) * float(other["total"])
            yield MetricSample(origin, "loss", float(other["loss"]), step, "stated")
            if other["norm"]:
                yield MetricSample(origin, "grad_norm", float(other["norm"]), step, "stated")
            return
        found = _TAGGED.search(text)
        if found is None:
            return
        step = float(found["step"])
        yield MetricSample(origin, "loss", float(found["loss"]), step, "stated")
        if found["norm"]:
            yield MetricSample(origin, "grad_norm", float(found["norm"]), step, "stated")

    def _drawn(self, text: str, origin: Origin) -> Iterable[Event]:
        """The loss that a training bar shows behind its rate, once a step."""
        found = _TORCHTUNE.search(text) or _POSTFIX.search(text)
        if found is None or _NOT_TRAINING.search(found.groupdict().get("text") or ""):
            return
        step, loss = float(found["step"]), found["loss"]
        if step > 0 and (step, loss) != self._bar:
            self._bar = (step, loss)
            yield MetricSample(origin, "loss", float(loss), step, "stated")


_BAR = re.compile(
    r"(?P<text>[^|]*?)(?P<percent>\d{1,3})%\|[^|]*\|\s*(?P<n>[\d.]+[kMG]?)/(?P<total>[\d.]+[kMG]?)\s"
    r"\[(?P<elapsed>[\d:]+)<(?P<left>[\d:?]+),\s*(?P<rate>[\d.?]+)\s*(?P<unit>s/it|it/s)"
)
_SUFFIX = {"k": 1e3, "M": 1e6, "G": 1e9}
_NOT_TRAINING = re.compile(
    r"load|shard|map|token|drop|filter|download|fetch|sav|merg|process|split|evaluat|generat|convert|render|pack|upload"
    r"|valid|extract|file|batch|truncat|add|group|check|build|quant|valid",
    re.IGNORECASE,
)


def _count(text: str) -> float:
    return float(text[:-1]) * _SUFFIX[text[-1]] if text[-1] in _SUFFIX else float(text)


def _seconds(text: str) -> float:
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part or 0)
    return total


class Bars:
    """The last state of each progress bar; updates between two other events are not worth an event each."""

    anchors: ClassVar[tuple[bytes, ...]] = (b"it/s", b"s/it")

    def __init__(self) -> None:
        self._pending: dict[tuple[str, float], BarSeen] = {}

    def feed(self, text: str, origin: Origin) -> bool:
        """Remember the last bar in the line; True when there was one."""
        bars = list(_BAR.finditer(text))
        if not bars:
            return False
        last = bars[-1]
        total = _count(last["total"])
        description = last["text"].rsplit("]", 1)[-1].strip().rstrip(":").strip()
        if "{" in description or len(description) > 60 or not _NOT_TRAINING.search(description):
            description = ""
        elapsed = _seconds(last["elapsed"])
        self._pending.pop((description, total), None)
        self._pending[description, total] = BarSeen(origin, description, _count(last["n"]), total, elapsed)
        return True

    def take(self) -> list[BarSeen]:
        """The bars that moved since the last call, oldest first."""
        if not self._pending:
            return []
        bars = list(self._pending.values())
        self._pending.clear()
        return bars
