"""How GPUs and nodes reach each other: `nvidia-smi topo -m`, network interfaces, NCCL's variables.

seen = topology()      # GPU pairs over NVLink, PCIe or the CPUs' interconnect
seen = interfaces()    # NCCL_SOCKET_IFNAME names one that is there
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from ftdoctor.events import Scalar
from ftdoctor.preflight.checks import Seen

# how the matrix of `nvidia-smi topo -m` names a path, from the best to the worst
PATHS = {"NV": "NVLink", "PIX": "one PCIe switch", "PXB": "several PCIe switches", "PHB": "the CPU's PCIe root",
         "NODE": "two PCIe roots of one CPU", "SYS": "two CPUs"}  # fmt: skip
SECONDS = 12.0  # nvidia-smi answers in well under one; a driver in trouble never does
VARIABLES = ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME")


def topology() -> Seen:
    """The worst path between two GPUs: facts `topology.worst` (NV, PIX, ..., SYS), `topology.nvlink`."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return Seen("no nvidia-smi: not known", {}, "absent")
    done = subprocess.run(
        [program, "topo", "-m"], capture_output=True, text=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL
    )
    paths = matrix(done.stdout)
    if paths is None:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").split("\n")[-1]
        return Seen(f"nvidia-smi topo -m gave no matrix: {last[:160]}", {}, "absent")
    if not paths:
        return Seen("one GPU", {})
    worst = max(paths, key=list(PATHS).index)
    facts: dict[str, Scalar] = {"topology.worst": worst, "topology.nvlink": worst == "NV"}
    if worst == "NV":
        return Seen("every pair of GPUs has NVLink", facts)
    some = " (some pairs have NVLink)" if "NV" in paths else ""
    return Seen(
        f"GPUs meet over {PATHS[worst]}{some}: ZeRO-3 moves every layer over it in each pass", facts, "note",
        "where the model fits, ZeRO-2 or plain data parallelism moves less",
    )  # fmt: skip


def matrix(text: str) -> list[str] | None:
    """The paths of all GPU pairs, as `NV` or one of `PATHS`; None when there is no matrix."""
    rows = [re.sub(r"\x1b\[[\d;]*m", "", line).split() for line in text.split("\n")]
    rows = [row for row in rows if row and re.fullmatch(r"GPU\d+", row[0]) and "X" in row]
    if not rows:
        return None
    told = []
    for number, row in enumerate(rows):
        for cell in row[1 : 1 + number]:
            word = "NV" if re.fullmatch(r"NV\d+", cell) else cell
            if word in PATHS:
                told.append(word)
    return told


def interfaces(environ: Mapping[str, str] | None = None, folder: Path = Path("/sys/class/net")) -> Seen:
    """Interfaces that are up, against NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME: fact `net.ifname_missing`."""
    environ = os.environ if environ is None else environ
    try:
        names = sorted(place.name for place in folder.iterdir())
    except OSError as error:
        return Seen(f"{folder} cannot be read: {error.strerror}", {}, "absent")
    up = [name for name in names if name != "lo" and _state(folder / name) in ("up", "unknown")]
    facts: dict[str, Scalar] = {}
    for variable in VARIABLES:
        given = environ.get(variable)
        if given and not matches(given, names):
            facts["net.ifname_missing"] = f"{variable}={given}"
            facts["net.interfaces"] = ", ".join(up) or "none"
            return Seen(f"{variable}={given} names none of {', '.join(names)}", facts, "bad")
    infiniband = folder.parent / "infiniband"
    cards = sorted(p.name for p in infiniband.iterdir()) if infiniband.is_dir() else []
    told = f"up: {', '.join(up) or 'none but lo'}" + (f"; InfiniBand {', '.join(cards)}" if cards else "")
    set_to = [f"{name}={environ[name]}" for name in VARIABLES if environ.get(name)]
    return Seen("; ".join([told, *set_to]), facts)


