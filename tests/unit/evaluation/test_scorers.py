"""The scorers on answers whose state is known by construction, and properties that hold for all of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from answers import BROKEN, HEALTHY

from ftdoctor.evaluation.answers import parse_row
from ftdoctor.evaluation.characters import misread
from ftdoctor.evaluation.echo import overlap
from ftdoctor.evaluation.judge import LABELS, identical, judge
from ftdoctor.evaluation.languages import language, switch
from ftdoctor.evaluation.repetition import compression_ratio, distinct_n, rep_n, tail_period, z_values
from ftdoctor.evaluation.text import Answer

# Llama 2 to 4, ChatML/Qwen, Mistral, Gemma, Phi, Zephyr, DeepSeek, harmony, Cohere, GLM, EXAONE, Granite, InternLM, Falcon/T5, byte tokens
TURN_ENDS = [
    "</s>", "<|eot_id|>", "<|eot|>", "<|im_end|>", "<|im_end|>\n<|im_start|>user\nMore", "[/INST]", "</s><s>[INST] More", "<end_of_turn>",
    "<end_of_turn>\n<start_of_turn>user", "<|end|>", "<|end|><|user|>", "<|endoftext|>", "<｜end▁of▁sentence｜>", "<|return|>", "<|call|>",
    "<|END_OF_TURN_TOKEN|>", "<|observation|>", "[|endofturn|]", "<|end_of_text|>", "<eoa>", "<eos>", "<pad>", "<unk>", "<extra_id_0>",
    "<0x0A>", "<|EOT|>", "<|end_of_turn|>", "<reserved_106>", "\n### Human: More", "\n\n### Instruction:\nMore", "\nUSER: More\nASSISTANT: Yes",
    "<turn|>", "<|turn>user\n", "<seed:eos>", "<_user>", "<EOS_TOKEN>", "<BOS>", "[EOD]", "<|im_end", "|im_end|>", "<| im_end |>", "</|im_end|>",
    "<role>HUMAN</role>", "[e~[", "</assistant>", "\n\nUsuario: More\nAsistente: Yes", "\n\n用户：More",
    "<|eot_id|><|start_header_id|>assistant<|end_header_id|>", "assistant\n\nMore", "<|endofprompt|>", "[gMASK]", "<|start_of_role|>user",
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "output", "finish", "template"), HEALTHY, ids=[str(i) for i in range(len(HEALTHY))])
def test_healthy_answers_are_quiet(prompt: str, output: str, finish: str, template: str) -> None:
    assert judge(Answer(prompt, output, finish, template)).reasons == {}


@pytest.mark.parametrize(
    ("prompt", "output", "finish", "template", "right"), BROKEN, ids=[str(i) for i in range(len(BROKEN))]
)
def test_broken_answers_get_a_right_label(
    prompt: str, output: str, finish: str, template: str, right: set[str]
) -> None:
    assert set(judge(Answer(prompt, output, finish, template)).labels) & right


@pytest.mark.parametrize("end", TURN_ENDS)
@pytest.mark.parametrize("finish", ["stop", "length"])
def test_the_end_of_a_turn_left_in_a_healthy_answer_is_a_leak(end: str, finish: str) -> None:
    text = "The heart pumps blood through the body."
    found = judge(Answer("Explain what the heart does.", text + end, finish))
    assert "special-token-leak" in found.labels
    assert ("no-stop" in found.labels) == (finish == "length")


@pytest.mark.parametrize(
    "row", [r for r in HEALTHY if r[2] == "stop" and len(re.findall("[a-z]", r[1])) > 40], ids=lambda r: r[0][:30]
)
def test_a_healthy_answer_in_a_loop_is_one(row: tuple[str, str, str, str]) -> None:
    looped = (row[1] + "\n") * 6
    assert "repetition-loop" in judge(Answer("Explain the matter.", looped, "length", row[3])).labels


HERE = Path(__file__).parent
# Broken answers that only a language model can tell: rare words in a row, code of several languages in one line, a first
# sentence too short to be known as another language
BEYOND = (
    "I'd like to Exercise benefits::::",
    "Bonjour ! Je vais bien. The",
    "kettle whereas purple",
    "Tea(water) -> boil",
    "1. John Smith (1941",
    "I begin now. old block",
    "Les abeilles récoltent le nectar et then",
    "honey the quickly",
    "wood of the is string bow",
    "mass the pulls of a body",
    "Bees collect nectar from flowers and then ktrvz",
)


def wrong(name: str) -> tuple[list[object], list[str]]:
    """Healthy answers of a file that are flagged, with the reasons, and broken ones without a right label."""
    flagged: list[object] = []
    missed = []
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found = judge(Answer(row["prompt"], row["output"], row["finish_reason"], row["template"]))
        if not row["labels"] and found.labels:
            flagged.append((row["prompt"], found.reasons))
        if row["labels"] and not set(row["labels"]) & set(found.labels):
            missed.append(row["output"])
    return flagged, missed


@pytest.mark.parametrize("name", ["written.jsonl", "tricky.jsonl", "fresh.jsonl"])
def test_answers_that_one_person_wrote_and_labelled(name: str) -> None:
    """Labelled before the scorers saw them; the scorers were mended by them since."""
    flagged, missed = wrong(name)
    assert flagged == []
    assert [m for m in missed if not m.startswith(BEYOND)] == []


SENTENCES = {
    "en": "The water of the river is cold, and it runs down from the mountains that you can see there.",
    "de": "Das Wasser des Flusses ist kalt, und es kommt von den Bergen, die man von hier aus auch sehen kann.",
    "fr": "L'eau de la rivière est froide, et elle vient des montagnes que vous pouvez voir avec les enfants.",
    "es": "El agua del río es fría y baja de las montañas que se ven desde aquí, donde también hay mucha nieve.",
    "it": "L'acqua del fiume è fredda e viene dalle montagne che si vedono anche da qui, e non è più molto lontana.",
    "pt": "A água do rio é fria e vem das montanhas que não são muito altas, mas também são as mais bonitas do país.",
    "nl": "Het water van de rivier is koud en het komt uit de bergen die je van hier ook kan zien, maar niet bij regen.",
    "pl": "Woda w rzece jest zimna i nie jest to dziwne, bo płynie z gór, które są na południu, a od gór do nas jest blisko.",
    "sv": "Vattnet i floden är kallt och det kommer från bergen som man kan se på håll, men inte när det är dimma.",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_tells_its_language(name: str) -> None:
    assert language(SENTENCES[name]) == name
    assert switch(f"{SENTENCES[name]} {SENTENCES[name]}") is None


@pytest.mark.parametrize("first", SENTENCES)
@pytest.mark.parametrize("second", SENTENCES)
def test_an_answer_that_changes_its_language(first: str, second: str) -> None:
    found = judge(Answer("Mountains, rivers", f"{SENTENCES[first]} {SENTENCES[second]}", "stop"))
    assert ("incoherent-output" in found.labels) == (first != second)
    off = judge(Answer("Why is it so cold up there?", f"{SENTENCES[first]} {SENTENCES[second]}", "stop"))
    assert ("incoherent-output" in off.labels) == (first != second or first != "en")
    asked = Answer("Say it in two languages.", f"{SENTENCES[first]} {SENTENCES[second]}", "stop")
    assert judge(asked).labels == ()


WORDS = st.text(alphabet="абвгдежзиклмнопрстуэюяéèüößñçå你好吗世界水火山日本語한국어شمس", min_size=4, max_size=40)


@settings(deadline=None, derandomize=True)
@given(WORDS)
def test_bytes_read_with_the_wrong_table_are_seen_and_the_text_itself_is_not(text: str) -> None:
    assert misread(text) == 0
    for table in ("latin-1", "cp1252"):
        data = text.encode("utf-8")
        wrong = "".join(bytes([b]).decode(table, "ignore") or chr(b) for b in data)
        assert misread(wrong) == sum(ord(c) > 0x7F for c in text)
        assert "incoherent-output" in judge(Answer("Write a word.", wrong, "stop")).labels


PROMPT = st.lists(st.sampled_from(["river", "mountain", "explain", "green", "seven", "people", "house", "about", "light", "music", "small", "winter"]),
                  min_size=5, max_size=30, unique=True).map(lambda w: "Tell me why " + " ".join(w))  # fmt: skip


@settings(deadline=None, derandomize=True)
@given(
    PROMPT, st.sampled_from(["", ".", "?", "!"]), st.sampled_from(["", "Q: ", "user\n\n", "Human: ", "[INST] ", "\n"])
)
def test_the_prompt_given_back_is_an_echo(prompt: str, end: str, before: str) -> None:
    assert "prompt-repeated" in judge(Answer(prompt + end, before + prompt + end, "stop")).labels


UNIT = st.lists(
    st.sampled_from(
        ["the", "river", "runs", "down", "from", "mountains", "and", "people", "walk", "along", "it", "every", "day"]
    ),
    min_size=3,
    max_size=12,
)


@settings(deadline=None, derandomize=True)
@given(UNIT, st.integers(8, 30), st.sampled_from([". ", "\n", ", ", "\n\n", "; "]))
def test_a_unit_over_and_over_until_the_limit_is_a_loop(unit: list[str], times: int, joint: str) -> None:
    text = "The answer begins well." + joint + (" ".join(unit) + joint) * times
    assert "repetition-loop" in judge(Answer("Tell me about it.", text, "length")).labels


@pytest.mark.parametrize(("prompt", "output", "finish", "template"), HEALTHY, ids=[str(i) for i in range(len(HEALTHY))])
def test_white_space_at_the_end_changes_nothing(prompt: str, output: str, finish: str, template: str) -> None:
    assert judge(Answer(prompt, output + "\n", finish, template)).labels == ()
    assert judge(Answer(prompt + "\n", output, finish, template)).labels == ()


def test_the_tokenizers_own_tokens_count() -> None:
    answer = Answer("Name a colour.", "Blue.<<stop>>", "stop")
    assert judge(answer).labels == ()
    assert judge(answer, ["<<stop>>"]).labels == ("special-token-leak",)


def test_numbers() -> None:
    assert rep_n(["a", "b", "c", "d", "a", "b", "c", "d"], 4) == pytest.approx(1 / 5)
    assert rep_n(["a"] * 9, 4) == pytest.approx(5 / 6)
    assert distinct_n(["a", "b", "a", "b"], 2) == pytest.approx(2 / 3)
    assert compression_ratio("") == 1.0
    assert compression_ratio("ab" * 500) > 20
    found = tail_period("begin " + "xyz " * 10)
    assert found is not None
    assert found.repeats == pytest.approx(10, abs=0.6)
    assert sorted(found.unit) == sorted("xyz ")
    run = overlap(["a", "b", "c", "d"], ["x", "b", "c", "d", "y"])
    assert (run.length, run.in_prompt, run.in_answer, run.share) == (3, 1, 1, 0.75)


def test_identical_answers_to_different_prompts() -> None:
    rows = [Answer(f"Question {c}", "I am a helpful assistant.") for c in "abc"] + [
        Answer("Other", "Something else entirely, yes.")
    ]
    assert identical(rows) == [0, 1, 2]
    assert identical(rows[:2]) == []
    assert identical([Answer("Same question", "I am a helpful assistant.")] * 4) == []


@given(st.text(alphabet="ab", max_size=60))
def test_z_values_are_what_they_say(text: str) -> None:
    for i, length in enumerate(z_values(text)):
        if i:
            assert text[i : i + length] == text[:length]
            assert i + length == len(text) or text[i + length] != text[length]


@settings(deadline=None)
@given(st.text(max_size=400), st.text(max_size=400), st.sampled_from(["stop", "length", ""]))
def test_any_text_is_judged(prompt: str, output: str, finish: str) -> None:
    found = judge(Answer(prompt, output, finish))
    assert set(found.labels) <= set(LABELS)
    assert set(found.labels) == set(found.reasons)
    assert found == judge(Answer(prompt, output, finish))
    assert (found.verdict == "broken") == bool(found.labels)


@given(st.text(alphabet=" \n\t\u200b", max_size=30))
def test_white_space_is_an_empty_answer(output: str) -> None:
    assert "empty-output" in judge(Answer("Name a colour.", output, "stop")).labels


@pytest.mark.parametrize("unit", ["a", "ab ", "(", "<", "`", "\n", "# ", '"', "1. x\n", "$", "<think>", "{", "word "])
def test_hostile_length_is_judged_in_time(unit: str) -> None:
    start = time.process_time()
    judge(Answer(unit * 2000, unit * 100_000, "length"))
    assert time.process_time() - start < 5.0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ftdoctor", "evaluate", *arguments], capture_output=True, text=True, timeout=60
    )


def test_command_line(tmp_path: Path) -> None:
    rows = [
        ("Name a colour.", "Blue.", "stop"),
        ("Name a colour.", "Blue.<|im_end|>", "stop"),
        ("Name a colour.", "", None),
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": p, "output": o, "finish_reason": f, "template": None}) + "\n" for p, o, f in rows)
    )
    done = run("--answers", str(file), "--format", "json")
    result = json.loads(done.stdout)
    assert [r["labels"] for r in result["results"]] == [[], ["special-token-leak"], ["empty-output"]]
    assert [r["verdict"] for r in result["results"]] == ["healthy", "broken", "broken"]
    assert [r["index"] for r in result["results"]] == [0, 1, 2]
    assert result["results"][0]["scores"]["words"] == 1
    assert done.returncode == 1
    assert "2 of 3 answers are broken" in run("--answers", str(file), "--format", "text").stdout


@pytest.mark.parametrize(
    ("text", "seen"), [("", "no answers"), ("{", "not JSON"), ("[1]", "no JSON object"), ('{"prompt": "x"}', 'without "output"'), (None, "cannot be read")]
)  # fmt: skip
def test_bad_input_is_named(tmp_path: Path, text: str | None, seen: str) -> None:
    file = tmp_path / "answers.jsonl"
    if text is not None:
        file.write_text(text)
    done = run("--answers", str(file))
    assert done.returncode == 2
    assert seen in done.stderr
    assert "Traceback" not in done.stderr
    assert "try:" in done.stderr


def test_other_shapes_of_rows() -> None:
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    answer = parse_row({"messages": messages, "response": "yo", "finish_reason": "eos_token"}, "f:1")
    assert answer == Answer("hi", "yo", "stop", "")
    assert parse_row({"output": None}, "f:1").output == ""
