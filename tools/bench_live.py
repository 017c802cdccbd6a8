"""What watching costs and how fast it is: `make bench` runs it after the post-mortem benchmark.

    python -m tools.bench_live --ftdoctor .venv/bin/ftdoctor

- latency: from a line written to the finding printed by `watch --headless`, at 1,000 lines a second
- burst: 100,000 lines at once; the counts of every pattern are right
- cost: CPU and memory of `watch` at one look a second with 8 GPUs (a fake libnvidia-ml.so.1 where there is no GPU, the
  real one otherwise), headless and with the screen, against nvitop, wandb and trackio on the same GPUs
- how soon the screen answers a key while a 2 GB log is read
- hangs: 0 false alarms over every recorded healthy run and long pauses; how fast an injected hang is found
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pty
import random
import re
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOISE = "node-1:4412:4499 [{gpu}] NCCL INFO Channel {n:02d}/0 : {gpu}[{gpu}] -> 1[1] via P2P/CUMEM/read\n"
STEP = "{{'loss': '{loss:.4f}', 'grad_norm': '0.41', 'learning_rate': '0.0002', 'epoch': '0.{n:02d}'}}\n"
# distinct failures, so that each write gives a finding of its own
FAILURES = {
    "cuda-oom": "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.22 GiB. GPU 5 has",
    "disk-full": "OSError: [Errno 28] No space left on device: 'outputs/checkpoint-10'",
    "device-mismatch": "Expected all tensors to be on the same device, but found at least two, cuda:1 and cuda:0!",
    "dtype-mismatch": "RuntimeError: mat1 and mat2 must have the same dtype, but got Float and BFloat16",
    "cuda-error": "RuntimeError: CUDA error: an illegal memory access was encountered",
    "package-missing": "ModuleNotFoundError: No module named 'mamba_ssm'",
    "no-grad": "RuntimeError: element 0 of tensors does not require grad and does not have a grad_fn",
    "rendezvous-failed": "torch.distributed.DistStoreError: Timed out after 901 seconds waiting for clients.",
    "gpu-hardware-fault": "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "interrupted": "slurmstepd: error: *** JOB 1 ON n CANCELLED AT 2026-02-01T10:00:00 DUE TO TIME LIMIT ***",
}


def environment(folder: Path, gpus: int) -> dict[str, str]:
    """The fake NVML with `gpus` GPUs, unless this machine has a real one."""
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    if shutil.which("nvidia-smi"):
        return env
    source = ROOT / "tests/fake_nvml/fake_nvml.c"
    command = ["cc", "-O2", "-shared", "-fPIC", "-DEVENT_PAUSE=499000000", "-Wl,-soname,libnvidia-ml.so.1", "-o"]
    subprocess.run([*command, str(folder / "libnvidia-ml.so.1"), str(source), "-lpthread"], check=True)
    script = folder / "nvml.script"
    lines = [f"gpus {gpus}", "clock seconds 1", "@0 * memory 81559 60000 615"]
    for second in range(120):  # as a real run looks: no two seconds alike
        lines += [f"@{second} {gpu} util {88 + (second * 7 + gpu * 3) % 12} 40" for gpu in range(gpus)]
        lines += [f"@{second} {gpu} power {600 + (second * 13 + gpu * 17) % 90} 700" for gpu in range(gpus)]
    script.write_text("\n".join(lines) + "\n")
    return {**env, "LD_LIBRARY_PATH": str(folder), "FAKE_NVML_SCRIPT": str(script)}


def latency(ftdoctor: str, folder: Path, env: Mapping[str, str], rounds: int) -> list[float]:
    """Seconds from each failing line written to its finding printed."""
    rng = random.Random(0)
    seen: list[float] = []
    for number in range(rounds):
        log = folder / f"latency{number}.log"
        log.write_text("")
        command = [ftdoctor, "watch", str(log), "--headless", "--format", "jsonl", "--no-gpu"]
        watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(env))
        assert watch.stdout is not None
        os.set_blocking(watch.stdout.fileno(), False)
        time.sleep(1.0)
        with log.open("a", buffering=1) as handle:
            for mode, failure in FAILURES.items():
                for _ in range(rng.randrange(20, 60)):  # ten lines every hundredth of a second: 1,000 a second
                    handle.write(
                        "".join(NOISE.format(gpu=rng.randrange(8), n=n) for n in range(9)) + STEP.format(loss=1.5, n=7)
                    )
                    time.sleep(0.01)
                start = time.perf_counter()
                handle.write(f"[rank{rng.randrange(8)}]: {failure}\n")
                while time.perf_counter() - start < 5:
                    line = watch.stdout.readline()
                    if line and json.loads(line)["id"] == mode:
                        seen.append(time.perf_counter() - start)
                        break
                    time.sleep(0.001)
        watch.kill()
        watch.wait()
    return seen


def burst(ftdoctor: str, folder: Path, env: Mapping[str, str]) -> tuple[int, int]:
    """(metric lines written, metric lines counted) of 100,000 lines written at once while watched."""
    log, journal = folder / "burst.log", folder / "burst.jsonl"
    log.write_text("")
    watch = subprocess.Popen(
        [ftdoctor, "watch", str(log), "--headless", "--journal", str(journal), "--no-gpu"],
        stdout=subprocess.DEVNULL, env=dict(env),
    )  # fmt: skip
    time.sleep(1.0)
    lines = [NOISE.format(gpu=n % 8, n=n % 32) if n % 10 else STEP.format(loss=1.5, n=n % 90) for n in range(100_000)]
    with log.open("a") as handle:
        handle.write("".join(lines))
        handle.write("[2026-01-02 10:00:00,000] [INFO] [axolotl.train] Model successfully saved to ./out\n")
    watch.wait(timeout=60)
    counted = sum('"loss"' in line for line in journal.open())
    return 10_000, counted


def cost(command: list[str], env: Mapping[str, str], log: Path, seconds: float, screen: bool) -> tuple[float, float]:
    """(percent of one core, MiB) over `seconds` after the first five, while one step a second is written."""
    if screen:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvpe(command[0], command, dict(env))
        os.set_blocking(terminal, False)
    else:
        pid = subprocess.Popen(command, env=dict(env), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid
        terminal = -1
    before = after = 0.0
    start = time.time()
    with log.open("a", buffering=1) as handle:
        while time.time() - start < seconds + 5:
            handle.write(STEP.format(loss=1.4, n=int(time.time()) % 90))
            end = time.time() + 1
            while time.time() < end:
                if screen:
                    with contextlib.suppress(OSError):
                        os.read(terminal, 1 << 16)
                time.sleep(0.05)
            if before == 0.0 and time.time() - start >= 5:
                before = _cpu(pid)
    if os.waitpid(pid, os.WNOHANG) != (0, 0):
        raise ChildProcessError("it ended by itself")
    after = _cpu(pid)
    memory = sum(_peak(each) for each in _family(pid))
    for each in reversed(_family(pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, 9)
    os.waitpid(pid, 0)
    return 100 * (after - before) / seconds, memory


PRESSES = 100
VIEWS = {"2": b"Plots", "3": b"GPUs", "4": b"Log", "1": b"Overview"}


def answers(ftdoctor: str, folder: Path, env: Mapping[str, str], size: int) -> list[float]:
    """Seconds from a key to the view it asks for, on a terminal, while a log of `size` bytes is being read."""
    log = folder / "big.log"
    lines = (NOISE.format(gpu=n % 8, n=n % 32) if n % 20 else STEP.format(loss=1.5, n=n % 90) for n in range(100_000))
    block = "".join(lines).encode()
    with log.open("wb") as handle:
        for _ in range(size // len(block)):
            handle.write(block)
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(ftdoctor, [ftdoctor, "watch", str(log), "--no-gpu"], dict(env))
    seen: list[float] = []
    try:
        _drawn(terminal, b"Overview")
        opened = time.monotonic() + 10
        while not _unread(pid, log) and time.monotonic() < opened:
            _quiet(terminal, 0.05)
        while len(seen) < PRESSES and _unread(pid, log):
            for key, name in VIEWS.items():
                start = time.perf_counter()
                os.write(terminal, key.encode())
                _drawn(terminal, name)
                seen.append(time.perf_counter() - start)
                _quiet(terminal, 0.1)
                if not _unread(pid, log):
                    seen.pop()
                    break
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)
        log.unlink()
    return seen


def _quiet(terminal: int, seconds: float) -> None:
    """Take what the screen writes, for a while."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([terminal], [], [], left)[0]:
            os.read(terminal, 1 << 16)


