"""From generated answers to judgements, facts for the session, rows for the results file."""

from __future__ import annotations

import json
import math
import os
import statistics
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError
from ftdoctor.evaluation.generate import Generation
from ftdoctor.evaluation.judge import LABELS, Judgement, identical, judge
from ftdoctor.evaluation.suite import Prompt
from ftdoctor.evaluation.text import Answer, words
from ftdoctor.events import Scalar


@dataclass(frozen=True, slots=True)
class Judged:
    """One model's answers, by prompt index."""

    generation: Generation
    answers: dict[int, Answer]
    judgements: dict[int, Judgement]
    same: tuple[int, ...]
    drift: float | None = None  # median length of the answers, relative to the references'

    @property
    def perplexity(self) -> float | None:
        """Of the reference answers, as asked; None where there are none."""
        found = self.generation.measured.get("reference")
        return math.exp(min(found["loss"], 50.0)) if found else None

    def counts(self) -> Counter[str]:
        """Answers per failure mode."""
        return Counter(label for j in self.judgements.values() for label in j.labels)

    @property
    def broken(self) -> int:
        """Answers with any failure."""
        return sum(bool(j.labels) for j in self.judgements.values())


STRANGE = 3.0  # nats per token more than the yardstick, and
UNKNOWN = 6.0  # nats per token at least: a perplexity of 400
FEW_WORDS = 8
# The right answers, asked in another form than the shipped one: half as likely token by token; or sure in the shipped
# form and doubtful in this one; or some times less likely, and that for nearly every single one.
FORM_GAP, FORM_LEAST, FORM_TIMES, FORM_MORE, FORM_WORSE = 0.7, 0.15, 6.0, 3.0, 0.85


def judged(generation: Generation, prompts: Sequence[Prompt]) -> Judged:
    """Judge what one model gave.

    An answer is incoherent when the base model finds it far less likely than the other texts that it was shown
    (`base_loss`, nats per token); a base that knows no language at all is no judge.
    """
    tokens = [str(t) for t in generation.info.get("special_tokens", [])]
    answers = {
        i: Answer(prompts[i].text, str(row["output"]), str(row["finish_reason"]))
        for i, row in sorted(generation.rows.items())
        if i < len(prompts)
    }
    judgements = {i: judge(a, tokens) for i, a in answers.items()}
    losses = generation.base_loss
    usual = min(losses.values(), default=0.0) if len(losses) < 4 else statistics.quantiles(losses.values(), n=4)[0]
    for i, loss in losses.items():
        if i not in judgements:
            continue
        found = judgements[i]
        found.scores["base_perplexity"] = round(math.exp(min(loss, 50.0)), 2)
        if (
            loss > max(UNKNOWN, usual + STRANGE)
            and found.scores["words"] >= FEW_WORDS
            and "incoherent-output" not in found.labels
        ):
            reason = f"the base model gives it a perplexity of {math.exp(min(loss, 50.0)):.0f}"
            named = {*found.labels, "incoherent-output"}
            judgements[i] = Judgement(
                tuple(n for n in LABELS if n in named), {**found.reasons, "incoherent-output": reason}, found.scores
            )
    places = [i for i in answers if prompts[i].seed is None] or list(answers)
    same = tuple(places[i] for i in identical([answers[i] for i in places]))
    pairs = [
        (len(words(answers[i].output)), n)
        for i in answers
        if (n := len(words(prompts[i].reference))) and prompts[i].seed is None
    ]
    drift = statistics.median(a / n for a, n in pairs) if pairs else None
    return Judged(generation, answers, judgements, same, drift)


def facts(result: Judged) -> dict[str, Scalar]:
    """What the rules judge: `answers.total`, `answers.<mode>` and its first reason, template and end of turn."""
    counts = result.counts()
    found: dict[str, Scalar] = {"answers.total": len(result.judgements), "answers.broken": result.broken}
    found["answers.model"] = result.generation.name
    for label in LABELS:
        name = "answers." + label.replace("-", "_")
        found[name] = counts[label]
        reason = next((j.reasons[label] for j in result.judgements.values() if label in j.reasons), None)
        if reason is not None:
            found[name + "_reason"] = reason
    for key in ("template", "turn_end", "turn_end_stops", "eos"):
        if (value := result.generation.info.get(key)) is not None:
            if key == "template" and value == "missing" and result.generation.name == "base":
                continue  # base models have none: that is not what is wrong with their answers
            found[f"answers.{key}"] = value
    if parity := result.generation.info.get("parity"):
        found["answers.trained_form"] = repr(parity["trained"])
        found["answers.shipped_form"] = repr(parity["shipped"])
    form = result.generation.measured.get("format")
    if form is not None:
        asked, shipped = form["asked"], form["shipped"]
        apart = asked - shipped > FORM_GAP or asked > max(FORM_LEAST, FORM_TIMES * shipped)
        steady = form["prompts"] >= 6 and form.get("worse", 0) >= FORM_WORSE * form["prompts"]
        apart |= steady and asked > max(FORM_LEAST, FORM_MORE * shipped)
        found["answers.form"] = "apart" if apart else "near"
        found["answers.form_asked"] = f"{math.exp(min(form['asked'], 50.0)):.3g}"
        found["answers.form_shipped"] = f"{math.exp(min(form['shipped'], 50.0)):.3g}"
    if result.same:
        found["answers.identical"] = len(result.same)
    return found


def result_rows(results: Sequence[Judged], prompts: Sequence[Prompt], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the results file: one per model and prompt, with all that is needed to ask again or go on."""
    return [
        {
            "model": r.generation.name,
            "path": r.generation.model,
            "adapter": r.generation.adapter,
            "index": i,
            "kind": prompts[i].kind,
            "messages": list(prompts[i].messages),
            "seed": prompts[i].seed,
            "reference": prompts[i].reference,
            "output": a.output,
            "finish_reason": a.finish,
            "labels": list(r.judgements[i].labels),
            "reasons": r.judgements[i].reasons,
            "scores": r.judgements[i].scores,
            "settings": settings,
        }
        for r in results
        for i, a in r.answers.items()
    ]


def resume(path: Path, targets: Sequence[Generation], prompts: Sequence[Prompt], settings: dict[str, Any]) -> int:
    """Take answers of an earlier run to the same prompts with the same settings; returns how many.

    Raises:
        InputError: the file exists and is no results file.
    """
    if not path.is_file():
        return 0
    taken = 0
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            place, made = int(row["index"]), row["settings"]
        except (ValueError, KeyError, TypeError):
            raise InputError("not a results file", f"{path}:{number}", "give another --out") from None
        for target in targets:
            fits = (row.get("path"), row.get("adapter")) == (target.model, target.adapter) and made == settings
            if fits and place < len(prompts) and same_question(row, prompts[place]):
                target.rows[place] = {k: row[k] for k in ("output", "finish_reason")}
                taken += 1
    return taken


def same_question(row: dict[str, Any], prompt: Prompt) -> bool:
    """True when a row of the results file answers this prompt with this seed."""
    return row.get("messages") == list(prompt.messages) and row.get("seed") == prompt.seed


def write_atomic(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise InputError(f"cannot be written: {error.strerror}", str(path), "give another --out") from None
