"""Loops: the answer repeats itself until the limit (`repetition-loop`).

- `rep_n`, `distinct_n`: share of repeated and of unique n-grams (Welleck et al. 2020, "Neural Text Generation with
Unlikelihood Training";
  Li et al. 2016, "A Diversity-Promoting Objective Function").
- `compression_ratio`: zlib, as Whisper does to find looping transcripts (Radford et al. 2022; there the limit is 2.4
for speech).
- `tail_period`: the longest end of the text that is one unit over and over, by the Z function (Gusfield 1997), exact
and in linear time.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from ftdoctor.evaluation.markers import TOKEN
from ftdoctor.evaluation.text import Answer, bounded, code_spans, letters, prose, words

TAIL = 4000
_ROW = re.compile(r"(?i)[ \t]*(?:[-*][ \t]*)?\w+[ \t]*\d+[:.)]|[^,\n]*,[^,\n ]*,")
# Words that count; a sentence that is said again with the next of them is said again
_ORDINAL = re.compile(
    r"(?i)\b(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|\w+teenth|twentieth|thirtieth|next|another"
    r"|1st|2nd|3rd|\d+th)\b"
)
_NUMBER_WORDS = "three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
_COUNT = {word: n for n, word in enumerate(_NUMBER_WORDS.split(), 3)}
_COUNT |= {"dozen": 12, "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
ASKED = re.compile(
    r"(?i)\b(?:repeat\w*|\d+ ?(?:times|x)\b|times|over and over|again and again|chant|mantra|laugh|hundred"
    r"|thousand|forever|wiederhol\w*|"
    r"\d+ ?mal|répèt\w*|\d+ fois|repit\w*|\d+ veces)\b|重复|重複|[\d一二三四五六七八九十百]+[次遍]|繰り返"
)
VERSE = re.compile(
    r"(?i)\b(?:poem|lyrics?|song|chorus|refrain|verse|hymn|rhyme|rap|sing|villanelle|litany|ballad|prayer|haiku"
    r"|gedicht|lied|poème|chanson|"
    r"poema|canción|jingle|lullaby|onomatopoeia|beatbox|scream|sound|outro|intro|tune|melody|psalm|ode|nursery|sonnet|limerick|carol"
    r"|anthem|stanzas?|couplets?|choir|gospel|drum|beat|rhythm|riff|tab)\b|诗|歌"
)
PATTERN = re.compile(
    r"(?i)\b(?:zeros?|ones?|matrix|array|vectors?|tables?|csv|digits?|decimal\w*|expansion|binary|hex\w*|list"
    r"|pattern|ascii|art|draw\w*|"
    r"grid|divider|separator|line|bytes?|bits?|stars?|json|rows?|numbers?|sequence|dna|padding|string|buffer"
    r"|board|map|bar|chart|emoji|fill\w*|fasta|genom\w*|nucleotides?|codons?|rna|poly-?\w+|dump|"
    r"decimals?|pi|fraction|divide|\w*1/\d+\w*)\b|零|图"
)


@dataclass(frozen=True, slots=True)
class Loop:
    """The end of a text that repeats: the unit (as written), how often it fits, and the characters it covers."""

    unit: str
    repeats: float
    chars: int


def rep_n(tokens: Sequence[str], n: int = 4) -> float:
    """1 - unique n-grams / n-grams; 0 for texts that are shorter than n + 1 words."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1.0 - len(set(grams)) / len(grams) if len(grams) > 1 else 0.0


def distinct_n(tokens: Sequence[str], n: int = 2) -> float:
    """Unique n-grams / n-grams; 1 for texts that are shorter than n + 1 words."""
    return 1.0 - rep_n(tokens, n)


def compression_ratio(text: str) -> float:
    """Bytes of the text per byte of its zlib form; 1 for an empty text."""
    data = text.encode("utf-8", "replace")
    return len(data) / len(zlib.compress(data, 6)) if data else 1.0


def z_values(text: Sequence[object]) -> list[int]:
    """Z function: for each place, how long the text from there equals its beginning."""
    n = len(text)
    z = [0] * n
    left = right = 0
    for i in range(1, n):
        k = min(right - i, z[i - left]) if i < right else 0
        while i + k < n and text[k] == text[i + k]:
            k += 1
        z[i] = k
        if i + k > right:
            left, right = i, i + k
    return z


