"""What people wrote is no broken answer: programs, their documentation and licences that stand on every machine."""

from __future__ import annotations

import ast
import random
import re
import sysconfig
from importlib import metadata
from pathlib import Path

from ftdoctor.evaluation.judge import judge
from ftdoctor.evaluation.text import Answer

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
ROOT = Path(__file__).parents[3]
# Of the passages; what is flagged is mostly data (tables of characters, keys, token lists) and, of programs without a
# fence, comments that are the same in each function. Each Python has another library, so the limits leave room.
MOST, MOST_PROGRAMS = 0.015, 0.04


def sources(least: int) -> list[str]:
    """The standard library's modules, in an order that is the same on each machine."""
    found = [path.read_text(encoding="utf-8", errors="replace") for path in sorted(LIBRARY.glob("*.py"))]
    return [text for text in found if len(text) > least]


def passages(text: str, size: int = 900) -> list[str]:
    """Whole paragraphs, about `size` characters of them together."""
    out, now = [], ""
    for paragraph in re.split(r"\n\s*\n", text):
        now += paragraph + "\n\n"
        if len(now) > size:
            out.append(now.strip("\n"))
            now = ""
    return out


def flagged(prompt: str, answers: list[str]) -> list[tuple[object, str]]:
    """What is wrong with which answer, each ended and cut."""
    asked = [Answer(prompt, text, "stop") for text in answers]
    asked += [Answer(prompt, text[: len(text) * 9 // 10], "length") for text in answers]
    judged = [(judge(answer), answer.output) for answer in asked]
    return [(found.reasons, text[:80]) for found, text in judged if found.labels]


def test_programs_are_quiet() -> None:
    pieces = [piece for text in sources(3000) for piece in passages(text)]
    chosen = random.Random(6).sample(pieces, 150)
    found = flagged("Write the module in Python.", chosen)
    assert len(found) <= MOST_PROGRAMS * 2 * len(chosen), found


def test_documentation_is_quiet() -> None:
    texts = [
        ast.get_docstring(node) or ""
        for source in sources(3000)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    ]
    chosen = random.Random(6).sample([text for text in texts if len(text) > 200], 150)
    found = flagged("What does the function do?", chosen)
    assert len(found) <= MOST * 2 * len(chosen), found


def test_licences_and_descriptions_are_quiet() -> None:
    texts = [(ROOT / "LICENSE").read_text(encoding="utf-8"), (ROOT / "README.md").read_text(encoding="utf-8")]
    for distribution in sorted(metadata.distributions(), key=lambda d: str(d.metadata["Name"])):
        texts += [
            Path(str(file.locate())).read_text(encoding="utf-8", errors="replace")
            for file in distribution.files or ()
            if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")) and Path(str(file.locate())).is_file()
        ]
    chosen = [piece for text in dict.fromkeys(texts) for piece in passages(text)][:250]
    found = flagged("Draft the text.", chosen)
    assert len(found) <= MOST * 2 * len(chosen), found


def test_their_words_in_another_order_are_none() -> None:
    """Of sentences with shuffled words at least 35 % are seen; the bigram model of `english.py` sees half of them."""
    sentences = [
        sentence.split()
        for source in sources(3000)
        for text in re.findall(r'(?s)"""(.{200,2000}?)"""', source)
        for sentence in re.split(r"(?<=\.)\s+|\n\s*\n", text)
    ]
    whole = [s for s in sentences if 18 <= len(s) <= 60 and sum(word.isalpha() for word in s) > 0.8 * len(s)]
    order = random.Random(6)
    chosen = order.sample(whole, 100)
    still = [s for s in chosen if judge(Answer("How does it work?", " ".join(s), "length")).labels]
    mixed = [order.sample(s, len(s)) for s in chosen]
    found = [
        s for s in mixed if "incoherent-output" in judge(Answer("How does it work?", " ".join(s), "length")).labels
    ]
    assert len(still) <= 3, still
    assert len(found) >= 35
