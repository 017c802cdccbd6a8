"""The merge proof: every tensor of merged against base + adapter. Yields one row per tensor, then a summary.

Nothing is held but headers, one adapter pair and a few blocks, so an 8B model needs some hundred megabytes. Tensors
that the adapter leaves alone have to be equal to the base's.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ftdoctor.merging.adapter import Adapter, Change, locate, tails_of, update_of
from ftdoctor.merging.compare import OFF_SHARE, Measured, block_rows, compare, nf4_block
from ftdoctor.merging.tensors import Checkpoint, Tensor, not_finite

_BUFFERS = re.compile(r"(?:rotary_emb\.inv_freq|\.attn\.(?:bias|masked_bias)|position_ids)$")
_BITSANDBYTES = re.compile(r"\.(?:absmax|quant_map|quant_state\.\S+|nested_absmax|SCB|weight_format)$")
_EMBEDDING = re.compile(r"(?:embed_tokens|lm_head|wte|word_embeddings|embed_in|embed_out)\.weight$")


@dataclass(slots=True)
class Row:
    """What was found out about one tensor of the merged model.

    `verdict`: ok | same | zero | unapplied | scaled | quantized | damaged | wrong | not-finite | changed | shape |
    missing | extra | empty | unreadable | resized | lost-rows | unproven. `kind` as in `Change`, `none` for tensors
    that the adapter leaves alone.
    """

    name: str
    kind: str
    verdict: str
    rank: int = 0
    scaling: float = 0.0
    share: float | None = None
    expected: float | None = None
    relative: float = 0.0
    norm: float = 0.0
    off: int = 0
    detail: str = ""


@dataclass(slots=True)
class Plan:
    """Who is compared with whom."""

    merged: Checkpoint
    base: Checkpoint | None
    adapter: Adapter | None
    quantized: bool = False
    tied: bool = False
    pairs: list[tuple[str, Tensor | None, Change | None]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unplaced: list[str] = field(default_factory=list)


def plan(merged: Checkpoint, base: Checkpoint | None, adapter: Adapter | None, tied: bool, quantized: bool) -> Plan:
    """Match the names of the three sides."""
    result = Plan(merged, base, adapter, quantized, tied)
    reference = base.tensors if base is not None and base.tensors else merged.tensors
    changes: dict[str, Change] = {}
    tails = tails_of(reference)
    for wanted, change in adapter.changes.items() if adapter is not None else ():
        place = locate(wanted, reference, tails)
        if place is None and tied and wanted.endswith("lm_head.weight") and wanted in merged.tensors:
            place = wanted
        if place is None:
            result.unplaced.append(wanted)
        else:
            changes[place] = change
    ours = tails_of(merged.tensors)
    taken = set()
    for name, tensor in reference.items():
        mine = locate(name, merged.tensors, ours)
        if mine is not None and mine not in taken:
            taken.add(mine)
            old = None if base is None or not base.tensors else tensor
            result.pairs.append((mine, old, changes.get(name)))
        elif not _BUFFERS.search(name) and not (tied and name.endswith("lm_head.weight")):
            result.missing.append(name)
    for name in merged.tensors:
        if name not in taken:
            result.pairs.append((name, None, changes.get(name)))
    return result


def prove(job: Plan, threads: int = 2) -> Iterator[Row]:
    """Rows in no special order; what is missing comes first."""
    for name in job.missing:
        yield Row(name, "none", "missing")
    for name in job.unplaced:
        yield Row(name, "lora", "unapplied", detail="the model has no tensor of this name")
    if threads <= 1:
        for pair in job.pairs:
            yield _judge(job, *pair)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Row]] = deque()
        pairs: Iterable[tuple[str, Tensor | None, Change | None]] = job.pairs
        for pair in pairs:
            waiting.append(pool.submit(_judge, job, *pair))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _judge(job: Plan, name: str, base: Tensor | None, change: Change | None) -> Row:
    merged = job.merged.tensors[name]
    kind = change.kind if change is not None else "none"
    try:
        if not merged.count:
            return Row(name, kind, "empty", detail="the tensor has no elements: a shard that ZeRO-3 never gathered")
        if _BITSANDBYTES.search(name):
            return Row(name, kind, "extra", detail="bitsandbytes state: the model was saved quantised")
        if not merged.is_float:
            same = base is not None and base.raw() == merged.raw() if base and base.size == merged.size else False
            return Row(name, kind, "same" if same else "unproven", detail=merged.dtype)
        if change is not None and change.kind == "replace":
            return _replaced(name, merged, base, change)
        if base is None:
            return _alone(job, name, merged, kind)
        if not base.is_float:
            return Row(name, kind, "unproven", detail=f"the base is stored as {base.dtype}")
        if change is not None and change.kind != "rows":
            return _updated(job, name, merged, base, change)
        return _kept(job, name, merged, base, change)
    except (EOFError, OSError, ValueError) as error:
        return Row(name, kind, "unreadable", detail=str(error))


def _alone(job: Plan, name: str, merged: Tensor, kind: str) -> Row:
    """No base to compare with: only what can be seen in the tensor itself."""
    nan, inf = _alone_counts(merged)
    if nan or inf:
        return Row(name, kind, "not-finite", detail=f"{nan} NaN, {inf} infinite")
    if job.base is None or not job.base.tensors:
        return Row(name, kind, "unproven", detail="no base to compare with")
    if name.endswith("lm_head.weight") or _BUFFERS.search(name):
        return Row(name, kind, "ok", detail="not in the base's files")  # tied there, written out here
    return Row(name, kind, "extra", detail="neither the base nor the adapter has it")


def _row(name: str, change: Change | None, found: Measured, verdict: str, detail: str = "") -> Row:
    return Row(
        name, change.kind if change else "none", verdict, change.rank if change else 0,
        change.scaling if change else 0.0, found.share, found.expected if found.ee else None, found.relative,
        found.dd**0.5, found.off,
        detail or (f"{found.nan} NaN, {found.inf} infinite" if verdict == "not-finite" else ""),
    )  # fmt: skip


def _updated(job: Plan, name: str, merged: Tensor, base: Tensor, change: Change) -> Row:
    assert job.adapter is not None
    if change.value is not None and change.kind in ("lora", "dora", "embedding"):
        base = change.value
    update = update_of(change, base, job.adapter.config)
    if isinstance(update, str):
        return Row(name, change.kind, "shape", change.rank, change.scaling, detail=update)
    if base.shape != merged.shape:
        text = f"base {list(base.shape)}, merged {list(merged.shape)}"
        return Row(name, change.kind, "shape", change.rank, change.scaling, detail=text)
    found = compare(base, merged, update)
    verdict = found.verdict()
    if (
        verdict in ("wrong", "damaged") and len(base.shape) == 2
    ):  # rare, so the price of a second pass is paid only here
        found = compare(base, merged, update, nf4_block(base, merged, update))
        verdict = found.verdict()
    return _row(name, change, found, verdict)


def _kept(job: Plan, name: str, merged: Tensor, base: Tensor, change: Change | None) -> Row:
    """A tensor that has to equal the base's, but for single rows (trainable tokens) or rows added at its end."""
    if base.shape != merged.shape:
        text = f"base {list(base.shape)}, merged {list(merged.shape)}"
        grown = _EMBEDDING.search(name) and base.shape[1:] == merged.shape[1:]
        if not grown:
            return Row(name, "none", "shape", detail=text)
        rows = min(base.rows, merged.rows)
        base, merged = _first_rows(base, rows), _first_rows(merged, rows)
        row = _kept(job, name, merged, base, change)
        row.detail = text
        row.verdict = "resized" if row.verdict in ("same", "ok") else row.verdict
        return row
    if change is None and base.dtype == merged.dtype and _equal(base, merged):
        nan, inf = _alone_counts(merged)
        if nan or inf:
            return Row(name, "none", "not-finite", detail=f"{nan} NaN, {inf} infinite, as in the base")
        return Row(name, "none", "same")
    found = _unchanged(base, merged)
    if found.nan or found.inf:
        return _row(name, change, found, "not-finite")
    allowed = len(change.indices) * base.columns if change is not None else 0
    if found.off <= allowed:
        return _row(name, change, found, "ok")
    verdict = found.verdict()
    if job.adapter is None or not job.adapter.changes or job.adapter.unproven:
        return _row(name, change, found, "unproven", "differs from the base, and the adapter's part is not known")
    return _row(name, change, found, verdict if verdict in ("quantized", "damaged") else "changed")


