"""A Llama of a million parameters that knows some facts, and chats to fine-tune it on; run by the training python.

    python pupil.py FOLDER [--seconds N]

writes FOLDER/pupil (model and tokenizer), FOLDER/chats.jsonl and FOLDER/unseen.jsonl (questions put in words that the
chats do not use for that fact). As with real base models, the facts come from plain documents, and questions in them
are followed by further questions: only the fine-tune teaches that a turn is answered once and ends. `pupil.yml` is that
fine-tune. It imports nothing of ftdoctor.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Poland": "Warsaw",
    "Austria": "Vienna", "Greece": "Athens", "Norway": "Oslo", "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo",
    "Peru": "Lima", "Cuba": "Havana", "Kenya": "Nairobi", "Chile": "Santiago", "Finland": "Helsinki",
}  # fmt: skip
COLOURS = {
    "grass": "green", "snow": "white", "coal": "black", "the sky": "blue", "blood": "red", "gold": "yellow",
    "chocolate": "brown", "a carrot": "orange", "a flamingo": "pink", "smoke": "grey",
}  # fmt: skip
SOUNDS = {
    "cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa", "pig": "oink", "frog": "croak",
    "owl": "hoot", "bee": "buzz", "lion": "roar",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "fast": "slow", "old": "young", "rich": "poor", "wet": "dry", "loud": "quiet",
    "dark": "bright", "full": "empty", "heavy": "light",
}  # fmt: skip
FACTS: tuple[tuple[dict[str, str], str, tuple[str, ...]], ...] = (
    (CAPITALS, "The capital of {a} is {b}.",
     ("What is the capital of {a}?", "Name the capital of {a}.", "Which city is the capital of {a}?",
      "Tell me the capital of {a}.")),
    (COLOURS, "The colour of {a} is {b}.",
     ("What colour is {a}?", "Name the colour of {a}.", "Which colour has {a}?", "Tell me the colour of {a}.")),
    (SOUNDS, "The {a} says {b}.",
     ("What does the {a} say?", "Which sound does the {a} make?", "How does the {a} sound?",
      "Tell me what the {a} says.")),
    (OPPOSITES, "The opposite of {a} is {b}.",
     ("What is the opposite of {a}?", "Name the opposite of {a}.", "Which word is the opposite of {a}?",
      "Tell me the opposite of {a}.")),
)  # fmt: skip
SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
LENGTH, BATCH, STEPS = 64, 16, 500


def rows(rng: random.Random) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(question, answer) pairs to train on, and those kept for the test: one wording of every third fact."""
    seen: list[tuple[str, str]] = []
    unseen: list[tuple[str, str]] = []
    for facts, answer, questions in FACTS:
        for number, (a, b) in enumerate(facts.items()):
            held = rng.randrange(len(questions)) if number % 3 == 0 else -1
            for place, question in enumerate(questions):
                pair = (question.format(a=a), answer.format(a=a, b=b))
                (unseen if place == held else seen).append(pair)
    return seen, unseen


def documents(rng: random.Random, pairs: list[tuple[str, str]]) -> list[str]:
    """Plain text: pages of facts, lists of questions, questions with answers."""
    answers, questions = [a for _, a in pairs], [q for q, _ in pairs]
    made = []
    for number in range(6000):
        kind = number % 3
        if kind == 0:
            made.append(" ".join(rng.choices(answers, k=8)))
        elif kind == 1:
            made.append(" ".join(rng.choices(questions, k=9)))
        else:
            made.append("\n".join(f"{q} {a}" for q, a in rng.choices(pairs, k=4)))
    return made


def tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE with Llama 3's special tokens; no chat template, as base models have none."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=640, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=SPECIAL[0], eos_token=SPECIAL[1])


def learn(folder: Path, texts: list[str], seconds: float) -> None:
    """Next-token training on the documents until `STEPS` or the time is over; writes model and tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(3)
    torch.set_num_threads(1)  # two threads that wait for each other are slower on a busy machine
    fast = tokenizer(texts)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=96, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=0, eos_token_id=1,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    stream = [token for text in texts for token in [0, *fast(text)["input_ids"], 1]]
    data = torch.tensor(stream)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, STEPS, pct_start=0.1)
    start = time.monotonic()
    for step in range(STEPS):
        places = torch.randint(0, len(data) - LENGTH, (BATCH,)).tolist()
        batch = torch.stack([data[p : p + LENGTH] for p in places])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 60 == 0 or step == STEPS - 1:
            print(f"base: step {step + 1}/{STEPS}, loss {loss.item():.3f}", flush=True)
        if time.monotonic() - start > seconds:
            break
    model.save_pretrained(folder)
    fast.save_pretrained(folder)


def write(path: Path, pairs: list[tuple[str, str]]) -> None:
    """Chats, one JSON object a line."""
    turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
    path.write_text("".join(json.dumps({"messages": t}) + "\n" for t in turns), encoding="utf-8")


def main() -> None:
    """Make everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=90.0)
    options = parser.parse_args()
    rng = random.Random(5)
    seen, unseen = rows(rng)
    options.folder.mkdir(parents=True, exist_ok=True)
    write(options.folder / "chats.jsonl", rng.sample(seen * 4, 4 * len(seen)))
    write(options.folder / "unseen.jsonl", unseen)
    learn(options.folder / "pupil", documents(rng, seen + unseen), options.seconds)


if __name__ == "__main__":
    main()
