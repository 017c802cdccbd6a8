"""Speed and memory, printed as ratios to the peer measured in the same run.

    python -m tools.bench --ftdoctor .venv/bin/ftdoctor            # 1 GB log
    python -m tools.bench --ftdoctor .venv/bin/ftdoctor --big      # and a 10 GB log, for constant memory

The log is generated: eight ranks, one file, NCCL_DEBUG noise, progress bars and metric lines, one CUDA out of memory
near its end. The peer is `rg -c -f` with the rules' own patterns. Every figure is the median of `--repeat`
whole-process runs; two that are compared run in turns, and their ratio is the median of the ratios of the pairs, so
that a load on the machine falls on both. Seconds of CPU stand beside: they hardly move with the load. Memory is the
maximum resident set size the kernel reports for the process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOISE = (
    "node-{node}:{pid}:{tid} [{gpu}] NCCL INFO Channel {ch:02d}/0 : {a}[{a}] -> {b}[{b}] via P2P/CUMEM/read\n",
    "node-{node}:{pid}:{tid} [{gpu}] NCCL INFO Ring {ch:02d} : {a} -> {b} -> {gpu}\n",
    "node-{node}:{pid}:{tid} [{gpu}] NCCL INFO AllReduce: opCount {tid:x} sendbuff 0x7f{pid:x}00 recvbuff "
    "0x7f{pid:x}00 count 4194304 "
    "datatype 9 op 0 root 0 comm 0x55{tid:x} [nranks=8] stream 0x55{pid:x}\n",
    "[rank{gpu}]: [2026-11-20 03:1{a}:0{b},{pid}] [INFO] [axolotl.core.trainers.base] step bookkeeping {tid}\n",
)


@dataclass(frozen=True)
class Measured:
    """Median seconds (wall and CPU) and maximum resident set in MiB of a command."""

    seconds: float
    mib: float
    cpu: float = 0.0


def make_log(path: Path, size: int) -> None:
    """Write a log of about `size` bytes; the same bytes every time."""
    rng = random.Random(7)
    block = []
    for i in range(40_000):
        block.append(
            rng.choice(NOISE).format(
                node=rng.randrange(2), pid=rng.randrange(1000, 9999), tid=rng.randrange(10_000, 99_999),
                    gpu=rng.randrange(8),
                ch=rng.randrange(24), a=rng.randrange(8), b=rng.randrange(8),
            )
        )  # fmt: skip
        if i % 2000 == 0:
            step = i // 2000
            block.append(f"\r  {step}%|#         | {step}/100000 [00:{step:02d}<10:00,  1.01s/it]")
            block.append(
                f"\r{{'loss': '1.{rng.randrange(1000, 9999)}', 'grad_norm': '0.41', "
                f"'learning_rate': '0.0002', 'epoch': '0.{step:02d}'}}\n"
            )
    data = "".join(block).encode()
    tail = (
        b"[rank5]: Traceback (most recent call last):\n"
        b'[rank5]:   File "/home/user/ft/train.py", line 20, in main\n'
        b"[rank5]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.22 GiB. "
        b"GPU 5 has a total capacity of 79.11 GiB of which 1.00 GiB is free.\n"
    )
    written = 0
    with path.open("wb") as handle:
        while written + len(data) < size - len(data) // 2:
            handle.write(data)
            written += len(data)
        handle.write(tail + data[: len(data) // 2].rpartition(b"\n")[0] + b"\n")


def once(command: Sequence[str]) -> Measured:
    """One run of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, _, usage = os.wait4(process.pid, 0)
    return Measured(time.perf_counter() - start, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime)


def middle(runs: Sequence[Measured]) -> Measured:
    """Median times and the largest memory of several runs."""
    return Measured(
        statistics.median(r.seconds for r in runs), max(r.mib for r in runs), statistics.median(r.cpu for r in runs)
    )


def measure(command: Sequence[str], repeat: int) -> Measured:
    """Run a command `repeat` times."""
    return middle([once(command) for _ in range(repeat)])


def in_turns(first: Sequence[str], second: Sequence[str], repeat: int) -> tuple[Measured, Measured, float]:
    """Run two commands in turns; both, and the median ratio of their wall times."""
    pairs = [(once(first), once(second)) for _ in range(repeat)]
    ratio = statistics.median(a.seconds / b.seconds for a, b in pairs)
    return middle([a for a, _ in pairs]), middle([b for _, b in pairs]), ratio


def warm(path: Path) -> None:
    """Read the file once, so that both programs find it in the page cache."""
    with path.open("rb", buffering=0) as handle:
        while handle.read(1 << 20):
            pass


def patterns() -> list[str]:
    """The rules' own patterns; group names removed, because ripgrep joins all patterns into one expression."""
    from ftdoctor.ruleset.load import load

    return [re.sub(r"\(\?P<\w+>", "(?:", p.regex) for p in load().patterns]


def usable(regexes: list[str], rg: str, probe: Path) -> list[str]:
    """Those that ripgrep's engine accepts (no look-around)."""
    kept = []
    for regex in regexes:
        done = subprocess.run([rg, "-q", "-e", regex, str(probe)], capture_output=True)
        if done.returncode != 2:
            kept.append(regex)
    return kept


def many_rules(folder: Path, factor: int) -> None:
    """Write `factor` - 1 renamed copies of every shipped rule, each pattern changed so that none is shared."""
    import yaml

    for path in sorted((ROOT / "rules").glob("*/*/rule.yaml")):
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
        for copy in range(1, factor):
            data = yaml.safe_load(text)
            data["id"] = f"{data['id']}-copy{copy}"
            for detector in data["detect"]:
                if "log_signature" in detector:
                    detector["log_signature"]["any"] = [
                        f"{r}(?#{copy})|zq{copy}x{i} never printed {data['id']}"
                        for i, r in enumerate(detector["log_signature"]["any"])
                    ]
            place = folder / path.parent.parent.name / data["id"]
            place.mkdir(parents=True)
            (place / "rule.yaml").write_text(
                yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8"
            )


