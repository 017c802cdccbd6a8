"""One tensor of the merged model against base + update: the arithmetic of the proof, block by block.

The expected value is `round(base + E)` in the format of the merged file. A merge may compute in another order or in
bf16, so an element may be off by one step of the format plus a small part of the update. That alone would accept a
merge without the update where the update is smaller than a step; hence also the projection

    c = <merged - base, E> / <E, E>

the share of the update that is there: 1 when applied, 0 when not, 2 when applied twice. Rounding noise does not depend
on E and cancels out, and what rounding swallows is in the expectation: `expected` is the same number for
`round(base + E)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ftdoctor.merging.adapter import Shift, Update
from ftdoctor.merging.nf4 import BLOCKS, nf4
from ftdoctor.merging.tensors import SPACING, Floats, Tensor, not_finite, rounded

SAMPLE = 1 << 16  # elements that tell the block size of NF4
ELEMENTS = 1 << 18  # of a block: its float32 copies stay in the cache
OFF_SHARE = 1e-3  # of the elements may be outside the tolerance
DAMAGE_SHARE = 0.1  # fewer elements than that are off: the tensor was damaged, not merged from something else
SHARE_OFF = 0.05  # allowed difference of the share from the expected one
OF_UPDATE, OF_UPDATE_RMS = 0.02, 0.03  # an update computed in bf16
NF4_LEFT = 0.35  # of the NF4 noise may be unexplained: the scales are rounded too

Expect = Callable[[int, int, Floats], Floats]


@dataclass(slots=True)
class Measured:
    """Sums over one tensor; `D` = merged - base, `E` = expected update, `X` = rounded expectation - base."""

    count: int = 0
    nan: int = 0
    inf: int = 0
    dd: float = 0.0
    ee: float = 0.0
    de: float = 0.0
    xe: float = 0.0
    xx: float = 0.0
    rr: float = 0.0
    ww: float = 0.0
    off: int = 0
    worst: float = 0.0
    qq: float = 0.0  # NF4 noise of the base
    ql: float = 0.0  # what NF4 does not explain
    qe: float = 0.0  # <merged - NF4(base), E>

    @property
    def share(self) -> float | None:
        """Share of the update that is there; None without an update."""
        if not self.ee:
            return None
        return self.qe / self.ee if self._on_grid() else self.de / self.ee

    def _on_grid(self) -> bool:
        """True when NF4 explains most of what is not base + update."""
        without = max(self.ql - self.ee, 0.0) if self.ee else self.ql  # the update may be missing or twice there
        return bool(self.qq) and without <= NF4_LEFT**2 * self.qq

    @property
    def expected(self) -> float:
        """The share that survives rounding."""
        return self.xe / self.ee if self.ee else 1.0

    @property
    def relative(self) -> float:
        """Length of the change, relative to the base's."""
        return float((self.dd / self.ww) ** 0.5) if self.ww else 0.0

    def verdict(self) -> str:
        """Judge: ok | zero | unapplied | scaled | quantized | damaged | wrong | not-finite."""
        if self.nan or self.inf:
            return "not-finite"
        if not self.ee:
            return "zero" if self.off <= OFF_SHARE * self.count else self._otherwise()
        share = self.de / self.ee
        if self.off <= OFF_SHARE * self.count and abs(share - self.expected) <= SHARE_OFF and self.worst < 16:
            return "ok"
        left = self.dd - 2 * share * self.de + share * share * self.ee  # |D - cE|^2
        noise = self.xx - 2 * self.xe + self.ee  # |X - E|^2: rounding
        if left <= max(0.02 * self.dd, 4 * noise):
            if abs(share) <= SHARE_OFF < self.expected:
                return "unapplied"
            if abs(share - self.expected) > SHARE_OFF:
                return "scaled"
            if left <= max(2e-3 * self.dd, 2 * noise) and self.worst < 16:
                return "ok"  # computed in a coarser format than it was stored in
        return self._otherwise()

    def _otherwise(self) -> str:
        if self._on_grid():
            # NF4 noise is far larger than an update, so again the projection decides; the scales' own rounding is noise
            noise = 6 * (self.ql / max(self.count, 1)) ** 0.5 / self.ee**0.5 if self.ee else 0.0
            share = self.share if self.ee else 1.0
            if share is None or abs(share - 1) <= max(SHARE_OFF, min(noise, 0.4)):
                return "quantized"
            return "unapplied" if abs(share) <= max(SHARE_OFF, min(noise, 0.4)) else "scaled"
        return "damaged" if self.off <= DAMAGE_SHARE * self.count else "wrong"


