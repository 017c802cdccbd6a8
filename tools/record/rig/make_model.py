"""Write a 125,000-parameter Llama with its tokenizer to ./tiny, and the data sets the scenarios train on.

Runs in the training environment.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "sees",
    "red",
    "blue",
    "green",
    "three",
    "primary",
    "colors",
    "are",
    "what",
    "is",
    "capital",
    "of",
    "France",
    "Paris",
    "Germany",
    "Berlin",
    "explain",
    "gradient",
    "checkpointing",
    "sentences",
    "memory",
    "training",
    "model",
    "data",
    "token",
    "loss",
    "step",
    "repeat",
]
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def model() -> None:
    """Tokenizer and weights."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    rng = random.Random(0)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=800, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([" ".join(rng.choices(WORDS, k=12)) for _ in range(2000)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=SPECIAL[0], eos_token=SPECIAL[1])
    fast.save_pretrained("tiny")
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained("tiny")


def write(name: str, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object a line."""
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def data() -> None:
    """The data sets: alpaca rows, chat rows, and broken ones."""
    rng = random.Random(1)
    answers = [" ".join(rng.choices(WORDS, k=6)) for _ in range(400)]
    alpaca = [{"instruction": f"repeat {a}", "input": "", "output": a} for a in answers]
    write("data.jsonl", alpaca)
    write(
        "chat.jsonl",
        [
            {"messages": [{"role": "user", "content": f"repeat {a}"}, {"role": "assistant", "content": a}]}
            for a in answers
        ],
    )
    write(
        "bots.jsonl",
        [{"messages": [{"role": "user", "content": f"repeat {a}"}, {"role": "bot", "content": a}]} for a in answers],
    )
    write("empty.jsonl", [{**row, "output": ""} for row in alpaca])
    write("columns.jsonl", [{"prompt": row["instruction"], "completion": row["output"]} for row in alpaca])
    write(
        "long.jsonl",
        [{**row, "output": " ".join([row["output"]] * (40 if i % 3 else 1))} for i, row in enumerate(alpaca)],
    )


if __name__ == "__main__":
    model()
    data()
