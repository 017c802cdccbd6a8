"""An answer that leaves its language or its script (part of `incoherent-output`), told without a model.

Scripts are counted; languages of the Latin alphabet are told by their small words, which differ enough to know a
language by a single sentence (Grefenstette 1995, "Comparing two language identification schemes").
"""

from __future__ import annotations

import re

from ftdoctor.evaluation.text import Answer, quote_spans, scripts, words

SMALL = {
    "en": "the and of is are was were with that this it you your they have has had will would can which from not by be"
    " been there their what when how who should could some than then into its to do i a on no as so an or for but her"
    " his our may shall such",
    "de": "der und das ist nicht ein eine einen einem einer mit sich auf für von dem den im zu zum zur wird werden sind"
    " auch oder aber wenn wie ich sie wir kann dass nach bei aus durch die du es er so da",
    "fr": "les le des et est une dans pour pas que qui sur avec au aux du ce cette il elle nous vous sont être mais ou"
    " où plus par ses leur c'est d'une qu'il de la en son se un on ne",
    "es": "el los las y es una por con para que del al se su sus como más pero lo este esta son está muy hay fue"
    " también cada donde cuando porque de la en no un",
    "it": "il gli di che è una per non con del della dei delle sono nel nella alla anche ma come questo più viene"
    " essere i la al lo da si un le",
    "pt": "os um uma não com para que do da dos das em no na ao é são mais mas como também você ele ela isso pelo pela"
    " de se por a o as",
    "nl": "de het een van en niet zijn met voor dat op er ook maar wordt naar bij dit deze ik je hij zij kan uit is was"
    " die of om over",
    "pl": "się nie jest na do że i w z to jak oraz po dla od są przez ale który która",
    "sv": "och att det är som på av för med inte den har till om var ett kan så en i de",
}
_SETS = {name: frozenset(text.split()) for name, text in SMALL.items()}
_MANY = re.compile(
    r"(?i)\b(?:languages?|translat\w*|alphabets?|multilingual|unicode|scripts?|characters?|symbols?|emojis?"
    r"|kanji|hiragana|katakana|hanzi|"
    r"pinyin|cyrillic|writ(?:e|ten) in|native name|pronounc\w*|japan\w*|chin\w*|mandarin|korea\w*|russia\w*"
    r"|ukrain\w*|bulgar\w*|serb\w*|greek|greece|"
    r"arab\w*|hebrew|israel\w*|hindi|india\w*|thai\w*|persian|farsi|urdu|bengali|tamil|armenia\w*|georgia\w*"
    r"|sprachen?|langues?|idiomas?)\b|多种?语|各国语|外语|[英日法俄韩德外]文|[英日法俄韩德]语|語|翻译|拼音"
)
# An order in English; no answer begins with it
IMPERATIVE = re.compile(
    r"(?i)\s*(?:describe|explain|tell|list|write|name|give|translate|summari[sz]e|define|compare|suggest|create|generate"
    r"|find|calculate|classify|compute|solve|outline|discuss|draft|compose|recommend|show|make|provide|sort|count|extract"
    r"|convert|rewrite|fix|correct|identify|state|mention|draw|plan|help)\b"
)
_ENGLISH_FIRST = frozenset(
    [
        "what",
        "how",
        "why",
        "who",
        "when",
        "where",
        "which",
        "explain",
        "describe",
        "tell",
        "does",
        "did",
        "could",
        "should",
        "would",
    ]
)
_NAMED = re.compile(
    r"(?i)\b(?:english|german|french|spanish|italian|portuguese|dutch|polish|swedish|latin|bilingual|englisch|deutsch"
    r"|französisch|spanisch|italienisch|anglais|allemand|français|espagnol|inglés|alemán|francés|español|inglese)\w*"
)
NAMES_A_LANGUAGE = re.compile(
    r"(?i)\b(?:translat\w*|languages?|in [A-Z][a-z]+(?:ian|ish|ese|an|i|u|o)\b|into \w+)\b"
    r"|\b(?:malay|indonesian|tagalog|filipino|swahili|basque|welsh|finnish|hungarian|turkish|uzbek|zulu|latin|czech"
    r"|danish|norwegian|romanian|croatian|lithuanian|latvian|estonian|icelandic|irish|vietnamese|esperanto)\b"
)
_GLOSS = re.compile(r"[(（\[][^()（）\[\]\n]{1,60}[)）\]]|[\"“«「‘][^\"”»」’\n]{1,60}[\"”»」’]")
LEAST_WORDS, LEAST_HITS, LEAD = 7, 3, 2
# What may well be answered with a text in its own language
_CITES = re.compile(
    r"(?i)\b(?:sing|song|lyrics|anthem|words (?:of|to)|text of|recite|quote|poem|verse|hymn|carol|motto|lullaby|prayer"
    r"|opening|first lines?|passage|saying|proverb|reply|continue|complete|finish|write back|names?|titles?|slogan|menu"
    r"|phrases?|greet\w*|say|lorem|gedicht|lied|zitat|poème|chanson|poema|canción|conjugat\w*|declin\w*|teach)\b|[:：\"“«„]|(?<!\w)'"
)


