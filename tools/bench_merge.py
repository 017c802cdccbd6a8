"""The merge proof of a large model against the time that reading it takes.

    python -m tools.bench_merge --ftdoctor .venv/bin/ftdoctor                # the shape of Llama 3 8B: 32 GB of disk
    python -m tools.bench_merge --ftdoctor .venv/bin/ftdoctor --layers 4     # fewer layers

Writes a base of random bf16 weights in shards of at most 5 GB, a LoRA adapter of rank 16 on every linear layer and the
merged model, merged = bf16(base + 2 B A). Then, each time after the files were dropped from the page cache: both
models are read once from the first byte to the last; the proof runs as a user starts it. Targets: twice the reading
time, 4 GB of memory. A second proof, of the merge with one element of its last layer set to NaN, has to fail.
Memory is the largest resident set of the processes, as the kernel reports it. The folder is removed afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ftdoctor.merging.tensors import INDEX, Floats, read_checkpoint, rounded

SHARD_BYTES = 5_000_000_000
BLOCK = 1 << 22  # elements that are made at a time
READ_BYTES = 16 << 20
RANK, ALPHA = 16, 32
TIMES, GIGABYTES = 2.0, 4.0  # the targets
LARGE = 4_000_000_000  # bytes; the time of smaller models is that of starting processes, and is not judged


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    layers: int = 32
    hidden: int = 4096
    inner: int = 14336
    keys: int = 1024
    tokens: int = 128256

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, in the order of a checkpoint."""
        hidden, inner, keys = self.hidden, self.inner, self.keys
        yield "model.embed_tokens.weight", (self.tokens, hidden)
        for layer in range(self.layers):
            at = f"model.layers.{layer}."
            for name, shape in (
                ("self_attn.q_proj", (hidden, hidden)), ("self_attn.k_proj", (keys, hidden)),
                ("self_attn.v_proj", (keys, hidden)), ("self_attn.o_proj", (hidden, hidden)),
                ("mlp.gate_proj", (inner, hidden)), ("mlp.up_proj", (inner, hidden)),
                ("mlp.down_proj", (hidden, inner)),
                ("input_layernorm", (hidden,)), ("post_attention_layernorm", (hidden,)),
            ):  # fmt: skip
                yield f"{at}{name}.weight", shape
        yield "model.norm.weight", (hidden,)
        yield "lm_head.weight", (self.tokens, hidden)

    def shards(self, limit: int = SHARD_BYTES) -> list[list[tuple[str, tuple[int, ...]]]]:
        """Tensors by file."""
        made: list[list[tuple[str, tuple[int, ...]]]] = [[]]
        size = 0
        for name, shape in self.tensors():
            bytes_ = 2 * int(np.prod(shape))
            if made[-1] and size + bytes_ > limit:
                made.append([])
                size = 0
            made[-1].append((name, shape))
            size += bytes_
        return made


def head(tensors: list[tuple[str, tuple[int, ...]]], dtype: str = "BF16") -> bytes:
    """A safetensors header."""
    width, at = {"BF16": 2, "F32": 4}[dtype], 0
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, shape in tensors:
        size = width * int(np.prod(shape))
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def as_bf16(values: Floats) -> bytes:
    """Rounded to nearest, as bytes."""
    return (rounded(values, "BF16").view(np.uint32) >> 16).astype("<u2").tobytes()


