"""Text that is no language (`incoherent-output`), told without a language model.

Each sign is a share of the answer's prose (code, tables and formulas are left out): broken characters, symbols,
scripts that nobody asked
for, function words in an order that no English sentence has, words that cannot be pronounced, and placeholders
learnt from a format.
Perplexity under the base model is measured where a model is at hand (`worker.py`); these signs need none.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter

from ftdoctor.evaluation.characters import damage
from ftdoctor.evaluation.english import pairs
from ftdoctor.evaluation.languages import NAMES_A_LANGUAGE, foreign
from ftdoctor.evaluation.markers import TOKEN, strip_markers
from ftdoctor.evaluation.repetition import ASKED, PATTERN, VERSE, rep_n
from ftdoctor.evaluation.text import Answer, bounded, code_spans, letters, prose, without_thinking, words

_DET = frozenset(["the", "a", "an", "my", "your", "their", "our", "its", "every"])
_PREP = frozenset(["of", "with", "from", "into", "at", "onto", "upon", "during", "among"])
_CONJ = frozenset(["and", "or", "but", "because", "if", "than", "nor"])
_AUX = frozenset(
    [
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "has",
        "have",
        "had",
        "will",
        "would",
        "should",
        "could",
        "can",
        "do",
        "does",
        "did",
    ]
)
_AFTER_PREP = frozenset(
    [
        "is",
        "are",
        "was",
        "were",
        "of",
        "with",
        "and",
        "or",
        "but",
        "because",
        "although",
        "whereas",
        "however",
        "has",
        "had",
        "than",
    ]
)
_AFTER_DET = frozenset(["to", "for", "by", "it", "he", "she", "they", "we", "this", "these"])
_FUNCTION = _DET | _PREP | _CONJ | _AUX | frozenset(
    ["to", "in", "on", "for", "by", "as", "that", "this", "it", "he", "she", "they", "we", "you", "i",
    "not", "no", "so", "what", "who", "which", "when", "where", "how", "there", "his", "her", "them",
    "us", "me", "these", "those", "one", "all", "some", "more", "about", "up", "out", "then", "also",
    "only", "just", "if", "while", "after", "before", "over", "such", "each", "both", "der", "die",
    "das", "und", "ist", "ein", "eine", "zu", "in", "den", "von", "mit", "nicht", "sich", "auf", "für",
    "es", "dem", "im", "auch", "als", "an", "le", "la", "les", "de", "des", "et", "un", "une", "est",
    "en", "que", "qui", "dans", "pour", "pas", "sur", "il", "elle", "au", "du", "ne", "se", "ce",
    "plus", "avec", "el", "los", "las", "y", "es", "por", "con", "para", "una", "su", "al", "lo",
    "como", "más", "o", "pero", "sus", "del", "se", "che", "di", "il", "non", "per", "sono", "è", "e",
    "do", "da", "os", "um", "uma", "não", "com", "na", "no", "em", "het", "een", "van", "en", "dat",
    "niet", "op", "met", "zijn", "i", "w", "na", "z", "się", "nie", "jest", "og", "att", "som", "är",
    "på"]
)  # fmt: skip
_LIST = re.compile(
    r"(?i)\b(?:keywords?|tags?|words|list|names?|passwords?|random|passphrase|anagrams?|hashtags?|synonyms?"
    r"|vocabulary|ingredients|query|ascii|art|"
    r"draw\w*|symbols?|emojis?|regex\w*|code|punctuation|operators?|cipher|encrypt\w*|encode\w*|decode\w*"
    r"|base64|hash|hex|gibberish|nonsense|lorem|"
    r"jabberwocky|scat|keyboard|token|characters?|brackets?|pattern|morse|brainf\w*|uuid|key|telegraphic"
    r"|caption|title|dots?|grid|fill|board)\b"
)
_SLOT = (
    r"(?:outputs?|responses?|answers?|instructions?|input|prompt|text|content|message|assistant|completion|generation"
    r"|result)"
)
# The whole answer is one slot of a format that was never filled in
_PLACEHOLDER = re.compile(
    rf"(?i)\A\s*(?:\{{\{{?\s*(?:{_SLOT}(?:\.content|\['content'\])?|messages\[\d\].*)\s*\}}?\}}\s*)+\Z"
    rf"|\A\s*(?:<no_?output>|\[object Object\]|nan|undefined"
    rf"|<(?:your |the |model )?{_SLOT}(?: here| goes here)?>"
    rf"|\[(?:insert |your |enter |the |write |put )*{_SLOT}(?: text| here| goes here)*\])\s*\Z"
)
# Questions that no "none" answers
_OPEN_QUESTION = re.compile(
    r"(?i)^\W*(?:how (?:do|does|did|can|to|should)|why|explain|describe|tell|write|give me|suggest)\b[^:]*\Z"
)
_NOTHING = re.compile(r"(?i)\A\s*(?:none|null|nil|n/a)\.?\s*\Z")
_TEMPLATE_ASKED = re.compile(
    r"(?i)\b(?:placeholder|template|nan|undefined|f-?string|format|variable|javascript|python|float|numpy"
    r"|pandas|json)\b"
)
_WIKI = re.compile(r"\{\{[^{}\n]*\}\}|\[\[[^\[\]\n]*\]\]|</?ref\b[^>]*>|==+ [^=\n]+ ==+")
_ABOUT_MARKUP = re.compile(r"(?i)wiki|markup|template|jinja|citation|reference|link")
_NUMBERS = re.compile(
    r"(?i)\d|\b(?:numbers?|digits?|count|squares?|cubes?|powers?|primes?|fibonacci|factorials?|pi|sequence|series|data"
    r"|values?|samples?|scores?|sorted?|array|vector|matrix|multiples?|even|odd|dates?|years?|lottery|binary|rows?)\b"
)
_ENGLISH = re.compile(
    r"(?i)\b(?:what|how|why|who|when|where|which|the|is|are|do|does|write|tell|explain|give|name|describe)\b"
)
_DISORDER, _DISORDER_SHORT = -0.4, -0.65  # nats; prose has about +0.3, shuffled words -0.4 on average
_PAIRS = {"(": ")", "[": "]", "{": "}"}
_SPELLS = re.compile(
    r"(?i)\b(?:spell\w*|letters?|alphabet\w*|flips?|tosses|notes?|chords?|scale|grades?|answers?|spaced|vowels?)\b"
)
_MORPHEMES = re.compile(r"(?i)suffix|prefix|ending|morphem|syllab|rhym|tokeni[sz]|subword|stem")
_SYMBOL = re.compile(r"[^\w\s]+\Z")
_TECHNICAL = re.compile(r"[\w)\]][./\\_:=@][\w(\[/]")  # in a path, a name in a log, key=value
# Endings that are pieces of words to a tokenizer and no words of a sentence
_ENDINGS = frozenset(
    ["ing", "tion", "ment", "ness", "ful", "ly", "ed", "er", "est", "th", "ity", "ous", "ive", "able", "ance", "ence",
     "sion", "ism", "ers", "ings", "tions", "ments", "al", "ally", "ies", "ated", "ation", "ary", "ical", "ish"]
)  # fmt: skip


def find_incoherence(answer: Answer) -> str:
    """Why the answer is no language, or an empty string."""
    output = bounded(answer.output)
    text = without_thinking(output) or output
    if _PLACEHOLDER.match(text) and not _TEMPLATE_ASKED.search(answer.prompt):
        return f"the answer is the placeholder {text.strip()}"
    if _NOTHING.match(text) and _OPEN_QUESTION.match(answer.prompt) and not _TEMPLATE_ASKED.search(answer.prompt):
        return f"the answer is the value {text.strip()}"
    if why := damage(answer.prompt, text):
        return why
    plain = prose(TOKEN.sub(" ", text))
    code = (code_spans(text) or plain.count("\n") > 2) and len(plain) < 0.5 * len(text)
    return (
        symbols(answer, plain)
        or ("" if code else leftovers(answer, text))
        or foreign(answer, prose(TOKEN.sub(" ", text), whole_lines=True))
        or spaced(answer, plain)
        or ("" if code else torn(answer, plain))
        or salad(answer, plain)
        or unpronounceable(answer, plain)
    )


def symbols(answer: Answer, plain: str) -> str:
    """Runs of one character, and tokens that hold no letter and no digit."""
    if _LIST.search(answer.prompt):
        return ""
    run = (
        re.search(r"([^\s\-=_*.~#─━═|█░▓])\1{39,}", plain)
        if not answer.cut
        else re.search(r"([^\s\-=_*.~#─━═|█░▓])\1{23,}", plain)
    )
    if (
        run
        and not PATTERN.search(answer.prompt)
        and not re.search(
            r"(?i)\b(?:zeros?|digits?|decimal|binary|long|scream|repeat|times|laugh|fraction|buffer|string|bytes?"
            r"|line|pad\w*)\b|1/\d|\b\d+ \S{1,3}\b",
            answer.prompt,
        )
    ):
        return f"`{run[1]}` {len(run[0])} times in a row"
    bare = re.sub(r"[\s\\]", "", answer.output)
    ruled = not answer.cut and bare[:1] in set("-=_*.~#")
    if len(bare) >= 8 and len(set(bare)) == 1 and re.match(r"[!-/:-@\[-`{-~▁]", bare) and not ruled:
        return f"nothing but `{bare[0]}`"
    return _soup(plain, 0.35) or _soup(prose(strip_markers(answer.output), whole_lines=True), 0.6)


def _soup(text: str, share: float) -> str:
    tokens, lines = text.split(), len([line for line in text.split("\n") if line.strip()])
    if sum(bool(_SYMBOL.match(t)) for t in tokens) == len(tokens) <= lines:
        return ""  # a symbol word a line: a picture
    tokens = [t for t in tokens if t not in ("[", "]", "[x]", "[X]", "[]", "(", ")", "()")]
    if len(tokens) < 8:
        return ""
    odd = [t for t in tokens if _SYMBOL.match(t) and t not in "-–—*•&|+=×÷→>/#" and not re.match(r"[#*\-=|>]+\Z", t)]
    if (
        len(odd) >= 6
        and len(set(odd)) >= 4
        and len(odd) > share * len(tokens)
        and letters("".join(odd)) == 0
        and not _emoji(odd)
    ):
        return f"{len(odd)} of {len(tokens)} words are symbols"
    return ""


def _emoji(tokens: list[str]) -> bool:
    return sum(1 for t in tokens if ord(t[0]) > 0x2000) > 0.5 * len(tokens)


def spaced(answer: Answer, plain: str) -> str:
    """Words spelt with blanks between their letters, and words made of three letters only."""
    if _LIST.search(answer.prompt) or PATTERN.search(answer.prompt) or _SPELLS.search(answer.prompt):
        return ""
    tokens = [t for t in plain.split() if t.isalpha() and t.isascii()]
    single = [t for t in tokens if len(t) == 1 and t.islower()]
    if (
        len(single) >= 14
        and len(single) >= 0.8 * len(plain.split())
        and len(set(single)) >= 8
        and single != sorted(single)
    ):
        return f"{len(single)} of {len(plain.split())} words are single letters"
    joined = "".join(tokens).lower()
    few = len(set(joined)) <= 3 and len(joined) >= 30 and len(tokens) >= 6 and len(set(tokens)) >= 4
    if few and not ASKED.search(answer.prompt) and not VERSE.search(answer.prompt):
        return f"{len(tokens)} words of {len(set(joined))} letters"
    return ""


def torn(answer: Answer, plain: str) -> str:
    """Closing brackets of which none was opened, and figures between stray symbols: pieces of code and tables."""
    if _LIST.search(answer.prompt) or PATTERN.search(answer.prompt):
        return ""
    text = re.sub(r"(?<!\S)[\w.]{1,4}\)|[:;8=][-'^o]?[)(\]\[}{]|['\"`][()\[\]{}]['\"`]", " ", plain)
    stack, wrong = [], []
    for char in re.findall(r"[()\[\]{}]", text):
        if char in _PAIRS:
            stack.append(char)
        elif stack and _PAIRS[stack[-1]] == char:
            stack.pop()
        else:
            wrong.append(char)
    if len(set(wrong)) >= 2 and len(wrong) >= 3 and len(wrong) >= 0.1 * len(plain.split()):
        return "closing brackets that nothing opened: " + " ".join(wrong[:6])
    quoted = [line for line in plain.split("\n") if re.match(r"\s*[\"“][^\"”]*$", line)]
    if len(quoted) >= 6 and sum(len(words(line)) for line in quoted) <= 3 * len(quoted):
        return f"{len(quoted)} lines open a quotation and end"
    tokens = plain.split()
    common, times = Counter(tokens).most_common(1)[0] if tokens else ("", 0)
    if times >= 8 and times >= 0.3 * len(tokens) and len(common) >= 3 and not any(c.isalnum() for c in common):
        return f"`{common}` {times} times"
    bare = [not any(c.isalnum() for c in t) for t in tokens]
    pairs = sum(a and b for a, b in itertools.pairwise(bare))
    if (
        len(tokens) >= 16
        and letters(plain) == 0
        and "\n" not in plain.strip()
        and pairs >= 3
        and not _NUMBERS.search(answer.prompt)
    ):
        return f"{len(tokens)} figures and symbols in no order"
    return ""


def leftovers(answer: Answer, text: str) -> str:
    """What web pages and tables are made of, in place of an answer."""
    wiki = _WIKI.findall(text)
    if len(wiki) >= 4 and letters(_WIKI.sub(" ", text)) < letters(text) / 2 and not _ABOUT_MARKUP.search(answer.prompt):
        return f"{len(wiki)} pieces of wiki markup: {wiki[0]}"
    tokens = text.split()
    numbers = sum(token.strip(".,;:()").isdigit() for token in tokens)
    asked = _NUMBERS.search(answer.prompt) or _LIST.search(answer.prompt)
    if len(tokens) >= 20 and numbers >= 0.9 * len(tokens) and "\n" not in text.strip() and not asked:
        return f"{numbers} of {len(tokens)} words are numbers"
    return ""


def salad(answer: Answer, plain: str) -> str:
    """Function words in impossible order, or none at all."""
    sentences = [words(part) for part in re.split(r"[.!?:;,\n()\[\]\"“”–—-]+", plain)]
    tokens = [word for sentence in sentences for word in sentence]
    english = sum(1 for w in tokens if w in _DET | _PREP | _CONJ | _AUX)
    wrong = []
    for sentence in sentences:
        for a, b in itertools.pairwise(sentence):
            if _impossible(a, b):
                wrong.append(f"{a} {b}")
    if english >= 4 and len(wrong) >= 3 and len(wrong) >= 0.045 * len(tokens) and len(set(wrong)) > 1:
        return "function words in no order: " + ", ".join(dict.fromkeys(wrong))
    if _LIST.search(answer.prompt):
        return ""
    if not VERSE.search(answer.prompt) and (why := disorder(plain)):
        return why
    if why := next(filter(None, map(_shuffled, plain.split("\n"))), ""):
        return why
    if why := _stutter([word for word in tokens if f"{word} {word}" not in answer.prompt.lower()]):
        return why
    pieces = [w for w in tokens if w in _ENDINGS]
    if len(pieces) >= 6 and len(pieces) >= 0.2 * len(tokens) and not _MORPHEMES.search(answer.prompt):
        return "pieces of words: " + ", ".join(list(dict.fromkeys(pieces))[:5])
    # other languages join with other words (Malay, Basque, Uzbek ...): an answer to an English question is English
    english_asked = bool(_ENGLISH.search(answer.prompt)) and not NAMES_A_LANGUAGE.search(answer.prompt)
    for line in re.split(r"[\n.,;:!?]+", plain):
        run = words(line)
        latin = [w for w in run if w.isascii() and w.isalpha() and len(w) > 1]
        humps = sum(bool(re.search(r"[a-z][A-Z]", w)) for w in re.findall(r"\w+", line))
        least = 10 if humps >= 4 else 14  # names of a program, not words
        varied = len(set(run)) >= 0.5 * len(run)  # else it is a loop, which has its own name
        if (
            varied
            and english_asked
            and len(run) >= least
            and len(latin) >= 0.8 * len(run)
            and sum(w in _FUNCTION for w in run) <= 0.07 * len(run)
        ):
            return f"{len(run)} words without one that joins them"
    return ""


def disorder(text: str) -> str:
    """English words in an order that English has not, in some thirty neighbouring pairs of words."""
    found = pairs(text)
    for start in range(0, max(1, len(found) - 29), 15):
        part = found[start : start + 45] if len(found) - start < 45 else found[start : start + 30]
        if len(part) < 12 or sum(known for _, known in part) < 0.25 * len(part):
            continue
        mean = sum(value for value, _ in part) / len(part)
        if mean <= (_DISORDER if len(part) >= 20 else _DISORDER_SHORT):
            return f"words in an order that English has not: {mean:.2f} nats a pair over {len(part)} pairs"
    return ""


def _shuffled(line: str) -> str:
    """A few words over and over, but no phrase of them: who repeats words repeats phrases."""
    tokens = [word for word in words(line) if word.isalpha()]
    for start in range(0, len(tokens) - 39, 24):
        part = tokens[start : start + 48]
        if len(part) >= 40 and len(set(part)) <= 0.42 * len(part) and rep_n(part, 3) <= 0.1:
            return f"{len(part)} words of which {len(set(part))} differ, in no order"
    return ""


def _stutter(tokens: list[str]) -> str:
    twice = [a for a, b in itertools.pairwise(tokens) if a == b and a in _FUNCTION - {"na", "no", "do", "so", "la"}]
    return (
        "function words twice: " + ", ".join(twice[:4]) if len(twice) >= 3 and len(twice) > 0.08 * len(tokens) else ""
    )


def _impossible(a: str, b: str) -> bool:
    if a in _DET and a != "a":
        return (
            b in _AFTER_DET
            or b in _DET
            or b in _PREP
            or b in _CONJ
            or (b in _AUX and b not in ("can", "will", "do", "have", "has", "is", "was", "are"))
        )
    if a == "a":
        return (
            b in _DET
            or b in ("of", "with", "into", "which", "is", "was", "are", "were")
            or b in ("but", "because", "than", "nor")
        )
    if a in _PREP:
        return b in _AFTER_PREP and (a, b) != ("from", "of")
    if a == "for":
        return b in ("of", "with", "and", "is", "are", "was", "were")
    if a in ("is", "was", "are", "were"):
        return b in ("is", "was", "were", "are", "does", "did", "has", "had", "been", "be", "will", "would")
    return a in ("and", "or", "but") and b in ("and", "or", "but", "of", "than") and a != b


def unpronounceable(answer: Answer, plain: str) -> str:
    """Latin words that have no vowel or a run of six consonants."""
    if _LIST.search(answer.prompt):
        return ""
    spoken = " ".join(token for token in strip_markers(plain).split() if not _TECHNICAL.search(token))
    found = list(dict.fromkeys(w for w in re.findall(r"[a-zA-Zà-ÿ]{4,}", spoken) if not w.isupper()))
    bad = [
        w
        for w in found
        if not re.search(r"[aeiouyà-ÿ]", w.lower())
        or re.search(r"(?i)[bcdfghjklmnpqrtvwxz]{5,}", w.lower().replace("sch", "s").replace("ght", "t"))
    ]
    return (
        f"{len(bad)} of {len(found)} words cannot be spoken: {', '.join(bad[:3])}"
        if len(bad) >= 4 and len(bad) > 0.3 * len(found)
        else ""
    )