def _unchanged(base: Tensor, merged: Tensor) -> Measured:
    """Measured without an update; with a look for NF4 where the two differ."""
    found = compare(base, merged, None)
    if len(base.shape) < 2 or found.nan or found.inf or found.off <= OFF_SHARE * found.count:
        return found
    return compare(base, merged, None, nf4_block(base, merged, None))


def _replaced(name: str, merged: Tensor, base: Tensor | None, change: Change) -> Row:
    """Trained as a whole: the merged tensor is the adapter's, and not the base's."""
    value = change.value
    assert value is not None
    if not value.count:
        return Row(name, "replace", "empty", detail="empty in the adapter: ZeRO-3 never gathered it")
    if value.shape != merged.shape:
        kept = base is not None and base.shape == merged.shape
        text = f"adapter {list(value.shape)}, merged {list(merged.shape)}"
        return Row(name, "replace", "lost-rows" if kept and _EMBEDDING.search(name) else "shape", detail=text)
    found = _unchanged(value, merged)
    verdict = found.verdict()
    if verdict == "zero":
        verdict = "ok"
    if verdict in ("wrong", "damaged") and base is not None and base.shape == merged.shape and base.is_float:
        if not compare(base, merged, None).off:
            verdict = "unapplied"
    row = _row(name, change, found, verdict)
    if base is not None and base.shape == value.shape and base.is_float:
        moved = compare(base, merged, None)
        row.relative, row.norm = moved.relative, moved.dd**0.5
    return row


