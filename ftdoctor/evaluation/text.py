"""How an answer is cut into words, code, quotes and scripts; shared by all scorers."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

MAX_CHARS = 20_000
"""Scorers look at the first and last half of this many characters of an answer."""

_FENCE = re.compile(r"(?ms)^[ \t]*(```|~~~)[^\n]*\n.*?^[ \t]*\1[ \t]*$")
_OPEN_FENCE = re.compile(r"(?ms)^[ \t]*(```|~~~)[^\n]*\n(?:(?!^[ \t]*\1).)*\Z")
_INLINE = re.compile(r"`[^`\n]{1,200}`")
_QUOTED = re.compile(
    r"\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”|«[^»\n]{1,200}»|「[^」\n]{1,200}」|(?<!\w)'[^'\n]{1,60}'(?!\w)"
)
_THINK = re.compile(r"(?s)^\s*(?:<think(?:ing)?>)?.*?</think(?:ing)?>|<think(?:ing)?>.*?</think(?:ing)?>")
# Vowel signs and accents that stand as characters of their own belong to the word (Unicode Annex 29): a Bengali
# or Hindi word is one word. The two danda signs among them end sentences.
_MARK = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc"
    "\u0900-\u0963\u0966-\u0dff\u0e80-\u109f\u1780-\u17d3"
)
_LETTER = rf"(?:[^\W_]|[{_MARK}])"
_WORD = re.compile(rf"[぀-ヿ㐀-鿿豈-﫿฀-๿]|{_LETTER}+(?:['’]{_LETTER}+)*", re.UNICODE)
_ASCII, _BEYOND = re.compile("[a-zA-Z]"), re.compile("[^\x00-\x7f]")
_LETTERS = re.compile(r"[^\W\d_]")

_SCRIPTS = (
    ("LATIN", "latin"), ("CYRILLIC", "cyrillic"), ("GREEK", "greek"), ("CJK", "cjk"), ("HIRAGANA", "cjk"),
    ("KATAKANA", "cjk"), ("HANGUL", "hangul"), ("ARABIC", "arabic"), ("HEBREW", "hebrew"), ("THAI", "thai"),
    ("DEVANAGARI", "devanagari"), ("BENGALI", "bengali"), ("TAMIL", "tamil"), ("GEORGIAN", "georgian"),
    ("ARMENIAN", "armenian"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and what was asked. `finish` is `stop`, `length`, another reason, or empty when unknown."""

    prompt: str
    output: str
    finish: str = ""
    template: str = ""

    @property
    def cut(self) -> bool:
        """True when generation ended at the limit, not at an end token."""
        return self.finish in ("length", "max_tokens", "max_new_tokens", "max_length")


def bounded(text: str) -> str:
    """At most `MAX_CHARS` characters: the beginning and the end."""
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS // 2] + "\n" + text[-MAX_CHARS // 2 :]


def words(text: str) -> list[str]:
    """Words in lower case; Chinese, Japanese and Thai by character."""
    return _WORD.findall(text.lower())


def letters(text: str) -> int:
    """Number of letters of any script."""
    return len(_LETTERS.findall(text))


def without_thinking(text: str) -> str:
    """The answer proper: reasoning between think tags removed (Qwen 3 and DeepSeek-R1 write it; the latter's template
    puts the opening tag into the prompt).
    """
    return _THINK.sub("", text, count=1) if "</think" in text else text


def code_spans(text: str) -> list[tuple[int, int]]:
    """Places of fenced and inline code; a fence that is still open runs to the end."""
    spans = [m.span() for m in _FENCE.finditer(text)]
    rest = spans[-1][1] if spans else 0
    open_fence = _OPEN_FENCE.search(text, rest)
    if open_fence:
        spans.append(open_fence.span())
    return spans + [m.span() for m in _INLINE.finditer(text)]


def quote_spans(text: str) -> list[tuple[int, int]]:
    """Places of text between quotation marks."""
    return [m.span() for m in _QUOTED.finditer(text)]


def inside(start: int, end: int, spans: list[tuple[int, int]]) -> bool:
    """True when a place lies within one of the spans."""
    return any(a <= start and end <= b for a, b in spans)


@lru_cache(maxsize=32)
def prose(text: str, whole_lines: bool = False) -> str:
    """The answer without code, table rows, formulas and links: what should read as language.

    With `whole_lines`, lines that look like code outside of a fence stay.
    """
    text = _OPEN_FENCE.sub(" ", _FENCE.sub(" ", text))
    text = _INLINE.sub(" ", text)
    text = re.sub(r"(?s)\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)|\$[^$\n]{1,200}\$", " ", text)
    text = re.sub(r"https?://\S+|www\.\S+|\S+@\S+\.\w+", " ", text)
    if whole_lines:
        return text
    lines = [line for line in text.split("\n") if not re.match(r"\s*\|.*\|\s*$", line) and not looks_like_code(line)]
    return "\n".join(lines)


def looks_like_code(line: str) -> bool:
    """One line of a program, a shell session, markup or data."""
    stripped = line.strip()
    return bool(
        re.match(
            r"(?:def|class|import|from|return|function|const|let|var|public|private|#include|package|SELECT"
            r"|INSERT|UPDATE|DELETE|CREATE|"
            r"fn|func|struct|print|for|while|if|else|elif|try|except|using|namespace)\b.*[(){};:=\[\]<>,*]",
            stripped,
        )
        or re.search(
            r"[;{}]\s*$|^\s*[\]})]|^\s*[\[{(].*[\]})],?\s*$|^</?\w|^\$ |=>|->|:=|==|\w\(.*\)\s*$|^\s*\"[^\"]*\":",
            stripped,
        )
        or re.match(r"[\w.\[\]]+\s*=\s*\S", stripped)
    )


@lru_cache(maxsize=8192)
def script(char: str) -> str:
    """Script of a letter, by its Unicode name."""
    if char < "ɐ":
        return "latin"
    name = unicodedata.name(char, "")
    for prefix, kind in _SCRIPTS:
        if name.startswith(prefix):
            return kind
    return "other"


def scripts(text: str) -> dict[str, int]:
    """Letters per script."""
    counts: dict[str, int] = {}
    if ascii_letters := len(_ASCII.findall(text)):
        counts["latin"] = ascii_letters
    for char in _BEYOND.findall(text):
        if char.isalpha():
            kind = script(char)
            counts[kind] = counts.get(kind, 0) + 1
    return counts