def main() -> int:
    """Print the table; exit code 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ftdoctor", default=str(ROOT / ".venv/bin/ftdoctor"))
    parser.add_argument("--size", type=float, default=1.0, help="GB of log")
    parser.add_argument("--big", action="store_true", help="also a log ten times as large")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    folder = Path(os.environ.get("BENCH_DIR", ROOT / ".bench"))
    folder.mkdir(exist_ok=True)
    log = folder / f"bench-{options.size:g}.log"
    if not log.is_file():
        print(f"writing {log.name} ({options.size:g} GB)", flush=True)
        make_log(log, int(options.size * 1e9))
    ftdoctor = options.ftdoctor
    python = str(Path(ftdoctor).with_name("python"))
    missed: list[str] = []

    def row(name: str, value: str, target: str, ok: bool) -> None:
        print(f"{name:48} {value:28} {target:22} {'ok' if ok else 'MISSED'}", flush=True)
        if not ok:
            missed.append(name)

    empty = measure([python, "-c", "pass"], 9)
    help_ = measure([ftdoctor, "--help"], 9)
    row(
        "ftdoctor --help",
        f"{help_.seconds * 1000:.0f} ms, {help_.seconds / empty.seconds:.1f}x python -c pass, CPU {help_.cpu:.2f} s",
        "< 200 ms",
        help_.seconds < 0.2,
    )
    small = folder / "small.log"
    with log.open("rb") as handle:
        small.write_bytes(handle.read(200_000).rpartition(b"\n")[0] + b"\n")
    check = measure([ftdoctor, "check", str(small)], 9)
    row(
        "check on a 200 KB log",
        f"{check.seconds * 1000:.0f} ms, {check.seconds / empty.seconds:.1f}x python -c pass, CPU {check.cpu:.2f} s",
        "< 500 ms",
        check.seconds < 0.5,
    )

    warm(log)
    command = [ftdoctor, "check", str(log), "--format", "json"]
    rg = shutil.which("rg")
    if rg:
        regexes = patterns()
        accepted = usable(regexes, rg, small)
        file = folder / "patterns.txt"
        file.write_text("\n".join(accepted) + "\n", encoding="utf-8")
        ours, peer, ratio = in_turns(command, [rg, "-c", "-f", str(file), str(log)], options.repeat)
        version = subprocess.run([rg, "--version"], capture_output=True, text=True).stdout.split()[1]
        print(
            f"  ripgrep {version}: {peer.seconds:.2f} s, {peer.mib:.0f} MiB, {len(accepted)} of {len(regexes)} "
            "patterns (the others need look-around)"
        )
        row(
            f"check on {options.size:g} GB against rg -c -f",
            f"{ours.seconds:.2f} s = {ratio:.2f}x ripgrep, CPU {ours.cpu / peer.cpu:.2f}x",
            "<= 1.00x",
            ratio <= 1.0,
        )
    else:
        ours = measure(command, options.repeat)
        print("  ripgrep is not on PATH: no comparison (install the package ripgrep)")
        row(f"check on {options.size:g} GB", f"{ours.seconds:.2f} s", "", True)
    row("peak memory", f"{ours.mib:.0f} MiB", "< 200 MiB", ours.mib < 200)
    found = json.loads(
        subprocess.run([ftdoctor, "check", str(log), "--format", "json"], capture_output=True, text=True).stdout
    )
    root = (found["root_cause"] or {}).get("id")
    row("names the planted cause", str(root), "cuda-oom", root == "cuda-oom")

    with tempfile.TemporaryDirectory() as temporary:
        many = Path(temporary)
        many_rules(many, 10)
        # both runs take their rules from YAML beforehand; loading is timed apart because only the scan may grow with
        # the log
        pairs = [(scan_seconds(python, log, None), scan_seconds(python, log, many)) for _ in range(options.repeat)]
    tenfold = statistics.median(b[0] for _, b in pairs)
    wall, cpu = (statistics.median(b[i] / a[i] for a, b in pairs) for i in (0, 1))
    row("10x the rules", f"{tenfold:.2f} s = {wall:.2f}x, CPU {cpu:.2f}x", "<= 1.30x", wall <= 1.3)
    if options.big:
        big = folder / f"bench-{10 * options.size:g}.log"
        if not big.is_file():
            make_log(big, int(options.size * 1e10))
        large = measure([ftdoctor, "check", str(big), "--format", "json"], 1)
        row(
            f"check on {10 * options.size:g} GB",
            f"{large.seconds:.2f} s, {large.mib:.0f} MiB",
            "< 200 MiB",
            large.mib < 200,
        )
    print(f"this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")
    return 1 if missed else 0


SCAN = """
import sys, time
from pathlib import Path
from ftdoctor.ruleset.load import load
from ftdoctor.session import Session
rules = load([Path(p) for p in sys.argv[2:]])
session = Session(rules)
session.vocabulary
start, used = time.perf_counter(), time.process_time()
session.read([sys.argv[1]])
session.diagnose()
print(time.perf_counter() - start, time.process_time() - used)
"""


def scan_seconds(python: str, log: Path, rules: Path | None) -> tuple[float, float]:
    """Seconds (wall, CPU) to read and judge the log once the rules are loaded."""
    command = [python, "-c", SCAN, str(log)] + ([str(rules)] if rules else [])
    wall, cpu = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    return float(wall), float(cpu)


if __name__ == "__main__":
    sys.exit(main())
