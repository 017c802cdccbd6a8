"""No pattern of a rule may take time that grows with the square of a line: logs hold lines of any length."""

from __future__ import annotations

import re
import time

from ftdoctor.ruleset.anchors import anchors
from ftdoctor.ruleset.load import load

SHORT, LONG = 8 * 1024, 64 * 1024  # bytes; eight times the text may take eight times the time, not sixty-four
HARMLESS = 0.05  # seconds on the long line


def seconds(pattern: re.Pattern[str], text: str) -> float:
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        pattern.search(text)
        best = min(best, time.perf_counter() - start)
        if best < HARMLESS:
            break
    return best


def test_patterns_are_linear() -> None:
    slow = []
    patterns = {p.regex: rule.id for rule in load().rules for d in rule.detect for p in d.patterns}
    for regex, rule in patterns.items():
        compiled = re.compile(regex)
        for anchor, _ in anchors(regex)[:2]:
            literal = anchor.decode()
            for unit in (literal, literal + " ", None):
                texts = [
                    (unit * (size // len(unit) + 1))[:size] if unit else literal + "a" * size for size in (SHORT, LONG)
                ]
                long = seconds(compiled, texts[1])
                if long > HARMLESS and long > 24 * seconds(compiled, texts[0]):
                    slow.append(f"{rule}: {long:.2f} s on {LONG} bytes of {texts[1][:20]!r}: {regex}")
    assert not slow, "\n".join(slow)
