"""All scorers on one answer, and what several answers tell together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ftdoctor.evaluation.echo import find_echo, overlap
from ftdoctor.evaluation.incoherence import find_incoherence
from ftdoctor.evaluation.leak import leaked
from ftdoctor.evaluation.markers import strip_markers
from ftdoctor.evaluation.repetition import compression_ratio, distinct_n, find_loop, rep_n
from ftdoctor.evaluation.stopping import find_no_stop, is_empty
from ftdoctor.evaluation.text import Answer, bounded, letters, words

LABELS = ("empty-output", "special-token-leak", "prompt-repeated", "repetition-loop", "incoherent-output", "no-stop")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one answer is: failure-mode ids (causes first), a reason per id, and the numbers behind them."""

    labels: tuple[str, ...]
    reasons: dict[str, str] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """`broken` or `healthy`."""
        return "broken" if self.labels else "healthy"


def judge(answer: Answer, tokens: Sequence[str] = ()) -> Judgement:
    """Score one answer; `tokens` are the tokenizer's special tokens where they are known."""
    answer = replace(answer, prompt=bounded(answer.prompt), output=bounded(answer.output))
    reasons: dict[str, str] = {}
    leaks = leaked(answer, tokens)
    if is_empty(answer):
        reasons["empty-output"] = "nothing is left of the answer without template text and white space"
    if leaks:
        reasons["special-token-leak"] = "template text in the answer: " + ", ".join(dict.fromkeys(leaks))[:160]
    if "empty-output" not in reasons:
        found = {
            "prompt-repeated": find_echo(answer),
            "repetition-loop": find_loop(answer),
            "incoherent-output": find_incoherence(answer),
        }
        reasons |= {name: why for name, why in found.items() if why}
    if stop := find_no_stop(answer, bool(reasons)):
        reasons["no-stop"] = stop
    return Judgement(tuple(name for name in LABELS if name in reasons), reasons, scores(answer, len(leaks)))


def scores(answer: Answer, leaks: int) -> dict[str, float]:
    """The plain numbers: words, characters, rep-4, distinct-2, compression ratio, prompt overlap, leaks."""
    text = bounded(answer.output)
    tokens = words(text)
    return {
        "words": float(len(tokens)),
        "chars": float(len(answer.output)),
        "letters": float(letters(text)),
        "rep_4": round(rep_n(tokens), 4),
        "distinct_2": round(distinct_n(tokens), 4),
        "compression_ratio": round(compression_ratio(text), 3),
        "prompt_overlap": round(overlap(words(strip_markers(answer.prompt)), words(strip_markers(text))).share, 4),
        "leaks": float(leaks),
    }


def identical(answers: Sequence[Answer]) -> list[int]:
    """Places of answers that equal the answer to at least two other, different prompts (four words and more)."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for i, answer in enumerate(answers):
        key = tuple(words(answer.output))
        if len(key) >= 4:
            groups.setdefault(key, []).append(i)
    return sorted(
        i for group in groups.values() if len({" ".join(words(answers[i].prompt)) for i in group}) >= 3 for i in group
    )
