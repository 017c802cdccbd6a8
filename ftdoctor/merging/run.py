"""The merge itself: Axolotl's, from a copy of the configuration, into a folder that takes its place when it is whole.

The copy has no `deepspeed:` and no `fsdp:`: with them merge-lora starts torch.distributed, which needs a launcher. Its
`output_dir` is a staging folder beside the final one, so a merge that fails leaves nothing, and the training run's
debug.log, which merge-lora would overwrite, stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ftdoctor.errors import FtdoctorError, InputError
from ftdoctor.merging.check import find_model
from ftdoctor.merging.tensors import read_checkpoint
from ftdoctor.training_python import TrainingPython

STAGING = ".ftdoctor-merge-"
LOG = "ftdoctor-merge.log"
DROPPED = ("deepspeed", "fsdp", "fsdp_config")
LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
SPARE_BYTES = 64 << 20
FRAMEWORK_BYTES = 2 << 30  # torch and Axolotl themselves
_BAR = re.compile(rb"Merging shards:\s*(\d+)%\|.*?\| (\d+)/(\d+)")


@dataclass(frozen=True, slots=True)
class Merge:
    """What is to be merged. Sizes in bytes; None when the base is not on this machine yet."""

    config: Path
    data: Mapping[str, Any]
    base: str
    base_folder: str | None
    adapter: str
    output: Path
    weights: int | None
    largest: int | None
    notes: tuple[str, ...] = ()

    @property
    def legacy(self) -> bool:
        """True when Axolotl will load the whole model into memory."""
        return str(self.data.get("merge_method", "memory_efficient")) == "legacy"

    @property
    def memory(self) -> int | None:
        """Bytes of memory the merge needs, about."""
        if self.weights is None or self.largest is None:
            return None
        return FRAMEWORK_BYTES + (int(1.2 * self.weights) if self.legacy else 3 * self.largest)


@dataclass(slots=True)
class Outcome:
    """How it ended: `code` of Axolotl, and the log."""

    code: int
    log: Path
    staged: Path
    problems: list[str] = field(default_factory=list)


def read_merge(config: str, adapter: str | None = None, base: str | None = None, output: str | None = None) -> Merge:
    """Read the YAML and look at what it names.

    Raises:
        InputError: the file cannot be read or names no base model or output folder.
    """
    path = Path(config)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"cannot be read: {reason}", config, "give the Axolotl YAML of the run") from None
    except yaml.YAMLError as error:
        raise InputError(f"is not YAML: {str(error).splitlines()[0]}", config, "give the Axolotl YAML") from None
    if not isinstance(data, dict) or not (base or data.get("base_model")):
        raise InputError("names no base_model", config, "give the Axolotl YAML of the run")
    if not (adapter or data.get("lora_model_dir") or data.get("output_dir")):
        raise InputError("names neither lora_model_dir nor output_dir", config, "give --adapter DIR")
    trained = str(adapter or data.get("lora_model_dir") or data["output_dir"])
    place = Path(output) if output else Path(str(data.get("output_dir") or trained), "merged")
    named = str(base or data["base_model"])
    folder = find_model(named)
    weights = largest = None
    notes = []
    if folder is None:
        notes.append(f"{named} is not on this machine: Axolotl loads it down; disk and memory were not checked")
    else:
        found = read_checkpoint(folder)
        files = [Path(folder, name) for name in found.files] or [*Path(folder).glob("*.bin")]
        sizes = [os.stat(file).st_size for file in files if file.is_file()]
        weights, largest = sum(sizes), max(sizes, default=0)
    return Merge(path, data, named, folder, trained, place, weights, largest, tuple(notes))


def check_room(merge: Merge, available: int | None) -> None:
    """Refuse what cannot end well. `available`: bytes of memory that may be used, None when unknown.

    Raises:
        FtdoctorError: too little disk or memory.
    """
    if merge.weights is None:
        return
    there = merge.output.parent
    while not there.is_dir():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < merge.weights + SPARE_BYTES:
        raise FtdoctorError(
            f"the merged model needs {merge.weights / 1e9:.1f} GB and {free / 1e9:.1f} GB are free",
            str(there), "free some space, or give --output on another disk",
        )  # fmt: skip
    need = merge.memory
    if available is not None and need is not None and available < need:
        way = "leave out merge_method: legacy" if merge.legacy else "free some memory, or merge on a larger machine"
        raise FtdoctorError(
            f"the merge needs about {need / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB are there",
            "memory", f"{way}; --no-room-check merges all the same",
        )  # fmt: skip


@contextlib.contextmanager
def staging(merge: Merge) -> Iterator[Path]:
    """A folder beside the output that is gone afterwards, whatever happens; those of dead processes go as well."""
    parent = merge.output.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(f"{STAGING}*"):
        number = old.name.removeprefix(STAGING)
        if number.isdigit() and not Path("/proc", number).exists() and Path("/proc/self").exists():
            shutil.rmtree(old, ignore_errors=True)
    folder = parent / f"{STAGING}{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copy_config(merge: Merge, folder: Path) -> Path:
    """The configuration that Axolotl gets; relative paths in it stay relative to the working directory."""
    data = {key: value for key, value in merge.data.items() if key not in DROPPED}
    data |= {"base_model": merge.base, "lora_model_dir": merge.adapter, "output_dir": str(folder)}
    path = folder / "merge.yml"
    path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def run_axolotl(
    python: TrainingPython,
    merge: Merge,
    folder: Path,
    on_output: Callable[[bytes], None],
    on_shards: Callable[[int, int], None],
) -> Outcome:
    """Merge into `folder`/merged. `on_output` gets the log as it grows; an interrupt ends Axolotl too."""
    environment = {k: v for k, v in python.environment().items() if k not in LAUNCHERS}
    environment |= {"PYTHONUNBUFFERED": "1"}
    log = merge.output.absolute().parent / LOG
    command = [python.path, "-m", "axolotl.cli.merge_lora", str(copy_config(merge, folder))]
    with log.open("wb") as kept:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            while data := os.read(process.stdout.fileno(), 1 << 16):
                kept.write(data)
                kept.flush()
                on_output(data)
                if bars := _BAR.findall(data):
                    on_shards(int(bars[-1][1]), int(bars[-1][2]))
            code = process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    outcome = Outcome(code, log, folder / "merged")
    if code == 0 and not (outcome.staged / "config.json").is_file():
        outcome.problems.append("Axolotl ended well and wrote no model")
    return outcome


def place(merge: Merge, staged: Path) -> Path | None:
    """Give the merged folder its name. What was there before is moved aside, and its new place is returned."""
    target = merge.output.absolute()
    before: Path | None = None
    if target.exists():
        number = 1
        while target.with_name(f"{target.name}.before-{number}").exists():
            number += 1
        before = target.with_name(f"{target.name}.before-{number}")
        target.rename(before)
    try:
        staged.rename(target)
    except BaseException:
        if before is not None:
            before.rename(target)
        raise
    return before