def matches(given: str, names: Sequence[str]) -> bool:
    """NCCL's own reading: a list of prefixes, `=` for whole names, `^` for all but these."""
    exclude, given = given.startswith("^"), given.removeprefix("^")
    exact, given = given.startswith("="), given.removeprefix("=")
    wanted = [part.partition(":")[0].strip() for part in given.split(",") if part.strip()]
    hit = [n for n in names if any(n == w if exact else n.startswith(w) for w in wanted)]
    return len(hit) < len(names) if exclude else bool(hit)


def _state(place: Path) -> str:
    try:
        return (place / "operstate").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return "unknown"


def consumer(name: str, count: int) -> str:
    """What to know of several GPUs of this name without peer-to-peer access; empty when nothing."""
    if count < 2 or not re.search(r"(?i)RTX\s*(?:40|50)[5-9]0\b", name):
        return ""
    return "these cards have no peer-to-peer access: Axolotl sets NCCL_P2P_DISABLE=1, set it for other launchers"


ACS = 0x000D  # extended capability: Access Control Services (PCI Express Base Specification, 7.7.11)
REDIRECT = 0x0C  # P2P request and completion redirect, in its control register
_ADDRESS = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def pcie(folder: Path = Path("/sys/bus/pci/devices"), cpuinfo: Path = Path("/proc/cpuinfo")) -> Seen:
    """Bridges above the GPUs that send traffic between them through the CPU: fact `pcie.acs`.

    With Access Control Services redirecting, peer-to-peer copies are slow or hang NCCL on bare metal; a virtual machine
    does not see the setting of its host.
    """
    try:
        cards = [place for place in sorted(folder.iterdir()) if _is_gpu(place)]
    except OSError:
        return Seen("not known: no PCI devices here", {}, "absent")
    if len(cards) < 2:
        return Seen(f"{len(cards)} NVIDIA GPU{'' if len(cards) == 1 else 's'}: nothing to meet", {}, "absent")
    bridges = sorted({name for card in cards for name in card.resolve().parent.parts if _ADDRESS.fullmatch(name)})
    states = {name: _redirects(folder / name / "config") for name in bridges}
    if redirecting := [name for name, state in states.items() if state]:
        told = f"{', '.join(redirecting[:4])}{' ...' if len(redirecting) > 4 else ''}"
        return Seen(
            f"Access Control Services of {told} send GPU-to-GPU traffic through the CPU: slow, and NCCL may hang",
            {"pcie.acs": told}, "note",
            "on bare metal switch ACS off in the BIOS or with setpci; until then NCCL_P2P_DISABLE=1 avoids a hang",
        )  # fmt: skip
    if states and all(state is None for state in states.values()):
        return Seen("Access Control Services: only root can read them", {}, "absent")
    if " hypervisor" in (cpuinfo.read_text(encoding="utf-8", errors="replace") if cpuinfo.is_file() else ""):
        return Seen("a virtual machine: Access Control Services are its host's", {}, "absent")
    return Seen("no bridge redirects GPU-to-GPU traffic", {})


def _is_gpu(place: Path) -> bool:
    try:
        kind, vendor = ((place / name).read_text(encoding="ascii").strip() for name in ("class", "vendor"))
    except (OSError, ValueError):
        return False
    return vendor == "0x10de" and kind[:6] in ("0x0300", "0x0302")


def _redirects(config: Path) -> bool | None:
    """Whether a device's ACS redirect; None when the configuration space cannot be read whole."""
    try:
        space = config.read_bytes()
    except OSError:
        return None
    if len(space) <= 0x100:
        return None
    at = 0x100
    for _ in range(64):  # a damaged list must not go on for ever
        head = int.from_bytes(space[at : at + 4], "little")
        if head & 0xFFFF == ACS:
            return bool(int.from_bytes(space[at + 6 : at + 8], "little") & REDIRECT)
        at = (head >> 20) & 0xFFC
        if at < 0x100:
            return False
    return False
