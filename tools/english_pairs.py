"""Counts which words follow which in the English documentation on this machine, for `ftdoctor/evaluation/english.py`.

    python tools/english_pairs.py FOLDER...    # man pages, Markdown, reStructuredText, copyright files, docstrings

Prints the table that the module holds: one line per class of the first word, one hexadecimal digit per class of the
second. Classes are the words of `FUNCTION`, the endings of `ENDINGS`, every other word, and the edge of a clause.
"""

from __future__ import annotations

import gzip
import itertools
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ftdoctor.evaluation.english import CLASSES, HIGHEST, LOWEST, STEPS, clauses

_DOCSTRING = re.compile(r'(?s)"""(.{300,3000}?)"""')
_NO_PROSE = re.compile(r"(?m)>>>|::|:param|^\s*\w+\s*:")


def paragraphs(path: Path) -> Iterator[str]:
    """Paragraphs of prose of one file: of a manual without its commands, of a program its docstrings."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "ignore")
    if path.suffix == ".gz":
        text = re.sub(r"\\f.|\\-|\\&", "", re.sub(r"(?m)^[.'].*", "\n\n", text))
    if path.suffix == ".py":
        text = "\n\n".join(_DOCSTRING.findall(text))
    for paragraph in re.split(r"\n\s*\n", text):
        if len(paragraph) > 120 and not (path.suffix == ".py" and _NO_PROSE.search(paragraph)):
            yield paragraph


def table(texts: Iterator[str]) -> list[str]:
    """The values log P(second | first) - log P(second), in steps of 1 / `STEPS`, as hexadecimal digits."""
    counts = [[0.5] * CLASSES for _ in range(CLASSES)]
    seen: set[str] = set()
    for text in texts:
        if text[:80] in seen:
            continue
        seen.add(text[:80])
        for clause in clauses(text):
            for first, second in itertools.pairwise(clause):
                counts[first][second] += 1
    total = sum(map(sum, counts))
    after = [sum(row[k] for row in counts) / total for k in range(CLASSES)]
    return [
        "".join(
            f"{max(LOWEST, min(HIGHEST, round(STEPS * math.log(n / sum(row) / after[k])))) - LOWEST:x}"
            for k, n in enumerate(row)
        )
        for row in counts
    ]


def main() -> None:
    """Print the table of the folders that were named."""
    files = sorted(
        path
        for folder in sys.argv[1:]
        for path in Path(folder).rglob("*")
        if path.suffix in (".md", ".rst", ".py")
        or path.name == "copyright"
        or (path.suffix == ".gz" and path.parent.name.startswith("man"))
    )
    for line in table(text for path in files if path.is_file() for text in paragraphs(path)):
        print(f'    "{line}"')


if __name__ == "__main__":
    main()
