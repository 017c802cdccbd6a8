"""What a merge loses around the weights, and how it is mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftdoctor.cli import merge as verb
from ftdoctor.merging.readiness import blockers
from ftdoctor.merging.tensors import read_checkpoint
from ftdoctor.merging.tokenizer import differences, mend, read_tokenizer
from tests.unit.merging import models
from tests.unit.merging.models import adapter_tensors, base_tensors, merged_tensors


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good merge."""
    monkeypatch.chdir(tmp_path)
    models.model(tmp_path / "base", base_tensors())
    models.adapter(tmp_path / "out", adapter_tensors())
    models.model(tmp_path / "out/merged", merged_tensors(base_tensors(), adapter_tensors()))
    models.tokenizer(tmp_path / "out/merged")
    return tmp_path


def edit(path: Path, **values: object) -> None:
    data = json.loads(path.read_text())
    data.update(values)
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}))


def lost() -> list[tuple[str, bool]]:
    return [(d.what, d.serious) for d in differences(read_tokenizer("out"), read_tokenizer("out/merged"))]


def test_the_same_tokenizer_differs_in_nothing(run: Path) -> None:
    assert lost() == []
    # a template in tokenizer_config.json, as transformers 4 writes it, is the same template
    (run / "out/merged/chat_template.jinja").unlink()
    edit(run / "out/merged/tokenizer_config.json", chat_template="{{ messages }}<|im_end|>\n")
    assert lost() == []
    # further end tokens do no harm, nor does the special token as an object
    edit(run / "out/merged/generation_config.json", eos_token_id=[78, 79])
    edit(run / "out/merged/tokenizer_config.json", eos_token={"content": "<|im_end|>", "lstrip": False})
    assert lost() == []


def test_each_loss_is_named(run: Path) -> None:
    merged = run / "out/merged"
    (merged / "chat_template.jinja").unlink()
    assert lost() == [("template", True)]
    models.tokenizer(merged, template="{{ other }}")
    assert lost() == [("template", True)]
    models.tokenizer(merged)
    edit(merged / "generation_config.json", eos_token_id=78)
    assert lost() == [("eos", True)]
    edit(merged / "generation_config.json", eos_token_id=79)
    edit(merged / "tokenizer_config.json", pad_token=None)
    assert lost() == [("special", False)]
    models.tokenizer(merged)
    full = json.loads((merged / "tokenizer.json").read_text())
    full["added_tokens"] = full["added_tokens"][:1]
    (merged / "tokenizer.json").write_text(json.dumps(full))
    assert ("vocabulary", True) in lost()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (merged / name).unlink()
    assert ("files", True) in lost()


def test_an_end_of_turn_that_generation_does_not_know_is_a_warning(run: Path) -> None:
    """The tokenizer's end token is in place, the template ends its turns with another one."""
    for folder in ("out", "out/merged"):
        models.tokenizer(run / folder, eos="<|end|>")
    edit(run / "out/merged/generation_config.json", eos_token_id=78)
    (run / "out/chat_template.jinja").write_text("{{ m }}<|im_end|>")
    (run / "out/merged/chat_template.jinja").write_text("{{ m }}<|im_end|>")
    assert lost() == [("eos", False)]


def test_mending_restores_and_keeps_what_was_there(run: Path) -> None:
    merged = run / "out/merged"
    models.tokenizer(merged, eos="<|end|>", template=None)
    edit(merged / "generation_config.json", eos_token_id=78, temperature=0.6)
    before = (merged / "tokenizer_config.json").read_bytes()
    assert verb.main(["--check-only", "out/merged", "--no-logits"]) == 1
    assert verb.main(["--check-only", "out/merged", "--mend", "--no-logits"]) == 0
    assert lost() == []
    assert json.loads((merged / "generation_config.json").read_text()) == {"eos_token_id": [79, 78], "temperature": 0.6}
    assert (merged / "before-mend/tokenizer_config.json").read_bytes() == before
    assert verb.main(["--check-only", "out/merged", "--mend", "--no-logits"]) == 0
    assert (merged / "before-mend/tokenizer_config.json").read_bytes() == before


def test_a_tokenizer_larger_than_the_embedding_is_not_put_in(run: Path) -> None:
    (done,) = mend(read_tokenizer("out"), "out/merged", 60)
    assert "not mended" in done


def test_what_stands_against_gguf(run: Path) -> None:
    merged = run / "out/merged"

    def found() -> str:
        return "; ".join(blockers(read_checkpoint(str(merged)), read_tokenizer(str(merged))))

    assert found() == ""
    edit(merged / "config.json", vocab_size=100, quantization_config={"quant_method": "bitsandbytes"})
    assert "vocab_size 100" in found()
    assert "quantised (bitsandbytes)" in found()
    (merged / "tokenizer.json").unlink()
    assert "neither tokenizer.json" in found()
    (merged / "config.json").unlink()
    assert "no config.json" in found()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"model": {"vocab": 3}, "added_tokens": [{"content": "x", "id": 1}]}']
)
def test_damaged_files_are_no_traceback(run: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (run / "out/merged" / name).write_text(text)
    assert verb.main(["--check-only", "out/merged", "--no-logits"]) in (0, 1)
    assert "Traceback" not in capsys.readouterr().out
