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

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        if "'" in text[:3] or len(text) > 1000 or "it/s" in text or "s/it" in text or _NOT_PROGRESS.search(text):
            return
        found = _TAGGED.search(text)
        if found is None:
            return
        step = float(found["step"])
        yield MetricSample(origin, "loss", float(found["loss"]), step, "stated")
        if found["norm"]:
            yield MetricSample(origin, "grad_norm", float(found["norm"]), step, "stated")


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