def language(text: str, hits: int = LEAST_HITS, lead: int = LEAD) -> str:
    """The language's code, or an empty string where a text is too short or could be two.

    `hits` small words at least, `lead` more than of any other language.
    """
    tokens = words(text)
    if len(tokens) < LEAST_WORDS:
        return ""
    found = sorted(((sum(t in small for t in tokens), name) for name, small in _SETS.items()), reverse=True)
    (most, name), (second, _) = found[0], found[1]
    different = len(_SETS[name].intersection(tokens))
    enough = most >= max(hits, 0.2 * len(tokens)) and different >= min(hits, LEAST_HITS)
    return name if enough and most >= second + lead else ""


def switch(text: str) -> tuple[str, str] | None:
    """The two languages of an answer that changes from one to the other between sentences; quotes do not count."""
    for first, last in reversed(quote_spans(text)):
        text = text[:first] + " " + text[last:]
    said = [found for part in re.split(r"(?<=[.!?])\s+|\n+", text) if (found := language(part))]
    return next(((a, b) for a, b in zip(said, said[1:]) if a != b), None)  # noqa: B905, RUF007 - as lists


def foreign(answer: Answer, plain: str) -> str:
    """Letters of scripts that the prompt neither uses nor asks for, or another language from some sentence on."""
    if _MANY.search(answer.prompt):
        return ""
    # a name or a word in its own script, in parentheses or quotes, explains and does not switch
    asked, given = scripts(answer.prompt), scripts(_GLOSS.sub(" ", plain))
    total = sum(given.values())
    strange = {k: n for k, n in given.items() if k not in asked and k not in ("latin", "greek")}
    if asked and total and sum(strange.values()) >= 8 and sum(strange.values()) >= 0.15 * total:
        return "" if _listed(plain, strange) else "letters of another script: " + ", ".join(sorted(strange))
    if len([k for k, n in given.items() if n >= 2]) >= 4 and total < 400:
        return "" if _listed(plain, strange) else "four scripts and more: " + ", ".join(sorted(given))
    mixed = [
        w
        for w in re.findall(r"[^\W\d_]{3,}", plain)
        if not w.isascii() and len(set(scripts(w)) & {"latin", "cyrillic", "cjk", "arabic"}) > 1
    ]
    glued = re.findall(
        r"[a-z]{2,}[\u4e00-\u9fff]{1,4}(?=\s)|(?<=\s)[A-Za-z]?[\u4e00-\u9fff]{1,4} ?(?=[a-z]{3,} )", plain
    )
    if glued and "cjk" not in asked and given.get("latin", 0) >= 20 * strange.get("cjk", 0) > 0:
        return f"a word of another script in the middle of a sentence: {glued[0].strip()}"
    latin_mixed = [w for w in mixed if "cjk" not in scripts(w)]
    if len(latin_mixed) >= 3:
        return f"words of two scripts: {', '.join(latin_mixed[:3])}"
    if _NAMED.search(answer.prompt):
        return ""
    if changed := switch(plain) or turned(plain):
        return f"from {changed[0]} to {changed[1]} in the middle of the answer"
    asked_in, given_in = _asked_in(answer.prompt), language(plain, hits=4, lead=3)
    # others are too near to each other to tell by a question (Low German, Dutch and German; Spanish and Portuguese)
    off = given_in and {asked_in, given_in} > {"en"} and asked_in and not _CITES.search(answer.prompt)
    return f"asked in {asked_in}, answered in {given_in}" if off else ""


def _asked_in(prompt: str) -> str:
    """The language of a question; short ones need two small words of one language and none of another."""
    tokens = words(prompt)
    found = {name: len(small.intersection(tokens)) for name, small in _SETS.items()}
    best = max(found, key=lambda name: found[name])
    alone = all(n == 0 for name, n in found.items() if name != best)
    if known := language(prompt):
        return known
    first = bool(tokens) and (tokens[0] in _ENGLISH_FIRST or bool(IMPERATIVE.match(prompt)))
    if first and found[best] == found["en"]:
        return "en"
    return best if len(tokens) >= 3 and found[best] >= 2 and alone else ""


def turned(text: str) -> tuple[str, str] | None:
    """The two languages of a sentence that begins in one and ends in another, at least eight words of each."""
    for first, last in reversed(quote_spans(text)):
        text = text[:first] + " " + text[last:]
    for part in re.split(r"(?<=[.!?])\s+|\n+", text):
        said = part.split()
        for place in range(8, len(said) - 7, 2):
            before = language(" ".join(said[place - 8 : place]), hits=3, lead=3)
            after = language(" ".join(said[place : place + 8]), hits=3, lead=3)
            if before and after and before != after:
                return before, after
    return None


def _listed(plain: str, strange: dict[str, int]) -> bool:
    """True when the words of several other scripts are the items of a list: short, and set apart by punctuation."""
    items = [item.strip() for item in re.split(r"[,;，、。.:：()\n–—•*-]+", plain) if item.strip()]
    foreign_items = [item for item in items if set(scripts(item)) & set(strange)]
    apart = all(len(scripts(item)) == 1 and len(words(item)) <= 8 and len(item) <= 24 for item in foreign_items)
    return len(strange) >= 3 and len(foreign_items) >= 3 and apart
