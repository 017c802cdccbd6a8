"""Generation, run as a script by the training python; it imports nothing of ftdoctor.

Reads one JSON object per line from standard input, the first being the job: {"model", "adapter", "questions":
[{"messages", "seed", "reference", "ids"}], "settings": {"max_new_tokens", "batch_size", "temperature", "top_p",
"chat_template", "generation_prompt"}, "have": [index], "score": [text], "stay": bool}. A question has `messages`, or
`ids`, the prompt as training tokenised it; `seed` null means greedy. With `stay`, further lines are lists of questions.
Writes one JSON object per line to standard output: {"event": "loading" | "loaded" | "answer" | "speed" | "reference" |
"format" | "scored" | "done" | "error"}. What libraries print goes to standard error.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from typing import Any

OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
FORMAT_PROMPTS = 16  # asked again in the shipped format, when the asked one is another


def say(event: str, **values: Any) -> None:
    """One line for the parent."""
    OUT.write(json.dumps({"event": event, **values}, ensure_ascii=False) + "\n")
    OUT.flush()


def turn_end(tokenizer: Any) -> str | None:
    """The first token that the template writes after an assistant's turn; None when it cannot be told."""
    mark = "QQANSWERQQ"
    try:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": mark}], tokenize=False
        )
    except Exception:
        return None
    after = text.rpartition(mark)[2].lstrip()
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    return str(tokenizer.convert_ids_to_tokens(ids[0])) if ids else None