def _drawn(terminal: int, name: bytes) -> None:
    """Read what the screen writes until the name of a view is there in bold and underlined: it is the one shown."""
    shown, end = b"", time.monotonic() + 60
    while not re.search(rb"\x1b\[1;4;[0-9;]*m" + name, shown):
        if time.monotonic() > end:
            raise TimeoutError(f"the screen never showed {name.decode()}")
        if select.select([terminal], [], [], 1.0)[0]:
            shown += os.read(terminal, 1 << 16)


def _unread(pid: int, log: Path) -> bool:
    """The process has not come to the end of the log."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(link) == str(log):
                place = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split()
                if int(place[1]) < log.stat().st_size:
                    return True
    return False


def _family(pid: int) -> list[int]:
    """The process and all its descendants."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                found += [int(child) for child in path.read_text().split()]
    return found


def _peak(pid: int) -> float:
    """Highest resident memory so far in MiB."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def _cpu(pid: int) -> float:
    """Seconds of CPU so far of a process and its descendants, in nanoseconds where the kernel counts them."""
    total = 0.0
    for each in _family(pid):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            # children that have ended already: `watch` starts one for every look
            total += sum(int(fields[i]) for i in (13, 14)) / os.sysconf("SC_CLK_TCK")
            tasks = [path.read_text().split() for path in Path(f"/proc/{each}/task").glob("*/schedstat")]
            if tasks:
                total += sum(int(fields[0]) for fields in tasks) / 1e9
                continue
            total += sum(int(fields[i]) for i in (11, 12)) / os.sysconf("SC_CLK_TCK")
    return total


WANDB = """
import sys, time, wandb
settings = wandb.Settings(x_stats_sampling_interval=1.0, silent=True)
wandb.init(project="bench", mode="offline", dir=sys.argv[1], settings=settings)
while True: time.sleep(1)
"""
TRACKIO = """
import time, trackio
trackio.init(project="bench", auto_log_gpu=True, gpu_log_interval=1.0)
while True: time.sleep(1)
"""
BARE = "import sys, time\nexec(sys.argv[1])\nwhile True: time.sleep(1)\n"
PACKAGES = {"nvitop": "nvitop", "wandb": "wandb", "trackio": "trackio nvidia-ml-py"}


def peers(folder: Path) -> Iterator[tuple[str, list[str], bool, str]]:
    """(name, command, needs a terminal, why it cannot run) of tools that look at the same GPUs once a second.

    They are installed into environments of their own below `.bench`, kept for the next time.
    """
    for name, packages in PACKAGES.items():
        python = ROOT / ".bench" / name / "bin/python"
        if not python.exists():
            made = subprocess.run([sys.executable, "-m", "venv", str(python.parent.parent)], capture_output=True)
            pip = [str(python), "-m", "pip", "install", "-q", *packages.split()]
            done = subprocess.run(pip, capture_output=True, text=True) if not made.returncode else made
            if done.returncode:
                shutil.rmtree(python.parent.parent, ignore_errors=True)
                yield name, [], False, "could not be installed from the package index"
                continue
        if name == "nvitop":
            yield "nvitop, its own screen", [str(python), "-m", "nvitop", "--monitor", "full"], True, ""
        else:
            script = folder / f"{name}_peer.py"
            script.write_text(WANDB if name == "wandb" else TRACKIO)
            yield f"{name}, its system metrics", [str(python), str(script), str(folder)], False, ""
    if shutil.which("nvidia-smi"):
        yield "watch -n 2 nvidia-smi", ["watch", "-n", "2", "nvidia-smi"], True, ""
    else:
        yield "watch -n 2 nvidia-smi", [], True, "no nvidia-smi on this machine"


STAMP = "[2026-01-02 10:00:00,000] [INFO] "
EVALUATES = STAMP + "[axolotl.core.trainers.base] Running evaluation step...\n  0%|          | 0/63 [00:00<?, ?it/s]\r"
EVALUATED = "{'eval_loss': '1.4', 'eval_runtime': '600', 'epoch': '0.6'}\n"
SAVES = STAMP + "[axolotl.core.trainers.base] Saving model checkpoint to ./out/checkpoint-60\n"
BAR = " {n:2d}%|###       | {n}/63 [10:00<10:00, 45.00s/it]\r"
# what a healthy run of one-second steps does in the middle: (what it writes, seconds of silence after it)
PAUSES: dict[str, list[tuple[str, float]]] = {
    "an evaluation of ten minutes, no bar": [(EVALUATES, 600), (EVALUATED, 0)],
    "an evaluation with a slow bar": [(EVALUATES, 45), *((BAR.format(n=n), 45) for n in range(2, 20)), (EVALUATED, 0)],
    "a checkpoint on a slow disk": [(SAVES, 240)],
    "evaluation, then a checkpoint": [(EVALUATES, 300), (EVALUATED, 0), (SAVES, 180)],
    "a data loader that pauses": [("", 25), (STEP.format(loss=1.5, n=61), 1), ("", 25)],
    "a pause as long as one before": [("", 25), (STEP.format(loss=1.5, n=61), 40)],
}


def pauses() -> list[str]:
    """Names of `PAUSES` that raised a hang alarm."""
    from ftdoctor.live import LiveSession
    from ftdoctor.ruleset.load import load

    rules = load()
    steps = [(STEP.format(loss=2 - n / 200, n=n % 90), 1.0) for n in range(60)]
    wrong = []
    for number, (name, parts) in enumerate(PAUSES.items()):
        with tempfile.TemporaryDirectory() as temporary:
            path, now = Path(temporary, f"{number}.log"), 0.0
            session = LiveSession(rules, [str(path)])
            for text, seconds in [*steps, *parts, *steps]:
                with path.open("a") as handle:
                    handle.write(text)
                for _ in range(int(seconds)):
                    now += 1.0
                    session.step(now, 1.7e9 + now)
                    if any(f.id == "hang" for f in session.diagnosis().findings):
                        wrong.append(name)
                        break
    return wrong


def hangs() -> tuple[int, int, list[float]]:
    """(healthy stories, false alarms, seconds to find each injected hang), on clocks of the benchmark."""
    from ftdoctor.live import LiveSession
    from ftdoctor.ruleset.load import load

    rules = load()
    stories = alarms = 0
    found: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        for log in sorted((ROOT / "fixtures/healthy").glob("*/train.log")):
            data = log.read_bytes()
            for pause in (0.5, 2.0, 8.0):  # seconds between writes
                alarms += (
                    _told(LiveSession(rules, [str(Path(temporary, f"{stories}.log"))]), data, pause, 0) is not None
                )
                stories += 1
        long = b"".join(STEP.format(loss=2 - n / 200, n=n % 90).encode() for n in range(60))
        for pause in (0.5, 1.0, 2.0, 5.0):
            session = LiveSession(rules, [str(Path(temporary, f"hang{pause}.log"))])
            late = _told(session, long, pause, 400)
            found.append(float("inf") if late is None else late)
    return stories, alarms, found


def _told(session, data: bytes, pause: float, silent: int) -> float | None:  # type: ignore[no-untyped-def]
    """Write the lines, a pause after each sign of life, then be silent; seconds until `hang` was said."""
    path = Path(session.paths[0])
    now = 0.0
    with path.open("ab", buffering=0) as handle:
        for line in data.splitlines(keepends=True):
            handle.write(line)
            if b"'loss'" in line or b"it/s" in line:
                for _ in range(max(1, int(pause))):
                    now += min(pause, 1.0)
                    session.step(now, 1.7e9 + now)
        if any(f.id == "hang" for f in session.diagnosis().findings):
            return now
        start = now
        while now - start < silent:
            now += 1.0
            session.step(now, 1.7e9 + now)
            if any(f.id == "hang" for f in session.diagnosis().findings):
                return now - start
    return None


def main() -> int:
    """Print a row for each target; 1 when one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ftdoctor", required=True)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=2048, help="of the log that is read while keys are pressed")
    options = parser.parse_args()
    missed: list[str] = []

    def row(name: str, value: str, target: str, ok: bool) -> None:
        print(f"{name:48} {value:28} {target:22} {'ok' if ok else 'MISSED'}", flush=True)
        if not ok:
            missed.append(name)

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        env = environment(folder, 8)
        seen = sorted(latency(options.ftdoctor, folder, env, options.rounds))
        p99 = seen[min(len(seen) - 1, int(0.99 * len(seen)))]
        row(
            "line to finding, 1,000 lines/s",
            f"median {statistics.median(seen):.3f} s, p99 {p99:.3f} s (n={len(seen)})",
            "p99 < 0.5 s",
            p99 < 0.5,
        )
        written, counted = burst(options.ftdoctor, folder, env)
        row("burst of 100,000 lines", f"{counted} of {written} metrics", "none lost", counted >= written)
        pressed = sorted(answers(options.ftdoctor, folder, env, options.megabytes << 20))
        p95 = pressed[int(0.95 * len(pressed))] if pressed else float("inf")
        row(
            f"key to repaint while {options.megabytes} MB are read",
            f"median {statistics.median(pressed or [p95]) * 1e3:.0f} ms, p95 {p95 * 1e3:.0f} ms (n={len(pressed)})",
            "p95 < 100 ms",
            p95 < 0.1,
        )
        log = folder / "cost.log"
        log.write_text("")
        for name, extra, screen, cpu_target, memory_target in (
            ("watch --headless, 8 GPUs at 1 Hz", ["--headless"], False, 0.5, 60),
            ("watch with the screen, 8 GPUs at 1 Hz", [], True, 1.0, 120),
        ):
            cpu, memory = cost([options.ftdoctor, "watch", str(log), *extra], env, log, options.seconds, screen)
            row(
                name,
                f"{cpu:.2f} % of a core, {memory:.0f} MiB",
                f"< {cpu_target} %, < {memory_target} MiB",
                cpu < cpu_target and memory < memory_target,
            )
        for peer, command, screen, reason in peers(folder):
            if reason:
                print(f"  {peer}: no comparison, {reason}")
                continue
            home = {**env, "HOME": str(folder), "TRACKIO_DIR": str(folder / "trackio"), "WANDB_SILENT": "true"}
            try:
                cpu, memory = cost(command, home, log, options.seconds, screen)
            except ChildProcessError as error:
                print(f"  {peer}: no comparison, {error}")
                continue
            print(f"  {peer:46} {cpu:.2f} % of a core, {memory:.0f} MiB", flush=True)
    wrong = pauses()
    row(f"hang alarms in {len(PAUSES)} kinds of pause", ", ".join(wrong) or "0", "0", not wrong)
    stories, alarms, found = hangs()
    row(f"hang alarms over {stories} recorded healthy runs", str(alarms), "0", alarms == 0)
    shown = ", ".join(f"{s:.0f}" for s in found)
    row("seconds to an injected hang (steps of 0.5 to 5 s)", shown, "median <= 30 at 1 s", found[1] <= 30)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
