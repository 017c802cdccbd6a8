"""Measure the peak GPU memory of real Axolotl fine-tunes over many configurations, to hold the memory estimate against.

    PYTHON_WITH_AXOLOTL -m tools.calibrate_memory --out peaks.jsonl [--seconds 540]
    python -m tools.calibrate_memory --report       # the error on the runs of fixtures/memory, each held out

Runs in the training environment on a machine with one CUDA GPU. Models are Llama-shaped with random weights, written
once per shape; samples are padded to `sequence_len`, so every batch is as large as it can be. Each configuration is one
`axolotl.cli.train` process of a few steps; the peaks are what Axolotl itself logs (`memory/max_allocated (GiB)`,
`memory/device_reserved (GiB)`). One line of JSON per configuration; a run that ends in an error says so.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "tiny-0.2b": {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16,
                  "num_key_value_heads": 16, "vocab_size": 32000, "tie_word_embeddings": False},
    "llama-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "llama-3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
                 "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "llama-8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
                 "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
}  # fmt: skip
BASE: dict[str, Any] = {
    "tokenizer_type": "PreTrainedTokenizerFast", "chat_template": "llama3", "sample_packing": False,
    "pad_to_sequence_len": True, "val_set_size": 0, "special_tokens": {"pad_token": "<|end_of_text|>"},
    "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True, "max_steps": 3, "gradient_accumulation_steps": 2,
    "optimizer": "adamw_torch", "lr_scheduler": "constant", "learning_rate": 0.0001, "logging_steps": 1, "seed": 7,
    "bf16": True, "tf32": True, "gradient_checkpointing": True, "save_strategy": "no", "warmup_steps": 0,
}  # fmt: skip
# shape, adapter, sequence_len, micro_batch_size, further keys
RUNS: list[tuple[str, str, int, int, dict[str, Any]]] = [
    ("tiny-0.2b", "full", 1024, 4, {}),
    ("tiny-0.2b", "lora", 1024, 4, {}),
    ("tiny-0.2b", "lora", 2048, 8, {"gradient_checkpointing": False}),
    ("llama-1b", "lora", 512, 1, {}),
    ("llama-1b", "lora", 2048, 1, {}),
    ("llama-1b", "lora", 2048, 4, {}),
    ("llama-1b", "lora", 1024, 2, {"gradient_checkpointing": False}),
    ("llama-1b", "qlora", 2048, 1, {}),
    ("llama-1b", "qlora", 2048, 4, {}),
    ("llama-1b", "qlora", 4096, 1, {"optimizer": "adamw_bnb_8bit"}),
    ("llama-1b", "full", 512, 1, {}),
    ("llama-1b", "full", 2048, 2, {}),
    ("llama-1b", "full", 2048, 2, {"optimizer": "adamw_bnb_8bit"}),
    ("llama-1b", "full", 1024, 1, {"gradient_checkpointing": False}),
    ("llama-1b", "lora", 2048, 2, {"lora_r": 64, "lora_alpha": 128}),
    ("llama-1b", "lora", 2048, 2, {"lora_mlp_kernel": True, "lora_qkv_kernel": True, "lora_o_kernel": True}),
    ("llama-1b", "qlora", 2048, 2, {"deepspeed": "z3.json"}),
    ("llama-1b", "full", 1024, 2, {"deepspeed": "z3.json"}),
    ("llama-1b", "lora", 1024, 2, {"deepspeed": "z2.json"}),
    ("llama-3b", "lora", 1024, 2, {}),
    ("llama-3b", "qlora", 2048, 2, {}),
    ("llama-3b", "full", 1024, 1, {"optimizer": "adamw_bnb_8bit"}),
    ("llama-8b", "qlora", 2048, 1, {}),
    ("llama-8b", "lora", 2048, 1, {}),
    ("llama-8b", "qlora", 4096, 2, {"optimizer": "adamw_bnb_8bit"}),
]
PEAK = re.compile(r"'memory/(max_allocated|max_active|device_reserved) \(GiB\)': '?([\d.]+)")
ZERO = {"train_micro_batch_size_per_gpu": "auto", "train_batch_size": "auto", "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto", "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True}  # fmt: skip


def prepare(folder: Path, shape: str) -> None:
    """Model and tokenizer of one shape, data, DeepSpeed files."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokens = [*pre_tokenizers.ByteLevel.alphabet(), *special]
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[4], pad_token=special[1]
    )
    fast.add_special_tokens({"additional_special_tokens": special[2:4]})
    place = folder / shape
    if not (place / "config.json").is_file():
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = LlamaForCausalLM(LlamaConfig(max_position_embeddings=8192, **SHAPES[shape]))
        model.save_pretrained(place)
        fast.save_pretrained(place)
    row = {"messages": [{"role": "user", "content": "memory " * 20}, {"role": "assistant", "content": "model " * 15}]}
    (folder / "chat.jsonl").write_text((json.dumps(row) + "\n") * 64)
    for stage in (2, 3):
        (folder / f"z{stage}.json").write_text(json.dumps({**ZERO, "zero_optimization": {"stage": stage}}))


