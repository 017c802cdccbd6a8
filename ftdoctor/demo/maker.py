"""Write a small Llama, its tokenizer and a data set into the current folder. Runs in the training python.

The model is "pre-trained" for a few seconds on plain sentences about capitals, so that it knows them and answers in
plain text; the fine-tune teaches it to answer in a chat. Prints one JSON object a line: what is done, and how far.

    python maker.py STEPS
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Japan": "Tokyo", "Italy": "Rome", "Spain": "Madrid", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Peru": "Lima", "Norway": "Oslo", "Greece": "Athens", "Cuba": "Havana", "Chile": "Santiago",
    "China": "Beijing", "Austria": "Vienna", "Hungary": "Budapest", "Poland": "Warsaw", "Portugal": "Lisbon",
    "Ireland": "Dublin", "Canada": "Ottawa", "Ghana": "Accra", "Nepal": "Kathmandu", "Finland": "Helsinki",
    "Sweden": "Stockholm", "Iran": "Tehran",
}  # fmt: skip
QUESTIONS = (
    "What is the capital of {country}?",
    "Which city is the capital of {country}?",
    "Name the capital of {country}.",
    "Tell me the capital of {country}, please.",
    "I am in {country}. What is its capital?",
)
ANSWER = "The capital of {country} is {city}."
SENTENCES = (
    ANSWER,
    "{city} is the capital of {country}.",
    "In {country} the capital is {city}.",
    "{city} is a city in {country}.",
)
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
HIDDEN, LENGTH, BATCH = 128, 64, 16


def say(**event: Any) -> None:
    """One event on standard output."""
    print(json.dumps(event), flush=True)


def paragraphs() -> dict[str, list[str]]:
    """What the base model reads of each country."""
    return {
        country: [
            *(text.format(country=country, city=city) for text in SENTENCES),
            *(
                f"Question: {text.format(country=country)} Answer: {ANSWER.format(country=country, city=city)}"
                for text in QUESTIONS
            ),
        ]
        for country, city in CAPITALS.items()
    }


def tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE tokenizer with the special tokens of Llama 3."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    # each newline alone: else "\n\n" before an answer is one token in the prompt and two in the training data
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator([*texts, "user assistant system\n\n"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=SPECIAL[0], eos_token=SPECIAL[1])


def model(steps: int) -> None:
    """Tokenizer and weights to ./base."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    rng = random.Random(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # the matrices are small: threads that wait for each other cost more than they give
    about = paragraphs()
    fast = tokenizer(
        [text for texts in about.values() for text in texts] + [q.format(country=c) for c in about for q in QUESTIONS]
    )
    end = fast.convert_tokens_to_ids("<|eot_id|>")
    net = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(fast),
            hidden_size=HIDDEN,
            intermediate_size=2 * HIDDEN,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=[1, end],
        )
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net.to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    read = {
        country: [fast(t + " ", add_special_tokens=False)["input_ids"] for t in about[country]] for country in about
    }
    for step in range(1, steps + 1):
        rows = []
        for _ in range(BATCH):
            ids = [0]
            while len(ids) < LENGTH:
                first, second = rng.sample(read[rng.choice(list(read))], 2)
                ids += [*first, *second, end]
            rows.append(ids[:LENGTH])
        batch = torch.tensor(rows, device=device)
        loss = net(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            say(step=step, steps=steps, loss=round(loss.item(), 3))
    fast.save_pretrained("base")
    net.to("cpu").save_pretrained("base")
    say(parameters=sum(p.numel() for p in net.parameters()), gpus=torch.cuda.device_count())


def data() -> None:
    """Questions to train on, and those that are kept back: no country is new, its question's form is."""
    rng = random.Random(1)
    rows: list[tuple[str, str]] = []
    kept: list[tuple[str, str]] = []
    for i, (country, city) in enumerate(CAPITALS.items()):
        for j, text in enumerate(QUESTIONS):
            ask, answer = text.format(country=country), ANSWER.format(country=country, city=city)
            (kept if (i + j) % 6 == 0 else rows).append((ask, answer))
    rng.shuffle(rows)
    for name, person, helper in (("chat", "user", "assistant"), ("bots", "user", "bot")):
        write(
            f"{name}.jsonl",
            [
                {"messages": [{"role": person, "content": ask}, {"role": helper, "content": answer}]}
                for ask, answer in rows
            ],
        )
    write("alpaca.jsonl", [{"instruction": ask, "input": "", "output": answer} for ask, answer in rows])
    write("kept.jsonl", [{"prompt": ask, "answer": answer} for ask, answer in kept])
    say(rows=len(rows), kept=len(kept))


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """One JSON object a line."""
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    data()
    model(int(sys.argv[1]))
