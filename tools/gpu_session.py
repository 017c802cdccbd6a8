"""What only a CUDA machine can show: real runs of Axolotl on one or two GPUs under ftdoctor, healthy, broken and timed.

    PYTHON_WITH_AXOLOTL -m tools.gpu_session --out OUT [PART ...]

Models are Llama-shaped with random weights. Parts (default: those that the GPUs present allow):

    machine    `preflight` of the machine as it is, and the tests of NVML
    healthy    QLoRA + ZeRO-3, one rank per GPU, to the end: verdict, exit code, saved tensors
    stopped    the last rank is stopped in the middle: the hang named with its rank, stacks, RAS, flight recorder
    killed     the last rank is killed: the first cause
    one-gpu    one process although two GPUs are there
    oom        a batch that does not fit: the cause, and `--retry-with-fix`
    alongside  one run of QLoRA; `watch` with its screen comes and goes beside it: step times with and without it
    cost       step times of runs under `launch` and of the bare command, alternated
    batched    64 prompts to a 1B-shaped model, one by one and in one batch

Each part prints what was seen; logs, journals and diagnoses lie under OUT, a folder per part.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.calibrate_memory import prepare
from tools.intervals import interval

ROOT = Path(__file__).resolve().parent.parent
FTDOCTOR = [sys.executable, "-m", "ftdoctor"]
KEPT = ("train.log", "journal.jsonl", "diagnosis.json", "run.json")
QLORA: dict[str, Any] = {
    "base_model": "llama-1b", "tokenizer_type": "PreTrainedTokenizerFast", "chat_template": "llama3",
    "special_tokens": {"pad_token": "<|end_of_text|>"}, "datasets": [{"path": "chat.jsonl", "type": "chat_template"}],
    "adapter": "qlora", "load_in_4bit": True, "lora_r": 16, "lora_alpha": 32, "lora_target_linear": True,
    "sequence_len": 1024, "pad_to_sequence_len": True, "sample_packing": False, "val_set_size": 0,
    "micro_batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 60, "optimizer": "adamw_torch",
    "learning_rate": 0.0002, "lr_scheduler": "constant", "logging_steps": 1, "bf16": True, "tf32": True,
    "gradient_checkpointing": True, "save_steps": 1000, "deepspeed": "z3.json", "dataset_prepared_path": "prepared",
    "output_dir": "out",
}  # fmt: skip


def gpus() -> int:
    """GPUs that torch sees."""
    import torch

    return int(torch.cuda.device_count())


def _config(name: str, **changes: Any) -> str:
    data = {**QLORA, "output_dir": f"out-{name}", **changes}
    Path(f"{name}.yml").write_text(json.dumps({k: v for k, v in data.items() if v is not None}, indent=1))
    return f"{name}.yml"


def _launch(config: str, name: str, *more: str, processes: int | None = None) -> subprocess.Popen[bytes]:
    command = [*FTDOCTOR, "launch", config, "--name", name, "--launcher", "torchrun", *more]
    command += ["--processes", str(processes or gpus())]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=Path(f"{name}.said").open("wb"))


def _until(process: subprocess.Popen[bytes], condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            if condition():
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def _end(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        return None


def _keep(out: Path, name: str) -> None:
    """The evidence of one run as one archive: what comes back from a borrowed machine may be few files."""
    place = Path("ftdoctor-runs", name)
    for big in place.rglob("*"):
        if big.is_file() and big.stat().st_size > 20 << 20:
            big.unlink()
    shutil.copy(f"{name}.said", place / "said.txt")
    subprocess.run(["tar", "-czf", str(out / f"{name}.tar.gz"), str(place)], check=False)


def _said(name: str, lines: int = 40) -> None:
    print("\n".join(Path(f"{name}.said").read_text(errors="replace").splitlines()[-lines:]), flush=True)


def machine(out: Path) -> None:
    """Preflight as a user would call it, and the NVML tests."""
    config = _config("machine")
    began = time.monotonic()
    done = subprocess.run([*FTDOCTOR, "preflight", config], capture_output=True, text=True)
    print(
        f"preflight: exit {done.returncode} in {time.monotonic() - began:.1f} s\n{(done.stdout + done.stderr)[-6500:]}"
    )
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu", "-p", "no:cacheprovider"],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    print(done.stdout[-1500:])
    topology = subprocess.run(["nvidia-smi", "topo", "-m"], capture_output=True, text=True)
    (out / "topology.txt").write_text(topology.stdout)


def healthy(out: Path) -> None:
    """To the end, with all that `launch` switches on."""
    code = _end(_launch(_config("healthy"), "healthy"), 200)
    print(f"healthy: exit {code}")
    _said("healthy")
    _keep(out, "healthy")


def _rank_pid(name: str, rank: int) -> int:
    from ftdoctor.launch.child import ranks
    from ftdoctor.launch.plan import MARK

    return ranks(json.loads(Path("ftdoctor-runs", name, "run.json").read_text())["added"][MARK])[rank]


def _started(name: str, steps: int = 15) -> Callable[[], bool]:
    return lambda: Path("ftdoctor-runs", name, "train.log").read_text(errors="replace").count("'loss'") >= steps


def stopped(out: Path) -> None:
    """SIGSTOP of the last rank: named while NCCL still waits (its own limit is 1800 s)."""
    process = _launch(_config("stopped", max_steps=5000), "stopped")
    _until(process, _started("stopped"), 150)
    os.kill(_rank_pid("stopped", gpus() - 1), signal.SIGSTOP)
    at = time.monotonic()
    found = _until(process, lambda: "error: hang:" in Path("stopped.said").read_text(), 150)
    print(f"stopped: {'named' if found else 'NOT named'} after {time.monotonic() - at:.1f} s")
    subprocess.run(["nvidia-smi"], check=False)
    process.send_signal(signal.SIGTERM)
    print(f"stopped: exit {_end(process, 60)}")
    _said("stopped", 60)
    _keep(out, "stopped")


def killed(out: Path) -> None:
    """SIGKILL of the last rank."""
    process = _launch(_config("killed", max_steps=5000), "killed")
    _until(process, _started("killed"), 150)
    os.kill(_rank_pid("killed", gpus() - 1), signal.SIGKILL)
    print(f"killed: exit {_end(process, 90)}")
    _said("killed")
    _keep(out, "killed")


def one_gpu(out: Path) -> None:
    """Two GPUs, one process: the policy stops it."""
    process = _launch(_config("one-gpu", max_steps=5000, deepspeed=None), "one-gpu", processes=1)
    _until(process, lambda: "gpu0-only" in Path("one-gpu.said").read_text(), 120)
    print(f"one-gpu: exit {_end(process, 40)}")
    _said("one-gpu")
    _keep(out, "one-gpu")


def oom(out: Path) -> None:
    """A batch that cannot fit, then the run that the fix makes of it. One GPU: one process would spread over two."""
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
    config = _config("oom", adapter="lora", load_in_4bit=False, deepspeed=None, micro_batch_size=16, sequence_len=4096,
                     gradient_checkpointing=False, max_steps=6)  # fmt: skip
    process = _launch(config, "oom", "--retry-with-fix", processes=1)
    print(f"oom: exit {_end(process, 280)}")
    _said("oom", 60)
    for place in sorted(Path("ftdoctor-runs").glob("oom*")):
        if place.is_dir():
            shutil.copy("oom.said", f"{place.name}.said") if place.name != "oom" else None
            _keep(out, place.name)


def _watched_steps(command: list[str], log: Path) -> tuple[subprocess.Popen[bytes], list[float]]:
    """The process, and the times at which it wrote the line of a step: a list that grows."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    stream, times = process.stdout, []

    def read() -> None:
        with log.open("wb", buffering=0) as kept:
            for line in iter(stream.readline, b""):
                if b"'loss'" in line:
                    times.append(time.perf_counter())
                kept.write(line)

    threading.Thread(target=read, daemon=True).start()
    return process, times


