"""Logits of base, base + adapter and merged on a few prompts, run as a script by the training python.

It imports nothing of ftdoctor. Reads one JSON object from standard input: {"base", "adapter", "merged", "prompts"};
writes one JSON object per line to standard output: {"event": "loading" | "done" | "error"}. Models are loaded one
after the other, in the format they are stored in, so the memory of one is enough.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from typing import Any

OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)


def say(event: str, **values: Any) -> None:
    """One line for the parent."""
    OUT.write(json.dumps({"event": event, **values}) + "\n")
    OUT.flush()


def logits_of(model: Any, batches: list[Any]) -> list[Any]:
    """Float32 logits [tokens, vocabulary] of every prompt."""
    import torch

    with torch.no_grad():
        return [model(input_ids=ids.to(model.device)).logits[0].float().cpu() for ids in batches]


def compare(job: dict[str, Any]) -> dict[str, Any]:
    """Load, ask, compare."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shipped = job["adapter"] if os.path.isfile(os.path.join(job["adapter"], "tokenizer_config.json")) else job["base"]
    tokenizer = AutoTokenizer.from_pretrained(shipped)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def load(path: str) -> Any:
        model = AutoModelForCausalLM.from_pretrained(path, dtype="auto")
        return model.to(device).eval()

    batches = [tokenizer(text, return_tensors="pt")["input_ids"] for text in job["prompts"]]
    batches = [ids[:, :256] for ids in batches if ids.shape[1]]
    say("loading", model="base")
    model = load(job["base"])
    rows = model.get_input_embeddings().weight.shape[0]
    batches = [ids for ids in batches if int(ids.max()) < rows]
    if not batches:
        return {"skipped": "the base has no rows for the tokens of the prompts"}
    base = logits_of(model, batches)
    say("loading", model="adapter")
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer))
    model = PeftModel.from_pretrained(model, job["adapter"]).eval()
    adapted = logits_of(model, batches)
    del model
    gc.collect()
    say("loading", model="merged")
    merged = logits_of(load(job["merged"]), batches)
    far, near, gap, agree, places, rows_used = 0.0, 0.0, 0.0, 0, 0, 0
    for one, two, three in zip(base, adapted, merged):  # noqa: B905
        width = min(one.shape[1], two.shape[1], three.shape[1])
        one, two, three = one[:, :width], two[:, :width], three[:, :width]
        near = max(near, float((three - two).abs().max()))
        far = max(far, float((three - one).abs().max()))
        gap = max(gap, float((two - one).abs().max()))
        agree += int((three.argmax(-1) == two.argmax(-1)).sum())
        places += int(three.shape[0])
        rows_used = width
    return {
        "merged_adapter": near, "merged_base": far, "adapter_base": gap, "agree": agree, "positions": places,
        "vocabulary": rows_used, "device": device,
    }  # fmt: skip


def main() -> None:
    """Run one job; an exception becomes an event."""
    job = json.load(sys.stdin)
    try:
        say("done", **compare(job))
    except Exception as error:
        say("error", type=type(error).__name__, message=str(error)[:500])


if __name__ == "__main__":
    main()
