"""What the machine and the training environment are like: GPUs, driver, packages, memory, disk, network.

Nothing of the training stack is imported: versions come from the packages' metadata, the torch build from the text of
`torch/version.py`. Each function is one check (`checks.Check`); facts are judged by the rules of `environment`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftdoctor.events import Scalar
from ftdoctor.preflight import kept
from ftdoctor.preflight.checks import Seen
from ftdoctor.preflight.machines import Machine
from ftdoctor.preflight.network import consumer
from ftdoctor.training_python import TrainingPython

GIB = 1024.0**3
PORT = 29500  # torchrun's and accelerate's default rendezvous port
PACKAGES = ("axolotl", "torch", "transformers", "accelerate", "peft", "trl", "datasets", "deepspeed", "bitsandbytes",
            "flash-attn", "triton", "huggingface_hub")  # fmt: skip
_READ = """
import importlib.metadata as m, importlib.util as u, json, re, sys
names = json.loads(sys.argv[1]); found = {}
for name in names:
    try: found[name] = m.version(name)
    except m.PackageNotFoundError: pass
needs, python = [], None
try:
    about = m.metadata("axolotl"); needs = about.get_all("Requires-Dist") or []; python = about.get("Requires-Python")
except m.PackageNotFoundError: pass
cuda = hip = None
spec = u.find_spec("torch")
if spec and spec.submodule_search_locations:
    try: text = open(list(spec.submodule_search_locations)[0] + "/version.py").read()
    except OSError: text = ""
    hit = re.search(r"^cuda\\b[^=]*= *'([\\d.]+)'", text, re.M); cuda = hit and hit[1]
    hit = re.search(r"^hip\\b[^=]*= *'([^']+)'", text, re.M); hip = hit and hit[1]
wanted = {re.split(r"[^A-Za-z0-9._-]", n, maxsplit=1)[0] for n in needs}; all_found = {}
for name in wanted:
    try: all_found[name] = m.version(name)
    except m.PackageNotFoundError: pass
print(json.dumps({"versions": found, "needs": needs, "installed": all_found, "requires_python": python, "cuda": cuda,
                  "hip": hip, "python": "%d.%d.%d" % sys.version_info[:3]}))
