"""Generation for real, on a tiny model; skipped where no training environment is found."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ftdoctor.errors import FtdoctorError, InputError
from ftdoctor.evaluation.compare import facts, judged
from ftdoctor.evaluation.generate import Generation, check_model, generate, how_it_died, training_python
from ftdoctor.evaluation.suite import SUITE, read_prompts

MAKE = """
import sys
from tokenizers import Tokenizer, models, pre_tokenizers, decoders
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
set_seed(1)
special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
t = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet + special)}, []))
t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
f = PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<|endoftext|>", pad_token="<|endoftext|>",
                            additional_special_tokens=special[:2])
f.chat_template = ("{% for m in messages %}<|im_start|>{{ m.role }}\\n{{ m.content }}<|im_end|>\\n{% endfor %}"
                   "{% if add_generation_prompt %}<|im_start|>assistant\\n{% endif %}")
m = LlamaForCausalLM(LlamaConfig(vocab_size=len(f), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                 num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=2048,
                                 eos_token_id=f.eos_token_id, bos_token_id=None))
m.save_pretrained(sys.argv[1]); f.save_pretrained(sys.argv[1])
"""


@pytest.fixture(scope="module")
def python() -> str:
    try:
        return training_python(None)
    except FtdoctorError as error:
        pytest.skip(f"needs a training environment: {error}; set FTDOCTOR_PYTHON")


@pytest.fixture(scope="module")
def tiny(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([python, "-c", MAKE, str(folder)], check=True, capture_output=True, timeout=800)
    return folder


def evaluate(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ftdoctor", "evaluate", "--max-new-tokens", "24", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=800)


@pytest.mark.timeout(1800)  # four loads of torch, on a machine that may be slow
def test_an_untrained_model_is_broken_and_its_answers_are_kept(tiny: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Name a colour."}\n{"instruction": "Add these.", "input": "1 2"}\n')
    out = tmp_path / "e.jsonl"
    options = ["--model", str(tiny), "--prompts", str(prompts), "--out", str(out), "--format", "json"]
    done = evaluate(*options)
    assert done.returncode == 1, done.stderr
    model = json.loads(done.stdout)["models"][0]
    assert model["answers"] == 2
    assert model["broken"] == 2
    assert model["died"] == ""
    assert model["info"]["template"] == "shipped"
    assert model["info"]["turn_end"] == "<|im_end|>"
    assert model["info"]["turn_end_stops"] is False
    assert "eos-not-trained" in [f["id"] for f in model["findings"]]
    page = out.with_suffix(".html").read_text()
    assert "Name a colour." in page
    assert "<script" not in page
    assert "http" not in page
    before = out.read_text()
    again = evaluate(*options)
    assert "2 answers" in again.stderr
    assert out.read_text() == before
    other = evaluate(*options, "--no-generation-prompt")
    assert json.loads(other.stdout)["models"][0]["root_cause"] == "template-mismatch"


def test_a_killed_worker_is_said_in_words(python: str, tmp_path: Path) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    done = generate(str(script), Generation("m", str(tmp_path), None), SUITE, {})
    assert "SIGKILL" in done.died
    assert done.rows == {}


def test_ends_in_words() -> None:
    assert "memory" in how_it_died(-signal.SIGKILL, "")
    assert "SIGTERM" in how_it_died(-signal.SIGTERM, "")
    assert "code 1: ImportError: x" in how_it_died(1, "a\nImportError: x\n\n")


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="this is an adapter"):
        check_model(str(tmp_path), None)
    with pytest.raises(InputError, match="no such folder"):
        check_model(str(tmp_path / "none"), None)
    with pytest.raises(InputError, match="adapter_config"):
        check_model("org/model", str(tmp_path / "none"))


@pytest.mark.parametrize("arguments", [["--adapter", "x"], ["--answers", "a", "--model", "b"], []])
def test_usage(arguments: list[str], tmp_path: Path) -> None:
    done = evaluate(*arguments)
    assert done.returncode == 2
    assert "try:" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_own_results_file_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    out = tmp_path / "notes.jsonl"
    out.write_text("my notes\n")
    done = evaluate("--model", str(tmp_path), "--out", str(out), "--python", sys.executable)
    assert done.returncode == 2
    assert "not a results file" in done.stderr
    assert out.read_text() == "my notes\n"


def test_prompts_of_many_shapes(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    rows = ['"hi"', '{"prompt": "a b"}', '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]}',
            '{"conversations": [{"from": "human", "value": "z"}]}']  # fmt: skip
    file.write_text("\n".join(rows))
    assert [p.text for p in read_prompts(str(file))] == ["hi", "a b", "q", "z"]
    file.write_text('{"text": 1}')
    with pytest.raises(InputError, match="without a prompt"):
        read_prompts(str(file))


@pytest.mark.parametrize(
    ("asked", "shipped", "worse", "form"),
    [
        (0.34, 0.051, 15, "apart"),  # a small Llama asked through Alpaca's template, right answers often wrong
        (0.9, 0.1, 16, "apart"), (0.2, 0.06, 16, "apart"),
        (0.2, 0.06, 9, "near"), (0.06, 0.05, 12, "near"), (0.14, 0.03, 16, "near"), (1.4, 1.2, 16, "near"),
    ],
)  # fmt: skip
def test_another_form_is_told_by_the_likelihood_of_right_answers(
    asked: float, shipped: float, worse: int, form: str
) -> None:
    made = Generation("model", "m", None, info={"template": "overridden"})
    made.measured["format"] = {"asked": asked, "shipped": shipped, "prompts": 16, "worse": worse}
    assert facts(judged(made, ()))["answers.form"] == form


def test_a_base_without_a_template_is_no_news() -> None:
    for name, seen in (("base", None), ("model", "missing")):
        assert (
            facts(judged(Generation(name, "m", None, info={"template": "missing"}), ())).get("answers.template") == seen
        )


def test_answers_are_kept_now_and_then_and_at_the_end() -> None:
    from ftdoctor.cli.evaluate import Keeper

    clock, written = [0.0], []

    def write() -> None:
        written.append(clock[0])
        clock[0] += 0.5

    def asked() -> None:
        with Keeper(write, lambda: clock[0]) as keep:
            for _ in range(100):
                keep()
                clock[0] += 0.1
            clock[0] = 30.0
            keep()
            keep()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked()
    assert written[0] == 0.0
    assert 4.99 < written[1] < 5.2, "writing took 0.5 s, so the next comes 4.5 s later"
    assert written[-2:] == [30.0, 30.5], "once more when it is interrupted, because something was left"
