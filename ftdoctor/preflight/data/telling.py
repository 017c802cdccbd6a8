"""What `ftdoctor preprocess` says of the prepared samples: (label, text) for each line, fitted to the screen elsewhere.

A line without a label is quoted and has its width already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ftdoctor.preflight import plan
from ftdoctor.preflight.data import parity

BARS = " ▁▂▃▄▅▆▇█"
PLAIN = " .:-=+*#@"  # for --ascii
WIDTH = 32
Line = tuple[str, str]


def samples(
    found: Mapping[str, Any], data: Mapping[str, Any], raw_rows: int | None = None, bars: str = BARS
) -> list[Line]:
    """Samples, rows lost on the way, lengths, what packing makes of them, the split."""
    rows = int(found["rows"])
    if not rows:
        return [("samples", "none")]
    length = int(plan.number(data.get("sequence_len")) or 0)
    share = 100 * found["trained"] / max(1, found["tokens"])
    of = ""
    if raw_rows is not None:
        of = f" of {raw_rows:,} rows ({max(0, raw_rows - rows):,} dropped)"
    made = [("samples", f"{rows:,}{of}, {found['tokens']:,} tokens, {share:.0f} % of them trained")]
    counts = found["histogram"]
    steps = [sum(counts[n * len(counts) // WIDTH : (n + 1) * len(counts) // WIDTH]) for n in range(WIDTH)]
    top = max(1, *steps)
    drawn = "".join(bars[0 if not n else max(1, round(8 * n / top))] for n in steps)
    last = f"{length:,}" if length else f"{found['step'] * len(counts):,}"
    made.append(("lengths", f"0 |{drawn}| {last}; median {found['median']:,}, longest {found['longest']:,}"))
    if length:
        alone = 100 * found["tokens"] / (rows * length)
        full = 100 * found["tokens"] / (max(1, found["bins"]) * length)
        packs = f"{found['bins']:,} sequences, {full:.0f} % full"
        on = data.get("sample_packing") is True
        told = f"{packs}; without it {rows:,}, {alone:.0f} % full"
        made.append(("packing", told if on else f"off: {alone:.0f} % full; with it {packs}"))
    if found["held"]:
        leak = f"{found['leak']:,} of them trained as well" if found["leak"] else "none of them trained"
        made.append(("held out", f"{found['held']:,} samples, {leak}"))
    return made


def proof(
    tokenizer: Mapping[str, Any],
    found: Mapping[str, Any],
    problem: str,
    scanned: Mapping[str, Any],
    ends: Sequence[int],
    width: int = 74,
) -> list[Line]:
    """The proof with its first difference in lines of at most `width`, and the end of an answer."""
    made = []
    if ends and scanned["rows"]:
        named = " or ".join((tokenizer.get("names") or {}).get(str(i), str(i)) for i in ends)
        taught = scanned["rows"] - scanned["masked"]
        ended = taught - scanned["endless"] - scanned["cut"]
        made.append(("ends", f"{ended:,} of {taught:,} trained samples learn to write {named}"))
    if problem:
        return [*made, ("parity", f"not judged: {problem}")]
    if not tokenizer.get("template"):
        return [*made, ("parity", "the tokenizer has no chat template: ask with the prompt that was trained")]
    if not found.get("checked"):
        why = found.get("failed") or "no sample has a question and an answer"
        return [*made, ("parity", f"not judged: {why}")]
    checked, apart = found["checked"], found["apart"]
    if not apart:
        what = "what stands before each answer" if found.get("header") else "every token before each answer"
        told = f"{checked:,} samples, {found['answers']:,} answers: {what} is what inference will send"
        return [*made, ("parity", told)]
    if by_system := found.get("by_system"):
        told = f"{by_system:,} of {checked:,} samples are what inference will send when the system message is "
        made.append(("parity", f"{told}{found['system']!r}"))
    if not (first := found["first"]):
        return made
    apart -= by_system or 0
    told = (
        f"{apart:,} of {checked:,} samples differ from apply_chat_template(..., add_generation_prompt=True). "
        f"Sample {first['row']:,}, - trained, + inference, with number of tokens and ids:"
    )
    return [*made, ("parity", told), *(("", line) for line in parity.diff_lines(first, width))]
