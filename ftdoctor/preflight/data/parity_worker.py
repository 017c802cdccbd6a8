"""Prepared samples against the tokenizer that will be shipped; run as a script by the training python.

It imports nothing of ftdoctor, and of the training stack only transformers' tokenizers, pyarrow and numpy (torch is
hidden from them, which saves half of the start). Standard input is JSON lines. A job begins with

    {"tokenizer": {"path", "class", "revision", "trust", "special_tokens", "tokens", "template", "jinja", "kwargs",
     "system", "eot_tokens", "folder"}, "prepared": folder, "samples": number}

and is answered by {"event": "rows", "tokenizer": {...}, "rows": [{"row", "text"}]}: the decoded text of samples from
all over the set, without special tokens. The next line is {"conversations": [{"row", "messages", "tools"}]}, answered
by {"event": "parity", ...}; see `parity`. Further jobs may follow. Rows count from 1. What libraries print goes to
standard error.

The tokenizer is made as `axolotl/loaders/tokenizer.py` (0.19) makes the one that it saves with the model, or loaded as
it is from "folder".
"""

from __future__ import annotations

import difflib
import importlib.util
import json
import os
import sys
from typing import Any

OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
IGNORED = -100
TURNS = 6  # answers of one conversation that are looked at
MARK = "QQANSWERQQ"
BY_CHANCE = 4


def say(event: str, **values: Any) -> None:
    """One line for the parent."""
    OUT.write(json.dumps({"event": event, **values}, ensure_ascii=False) + "\n")
    OUT.flush()


def template_text(name: str, jinja: str | None, own: str | None) -> str | None:
    """The chat template that Axolotl means by a name; None when the name says nothing here.

    Raises:
        LookupError: Axolotl ships no such template.
    """
    if name == "jinja":
        if jinja and os.path.isfile(jinja):
            with open(jinja, encoding="utf-8") as handle:
                return handle.read()
        return jinja
    if name.startswith("tokenizer_default"):
        name = name.removeprefix("tokenizer_default_fallback_")
        if own or name == "tokenizer_default":
            return own
    found = importlib.util.find_spec("axolotl")
    for place in (found.submodule_search_locations or ()) if found else ():
        path = os.path.join(place, "utils", "chat_templates", "templates", f"{name}.jinja")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as handle:
                return handle.read()
    raise LookupError(f"chat_template {name} is not among the installed Axolotl's templates")


def shipped(job: dict[str, Any]) -> Any:
    """The tokenizer as it will lie beside the model."""
    import transformers
    from transformers import AddedToken, AutoTokenizer

    if job.get("folder"):
        return AutoTokenizer.from_pretrained(job["folder"])
    loader = getattr(transformers, job["class"]) if job.get("class") else AutoTokenizer
    given = {"revision": job["revision"]} if job.get("revision") else {}
    tokenizer = loader.from_pretrained(job["path"], trust_remote_code=bool(job.get("trust")), **given)
    special = dict(job.get("special_tokens") or {})
    more = special.pop("additional_special_tokens", None)
    plain = {"rstrip": False, "lstrip": False, "normalized": False}
    for name, text in special.items():
        tokenizer.add_special_tokens({name: AddedToken(text, **plain)})
    if job.get("tokens"):
        tokenizer.add_tokens([AddedToken(text, **plain) for text in job["tokens"]])
    if more is not None:
        tokenizer.add_special_tokens({"additional_special_tokens": more})
    if job.get("template"):
        text = template_text(job["template"], job.get("jinja"), getattr(tokenizer, "chat_template", None))
        if job.get("system") and job["template"] == "chatml" and text:
            text = text.replace("You are a helpful assistant.", job["system"])
        tokenizer.chat_template = text
    return tokenizer


class Samples:
    """A prepared data set, memory-mapped; `at(row)` gives ids and labels."""

    def __init__(self, folder: str) -> None:
        """Map its files."""
        import pyarrow as arrow

        with open(os.path.join(folder, "state.json"), encoding="utf-8") as handle:
            files = [str(item["filename"]) for item in json.load(handle).get("_data_files", [])]
        self.batches: list[tuple[int, Any]] = []
        self.rows = 0
        for name in files:
            source = arrow.memory_map(os.path.join(folder, name))
            for batch in arrow.ipc.open_stream(source):
                self.batches.append((self.rows, batch))
                self.rows += batch.num_rows

    def at(self, row: int) -> tuple[list[int], list[int]]:
        """Token ids and labels of row `row`."""
        start, batch = next((s, b) for s, b in reversed(self.batches) if s < row)
        where = row - 1 - start
        return batch.column("input_ids")[where].as_py(), batch.column("labels")[where].as_py()