"""


def gpus() -> tuple[Seen, Machine | None]:
    """GPUs as the driver sees them: facts `gpu.count`, `gpu.name`, `gpu.memory` (GiB), `driver.cuda`."""
    from ftdoctor.upstream.nvml import MIB, Nvml, NvmlUnavailable

    try:
        nvml = Nvml.open()
    except NvmlUnavailable as error:
        facts: dict[str, Scalar] = {"gpu.count": 0, "driver.problem": error.reason}
        return Seen(str(error), facts, "bad"), None
    try:
        names, sizes, held, lost, taken = [], [], [], [], []
        for device in nvml.devices:
            state, values, _ = device.read(2)
            names.append(str(values.get("name")))
            sizes.append(float(values.get("memory_total") or 0.0) * MIB / GIB)
            held += [f"GPU {device.index}: {p.name or 'a process'} ({p.pid})" for p in values.get("processes") or ()]
            taken.append(sum(float(p.memory or 0.0) for p in values.get("processes") or ()) * MIB / GIB)
            if state != "ok":
                lost.append(f"GPU {device.index} is {state}")
        counted = nvml.attempt(nvml.module.nvmlDeviceGetCount) or 0
        seen = sum(device.parent is None for device in nvml.devices)
        if counted > seen:
            lost.append(f"{counted - seen} of {counted} GPUs cannot be opened: fallen off the bus")
        capability = None
        if names:
            found_capability = nvml.attempt(nvml.module.nvmlDeviceGetCudaComputeCapability, nvml.devices[0].handle)
            capability = float(".".join(map(str, found_capability))) if found_capability else None
    finally:
        nvml.close()
    if not names:
        return Seen("the driver sees no GPU", {"gpu.count": 0}, "bad"), None
    driver, cuda = nvml.driver_version or "unknown", nvml.cuda_version
    found = Machine(len(names), names[0], min(sizes), capability)
    shown = visible(os.environ.get("CUDA_VISIBLE_DEVICES"), len(names))
    found = replace(found, count=shown) if 0 < shown < len(names) else found
    summary = f"{len(names)} x {names[0]}, {min(sizes):.0f} GiB, driver {driver}, CUDA {cuda or 'unknown'}"
    if len(set(names)) > 1:
        summary += f"; not all alike: {', '.join(sorted(set(names)))}"
    if shown != len(names):
        summary += f"; CUDA_VISIBLE_DEVICES shows {shown} of them"
    if lost:
        summary += f"; {', '.join(lost)}"
    if held:
        summary += f"; in use: {', '.join(held[:4])}"
    facts = {"gpu.count": shown, "gpu.name": names[0], "gpu.memory": min(sizes), "driver.version": driver,
             "driver.cuda": float(cuda) if cuda else None, "gpu.strays": len(held),
             "gpu.capability": capability, "gpu.lost": ", ".join(lost) or None, "gpu.held": round(max(taken), 1),
             # a driver runs every runtime of its own major version (minor version compatibility, CUDA 11 on)
             "driver.cuda_limit": int(float(cuda)) + 0.99 if cuda else None}  # fmt: skip
    remedy = "end what is left of earlier runs: nvidia-smi, then kill PID" if held else ""
    if note := consumer(names[0], len(names)):
        summary += f"; {note}"
    return Seen(summary, facts, "bad" if lost else "note" if held else "good", remedy), found


def visible(value: str | None, count: int) -> int:
    """How many of `count` GPUs a process sees; CUDA stops reading at the first entry it cannot use."""
    if value is None:
        return count
    seen = 0
    for entry in (part.strip() for part in value.split(",")):
        if not (entry.startswith(("GPU-", "MIG-")) or (entry.isdigit() and int(entry) < count)):
            break
        seen += 1
    return seen


def packages(python: TrainingPython, data: Mapping[str, Any]) -> Seen:
    """Versions in the training environment against what the installed Axolotl itself requires."""
    done = subprocess.run(
        [python.path, "-c", _READ, json.dumps(PACKAGES)], capture_output=True, text=True, timeout=38, check=False,
        env=python.environment(),
    )  # fmt: skip
    try:
        read = json.loads(done.stdout.strip().split("\n")[-1])
    except ValueError:
        last = done.stderr.strip().split("\n")[-1]
        return Seen(f"{python.path} does not answer: {last[:200]}", {}, "absent")
    versions: dict[str, str] = read["versions"]
    facts: dict[str, Scalar] = {f"version.{name}": version for name, version in versions.items()}
    facts |= {
        "version.python": read["python"],
        "torch.cuda": float(_major_minor(read["cuda"])) if read["cuda"] else None,
    }
    if "torch" in versions:
        facts["torch.build"] = "cuda" if read["cuda"] else "rocm" if read["hip"] else "cpu"
    wanted = ["axolotl", "torch"] + ["deepspeed"] * bool(data.get("deepspeed"))
    wanted += ["bitsandbytes"] * bool(data.get("load_in_4bit") or data.get("load_in_8bit"))
    if absent := [name for name in wanted if name not in versions]:
        facts["packages.absent"] = ", ".join(absent)
    if clashes := conflicts(read["needs"], read["installed"], read["python"]):
        facts["packages.conflict"] = "; ".join(clashes)
    if read["requires_python"] and not _within(read["python"], read["requires_python"]):
        facts["python.unsupported"] = f"{read['python']}, Axolotl wants {read['requires_python']}"
    build = f" ({facts['torch.build']}{' ' + read['cuda'] if read['cuda'] else ''})" if "torch" in versions else ""
    told = [
        f"{n} {v}{build if n == 'torch' else ''}" for n, v in versions.items() if n not in ("triton", "huggingface_hub")
    ]
    bad = facts.keys() & {"packages.absent", "packages.conflict", "python.unsupported"}
    return Seen(f"Python {read['python']} {python.how}: {', '.join(told) or 'nothing of the stack'}", facts,
                "bad" if bad else "good")  # fmt: skip


def conflicts(needs: list[str], installed: Mapping[str, str], python: str) -> list[str]:
    """Requirements of Axolotl that the installed versions do not meet, as `name 1.0, Axolotl wants ==1.1`."""
    from packaging.requirements import InvalidRequirement, Requirement

    told = []
    for text in needs:
        try:
            need = Requirement(text)
        except InvalidRequirement:
            continue
        if need.marker is not None and not need.marker.evaluate({"extra": "", "python_version": _major_minor(python)}):
            continue
        version = installed.get(need.name)
        if version is not None and not need.specifier.contains(version, prereleases=True):
            told.append(f"{need.name} {version}, Axolotl wants {need.specifier}")
    return sorted(set(told))


def _within(version: str, specifier: str) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier).contains(version, prereleases=True)


def _major_minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def nvcc() -> Seen:
    """The CUDA compiler: needed only where extensions are built (flash-attn, DeepSpeed's operators)."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    program = shutil.which("nvcc") or shutil.which(str(Path(home or "/usr/local/cuda", "bin", "nvcc")))
    if program is None:
        return Seen("no nvcc: nothing can be compiled here (wheels do not need it)", {}, "absent")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=False)
    found = re.search(r"release (\d+\.\d+)", done.stdout)
    if not found:
        return Seen(f"{program} says no version", {}, "absent")
    return Seen(f"CUDA {found[1]} ({program})", {"nvcc.cuda": float(found[1])})


