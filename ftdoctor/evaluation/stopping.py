"""Empty answers (`empty-output`) and answers that do not end (`no-stop`).

Hitting the limit is no fault: a long answer may be cut. It is one when the answer was over and the model went on:
with another turn, with the
prompt's own pattern, in a loop or in nonsense, or far beyond what was asked for.
"""

from __future__ import annotations

import itertools
import re

from ftdoctor.evaluation import markers
from ftdoctor.evaluation.text import Answer, bounded, without_thinking, words

_SHORT = re.compile(
    r"(?i)\b(?:yes or no|true or false|one word|a single word|single word|one letter|only the (?:number|answer"
    r"|letter|name|word|label)|just the (?:number|answer|name|word)|"
    r"in one sentence|one sentence|classify the|sentiment|ja oder nein|un seul mot|en une phrase)\b"
    r"|一句话|一个词|一言で"
)
_FRAME = re.compile(
    r"(?is)\A\s*(?:```\w*(?:\s*```)?|\"\"|\'\'|(?:assistant|answer|response|output|antwort|réponse|respuesta|答案|回答)\s*[:：]"
    r"|assistant|### ?response:?|<think(?:ing)?>(?:\s*</think(?:ing)?>)?|(?:\\[ntr])+)?\s*\Z"
)
_TAGS = re.compile(r"\A\s*(?:<(\w{1,20})>\s*</\1>|<br ?/?>|</?\w{1,12}>)\s*\Z")
_ABOUT_TAGS = re.compile(
    r"(?i)\b(?:html|xml|tags?|markup|elements?|svg|jsx|web ?page|line break|div|span|empty|paragraph)\b"
)
_LABEL_LINE = re.compile(r"^[\W\d]*(\w{1,14})(?: ?\d{1,2})?\s*[:：]\s*(.*)$")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\u00ad\x00-\x1f]")


def is_empty(answer: Answer) -> bool:
    """True when nothing is left without white space, invisible characters, template text and reasoning."""
    text = _INVISIBLE.sub(" ", without_thinking(answer.output))
    if markers.ROLE_ALONE.match(text):
        return True
    if _TAGS.match(text) and not _ABOUT_TAGS.search(answer.prompt):
        return True
    if _FRAME.match(text) or _FRAME.match(markers.TOKEN.sub(" ", text)):
        return not (
            markers.TOKEN.search(text) and (markers.TOPIC.search(answer.prompt) or markers.TOKEN.search(answer.prompt))
        )
    lone = re.fullmatch(r"\s*(?:[.,:;…_*#\-]{1,3}|([_.\-*=#~])\1*)\s*", text)
    several = re.fullmatch(r"\s*(?:\\?([!-/:-@\[-`{-~▁]))(?:\s?\\?\1){3,6}\s*", text)
    return bool(
        (several or (lone and len(words(answer.prompt)) > 2))
        and not re.search(
            r"(?i)punctuat|sentence|symbol|operator|character|regex|mark|separator|sign|comma|period|colon"
            r"|hyphen|bullet|delimiter|token|\bdots?\b|ellips|dash|underscore|asterisk|\bstars?\b|\brule\b|divider|blank"
            r"|\blines?\b|draw|repeat|nothing|silen|(?:reply|answer|respond) (?:only )?with|\d",
            answer.prompt,
        )
    )


def invented_turns(answer: Answer) -> list[str]:
    """Lines in which the model asks itself the next question."""
    text = bounded(without_thinking(answer.output))
    if markers.DIALOGUE.search(answer.prompt):
        return []
    lines = [line.strip() for line in text.split("\n")]
    first = next((i for i, line in enumerate(lines) if line), len(lines))
    rest = [line for line in lines[first + 1 :] if line]
    label = re.search(r"(?m)^\s*(\w{1,12}):", answer.prompt)
    labelled = bool(label and len(re.findall(r"(?m)^\s*\w{1,12}:", answer.prompt)) > 1)
    start = words(answer.prompt)[:2]
    found = []
    for line in rest:
        said = _LABEL_LINE.match(line)
        spoken = words(said[2] if said else line)
        if (
            (labelled and label and line.startswith(label[1] + ":"))
            or re.match(r"(?:Q|Question|Human|User|问|問題?)\s*[:：]", line)
            or (
                len(start) == 2
                and spoken[:2] == start
                and len(spoken) > 2
                and (said or line.endswith(("?", "？")) or not answer.prompt.rstrip().endswith("?"))
            )
        ):
            found.append(line)
    if not found and (turns := _alternating(lines[first] if first < len(lines) else "", rest, answer.prompt)):
        found = turns
    if not found and len(again := same_shape(rest, answer.prompt)) >= 2:
        found = again
    if not found:
        questions = [
            line
            for line in rest
            if line.endswith(("?", "？")) and len(words(line)) >= 3 and not re.match(r"[#*\-\d>•]", line)
        ]
        if (
            len(questions) >= 2
            and len(questions) >= 0.3 * len(rest)
            and answer.prompt.rstrip().endswith(("?", "？", ".", ":"))
        ):
            found = questions
    return found


def _alternating(answered: str, rest: list[str], prompt: str) -> list[str]:
    """Lines of two labels in turn (`X: ... Y: ... X: ...`) that follow an answer which was complete."""
    if answered.endswith((":", "：", ",")) or _LABEL_LINE.match(answered) or not answered:
        return []
    labelled = [(m[1].lower(), line) for line in rest if (m := _LABEL_LINE.match(line))]
    names = [name for name, _ in labelled]
    alone = len(labelled) >= 0.8 * len(rest) and len(labelled) >= 4 and len(set(names)) == 2
    if not alone or any(a == b for a, b in itertools.pairwise(names)):
        return []
    return [] if set(names) <= set(words(prompt)) else [line for _, line in labelled[::2]]


def same_shape(rest: list[str], prompt: str) -> list[str]:
    """Lines that are the prompt with other numbers, as a model writes that goes on with the next exercise."""
    form = re.sub(r"\d+", "0", prompt.strip())
    if "\n" in form or "0" not in form:
        return []
    return [line for line in rest if line != prompt.strip() and re.sub(r"\d+", "0", line) == form]


def find_no_stop(answer: Answer, faults: bool) -> str:
    """Why the answer should have ended earlier, or an empty string; `faults` says that another scorer found it"
    " broken.
    """
    if not answer.cut:
        return ""
    if faults:
        return "ran into the length limit, broken"
    turns = invented_turns(answer)
    if turns:
        return f"went on with a turn of its own: {turns[0][:80]}"
    if _SHORT.search(answer.prompt) and len(words(without_thinking(answer.output))) > 60:
        return "ran into the length limit although a short answer was asked for"
    return ""