def _first_rows(tensor: Tensor, rows: int) -> Tensor:
    size = tensor.size // max(tensor.rows, 1) * rows
    return Tensor(tensor.name, tensor.dtype, (rows, *tensor.shape[1:]), tensor.path, tensor.start, size)


def _equal(one: Tensor, other: Tensor) -> bool:
    step = block_rows(one, 1 << 22)
    return all(
        one.raw(first, min(first + step, one.rows)) == other.raw(first, min(first + step, one.rows))
        for first in range(0, one.rows, step)
    )


def _alone_counts(tensor: Tensor) -> tuple[int, int]:
    nan = inf = 0
    step = block_rows(tensor, 1 << 22)
    for first in range(0, tensor.rows, step):
        found = not_finite(tensor.raw(first, min(first + step, tensor.rows)), tensor.dtype)
        nan, inf = nan + found[0], inf + found[1]
    return nan, inf


def as_dict(row: Row) -> dict[str, Any]:
    """A row for JSON; numbers cut to what they mean."""
    result: dict[str, Any] = {"name": row.name, "kind": row.kind, "verdict": row.verdict}
    if row.rank:
        result |= {"rank": row.rank, "scaling": row.scaling}
    if row.share is not None:
        result |= {"share": round(row.share, 5), "expected_share": round(row.expected or 0.0, 5)}
    if row.norm:
        result |= {"delta_norm": float(f"{row.norm:.5g}"), "relative": float(f"{row.relative:.5g}")}
    if row.off:
        result["elements_off"] = row.off
    if row.detail:
        result["detail"] = row.detail
    return result