class Shipped:
    """The tokenizer, and what of it counts."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Load it."""
        self.tokenizer = tokenizer = shipped(job)
        self.kwargs = dict(job.get("kwargs") or {})
        self.template = getattr(tokenizer, "chat_template", None)
        self.added = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        self.end = self._turn_end()
        named = [tokenizer.convert_tokens_to_ids(t) for t in job.get("eot_tokens") or ()]
        self.ends = sorted({i for i in (self.end, tokenizer.eos_token_id, *named) if isinstance(i, int)})

    def _turn_end(self) -> int | None:
        """The first token that the template writes after an answer; None when it writes none."""
        if not self.template:
            return None
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": MARK}]
        try:
            text = str(self.tokenizer.apply_chat_template(turns, tokenize=False, **self.kwargs))
        except Exception:  # a template that wants other turns
            return None
        after = text.rpartition(MARK)[2].lstrip()
        ids = self.tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
        return int(ids[0]) if ids else None

    def about(self) -> dict[str, Any]:
        """For the parent."""
        named = self.tokenizer.convert_ids_to_tokens
        return {
            "template": bool(self.template), "bos": self.tokenizer.bos_token_id, "eos": self.tokenizer.eos_token_id,
            "turn_end": self.end, "ends": self.ends, "rows": len(self.tokenizer),
            "names": {str(i): str(named(i)) for i in {*self.ends, self.tokenizer.bos_token_id} if i is not None},
        }  # fmt: skip

    def text(self, ids: list[int]) -> str:
        """What was written, without the tokens that only a template writes."""
        return str(self.tokenizer.decode([i for i in ids if i not in self.added]))

    def shown(self, ids: list[int]) -> str:
        """What was written, special tokens included."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def prompt(self, messages: list[dict[str, Any]], tools: Any) -> list[int]:
        """What inference sends for these messages."""
        more = {"tools": tools} if tools else {}
        made = self.tokenizer.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=False, **more, **self.kwargs
        )
        return [int(i) for i in made]


def spans(labels: list[int]) -> list[tuple[int, int]]:
    """The trained parts of a sample, as (first, behind the last)."""
    found, start = [], -1
    for place, label in enumerate([*labels, IGNORED]):
        if label != IGNORED and start < 0:
            start = place
        elif label == IGNORED and start >= 0:
            found.append((start, place))
            start = -1
    return found


def difference(tokens: Shipped, trained: list[int], asked: list[int]) -> list[list[Any]]:
    """Runs of tokens as [sign, text, ids]: `=` in both, `-` only trained, `+` only asked.

    A few tokens that agree by chance between two differences (a line end, a letter) belong to them.
    """
    codes = difflib.SequenceMatcher(None, trained, asked, autojunk=False).get_opcodes()
    runs: list[list[Any]] = []
    gone: list[int] = []
    new: list[int] = []
    for number, (kind, a, b, c, d) in enumerate(codes):
        if kind != "equal" or (0 < number < len(codes) - 1 and b - a < BY_CHANCE):
            gone, new = gone + trained[a:b], new + asked[c:d]
            continue
        runs += [["-", gone], ["+", new], ["=", trained[a:b]]]
        gone, new = [], []
    runs += [["-", gone], ["+", new]]
    return [[sign, tokens.shown(ids), ids] for sign, ids in runs if ids]


def compare(tokens: Shipped, ids: list[int], labels: list[int], asked: dict[str, Any]) -> dict[str, Any]:
    """One sample against its conversation: `answers` looked at, and where the first of them stands apart."""
    messages, tools = asked["messages"], asked.get("tools")
    trained = spans(labels)
    places = [n for n, turn in enumerate(messages) if turn["role"] == "assistant" and n]
    seen, behind = 0, 0
    for place in places[:TURNS]:
        prompt = tokens.prompt(messages[:place], tools)
        if len(prompt) >= len(ids):
            break  # cut at sequence_len before this answer
        seen += 1
        if ids[: len(prompt)] == prompt:
            behind = len(prompt)
            continue
        # where training began to learn after the last answer that agreed; a sample trained whole has no such place
        start = next((a for a, _ in trained if a > behind), 0) or _answer_at(tokens, ids, messages[place])
        before, system = ids[: start or len(prompt)], ""
        if place == 1 and messages[0]["role"] == "user" and (system := preamble(tokens, before, messages[0])):
            with_it = tokens.prompt([{"role": "system", "content": system}, messages[0]], tools)
            prompt, system = (with_it, system) if ids[: len(with_it)] == with_it else (prompt, "")
        return {"answers": seen, "row": asked["row"], "turn": place + 1, "system": system,
                "diff": difference(tokens, before, prompt)}  # fmt: skip
    return {"answers": seen}


def preamble(tokens: Shipped, trained: list[int], turn: dict[str, Any]) -> str:
    """What training wrote in front of the user's turn and the template does not; empty when nothing.

    As `type: alpaca` does with "Below is an instruction ...", which `chat_template: alpaca` lacks: sent as the system
    message, it makes both the same.
    """
    written, asked = tokens.text(trained), tokens.text(tokens.prompt([turn], None))
    return written[: len(written) - len(asked)].strip() if asked and written.endswith(asked) else ""


def _answer_at(tokens: Shipped, ids: list[int], turn: dict[str, Any]) -> int:
    """Where an answer begins in a sample, 0 when it is not found."""
    wanted = tokens.tokenizer(str(turn.get("content")), add_special_tokens=False)["input_ids"][1:9]
    size = len(wanted)
    return next((n - 1 for n in range(1, len(ids) - size + 1) if size and ids[n : n + size] == wanted), 0)


def parity(tokens: Shipped, samples: Samples, asked: list[dict[str, Any]]) -> dict[str, Any]:
    """`checked` samples, `apart` of them otherwise than inference will ask; `first`: the first such one.

    `by_system` of these agree once `system` is sent as the system message; they have no difference to show.
    """
    found: dict[str, Any] = {"checked": 0, "answers": 0, "apart": 0, "first": None, "failed": "", "system": ""}
    for item in asked:
        ids, labels = samples.at(item["row"])
        try:
            result = compare(tokens, ids, labels, item)
        except Exception as error:
            found["failed"] = f"{type(error).__name__}: {error}"[:300]
            continue
        if not result["answers"]:
            continue
        found["checked"] += 1
        found["answers"] += result["answers"]
        if "diff" in result:
            found["apart"] += 1
            if not result["system"]:
                found["first"] = found["first"] or result
            found["system"] = found["system"] or result["system"]
            found["by_system"] = found.get("by_system", 0) + bool(result["system"])
    return found


def heads(tokens: Shipped, samples: Samples, rows: list[int]) -> dict[str, Any]:
    """Without the raw rows: what stands before a trained part, against what the template writes before an answer."""
    asked = [{"role": "user", "content": "a"}]
    whole = tokens.prompt(asked, None)
    bare = tokens.tokenizer.apply_chat_template(asked, tokenize=True, add_generation_prompt=False, return_dict=False)
    header = whole[len(bare) :] if whole[: len(bare)] == list(bare) else []
    found: dict[str, Any] = {"checked": 0, "answers": 0, "apart": 0, "first": None, "failed": "", "header": True}
    for row in rows if header else ():
        ids, labels = samples.at(row)
        trained = [(a, b) for a, b in spans(labels) if a >= len(header)]
        if not trained:
            continue
        found["checked"] += 1
        found["answers"] += len(trained)
        # templates that train part of their own header begin a few tokens earlier
        wrong = [a for a, _ in trained if not any(
            ids[a - len(header) + n : a + n] == header for n in range(len(header) + 1))]  # fmt: skip
        if wrong:
            found["apart"] += 1
            before = ids[max(0, wrong[0] - len(header) - 4) : wrong[0]]
            found["first"] = found["first"] or {"row": row, "turn": 0, "diff": difference(tokens, before, header)}
    return found


def spread(rows: int, number: int) -> list[int]:
    """`number` rows from all over 1..`rows`."""
    if rows <= number:
        return list(range(1, rows + 1))
    return sorted({1 + round(n * (rows - 1) / (number - 1)) for n in range(number)})


def main() -> int:
    """Answer jobs until standard input ends."""
    os.dup2(2, 1)
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    for line in sys.stdin:
        job = json.loads(line)
        try:
            tokens, samples = Shipped(job["tokenizer"]), Samples(job["prepared"])
            picked = spread(samples.rows, job["samples"])
            rows = [{"row": row, "text": tokens.text(samples.at(row)[0])} for row in picked]
            say("rows", tokenizer=tokens.about(), rows=rows, total=samples.rows)
            asked = json.loads(sys.stdin.readline() or "{}").get("conversations")
            if asked is None:
                return 0
            if not tokens.template:
                say("parity", checked=0, answers=0, apart=0, first=None, failed="")
            else:
                say("parity", **(parity(tokens, samples, asked) if asked else heads(tokens, samples, picked)))
        except Exception as error:
            say("error", type=type(error).__name__, message=str(error)[:1000])
    return 0


if __name__ == "__main__":
    sys.exit(main())