def as_prompt(tokenizer: Any, messages: list[dict[str, str]], header: bool, template: str | None) -> str:
    """The prompt as text; a system turn joins the user's where the template has none."""
    if not template:
        return messages[-1]["content"]
    form = {"tokenize": False, "add_generation_prompt": header, "chat_template": template}
    try:
        return str(tokenizer.apply_chat_template(messages, **form))
    except Exception:
        if messages[0]["role"] != "system" or len(messages) < 2:
            raise
        first = {"role": "user", "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
        return str(tokenizer.apply_chat_template([first, *messages[2:]], **form))


class Asker:
    """A loaded model, and the form in which it is asked."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Load model and tokenizer."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        adapter, base = job.get("adapter"), job["model"]
        self.chosen = job["settings"]
        shipped = adapter if adapter and os.path.isfile(os.path.join(adapter, "tokenizer_config.json")) else base
        self.tokenizer = tokenizer = AutoTokenizer.from_pretrained(shipped)
        self.shipped = getattr(tokenizer, "chat_template", None)
        self.header = self.chosen.get("generation_prompt", True)
        self.template = self.chosen.get("chat_template") or self.shipped
        cuda = torch.cuda.is_available()
        dtype = (torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16) if cuda else torch.float32
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
        if adapter:
            from peft import PeftModel

            if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
                model.resize_token_embeddings(len(tokenizer))
            model = PeftModel.from_pretrained(model, adapter)
        self.model = model.to("cuda" if cuda else "cpu").eval()
        self.rows = int(model.get_input_embeddings().weight.shape[0])
        eos = model.generation_config.eos_token_id
        self.stops = set(eos if isinstance(eos, list) else [] if eos is None else [eos])
        # an adapter ships no generation_config.json: its tokenizer says how the turns of its training end
        if tokenizer.eos_token_id is not None and (not self.stops or (adapter and shipped == adapter)):
            self.stops.add(tokenizer.eos_token_id)
        end = turn_end(tokenizer)
        self.end = tokenizer.convert_tokens_to_ids(end) if end is not None else tokenizer.eos_token_id
        self.info = {
            "device": torch.cuda.get_device_name(0) if cuda else "CPU",
            "dtype": str(dtype).replace("torch.", ""),
            "template": self.form(),
            "turn_end": end,
            "turn_end_stops": None if end is None else self.end in self.stops,
            "eos": ", ".join(map(str, tokenizer.convert_ids_to_tokens(sorted(self.stops)))) or "nothing",
            "special_tokens": list(tokenizer.all_special_tokens),
            "tokenizer": shipped,
        }
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token_id = min(self.stops) if self.stops else 0
        tokenizer.padding_side = "left"
        self.known = {*tokenizer.all_special_ids} | self.stops

    def form(self) -> str:
        """How prompts are put: shipped | missing | overridden | no generation prompt."""
        if self.chosen.get("chat_template") and self.chosen["chat_template"] != self.shipped:
            return "overridden"
        if not self.shipped:
            return "missing"
        return "shipped" if self.header else "no generation prompt"

    def ids(self, question: dict[str, Any], shipped: bool = False) -> list[int]:
        """Token ids of a prompt; the template writes the beginning-of-sequence token itself."""
        if question.get("ids"):
            return [i for i in question["ids"] if i < self.rows]
        template, header = (self.shipped, True) if shipped else (self.template, self.header)
        text = as_prompt(self.tokenizer, question["messages"], header, template)
        return list(self.tokenizer(text, add_special_tokens=not template)["input_ids"])

    def parity(self, question: dict[str, Any]) -> dict[str, str]:
        """What training wrote in front of an answer, and what the shipped template writes there, when they differ."""
        if not question.get("ids") or not self.shipped:
            return {}
        turn = [{"role": "user", "content": "a"}]
        without = as_prompt(self.tokenizer, turn, False, self.shipped)
        header = as_prompt(self.tokenizer, turn, True, self.shipped).removeprefix(without)
        trained = self.tokenizer.decode(question["ids"])
        if not header or trained.rstrip().endswith(header.rstrip()):
            return {}
        return {"trained": trained[-max(len(header), 24) :], "shipped": header}

    def generate(self, batch_ids: list[list[int]], seed: int | None, limit: int) -> list[list[int]]:
        """New tokens of each prompt, in one batch; greedy without a seed."""
        import torch

        batch = self.tokenizer.pad({"input_ids": batch_ids}, return_tensors="pt").to(self.model.device)
        how: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
        if seed is not None:
            torch.manual_seed(seed)
            how = {"do_sample": True, **{k: self.chosen[k] for k in ("temperature", "top_p") if k in self.chosen}}
        with torch.inference_mode():
            made = self.model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=limit,
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=sorted(self.stops) or None,
                **how,
            )
        new: list[list[int]] = made[:, batch["input_ids"].shape[1] :].tolist()
        return new

    def answer(self, questions: list[dict[str, Any]], have: set[int]) -> None:
        """Answers in batches: prompts of like length and one seed together."""
        began, total, number = time.monotonic(), 0, 0
        ids = [self.ids(q) for q in questions]
        left = [i for i in range(len(ids)) if i not in have]
        left.sort(key=lambda i: (questions[i].get("seed") is not None, questions[i].get("seed") or 0, len(ids[i])))
        while left:
            seed = questions[left[0]].get("seed")
            places = [i for i in left[: self.chosen["batch_size"]] if questions[i].get("seed") == seed]
            left = left[len(places) :]
            made = self.generate([ids[i] for i in places], seed, self.chosen["max_new_tokens"])
            for place, row in zip(places, made):  # noqa: B905
                end = next((n for n, token in enumerate(row) if token in self.stops), None)
                kept = row if end is None else row[:end]
                say(
                    "answer",
                    index=place,
                    # special tokens stay: one in the middle of an answer is what the scorers look for
                    output=self.tokenizer.decode(kept, skip_special_tokens=False),
                    finish_reason="length" if end is None else "stop",
                    tokens=len(kept),
                    special=sum(token in self.known for token in kept),
                )
                total, number = total + len(kept), number + 1
        if number:
            say("speed", seconds=round(time.monotonic() - began, 3), answers=number, tokens=total)

    def loss(self, prompt: list[int], answer: list[int]) -> tuple[float, int]:
        """Sum of -ln p of the answer's tokens after the prompt, and their number."""
        import torch

        answer = [i for i in answer if i < self.rows]
        ids = torch.tensor([prompt + answer], device=self.model.device)
        with torch.inference_mode():
            logits = self.model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
        picked = torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None])
        return -float(picked.sum()), len(answer)

    def tokens(self, text: str, end: bool = True) -> list[int]:
        """An answer's tokens, with the end of its turn."""
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*ids, self.end] if end and isinstance(self.end, int) else ids

    def references(self, questions: list[dict[str, Any]]) -> None:
        """Perplexity of the reference answers, one question at a time."""
        total, count, rows = 0.0, 0, 0
        for question in questions:
            if question.get("reference") and question.get("seed") is None and (prompt := self.ids(question)):
                loss, number = self.loss(prompt, self.tokens(question["reference"]))
                total, count, rows = total + loss, count + number, rows + 1
        if count:
            say("reference", loss=total / count, tokens=count, rows=rows)

    def compare_form(self, questions: list[dict[str, Any]]) -> None:
        """How likely the right answers are as asked, and in the shipped form: references, else what it says there."""
        if not self.shipped or self.form() == "shipped":
            return
        chosen = [q for q in questions if q.get("messages") and q.get("seed") is None][:FORMAT_PROMPTS]
        asked, right, count, worse = 0.0, 0.0, 0, 0
        for question in chosen:
            shipped, given = self.ids(question, shipped=True), self.ids(question)
            made = self.tokens(question["reference"]) if question.get("reference") else []
            made = made or self.generate([shipped], None, 64)[0]
            one, number = self.loss(given, made)
            two = self.loss(shipped, made)[0]
            asked, right, count = asked + one, right + two, count + number
            worse += one > two
        if count:
            say("format", asked=asked / count, shipped=right / count, prompts=len(chosen), worse=worse)

    def score(self, texts: list[str]) -> None:
        """-ln p per token of plain texts: are these sentences of the language this model knows?"""
        start = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        for place, text in enumerate(texts):
            ids = self.tokens(text, end=False)[:512]
            prompt, rest = (start, ids) if start else (ids[:1], ids[1:])
            if prompt and rest:
                loss, number = self.loss(prompt, rest)
                if math.isfinite(loss):
                    say("scored", index=place, loss=loss / number, tokens=number)


def main() -> int:
    """Run the job on standard input."""
    job = json.loads(sys.stdin.readline())
    try:
        say("loading", model=job["model"], adapter=job.get("adapter"))
        asker, questions = Asker(job), job["questions"]
        parity = next((p for q in questions if (p := asker.parity(q))), {})
        say("loaded", **asker.info, **({"parity": parity} if parity else {}))
        asker.answer(questions, set(job.get("have", [])))
        asker.references(questions)
        asker.compare_form(questions)
        asker.score(job.get("score", []))
        say("done")
        while job.get("stay") and (line := sys.stdin.readline()):
            asker.answer(json.loads(line), set())
            say("done")
        return 0
    except Exception as error:
        say("error", type=type(error).__name__, message=str(error)[:4000])
        return 1


if __name__ == "__main__":
    sys.exit(main())
