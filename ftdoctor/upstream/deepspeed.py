"""What DeepSpeed prints: dynamic loss scaling and `ds_report`.

INFO lines, OVERFLOW among them, are hidden since 0.17.6: their absence proves nothing.

    [deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 65536, reducing to 32768
    [deepscale] OVERFLOW! Skipping step. Attempted loss scale: 4294967296, reducing to 2147483648.0
    [loss_scaler.py:190:update_scale] [deepspeed] OVERFLOW! Rank 0 Skipping step. Attempted loss scale: 1, but hysteresis is 2. Reducing hysteresis to 1
    Grad overflow on iteration 12, ... / fp16 dynamic loss scale overflow! Rank 0 Skipping step. Attempted loss scale: 512, reducing to 256

    cpu_adam ............... [NO] ....... [OKAY]
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from ftdoctor.events import Event, FactLearned, MetricSample, Origin
from ftdoctor.upstream.base import OneLine

_OVERFLOW = re.compile(r"[Aa]ttempted loss scale: (?P<tried>[\d.e+]+)(?:,? reducing to (?P<to>[\d.e+]+))?")
_OP = re.compile(r"^\s*(?P<op>[a-z_0-9]+)[ .]+\[(?P<installed>YES|NO)\][ .]+\[(?P<compatible>OKAY|YES|NO)\]")


class LossScale(OneLine):
    """Skipped fp16 steps: series `loss_scale` (the new scale) and `overflow` (1 per skipped step)."""

    anchors: ClassVar[tuple[bytes, ...]] = (b"ttempted loss scale:",)

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        found = _OVERFLOW.search(text)
        if found is None:
            return
        scale = (found["to"] or found["tried"]).rstrip(".")
        yield MetricSample(origin, "overflow", 1.0)
        yield MetricSample(origin, "loss_scale", float(scale))


class Report(OneLine):
    """`ds_report`: fact `ds_op.<name>` = OKAY or NO (compatible; "installed" NO is normal)."""

    anchors: ClassVar[tuple[bytes, ...]] = (b"[OKAY]", b"[NO]")

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        found = _OP.match(text)
        if found:
            yield FactLearned(origin, f"ds_op.{found['op']}", "NO" if found["compatible"] == "NO" else "OKAY")