def measure(folder: Path, number: int) -> dict[str, Any]:
    """Run one configuration; its peaks in GiB."""
    shape, adapter, length, micro, further = RUNS[number]
    config = {
        **BASE, "base_model": str(folder / shape), "sequence_len": length, "micro_batch_size": micro, **further,
        "datasets": [{"path": str(folder / "chat.jsonl"), "type": "chat_template"}],
        "output_dir": str(folder / f"out{number}"), "dataset_prepared_path": str(folder / f"prepared{number}"),
    }  # fmt: skip
    if adapter != "full":
        config["adapter"] = adapter
    config["load_in_4bit"] = adapter == "qlora"
    if "deepspeed" in further:
        config["deepspeed"] = str(folder / further["deepspeed"])
    path = folder / f"config{number}.yml"
    path.write_text(json.dumps(config, indent=1))  # JSON is YAML
    start = time.time()
    environment = {
        **os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    if "deepspeed" in further:
        environment |= {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29600 + number), "RANK": "0", "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
        }  # fmt: skip
    command = [sys.executable, "-m", "axolotl.cli.train", str(path)]
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300
    )
    text = done.stdout.decode("utf-8", "replace")
    peaks: dict[str, float] = {}
    for name, value in PEAK.findall(text):
        peaks[name] = max(peaks.get(name, 0.0), float(value))
    error = "" if peaks else " | ".join(line for line in text.splitlines() if "Error" in line)[-400:] or text[-400:]
    kept = {k: v for k, v in config.items() if k in {*BASE, *further, "adapter", "load_in_4bit", "sequence_len"}}
    return {
        "shape": shape, "model": SHAPES[shape], "adapter": adapter, "sequence_len": length, "micro_batch_size": micro,
        "further": further, "config": {**kept, "micro_batch_size": micro}, "peaks_gib": peaks, "error": error,
        "exit_code": done.returncode, "seconds": round(time.time() - start, 1),
    }  # fmt: skip


def in_time(folder: Path, number: int, end: float) -> dict[str, Any] | None:
    """`measure`, unless the time is up."""
    if time.time() > end - 40:
        return None
    try:
        return measure(folder, number)
    except subprocess.TimeoutExpired:
        return {"shape": RUNS[number][0], "further": RUNS[number][4], "error": "ran past its time"}


def main() -> int:
    """All configurations, small models side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--report", action="store_true", help="print the error on the measured runs; nothing is measured"
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/calibrate"))
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    options = parser.parse_args()
    if options.report:
        from tools import memory_report

        print(memory_report.page(memory_report.runs(options.out or memory_report.MEASURED)))
        return 0
    if options.out is None:
        parser.error("--out is missing")
    options.folder.mkdir(parents=True, exist_ok=True)
    end = time.time() + options.seconds
    side_by_side = {"tiny-0.2b": 3, "llama-1b": 4, "llama-3b": 2, "llama-8b": 1}
    with options.out.open("a") as out:
        for shape in options.shapes:
            code = (
                "from tools.calibrate_memory import prepare; import pathlib; "
                f"prepare(pathlib.Path({str(options.folder)!r}), {shape!r})"
            )
            subprocess.run([sys.executable, "-c", code], check=True)  # frees the GPU when it ends
            numbers = [n for n, run in enumerate(RUNS) if run[0] == shape]
            with concurrent.futures.ThreadPoolExecutor(side_by_side[shape]) as pool:
                waiting = {pool.submit(in_time, options.folder, number, end): number for number in numbers}
                for future in concurrent.futures.as_completed(waiting):
                    found = future.result()
                    if found is None:
                        continue
                    out.write(json.dumps(found) + "\n")
                    out.flush()
                    said = [str(found.get(k, "")) for k in ("shape", "adapter", "sequence_len", "micro_batch_size")]
                    print(*said, found.get("further"), found.get("peaks_gib"), found["error"][:150], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