def tail_period(text: str, least: float = 2.0) -> Loop | None:
    """The repetition that covers most of the text's end, or None; the shortest unit wins among equals."""
    tail = text.rstrip()[-TAIL:]
    reverse = tail[::-1]
    best: Loop | None = None
    for period, match in enumerate(z_values(reverse)):
        chars = period + match
        if period and chars >= least * period and (best is None or chars > best.chars * 1.05):
            best = Loop(tail[len(tail) - period :], chars / period, chars)
    return best


def duplicate_share(text: str) -> tuple[float, int]:
    """Share of sentences and lines (of four words and more) that were said before, and how many there are."""
    units = [
        " ".join(words(_ORDINAL.sub("0", re.sub(r"^\s*(?:\d+[.)]|[-*•])\s*", "", unit))))
        for unit in re.split(r"[\n.!?。！？।]+", text)
    ]
    units = [unit for unit in units if unit.count(" ") >= 3 and letters(unit) >= 10]
    return (1.0 - len(set(units)) / len(units), len(units)) if units else (0.0, 0)


def find_loop(answer: Answer) -> str:
    """Why the answer is a loop, or an empty string."""
    text = bounded(answer.output)
    asked = bool(ASKED.search(answer.prompt)) and not _too_often(answer)
    if asked and not (answer.cut and len(text) > 20 * max(len(answer.prompt), 100)):
        return ""
    verse = bool(VERSE.search(answer.prompt)) or _counts_down(text)
    if gap := re.search(r"\n(?:[ \t]*\n){39,}", text):
        return f"{gap.group().count(chr(10))} empty lines in a row"
    normal = re.sub(r"(?m)^[ \t]*\d+[.):][ \t]*", "#", text)
    loop = tail_period(normal)
    if loop is not None and not answer.cut and round(loop.repeats) in _numbers(answer.prompt):
        return ""  # as often as was asked for
    twice = tail_period(normal, 1.95) if answer.cut and loop is None and len(normal) < TAIL else None
    if (
        twice
        and twice.chars >= 0.95 * len(normal.strip())
        and letters(twice.unit) >= 30
        and not (verse or code_spans(text))
    ):
        return f"all of it twice: `{' '.join(twice.unit.split())[:60]}`"
    if loop is not None and (why := _tail(answer, loop, text, verse)):
        return why
    if answer.cut and not code_spans(text):
        loose = tail_period(re.sub(r"\d+", "0", normal))
        rows = re.search(
            r"(?i)\b(?:rows?|insert|csv|generate|list|table|data|schedule|logs?|numbers?|names?|ids?)\b", answer.prompt
        )
        record = bool(loose and re.search(r"0[-:./]0[-:./]0", loose.unit + loose.unit))  # a date, a time, an address
        if loose is not None and loose.repeats >= 8 and letters(loose.unit) >= 20 and not (rows or verse or record):
            return f"the same {letters(loose.unit)} letters {loose.repeats:.0f} times, with other numbers"
    lines = [line for line in prose(TOKEN.sub(" ", text)).split("\n") if letters(line) >= 4 and not _ROW.match(line)]
    spoken = [word for word in words("\n".join(lines)) if len(word) > 1 or not word.isascii() or word in "ai"]
    share, count = duplicate_share(prose(text))
    least = (0.5, 6) if answer.cut and not verse else (0.7, 10) if verse else (0.6, 8)
    if share >= least[0] and count >= least[1]:
        return f"{share:.0%} of {count} sentences were said before"
    recent = spoken[-300:]
    limit = 0.55 if answer.cut else 0.75
    if len(recent) >= 50 and rep_n(recent) >= limit + 0.2 * verse and compression_ratio(prose(text)) >= 3.0:
        return f"{rep_n(recent):.0%} of its 4-grams are repeated"
    phrases = [word for word in spoken if not word.isdigit()][-60:]
    few = spoken[-40:]
    plain = not (verse or code_spans(text) or PATTERN.search(answer.prompt))
    if answer.cut and plain and len(few) >= 24 and distinct_n(few, 1) <= 0.34 and len(spoken) >= 6 * len(lines):
        return f"its last {len(few)} words hold {len(set(few))} different ones"
    if answer.cut and not verse and (same := _same_start(text)):
        return f"sentence after sentence begins with `{same}`"
    running = len(spoken) >= 6 * len(lines)  # sentences, not a list of labels
    if (
        answer.cut
        and running
        and len(phrases) >= 28
        and rep_n(phrases, 3) >= 0.55
        and not (verse or PATTERN.search(answer.prompt))
    ):
        return f"{rep_n(phrases, 3):.0%} of the last 3-grams are repeated"
    if (
        answer.cut
        and running
        and len(lines) == text.strip().count("\n") + 1
        and 12 <= len(spoken) < 24
        and distinct_n(spoken, 1) <= 0.45
        and not verse
    ):
        return f"its {len(spoken)} words hold {len(set(spoken))} different ones"
    if answer.cut and len(spoken) >= 24 and distinct_n(spoken[-40:], 1) < 0.2 and not verse:
        return f"its last {min(40, len(spoken))} words hold {len(set(spoken[-40:]))} different ones"
    return ""