def _told(differences: list[float]) -> str:
    """Mean and 95 % interval of relative differences."""
    mean, half = interval(differences)
    return f"{mean:+.2%}, 95 % interval {mean - half:+.2%} to {mean + half:+.2%}, {len(differences)} pairs"


def _bare(config: str) -> list[str]:
    """The training without ftdoctor, one rank per GPU."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(gpus())]
    return [*launcher, "-m", "axolotl.cli.train", config]


def alongside(out: Path, pairs: int = 7, seconds: float = 20.0) -> None:
    """Blocks of `seconds` with and without `ftdoctor watch` on a terminal of its own, in one run: paired means."""
    log = Path("alongside.log")
    process, times = _watched_steps(_bare(_config("alongside", max_steps=5000)), log)
    _until(process, lambda: len(times) >= 20, 150)
    means: dict[bool, list[float]] = {True: [], False: []}
    for block in range(2 * pairs):
        with_it = block % 4 in (0, 3)  # neither is always the first
        began = len(times)
        watcher = None
        if with_it:
            watcher = subprocess.Popen(["script", "-qfc", f"{shlex.join(FTDOCTOR)} watch {log}", "/dev/null"],
                                       stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                                       env={**os.environ, "TERM": "xterm-256color"})  # fmt: skip
        time.sleep(seconds)
        if watcher is not None:
            alive = watcher.poll() is None
            subprocess.run(["pkill", "-f", f"ftdoctor watch {log}"], check=False)
            watcher.wait()
            if not alive:
                raise RuntimeError("watch ended by itself")
        seen = times[began:]
        means[with_it].append((seen[-1] - seen[0]) / (len(seen) - 1))
    process.kill()
    process.wait()
    subprocess.run(["pkill", "-9", "-f", "axolotl.cli.train"], check=False)
    differences = [(a - b) / b for a, b in zip(means[True], means[False])]  # noqa: B905
    print(f"step, ms: with {[round(1e3 * m, 1) for m in means[True]]}")
    print(f"step, ms: without {[round(1e3 * m, 1) for m in means[False]]}")
    print(f"alongside: {_told(differences)}")
    (out / "alongside.json").write_text(json.dumps({"with": means[True], "without": means[False]}))


def cost(out: Path, pairs: int = 5) -> None:
    """The median step of runs under `launch` and of the bare command; the first ten steps are left out."""
    config = _config("cost", max_steps=60)

    def step(command: list[str], log: str) -> float:
        process, times = _watched_steps(command, Path(log))
        process.wait(300)
        gaps = [b - a for a, b in itertools.pairwise(times[10:])]
        return statistics.median(gaps)

    differences: list[float] = []
    for number in range(pairs):
        ours = [*FTDOCTOR, "launch", config, "--name", f"cost{number}", "--launcher", "torchrun", "--processes"]
        commands = [([*ours, str(gpus())], f"with{number}.log"), (_bare(config), f"bare{number}.log")]
        order = commands if number % 2 else commands[::-1]  # neither is always the first
        taken = {log[:4]: step(command, log) for command, log in order}
        print(f"pair {number + 1}: with {1e3 * taken['with']:.1f} ms, without {1e3 * taken['bare']:.1f} ms", flush=True)
        differences.append((taken["with"] - taken["bare"]) / taken["bare"])
        (out / "cost.json").write_text(json.dumps(differences))
        if number:
            print(f"cost: {_told(differences)}", flush=True)


def batched(out: Path) -> None:
    """The same 64 prompts one by one and all at once."""
    rows = [{"prompt": f"Question {n}: name {n % 7 + 2} things that are red.", "category": "own"} for n in range(64)]
    Path("prompts.jsonl").write_text("\n".join(json.dumps(r) for r in rows) + "\n")
    seconds: dict[int, list[float]] = {}
    for size in (1, 64):
        began = time.monotonic()
        done = subprocess.run(
            [*FTDOCTOR, "evaluate", "--model", "llama-1b", "--prompts", "prompts.jsonl", "--batch-size", str(size),
             "--max-new-tokens", "128", "--out", f"batched{size}.jsonl"], capture_output=True, text=True,
        )  # fmt: skip
        whole = time.monotonic() - began
        found = re.search(r"answers of .* tokens in ([\d.]+) s", done.stdout)
        seconds[size] = [float(found[1]) if found else float("nan"), whole]
        print(f"batch size {size}: exit {done.returncode}, answers in {seconds[size][0]:.1f} s, all in {whole:.1f} s")
        print(done.stdout[-600:] + done.stderr[-600:], flush=True)
    quicker = [one / many for one, many in zip(seconds[1], seconds[64])]  # noqa: B905
    print(f"batched: answers {quicker[0]:.1f} times faster, all of it {quicker[1]:.1f} times")
    (out / "batched.json").write_text(json.dumps(seconds))


PARTS: dict[str, Callable[[Path], None]] = {
    "machine": machine, "healthy": healthy, "stopped": stopped, "killed": killed, "one-gpu": one_gpu, "oom": oom,
    "alongside": alongside, "cost": cost, "batched": batched,
}  # fmt: skip


def main() -> int:
    """Run the parts; one that breaks is said and the next goes on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("parts", nargs="*", metavar="PART")
    options = parser.parse_args()
    out = options.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    work = Path(tempfile.mkdtemp())
    prepare(work, "llama-1b")
    os.chdir(work)
    single = gpus() == 1
    for name in options.parts or [p for p in PARTS if not (single and p in ("stopped", "one-gpu"))]:
        began = time.monotonic()
        print(f"==== {name}", flush=True)
        try:
            PARTS[name](out)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}")
        print(f"==== {name}: {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