def ds_report(text: str) -> dict[str, bool]:
    """The operators in the output of ds_report, and whether each can be built or used here."""
    return {name: fits == "OKAY" for name, _, fits in _OP.findall(re.sub(r"\x1b\[[\d;]*m", "", text))}


_OP = re.compile(r"^(?:\[WARNING\] )?(\w+)\s+\.+\s+\[(YES|NO)\]\s+\.+\s+\[(OKAY|NO)\]", re.MULTILINE)


OPS = Path(__file__).with_name("ops_worker.py")
DEEPSPEED_SECONDS = 80.0


def deepspeed_ops(python: TrainingPython) -> Seen:
    """ds_report: `compatible` counts, `installed [NO]` only means built at first use. Facts `ds_op.<name>`."""
    failed: list[str] = []

    def report() -> dict[str, Any] | None:
        for command in ([str(OPS)], ["-m", "deepspeed.env_report"]):
            done = subprocess.run(
                [python.path, *command], capture_output=True, text=True, timeout=DEEPSPEED_SECONDS, check=False,
                env=python.environment(),
            )  # fmt: skip
            read = ds_report(done.stdout)
            if read and (done.returncode == 0 or command[0] == "-m"):  # what broke off may lack operators
                return {"ops": read}
            failed.append((done.stderr.strip() or "no output").split("\n")[-1])
        return None

    builders = [shutil.which(name) for name in ("nvcc", "g++", "c++", "ninja")]
    libraries = [str(p) for place in ("/usr/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu")
                 for p in Path(place).glob("libaio.so*")]  # fmt: skip
    variables = {k: v for k, v in os.environ.items() if k.startswith(("DS_", "CUDA", "TORCH_CUDA"))}
    about = {"ask": OPS.read_text(encoding="utf-8"), "built with": builders, "aio": libraries, "variables": variables}
    found = kept.ask(python, about, report).get("ops")
    if not found:
        return Seen(f"ds_report gave no table: {failed[-1][:200]}", {}, "absent")
    facts: dict[str, Scalar] = {f"ds_op.{name}": fits for name, fits in found.items()}
    missing = [name for name, fits in found.items() if not fits]
    fits = [name for name in found if name not in missing]
    return Seen(f"can be used: {', '.join(fits[:6]) or 'none'}; not: {', '.join(missing[:6]) or 'none'}", facts)


def memory() -> Seen:
    """Host memory and /dev/shm in GiB. Facts `host.memory`, `host.available`, `shm.total`."""
    values = {}
    for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition(":")
        values[name] = float(rest.split()[0]) * 1024 / GIB
    facts: dict[str, Scalar] = {"host.memory": values["MemTotal"], "host.available": values["MemAvailable"]}
    text = f"{values['MemAvailable']:.0f} of {values['MemTotal']:.0f} GiB free"
    try:
        shm = os.statvfs("/dev/shm")
    except OSError:
        return Seen(f"{text}; no /dev/shm", facts, "note")
    facts["shm.total"] = shm.f_blocks * shm.f_frsize / GIB
    return Seen(f"{text}; /dev/shm {facts['shm.total']:.1f} GiB", facts)


def disk(output: str, folder: Path, needs: tuple[float, str] | None = None) -> Seen:
    """Free space where the run will write, in GiB, against what it `needs`. Facts `disk.free`, `disk.needed`."""
    place = Path(output).expanduser()
    while not place.exists() and place != place.parent:
        place = place.parent
    usage = shutil.disk_usage(place if place.exists() else folder)
    facts: dict[str, Scalar] = {"disk.free": usage.free / GIB, "disk.writable": os.access(place, os.W_OK)}
    told = f"{usage.free / GIB:.0f} GiB free for {output}"
    if not facts["disk.writable"]:
        return Seen(f"{told}; {place} cannot be written", facts | {"disk.place": str(place)}, "bad")
    if needs is None:
        return Seen(told, facts)
    facts |= {"disk.needed": round(needs[0], 1), "disk.parts": needs[1]}
    return Seen(f"{told}; about {needs[0]:.0f} needed", facts, "good" if needs[0] < usage.free / GIB else "bad")


