"""Finding the python of the training environment: the one that has torch, transformers and Axolotl.

ftdoctor may be installed beside them or apart. Everything that needs them runs as a script in that python, so this is
the one place that says which it is:

1. as given (`--python`), 2. `$FTDOCTOR_PYTHON`, 3. ftdoctor's own, when torch is installed beside it, 4. the active
virtual environment or conda environment, 5. beside `axolotl`, `accelerate` or `torchrun` on PATH, 6. `python` on PATH.

Packages are looked for on disk, in the interpreter's `site-packages`; nothing is imported.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ftdoctor.errors import InputError

REMEDY = "give the python of the training environment with --python, or set FTDOCTOR_PYTHON"
TOOLS = ("axolotl", "accelerate", "torchrun")
VARIABLE = "FTDOCTOR_PYTHON"
_SITES = "import json, site, sys, sysconfig; print(json.dumps([*sys.path, sysconfig.get_path('purelib')]))"
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class TrainingPython:
    """An interpreter, and `how` it was found ("--python", "beside axolotl on PATH", ...)."""

    path: str
    how: str

    def tool(self, name: str) -> str | None:
        """The program `name` of this environment (`axolotl`, `torchrun`), None when it is not installed there."""
        beside = Path(self.path).with_name(name)
        return str(beside) if beside.is_file() and os.access(beside, os.X_OK) else None

    def environment(self, environ: Mapping[str, str] | None = None) -> dict[str, str]:
        """The environment for a child: its own programs first on PATH, no PYTHONPATH entry that leads to ftdoctor."""
        own = dict(os.environ if environ is None else environ)
        kept = [p for p in own.pop("PYTHONPATH", "").split(os.pathsep) if p and not Path(p, "ftdoctor").is_dir()]
        if kept:
            own["PYTHONPATH"] = os.pathsep.join(kept)
        own["PATH"] = os.pathsep.join([str(Path(self.path).parent), own.get("PATH", os.defpath)])
        return own

    def has(self, *packages: str) -> bool:
        """True when every package is installed there; asks the interpreter for its paths once, imports nothing."""
        return all(any((folder / name).is_dir() for folder in self.folders()) for name in packages)

    def folders(self) -> list[Path]:
        """Where it looks for packages; asked once for each interpreter."""
        return list(_folders(self.path))


def find_training_python(explicit: str | None = None, environ: Mapping[str, str] | None = None) -> TrainingPython:
    """The training environment; see the module for the order.

    Raises:
        InputError: the one given is no program, or none was found.
    """
    environ = os.environ if environ is None else environ
    for given, how in ((explicit, "--python"), (environ.get(VARIABLE), f"${VARIABLE}")):
        if given:
            if found := shutil.which(os.path.expanduser(given), path=environ.get("PATH")):
                return TrainingPython(found, how)
            raise InputError(f"no such program ({how})", given, REMEDY)
    for candidate in _candidates(environ):
        if candidate.has("torch"):
            return candidate
    raise InputError("no training environment found: no python with torch", "PATH", REMEDY)


def _candidates(environ: Mapping[str, str]) -> Iterator[TrainingPython]:
    if sys.executable:
        yield TrainingPython(sys.executable, "the environment of ftdoctor")
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if prefix := environ.get(variable):
            path = Path(prefix, "bin", "python")
            if path.is_file():
                yield TrainingPython(str(path), f"${variable}")
    for tool in TOOLS:
        program = shutil.which(tool, path=environ.get("PATH"))
        if program:
            for beside in (Path(program).with_name("python"), _shebang(program)):
                if beside is not None and beside.is_file():
                    yield TrainingPython(str(beside), f"beside {tool} on PATH")
    for name in ("python", "python3"):
        if program := shutil.which(name, path=environ.get("PATH")):
            yield TrainingPython(program, f"{name} on PATH")


def _shebang(program: str) -> Path | None:
    """The interpreter that a console script names in its first line (pipx and user installs)."""
    try:
        with open(program, "rb") as handle:
            first = handle.readline(512)
    except OSError:
        return None
    return Path(os.fsdecode(first[2:].split()[0])) if first.startswith(b"#!") and first[2:].split() else None


@lru_cache(maxsize=16)
def _folders(python: str) -> tuple[Path, ...]:
    """Where `python` looks for packages."""
    if os.path.realpath(python) == os.path.realpath(sys.executable) and python == sys.executable:
        return tuple(Path(p) for p in sys.path if p)
    try:
        done = subprocess.run(
            [python, "-c", _SITES], capture_output=True, text=True, timeout=_SECONDS, check=True,
            env=TrainingPython(python, "").environment(),
        )  # fmt: skip
        return tuple(Path(p) for p in json.loads(done.stdout.strip().split("\n")[-1]) if p)
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()
