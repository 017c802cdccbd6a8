"""The answer repeats the prompt (`prompt-repeated`).

Overlap is measured in words: the longest run of the prompt's words that stands in the answer (longest common
substring), as a share of
the prompt. Copying the *material* (the text to correct, to quote, to repeat) is what many prompts ask for; copying
the instruction is not. So
the run must hold the prompt's beginning, or the answer must be nothing but a copy where the task was to change the
text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ftdoctor.evaluation.languages import IMPERATIVE, language
from ftdoctor.evaluation.markers import strip_markers
from ftdoctor.evaluation.text import Answer, bounded, looks_like_code, without_thinking, words

_COPY = re.compile(
    r"(?i)\b(?:repeat|echo|verbatim|word for word|copy|quote|recite|exactly as|as is|this (?:entire"
    r"|whole) (?:message|sentence|prompt)|say exactly|"
    r"parrot|proofread|reproduce|wiederhol\w*|répét\w*|répèt\w*|repit\w*|output the following"
    r"|print the following|write the following)\b|重复|复述|繰り返"
)
_CHANGE = re.compile(
    r"(?i)^\W*(?:please |can you |could you |bitte )?(?:translate|summari[sz]e|shorten|paraphrase|rephrase|explain"
    r"|classify|tl;?dr|answer|convert|simplify|übersetze?n?|fasse|kürze|traduis|traduire|résume[rz]?|traduce|traducir"
    r"|resume|resumir|traduza|traduci|riassumi|vertaal|przetłumacz|переведи\w*|перескажи|сократи)\b"
    r"|翻译|翻譯|译成|总结|概括|訳し|要約|번역|요약|ترجم|لخص|अनुवाद"
)
_INTO = re.compile(r"(?i)\b(?:(?:in)?to|ins?|en|al|au|в|на)\s+(?:das |dem |el |l')?(\w+)")
_LANGUAGES = {
    "en": ("english", "englische", "anglais", "inglés", "английский"),
    "de": ("german", "deutsche", "deutsch", "allemand"),
    "fr": ("french", "français", "französische"), "es": ("spanish", "español", "spanische"),
    "it": ("italian", "italiano", "italienische"), "pt": ("portuguese", "português"), "nl": ("dutch", "nederlands"),
}  # fmt: skip
_BLANK = re.compile(r"_{2,}|\[ *\]|\.{4,}|…\W*\Z")
_LABEL = re.compile(
    r"(?i)^\s*(?:q|question|prompt|instruction|input|user|human|query|task)\s*[:：]\s*|\s*(?:\n|^)(?:a|answer"
    r"|assistant|response)\s*[:：]?\s*$"
)
MAX_WORDS = 400
_LEADING = 3  # words of the instruction itself


@dataclass(frozen=True, slots=True)
class Overlap:
    """The longest common run of words: its length, its place in both texts (in words), and its share of the"
    " prompt.
    """

    length: int
    in_prompt: int
    in_answer: int
    share: float


def overlap(prompt: list[str], answer: list[str]) -> Overlap:
    """Longest common run of two word lists, at most `MAX_WORDS` words of each."""
    left, right = prompt[:MAX_WORDS], answer[: 2 * MAX_WORDS]
    places: dict[str, list[int]] = {}
    for j, word in enumerate(right):
        places.setdefault(word, []).append(j)
    best, at_left, at_right = 0, 0, 0
    previous: dict[int, int] = {}
    for i, word in enumerate(left):
        current: dict[int, int] = {}
        for j in places.get(word, ()):
            length = previous.get(j - 1, 0) + 1
            current[j] = length
            if length > best:
                best, at_left, at_right = length, i - length + 1, j - length + 1
        previous = current
    return Overlap(best, at_left, at_right, best / len(left) if left else 0.0)


def find_echo(answer: Answer) -> str:
    """Why the answer repeats the prompt, or an empty string."""
    prompt = _LABEL.sub("", _LABEL.sub("", answer.prompt.strip()))
    text = strip_markers(without_thinking(bounded(answer.output)))
    asked, given = words(strip_markers(prompt)), words(text)
    if len(asked) < 2 or not given:
        return ""
    if _COPY.search(prompt) or (looks_like_code(prompt.split("\n")[0]) and len(asked) > 2):
        return ""
    if _BLANK.search(prompt) and len(given) > len(words(_BLANK.sub(" ", prompt))):
        return ""  # a gap that the answer fills
    said = " ".join(given).count(" ".join(asked)) if len(asked) >= 3 else 0
    if said >= 2 and said * len(asked) >= 0.4 * len(given):
        return f"the prompt stands in the answer {said} times"
    found = overlap(asked, given)
    begins = found.in_prompt <= (0 if len(asked) < 8 else 1)
    if begins and (found.share >= 0.9 or (found.length >= 20 and found.share >= 0.5)):
        if len(asked) < 4 and len(given) > len(asked):
            raw = text.strip().lower()
            order = IMPERATIVE.match(prompt) and raw.startswith(prompt.strip().rstrip(".").lower())
            if not order and (not raw.startswith(prompt.strip().lower()) or prompt.strip()[-1:] not in "?？"):
                return ""
        return (
            ""
            if _dressed(prompt, text, found, given)
            else f"{found.length} of the prompt's {len(asked)} words stand in the answer in one run"
        )
    if (
        _CHANGE.search(prompt)
        and len(given) >= 6
        and found.length >= 0.95 * len(given)
        and found.length >= 0.7 * _material(prompt, asked)
        and not _already(prompt, text)
        and _plain(text) in _plain(prompt)  # the same words in another format are the work done
    ):
        return "the answer is a copy of the text it was to work on"
    return ""


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?\"'“”")


def _material(prompt: str, asked: list[str]) -> int:
    """Words of the text that is to be worked on: what follows the first colon, else all but the instruction."""
    _, colon, rest = prompt.replace("：", ":").partition(":")
    return len(words(rest)) if colon and rest.strip() else len(asked) - _LEADING


def _already(prompt: str, text: str) -> bool:
    """True when the text to translate is in the language asked for, so that a copy is the right answer."""
    found = language(text, hits=1, lead=1)
    return any(name.lower() in _LANGUAGES.get(found, ()) for name in _INTO.findall(prompt)) if found else False


def _dressed(prompt: str, text: str, found: Overlap, given: list[str]) -> bool:
    """True when the prompt is repeated as a title, in quotes, or as a sentence that the answer goes on with."""
    again = len(given) - found.length
    start = prompt.strip()[:24]
    place = text.lower().find(start.lower())
    if place < 0 or again < 4:
        return False
    follows = text[place + len(prompt.strip().rstrip("?？")) :]
    if prompt.strip()[-1:] in "?？" and follows[:1] in (" ", ",") and text.lower().count(start.lower()) == 1:
        return True  # the question's words as the subject of a statement
    line_start = text.rfind("\n", 0, place) + 1
    before = text[line_start:place]
    if text.lower().count(prompt.strip().lower()[:80]) > 1:
        return False
    if re.search(r"(?:^|\s)#+\s*$|\*\*\s*$|>\s*$|[\"“«「'`]$", before):
        return True
    if before.strip() and not re.fullmatch(
        r"\W*(?:question|q|prompt|title|instruction|task|user|human|input|query)?\W*", before.strip(), re.IGNORECASE
    ):
        return prompt.strip()[-1:] not in "?？"
    if prompt.rstrip()[-1:] not in ".?!:。？！：":  # an unfinished sentence that the answer completes
        if follows.lstrip()[:1] in ".!。！":
            return False  # a sentence of its own
        line = text[place : text.find("\n", place) if "\n" in text[place:] else len(text)]
        return len(words(line)) > found.length + 1
    return False