def block_rows(tensor: Tensor, elements: int = ELEMENTS) -> int:
    """Rows of a block."""
    return max(1, elements // max(tensor.columns, 1))


def nf4_block(base: Tensor, merged: Tensor, update: Update | Shift | None) -> int:
    """The block size with which NF4 explains the beginning of a matrix best."""
    last = min(base.rows, max(1, SAMPLE // max(base.columns, 1)))
    old, new = base.read(0, last), merged.read(0, last)
    delta = 0 if update is None else update.rows(0, last, old)
    left = {block: _dot(rest, rest) for block in BLOCKS for rest in [new - delta - nf4(old, block)]}
    return min(left, key=lambda block: left[block])


def compare(base: Tensor, merged: Tensor, update: Update | Shift | None, block: int = 0) -> Measured:
    """Measure `merged` against `base` + `update`; tensors of one shape. `block`: look for NF4 of this block size too.

    Raises:
        EOFError: a file ends before its header says.
    """
    found = Measured()
    relative, least = SPACING[merged.dtype]
    if SPACING[base.dtype][0] > relative and base.dtype != merged.dtype:
        relative, least = SPACING[base.dtype]
    step = block_rows(base)
    if block:
        step = max(1, step - step % block) if step >= block else step
    for first in range(0, base.rows, step):
        last = min(first + step, base.rows)
        data = merged.raw(first, last)
        old, new = base.read(first, last), merged.read(first, last)
        nan, inf = not_finite(data, merged.dtype)
        found.nan, found.inf, found.count = found.nan + nan, found.inf + inf, found.count + old.size
        if nan or inf:
            continue
        if update is None:
            expected, delta = rounded(old, merged.dtype), None
        else:
            delta = update.rows(first, last, old)
            expected = rounded(old + delta, merged.dtype)
        _sum(found, old, new, expected, delta, relative, least)
        if block:
            grid = nf4(old, block)
            noise = grid - old
            left = new - rounded(grid if delta is None else grid + delta, merged.dtype)
            found.qq += _dot(noise, noise)
            found.ql += _dot(left, left)
            if delta is not None:
                found.qe += _dot(new - grid, delta)
    return found


def _sum(
    found: Measured, old: Floats, new: Floats, expected: Floats, delta: Floats | None, relative: float, least: float
) -> None:
    change = new - old
    found.ww += _dot(old, old)
    found.dd += _dot(change, change)
    rest = new - expected
    length = _dot(rest, rest)
    found.rr += length
    if delta is not None:
        ee = _dot(delta, delta)
        found.ee += ee
        found.de += _dot(change, delta)
        if length:
            visible = expected - old
            found.xx += _dot(visible, visible)
            found.xe += _dot(visible, delta)
        else:  # the expectation to the bit
            found.xx += _dot(change, change)
            found.xe += _dot(change, delta)
    if not length:
        return
    np.abs(rest, out=rest)
    allowed = np.abs(expected)
    allowed *= np.float32(relative)
    allowed += np.float32(least + 1e-30)
    if delta is not None:
        allowed += np.float32(OF_UPDATE) * np.abs(delta)
        allowed += np.float32(OF_UPDATE_RMS * (ee / max(delta.size, 1)) ** 0.5)
    rest /= allowed
    found.worst = max(found.worst, float(rest.max()))
    found.off += int(np.count_nonzero(rest > 1))


def _dot(one: Floats, other: Floats) -> float:
    return float(np.dot(one.reshape(-1), other.reshape(-1)))
