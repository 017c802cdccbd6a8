"""Template text in the answer (`special-token-leak`).

Tokens that a template puts around turns reach the text when generation does not stop on them, when they were never
added to the
tokenizer, or when the template was applied twice. An answer may speak about them: in code, in quotes, or because it
was asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ftdoctor.evaluation import markers
from ftdoctor.evaluation.text import Answer, code_spans, inside, quote_spans

_SENTENCE_END = re.compile(r"[.!?。！？…)\]}`\"'”»」\d]\s*\Z")
_NEAR = 70
_WANTED = re.compile(r"(?i)\b(?:format|templates?|examples?|alpaca|vicuna|guanaco|fine-?tun\w*|data ?sets?|samples?)\b")
# Prompts whose answer may well begin with "Output:"
_PRODUCES = re.compile(
    r"(?i)output|respon|print|\brun\b|code|program|function|command|result|return|input|format|example|[(){};=]|if-?then"
)
_MARKUP = re.compile(
    r"</?(?:p|div|span|ul|ol|li|table|tr|td|svg|html|body|b|i|em|strong|br|h[1-6]|path|rect|circle|del|del|a)\b"
)


def leaked(answer: Answer, tokens: Sequence[str] = ()) -> list[str]:
    """Template texts that stand in the answer as text, in order; `tokens` are the tokenizer's own special tokens."""
    text = answer.output
    code, quotes = code_spans(text), quote_spans(text)
    topical = bool(markers.TOPIC.search(answer.prompt) or markers.TOKEN.search(answer.prompt))
    found: list[tuple[int, str]] = []
    for match in _tokens(text, tokens):
        if not _mentioned(answer, text, match, code, quotes, topical):
            found.append((match.start(), match.group()))
    dialogue = bool(markers.DIALOGUE.search(answer.prompt))
    for match in markers.HEADERS.finditer(text):
        if not (topical and _WANTED.search(answer.prompt)) and not inside(*match.span(), code):
            found.append((match.start(), match.group().strip()))
    if not topical:
        found += _responses(answer, text, code)
    if not dialogue and not topical:
        found += [
            (m.start(), m.group().strip()) for m in markers.ROLE_WORD.finditer(text) if not inside(*m.span(), code)
        ]
        found += [(m.start(), m.group().strip()) for m in markers.HELPER_START.finditer(text)]
        if not _PRODUCES.search(answer.prompt):
            found += [(m.start(), m.group().strip()) for m in markers.OUTPUT_START.finditer(text)]
        found += [(m.start(), "user ... assistant") for m in markers.STRIPPED_TURNS.finditer(text)]
        found += [(m.start(), m.group().strip()) for m in markers.USER_TURN.finditer(text)
                  if m.start() > 0 and not inside(*m.span(), code)]  # fmt: skip
        found += [(m.start(), "assistantfinal") for m in markers.HARMONY.finditer(text)]
    if not topical and not dialogue and not re.search(r"(?i)json|api|messages?|\brole|format", answer.prompt):
        found += [(m.start(), m.group().strip()) for m in markers.MESSAGE.finditer(text)]
    pieces = markers.PIECES.findall(text)
    if len(pieces) >= 3 and not topical:
        found.append((text.find(pieces[0]), pieces[0][0]))
    return [name for _, name in sorted(found)]


def _tokens(text: str, tokens: Sequence[str]) -> list[re.Match[str]]:
    own = [re.escape(token) for token in tokens if len(token) > 2 and not token.isalpha()]
    pattern = re.compile("|".join([markers.TOKEN.pattern, *own])) if own else markers.TOKEN
    return list(pattern.finditer(text))


def _mentioned(
    answer: Answer,
    text: str,
    match: re.Match[str],
    code: list[tuple[int, int]],
    quotes: list[tuple[int, int]],
    topical: bool,
) -> bool:
    """True when the answer speaks of the token, or it is markup."""
    token, before, after = match.group(), text[: match.start()], text[match.end() :]
    bare = before.rstrip("\n `\"'")
    ends = not after.strip()
    if token in ("<s>", "</s>", "<mask>") and (
        _MARKUP.search(text) or re.search(r"(?i)html|svg|strike", answer.prompt)
    ):
        return not (ends and token == "</s>" and "<s>" not in before)
    if token == "</s>" and re.search(r"<s>[^<>\n]{1,80}\Z", before) and not ends and bare:
        return True  # struck-through text
    if token == "<s>" and before.strip() and re.match(r"[^<>\n]{1,80}</s>\s*\S", after):
        return True
    if token in ("</assistant>", "</model>") and re.search(rf"<{token[2:-1]}\b", before):
        return True  # an element of that name
    if inside(*match.span(), quotes) or inside(*match.span(), code):
        return not ends
    if topical:
        whole = not markers.TOKEN.sub("", text).strip(" \n,.;")
        return whole or (
            not (ends and _SENTENCE_END.search(before)) and not re.search(r"<\|im_start\|>\w+\n", token + after[:12])
        )
    if ends or not before.strip():
        return False
    sentence = before[-_NEAR:].split("\n")[-1] + " " + after[:_NEAR].split("\n")[0]
    sentence = markers.TOKEN.sub(" ", sentence)
    return bool(
        before[-1:] in " ("
        and re.search(
            r"(?i)\b(?:tokens?|tags?|markers?|delimiters?|templates?|tokenizer|placeholder|symbol"
            r"|padding)\b",
            sentence,
        )
    )


def _responses(answer: Answer, text: str, code: list[tuple[int, int]]) -> list[tuple[int, str]]:
    """`### Response:` and its kin are headings too: they count where a template would put them."""
    found = [m for m in markers.RESPONSE.finditer(text) if not inside(*m.span(), code)]
    names = [m.group().strip(" \n.!?#:") for m in found]
    alpaca = answer.template.lower().startswith(("alpaca", "dolly", "wizard", "vicuna_v0", "deepseek"))
    kept = []
    for i, match in enumerate(found):
        name = names[i]
        first = not text[: match.start()].strip()
        again = names.count(name) > 1 and name in ("Response", "Input", "Output")
        if (name == "Response" and (first or alpaca or again)) or (alpaca and (name in ("Input", "Output") or first)):
            kept.append((match.start(), match.group().strip()))
    return kept