def write_models(folder: Path, shape: Shape, shard_bytes: int = SHARD_BYTES) -> None:
    """base/, adapter/ and adapter/merged/."""
    base, adapter, merged = folder / "base", folder / "adapter", folder / "adapter" / "merged"
    for place in (base, adapter, merged):
        place.mkdir(parents=True)
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": shape.tokens,
                  "tie_word_embeddings": False, "dtype": "bfloat16"}  # fmt: skip
        (place / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    pairs: dict[str, tuple[Floats, Floats]] = {}
    shards = shape.shards(shard_bytes)
    files = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    for file, tensors in zip(files, shards):  # noqa: B905
        with (base / file).open("wb") as one, (merged / file).open("wb") as two:
            for handle in (one, two):
                handle.write(head(tensors))
            for name, sides in tensors:
                pair = None
                if "_proj." in name:
                    a = rng.standard_normal((RANK, sides[1]), np.float32) * np.float32(sides[1] ** -0.5)
                    b = rng.standard_normal((sides[0], RANK), np.float32) * np.float32(0.02)
                    pair = pairs[name] = (a, b)
                columns = sides[-1]
                rows = sides[0] if len(sides) > 1 else 1
                step = max(1, BLOCK // columns)
                for first in range(0, rows, step):
                    last = min(first + step, rows)
                    values = rounded(
                        rng.standard_normal((last - first, columns), np.float32) * np.float32(0.02), "BF16"
                    )
                    one.write(as_bf16(values))
                    if pair is not None:
                        values = values + np.float32(ALPHA / RANK) * (pair[1][first:last] @ pair[0])
                    two.write(as_bf16(values))
    index = {"metadata": {}, "weight_map": {n: f for f, part in zip(files, shards) for n, _ in part}}  # noqa: B905
    for place in (base, merged):
        (place / INDEX).write_text(json.dumps(index))
    config = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": RANK, "lora_alpha": ALPHA,
              "target_modules": sorted({n.split(".")[-2] for n in pairs})}  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    parts = {
        f"base_model.model.{name.removesuffix('.weight')}.lora_{side}.weight": values
        for name, (a, b) in pairs.items()
        for side, values in (("A", a), ("B", b))
    }
    with (adapter / "adapter_model.safetensors").open("wb") as out:
        out.write(head([(n, v.shape) for n, v in parts.items()], "F32"))
        for values in parts.values():
            out.write(values.tobytes())


def forget(folder: Path) -> None:
    """Write back and drop the folder's files from the page cache."""
    for file in folder.rglob("*.safetensors"):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def read_once(folder: Path) -> tuple[float, int]:
    """Seconds to read every byte of both models, one file after the other, and the bytes."""
    buffer, total = bytearray(READ_BYTES), 0
    start = time.perf_counter()
    for place in ("base", "adapter/merged"):
        for file in sorted((folder / place).glob("*.safetensors")):
            with file.open("rb", buffering=0) as handle:
                while size := handle.readinto(buffer):
                    total += size
    return time.perf_counter() - start, total


@dataclass(frozen=True)
class Proof:
    """One run of `ftdoctor merge --check-only`: seconds, seconds of processor time, largest resident set in GB."""

    seconds: float
    cpu: float
    memory: float
    report: dict[str, Any]


def prove(ftdoctor: str, folder: Path, threads: int) -> Proof:
    """Prove the merged model, as a user does."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        command = [
            *shlex.split(ftdoctor),
            "merge",
            "--check-only",
            str(folder / "adapter/merged"),
            "--no-logits",
            "--format",
            "json",
        ]
        process = subprocess.Popen([*command, "--threads", str(threads)], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        report: dict[str, Any] = json.loads(out.read())
    return Proof(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9, report)


def break_it(folder: Path) -> str:
    """Set one element of the last layer to NaN; its tensor."""
    found = read_checkpoint(str(folder / "adapter/merged")).tensors
    last = [t for n, t in found.items() if n.endswith("mlp.down_proj.weight")][-1]
    with open(last.path, "r+b") as handle:
        handle.seek(last.start + last.size - 2)
        handle.write(b"\xc0\x7f")
    return last.name


def main() -> int:
    """Write, read, prove, break, prove again; 1 when a target is missed or a verdict is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ftdoctor", default="ftdoctor", help="the program, or a command in quotes")
    parser.add_argument("--folder", type=Path, help="where the models are written (default: a temporary folder)")
    for name, value in (("layers", 32), ("hidden", 4096), ("inner", 14336), ("keys", 1024), ("tokens", 128256)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES)
    options = parser.parse_args()
    shape = Shape(options.layers, options.hidden, options.inner, options.keys, options.tokens)
    size = sum(2 * int(np.prod(sides)) for _, sides in shape.tensors())
    parent = options.folder or Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < 2.2 * size:
        print(f"{2.2 * size / 1e9:.0f} GB are needed in {parent} and {free / 1e9:.0f} GB are free", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ftdoctor-bench-merge-", dir=parent) as made:
        folder = Path(made)
        start = time.perf_counter()
        write_models(folder, shape, options.shard_bytes)
        print(
            f"written: {size / 2e9:.2f} B parameters, 2 x {size / 1e9:.2f} GB, in {time.perf_counter() - start:.0f} s"
        )
        return measure(options, folder)


def measure(options: argparse.Namespace, folder: Path) -> int:
    """Print the figures; the exit code."""
    code = 0
    for _ in range(options.repeat):
        forget(folder)
        reading, total = read_once(folder)
        forget(folder)
        done = prove(options.ftdoctor, folder, options.threads)
        verdicts: dict[str, int] = {}
        for row in done.report["merge"]["tensors"]:
            verdicts[row["verdict"]] = verdicts.get(row["verdict"], 0) + 1
        good = done.report["verdict"] == "healthy" and not done.report["findings"] and set(verdicts) == {"ok", "same"}
        print(f"read once: {reading:.1f} s ({total / reading / 1e9:.2f} GB/s)")
        print(
            f"proof:     {done.seconds:.1f} s with {options.threads} threads, {done.seconds / reading:.2f} times the "
            f"reading (target: {TIMES:g}); {done.cpu:.1f} s of processor time; {done.memory:.2f} GB of memory "
            f"(target: {GIGABYTES:g}); {done.report['verdict']}, {verdicts}"
        )
        late = total > LARGE and done.seconds > TIMES * reading
        code |= int(not good or late or done.memory > GIGABYTES)
    broken = break_it(folder)
    cause = prove(options.ftdoctor, folder, options.threads).report["root_cause"] or {}
    print(f"one NaN in {broken}: {cause.get('id')}: {cause.get('message')}")
    return code | int(cause.get("id") != "merge-corrupt" or broken not in str(cause.get("message")))


if __name__ == "__main__":
    sys.exit(main())
