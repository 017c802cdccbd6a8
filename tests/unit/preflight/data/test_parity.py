"""The parity proof without a tokenizer library: rows found again, samples compared id by id, the difference readable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftdoctor.preflight.data import parity, parity_worker, telling
from ftdoctor.preflight.data.conversation import Conversation, conversation
from ftdoctor.preflight.data.declared import declare

WORDS = ["<bos>", "<user>", "<bot>", "<end>", "###", "a", "b", "c", "d", "e", "f", "g", "h"]


class Words:
    """One id a word; `<user> ... <end> <bot> ... <end>` is its template."""

    all_special_ids = (0, 1, 2, 3)
    bos_token_id, eos_token_id = 0, 3
    chat_template = "words"

    def __init__(self, header: str = "<bot>") -> None:
        self.header = header

    def __len__(self) -> int:
        return len(WORDS)

    def get_added_vocab(self) -> dict[str, int]:
        return {}

    def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
        return " ".join(WORDS[i] for i in ids)

    def convert_ids_to_tokens(self, number: int) -> str:
        return WORDS[number]

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [WORDS.index(word) if word in WORDS else 12 for word in text.split()]}

    def apply_chat_template(
        self, turns: list[dict[str, Any]], tokenize: bool = True, add_generation_prompt: bool = False, **_: Any
    ) -> Any:
        said = " ".join(f"{'<user>' if t['role'] == 'user' else '<bot>'} {t['content']} <end>" for t in turns)
        text = f"<bos> {said}{' ' + self.header if add_generation_prompt else ''}"
        return self(text)["input_ids"] if tokenize else text


def tokens(header: str = "<bot>") -> parity_worker.Shipped:
    made = parity_worker.Shipped.__new__(parity_worker.Shipped)
    made.tokenizer, made.kwargs, made.template = Words(header), {}, "words"
    made.added = {0, 1, 2, 3}
    return made


def ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def asked(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"row": 5, "messages": [{"role": roles[n % 2], "content": c} for n, c in enumerate(contents)]}


def masked(sample: str) -> list[int]:
    """Labels: what `<bot>` precedes is trained, up to the end."""
    labels, on = [], False
    for token in ids(sample):
        labels.append(token if on else -100)
        on = {2: True, 3: False}.get(token, on)
    return labels


def test_equal_samples_are_equal_over_all_turns() -> None:
    sample = "<bos> <user> a b <end> <bot> c <end> <user> d <end> <bot> e f <end>"
    made = parity_worker.compare(tokens(), ids(sample), masked(sample), asked("a b", "c", "d", "e f"))
    assert made == {"answers": 2}


def test_the_turn_that_differs_is_named_with_its_difference() -> None:
    sample = "<bos> <user> a b <end> <bot> c <end> ### d d d d <bot> e f <end>"
    made = parity_worker.compare(tokens(), ids(sample), masked(sample), asked("a b", "c", "d d d d", "e f"))
    assert (made["answers"], made["row"], made["turn"]) == (2, 5, 4)
    signs = [(sign, text) for sign, text, _ in made["diff"]]
    assert ("-", "###") in signs
    assert ("+", "<user>") in signs


def test_a_doubled_first_token_is_a_difference() -> None:
    sample = "<bos> <bos> <user> a b c d <end> <bot> e <end>"
    made = parity_worker.compare(tokens(), ids(sample), masked(sample), asked("a b c d", "e"))
    assert any(sign == "-" and text == "<bos>" for sign, text, _ in made["diff"])


def test_a_sample_trained_whole_is_compared_as_well() -> None:
    sample = "<bos> ### a b <end> <bot> c d e f <end>"
    made = parity_worker.compare(tokens(), ids(sample), ids(sample), asked("a b", "c d e f"))
    assert [p[0] for p in made["diff"]][:2] == ["=", "-"]


def test_a_cut_sample_ends_the_comparison() -> None:
    sample = "<bos> <user> a b"
    assert parity_worker.compare(tokens(), ids(sample), masked(sample), asked("a b c", "d")) == {"answers": 0}


def test_a_text_in_front_of_the_prompt_is_a_system_message() -> None:
    sample = "<bos> <bot> g h <end> <user> a b <end> <bot> c <end>"
    trained = [-100] * 10 + ids(sample)[10:]
    made = parity_worker.compare(tokens(), ids(sample), trained, asked("a b", "c"))
    assert made["system"] == "g h"
    held = Held(sample)
    held.labels = trained
    found = parity_worker.parity(tokens(), held, [{**asked("a b", "c"), "row": 1}])  # type: ignore[arg-type]
    assert (found["apart"], found["by_system"], found["first"]) == (1, 1, None)
    lines = telling.proof({"template": True}, found, "", {"rows": 0}, ())
    assert lines == [("parity", "1 of 1 samples are what inference will send when the system message is 'g h'")]
    made = parity_worker.compare(tokens(), ids("### " + sample), [-100, *trained], asked("a b", "c"))
    assert made["system"] == ""


class Held:
    """Prepared samples in memory."""

    labels: list[int] | None = None

    def __init__(self, *samples: str) -> None:
        self.samples = samples

    def at(self, row: int) -> tuple[list[int], list[int]]:
        return ids(self.samples[row - 1]), self.labels or masked(self.samples[row - 1])


def test_without_raw_rows_the_heads_are_compared() -> None:
    good = Held("<bos> <user> a <end> <bot> b <end>", "<bos> <user> c <end> <bot> d <end>")
    found = parity_worker.heads(tokens(), good, [1, 2])  # type: ignore[arg-type]
    assert (found["checked"], found["apart"]) == (2, 0)
    found = parity_worker.heads(tokens("<bot> ###"), good, [1, 2])  # type: ignore[arg-type]
    assert (found["checked"], found["apart"]) == (2, 2)


def test_the_end_of_a_turn_is_read_off_the_template() -> None:
    assert tokens()._turn_end() == 3


@pytest.mark.parametrize(("rows", "number", "most"), [(3, 64, 3), (1000, 64, 64), (64, 64, 64), (65, 64, 64)])
def test_samples_come_from_all_over(rows: int, number: int, most: int) -> None:
    picked = parity_worker.spread(rows, number)
    assert len(picked) == most
    assert (picked[0], picked[-1]) == (1, rows)


def test_parts_that_agree_by_chance_belong_to_the_difference() -> None:
    made = parity_worker.difference(
        tokens(), ids("<bos> ### a ### ### b c d e f"), ids("<bos> <user> a <end> b c d e f")
    )
    assert [sign for sign, _, _ in made] == ["=", "-", "+", "="]


def test_lines_of_the_difference_fit_the_width() -> None:
    first = {"diff": [["=", "x" * 300, list(range(90))], ["-", "\n\n### Response:\n", [1, 2]], ["+", "\x1b[31m", [3]]]}
    lines = parity.diff_lines(first)
    assert all(len(line) <= 74 for line in lines)
    assert lines[1] == "- '\\n\\n### Response:\\n'  2: 1 2"
    assert "\x1b" not in "".join(lines)
    assert parity.frame(first, "-") == repr("\n\n### Response:\n")
    assert parity.frame({"diff": [["-", "a", [1]]]}, "+") == "nothing"


def talk(question: str, answer: str) -> Conversation:
    return Conversation(({"role": "user", "content": question}, {"role": "assistant", "content": answer}))


def test_samples_are_found_again_by_their_text() -> None:
    rows = [talk("Name a colour.", "Blue"), talk("Name a fish.", "A pike,\n of course"), talk("Another", "Blue")]
    samples = {
        3: "Below is ... Name  a fish. ### A pike, of course",
        8: "user Another assistant Blue",
        9: "user None Green",
    }
    found = dict(parity.match(samples, iter(rows)))
    assert {row: made.question for row, made in found.items()} == {3: "Name a fish.", 8: "Another"}


@pytest.mark.parametrize(
    ("dataset", "row", "expected"),
    [
        ({"type": "alpaca"}, {"instruction": "i", "input": "x", "output": "o"}, [("user", "i\nx"), ("assistant", "o")]),
        ({"type": "alpaca"}, {"instruction": "i", "input": "", "output": "o"}, [("user", "i"), ("assistant", "o")]),
        ({"type": "alpaca"}, {"instruction": "i", "output": ""}, None),
        ({"type": "alpaca_w_system.load_open_orca"}, {"system_prompt": "s", "question": "q", "response": "r"},
         [("system", "s"), ("user", "q"), ("assistant", "r")]),
        ({"type": "completion"}, {"text": "t"}, None),
        ({"type": "chat_template", "field_messages": "conversations",
          "message_property_mappings": {"role": "from", "content": "value"}},
         {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "z"}]},
         [("user", "q"), ("assistant", "a")]),
        ({"type": "chat_template"}, {"system": "s", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
         [("system", "s"), ("user", "q"), ("assistant", "a")]),
        ({"type": "chat_template", "drop_system_message": True},
         {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
         [("user", "q"), ("assistant", "a")]),
        ({"type": "chat_template"}, {"messages": [{"role": "user", "content": "q"}]}, None),
        ({"type": {"field_instruction": "ask", "field_output": "say"}}, {"ask": "q", "say": "a"}, [("user", "q"), ("assistant", "a")]),
    ],
)  # fmt: skip
def test_rows_as_conversations(dataset: dict[str, Any], row: dict[str, Any], expected: Any) -> None:
    made = conversation(row, declare(dataset), dataset)
    assert (made and [(m["role"], m["content"]) for m in made.messages]) == expected


def test_the_raw_rows_of_a_configuration(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text(
        '{"instruction": "i", "output": "o"}\nbroken\n{"instruction": "j", "output": "p"}\n'
    )
    data = {"datasets": [{"path": "./d.jsonl", "type": "alpaca"}, {"path": "org/absent", "type": "alpaca"}]}
    assert [c.answer for c in parity.conversations(data, tmp_path)] == ["o", "p"]


def test_the_tokenizer_s_job_has_what_the_yaml_says(tmp_path: Path) -> None:
    data = {
        "base_model": "org/m",
        "special_tokens": {"pad_token": "<pad>", "eos_token": None},
        "chat_template": "llama3",
    }
    job = parity.tokenizer_job(data, tmp_path, None)
    assert (job["path"], job["special_tokens"], job["template"]) == ("org/m", {"pad_token": "<pad>"}, "llama3")
    json.dumps(job)


def test_what_is_said() -> None:
    scanned = {"rows": 10, "masked": 0, "endless": 2, "cut": 1}
    about = {"template": True, "names": {"3": "<end>"}}
    found = {"checked": 4, "answers": 6, "apart": 0}
    lines = dict(telling.proof(about, found, "", scanned, (3,)))
    assert lines["ends"] == "7 of 10 trained samples learn to write <end>"
    assert lines["parity"].startswith("4 samples, 6 answers: every token")
    assert "not judged: no such" in dict(telling.proof(about, {}, "no such", scanned, ()))["parity"]
    assert "no chat template" in dict(telling.proof({}, {}, "", scanned, ()))["parity"]