def limits() -> Seen:
    """Open files and locked memory of this user, and the rendezvous port."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    told = [f"open files {files if files >= 0 else 'unlimited'}"]
    facts: dict[str, Scalar] = {"limit.files": files if files >= 0 else 1 << 30}
    port = int(os.environ["MASTER_PORT"]) if os.environ.get("MASTER_PORT", "").isdigit() else PORT
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if locked >= 0 and Path("/sys/class/infiniband").is_dir() and any(Path("/sys/class/infiniband").iterdir()):
        told.append(f"locked memory {locked >> 10} KiB: InfiniBand wants `ulimit -l unlimited`")
        facts["limit.locked"] = locked
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            told.append(f"port {port} is in use: give the launcher another (--main_process_port, --master_port)")
            facts["port.used"] = port
    few = 0 <= files < 4096
    noted = few or facts.keys() & {"port.used", "limit.locked"}
    return Seen("; ".join(told), facts, "note" if noted else "good", "ulimit -n 65536" if few else "")


def clock(config: Path) -> Seen:
    """A clock that stands before the YAML was written breaks TLS and rendezvous (skew against the Hub: `hub`)."""
    behind = config.stat().st_mtime - time.time()
    if behind > 120:
        return Seen(f"the clock stands {behind / 60:.0f} minutes before {config.name} was written", {}, "note",
                    "set the clock (chronyc makestep, timedatectl set-ntp true)")  # fmt: skip
    return Seen(time.strftime("%Y-%m-%d %H:%M %Z"), {})


def wandb(data: Mapping[str, Any]) -> Seen:
    """Weights & Biases asks for a key when the run starts, and without a terminal the run ends there."""
    mode = os.environ.get("WANDB_MODE") or data.get("wandb_mode")
    if str(mode) in ("offline", "disabled", "dryrun") or os.environ.get("WANDB_DISABLED"):
        return Seen(f"WANDB_MODE {mode or 'disabled'}", {})
    if os.environ.get("WANDB_API_KEY"):
        return Seen("WANDB_API_KEY is set", {})
    netrc = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        if "wandb" in netrc.read_text(encoding="utf-8", errors="replace"):
            return Seen("a login is stored", {})
    except OSError:
        pass
    return Seen("wandb_project is set and there is no login: the run asks for a key, or stops without a terminal", {},
                "note", "wandb login, or WANDB_MODE=offline")  # fmt: skip


def hub(model: str, local: bool, cached: bool) -> Seen:
    """Can the base model be had? 401, 403 and no network are told apart. Fact `hub.problem`."""
    if local:
        return Seen("the model is a local folder", {})
    token = _token()
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    request = urllib.request.Request(f"{endpoint}/{model}/resolve/main/config.json", method="HEAD")
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    said = "with a token" if token else "without a token"
    try:
        with urllib.request.urlopen(request, timeout=6) as answer:
            skew = _skew(answer.headers.get("Date"))
            wrong = abs(skew) > 300
            told = f"; the clock here is {abs(skew) / 60:.0f} minutes {'ahead' if skew > 0 else 'behind'}" * wrong
            return Seen(f"{model} can be read {said}{told}", {"hub.problem": None}, "note" if wrong else "good")
    except urllib.error.HTTPError as error:
        code = str(error.headers.get("X-Error-Code") or "")
        if code == "GatedRepo" or error.code == 403:
            return Seen(
                f"{model} is gated and this account has no access ({error.code})", {"hub.problem": "gated"}, "bad"
            )
        if error.code == 401:
            return Seen(f"{model}: refused {said} (401)", {"hub.problem": "unauthorized"}, "bad")
        return Seen(f"{model}: the Hub answers {error.code}", {"hub.problem": "missing" if error.code == 404 else None},
                    "bad" if error.code == 404 else "note")  # fmt: skip
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        if cached:
            return Seen(f"the Hub cannot be reached; {model} is in the cache (set HF_HUB_OFFLINE=1)", {}, "note")
        return Seen(f"the Hub cannot be reached: {reason}"[:200], {"hub.problem": "unreachable"}, "bad")


def _skew(date: str | None) -> float:
    """Seconds by which this machine's clock is ahead of a server's `Date`."""
    from email.utils import parsedate_to_datetime

    try:
        return time.time() - parsedate_to_datetime(str(date)).timestamp()
    except (TypeError, ValueError):
        return 0.0


def _token() -> str | None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if value := os.environ.get(name):
            return value.strip()
    place = os.environ.get("HF_TOKEN_PATH") or os.path.join(
        os.environ.get("HF_HOME") or os.path.expanduser("~/.cache/huggingface"), "token"
    )
    try:
        return Path(place).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