def _same_start(text: str, size: int = 6, least: int = 5) -> str:
    """The words with which the last sentences of a line begin, one after the other."""
    sentences = [words(part)[:size] for part in re.split(r"(?<=[.!?])[ \t]+", text.strip().rpartition("\n")[2])]
    last = [tuple(start) for start in sentences if len(start) == size][-least:]
    return " ".join(last[0]) if len(last) == least and len(set(last)) == 1 else ""


def _numbers(prompt: str) -> set[int]:
    """Numbers of the prompt, in figures or as English words."""
    said = {int(n) for n in re.findall(r"\b\d{1,4}\b", prompt)}
    return said | {_COUNT[word] for word in words(prompt) if word in _COUNT}


def _counts_down(text: str) -> bool:
    """True for a counting rhyme: each paragraph begins with a number one below that of the one before."""
    numbers = [int(n) for n in re.findall(r"(?m)(?:\A|\n[ \t]*\n)(\d{1,4})\b", text)]
    return len(numbers) >= 4 and all(a == b + 1 for a, b in itertools.pairwise(numbers))


def _too_often(answer: Answer) -> bool:
    asked = [int(n) for n in re.findall(r"\b(\d{1,4}) ?(?:times|x|mal|fois|veces|次|遍)", answer.prompt)]
    loop = tail_period(answer.output)
    return bool(asked and answer.cut and loop and loop.repeats > 2 * max(asked) + 5)


def _tail(answer: Answer, loop: Loop, text: str, verse: bool) -> str:
    count, unit = letters(loop.unit), " ".join(loop.unit.split())[:60]
    why = f"`{unit}` {loop.repeats:.0f} times at the end"
    if TOKEN.search(loop.unit * 2) and loop.repeats >= 3 and loop.chars >= 12:
        return why
    wants_pattern = bool(PATTERN.search(answer.prompt))
    if count == 0:
        last = text.rstrip().rpartition("\n")[2]
        hollow = answer.cut and loop.repeats >= 12 and not re.sub(r"[|\s]", "", loop.unit)  # rows without any cell
        if hollow and not wants_pattern and not re.search(r"(?i)empty|blank|template", answer.prompt):
            return why
        if last.lstrip().startswith(("|", "+-", "+=")) or wants_pattern or (code_spans(text) and not answer.cut):
            return ""
        digits = any(char.isdigit() for char in loop.unit)
        least = (30 if digits else 24) if answer.cut else 60 if digits else 80
        if not answer.cut and not digits and "\n" in loop.unit:
            return ""
        if not answer.cut and set(loop.unit) <= set("-=_*.~# \n─━═"):
            return ""
        return why if loop.chars >= least and loop.repeats >= 8 else ""
    if len(loop.unit) <= 2 and loop.chars >= (24 if answer.cut else 60) and not wants_pattern:
        return "" if verse and not answer.cut else why
    if answer.cut:
        if loop.chars >= 30 and loop.repeats >= (8 if verse or wants_pattern else 4):
            return why
        if loop.chars >= 90 and loop.repeats >= 3 and not verse:
            return why
        if loop.chars >= 150 and loop.repeats >= 2.4 and not (verse or wants_pattern or code_spans(text)):
            return why
        short = (loop.chars >= 30 and loop.repeats >= 3.5) or (loop.chars >= 55 and loop.repeats >= 2.9)
        if short and not (verse or wants_pattern or code_spans(text)) and letters(loop.unit) >= 5:
            return why
        return why if loop.chars >= 300 and loop.repeats >= 2 and not verse else ""
    if loop.repeats >= (16 if verse or wants_pattern else 10) and loop.chars >= 80:
        return why
    return why if loop.repeats >= 5 and loop.chars >= 200 and not verse and not code_spans(text) else ""
