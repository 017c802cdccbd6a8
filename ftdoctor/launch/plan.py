"""What `ftdoctor launch` is going to run: command, environment, folder. Pure; nothing is started or written here.

The environment switches on what a later diagnosis needs. Each variable can be left out (`--no-env NAME`), and one that
the user has set already is never changed. Names follow the torch version of the training environment: the flight
recorder's buffer is TORCH_NCCL_TRACE_BUFFER_SIZE since torch 2.2 and TORCH_FR_BUFFER_SIZE as well since 2.8.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError, UsageError
from ftdoctor.launch.slurm import Rendezvous
from ftdoctor.sources.ranks import RUN_ID
from ftdoctor.training_python import TrainingPython

RUNS = "ftdoctor-runs"
MARK = RUN_ID  # so that all processes of the run can be found again
CHECKPOINT_FILE = "axolotl_checkpoint.save"  # Axolotl's dynamic checkpoint: asks for a save at the next step
RAS_PORTS = (28100, 900)  # first and number; NCCL's own is 28028
LAUNCHERS = ("accelerate", "torchrun", "python")


@dataclass(frozen=True, slots=True)
class Plan:
    """One start of a run. `added` is what `environment` has beyond the caller's; `files` are copied into `folder`."""

    command: tuple[str, ...]
    folder: Path
    cwd: Path
    environment: dict[str, str]
    added: dict[str, str]
    run_id: str
    python: TrainingPython | None = None
    config: Path | None = None
    files: tuple[Path, ...] = ()
    output_dir: Path | None = None
    dynamic_checkpoint: bool = False
    checkpoint_file: str = CHECKPOINT_FILE
    processes: int | None = None
    heartbeat: bool = False
    torch: str | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def checkpoint_request(self) -> Path | None:
        """The file that asks Axolotl for a checkpoint; None where `dynamic_checkpoint` is off."""
        if not self.dynamic_checkpoint or self.output_dir is None:
            return None
        return self.cwd / self.output_dir / self.checkpoint_file

    @property
    def folders(self) -> tuple[str, ...]:
        """Folders made below `folder`."""
        own = ("flight", "nccl")
        return (*own, "plugin", "heartbeat", "ranks") if self.heartbeat else own

    @property
    def copies(self) -> tuple[tuple[Path, Path], ...]:
        """Files that are copied into `folder`: from, to."""
        own = tuple((path, self.folder / path.name) for path in self.files)
        plugin = tuple((path, self.folder / "plugin" / path.name) for path in (HEARTBEAT, RANK_LOG))
        return (*own, *plugin) if self.heartbeat else own

    @property
    def log(self) -> Path:
        """Where the run's output goes, unaltered."""
        return self.folder / "train.log"

    def shown(self) -> str:
        """The plan as a shell script that does the same."""
        lines = [f"cd {shlex.quote(str(self.cwd))}"]
        lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(self.added.items())]
        lines += [f"# {note}" for note in self.notes]
        lines.append(shlex.join(["mkdir", "-p", *(str(self.folder / name) for name in self.folders)]))
        lines += [shlex.join(["cp", str(source), str(target)]) for source, target in self.copies]
        lines.append(shlex.join(self.command) + f" > {shlex.quote(str(self.log))} 2>&1")
        return "\n".join(lines)


def variables(folder: Path, torch: str | None) -> dict[str, str]:
    """What is switched on: flight recorder, fault handler, unbuffered output, error file."""
    major, minor = _version(torch)
    found = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",
        "TORCHELASTIC_ERROR_FILE": str(folder / "error.json"),
        "NCCL_DEBUG": "WARN",
        "NCCL_DEBUG_FILE": str(folder / "nccl" / "%h-%p.log"),
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_NCCL_TRACE_BUFFER_SIZE": "20000",
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": str(folder / "flight" / "rank_"),
    }
    if (major, minor) >= (2, 4):
        found["TORCH_NCCL_DEBUG_INFO_PIPE_FILE"] = str(folder / "flight" / "ask_")
    if (major, minor) >= (2, 8):
        found["TORCH_FR_BUFFER_SIZE"] = found.pop("TORCH_NCCL_TRACE_BUFFER_SIZE")
    if (major, minor) < (2, 2) and torch is not None:
        for name in [n for n in found if n.startswith("TORCH_NCCL_")]:
            del found[name]
    return found


HEARTBEAT = Path(__file__).with_name("ftdoctor_heartbeat.py")
RANK_LOG = HEARTBEAT.with_name("ftdoctor_rank_log.py")
PLUGIN = "ftdoctor_heartbeat.Plugin"
STACK_SIGNAL = "SIGURG"  # ignored by default, so harmless to a process that does not know it; used by nobody here


def heartbeat_variables(folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What the plugin needs: to be found by Python, where to write, which signal asks for stacks."""
    path = [p for p in (environ.get("PYTHONPATH"), str(folder / "plugin")) if p]
    return {
        "PYTHONPATH": os.pathsep.join(path),
        "FTDOCTOR_HEARTBEAT_DIR": str(folder / "heartbeat"),
        "FTDOCTOR_RANK_LOGS": str(folder / "ranks"),
        "FTDOCTOR_STACK_SIGNAL": STACK_SIGNAL,
    }


def with_plugin(data: Mapping[str, Any], extra: Sequence[str]) -> list[str] | None:
    """Trainer arguments with our plugin added to the user's own; None when their list cannot be read.

    On the command line `plugins` replaces the YAML's list, so that one is repeated there.
    """
    named: object = data.get("plugins") or []
    kept: list[str] = []
    arguments = iter(extra)
    for item in arguments:
        name, equals, value = item.partition("=")
        if name.startswith("-") and name.lstrip("-") == "plugins":
            text = value if equals else next(arguments, "")
            try:
                named = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                return None
        else:
            kept.append(item)
    if isinstance(named, str):
        named = [named]
    if not isinstance(named, (list, tuple)) or not all(isinstance(n, str) for n in named):
        return None
    plugins = [*named, PLUGIN]
    return [*kept, f"--plugins={plugins!r}"]


def ras_address(run_id: str) -> str:
    """Where NCCL's RAS answers. One address for all runs would let a second one on this machine hear of the first."""
    return f"localhost:{RAS_PORTS[0] + zlib.crc32(run_id.encode()) % RAS_PORTS[1]}"


def _version(torch: str | None) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", torch or "")
    return (int(found[1]), int(found[2])) if found else (2, 8)


def visible_gpus(environ: Mapping[str, str], asked: str | None) -> int | None:
    """How many GPUs the run will see: `--gpus 1,2`, else CUDA_VISIBLE_DEVICES; None when neither says."""
    chosen = asked if asked is not None else environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return None
    return len([part for part in chosen.split(",") if part.strip() and part.strip() != "-1"])


def read_config(path: Path) -> dict[str, Any]:
    """The Axolotl YAML as a mapping.

    Raises:
        InputError: it cannot be read, or is no mapping.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", str(path), "check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"is not YAML: {' '.join(str(error).split())[:200]}", str(path), f"see `ftdoctor check {path}`"
        ) from None
    if not isinstance(data, dict):
        raise InputError("is no Axolotl configuration", str(path), "give the YAML file that axolotl train takes")
    return data


def for_config(
    config: Path,
    extra: Sequence[str],
    python: TrainingPython,
    *,
    launcher: str,
    processes: int | None,
    gpus: str | None,
    folder: Path,
    run_id: str,
    torch: str | None,
    without: Sequence[str] = (),
    heartbeat: bool = True,
    environ: Mapping[str, str] | None = None,
    meet: Rendezvous | None = None,
) -> Plan:
    """Plan a run of `axolotl train CONFIG`; `meet`: where the launchers of several nodes do.

    Raises:
        UsageError: the launcher is unknown, or cannot do several nodes. InputError: the configuration cannot be read.
    """
    several = meet is not None and meet.nodes > 1
    if several and launcher != "torchrun":
        raise UsageError(f"several nodes are started by torchrun, not by {launcher}", "--launcher", "leave it out")
    environ = os.environ if environ is None else environ
    if launcher not in LAUNCHERS:
        raise UsageError(f"no launcher `{launcher}`", "--launcher", f"use one of {', '.join(LAUNCHERS)}")
    data = read_config(config)
    seen = visible_gpus(environ, gpus)
    count = processes if processes is not None else seen
    notes = []
    beating = with_plugin(data, extra) if heartbeat else None
    if heartbeat and beating is None:
        notes.append("no heartbeat: the list of plugins could not be read")
    if data.get("strict") and not data.get("plugins") and beating is not None:
        notes.append("no heartbeat: `strict: true` takes no further plugin")
        beating = None
    train = ["-m", "axolotl.cli.train", str(config), *(extra if beating is None else beating)]
    tool = python.tool("torchrun")
    if launcher == "python" or (count == 1 and launcher != "accelerate" and not several):
        command = [python.path, *train]
    elif launcher == "torchrun":
        if tool is None:
            raise InputError("has no torchrun", python.path, "use --launcher accelerate, or install torch there")
        # without a number torchrun starts one process for each GPU it sees
        command = [tool, *_meeting(meet), "--nproc_per_node", str(count) if count else "gpu", *train]
    else:
        number = ["--num_processes", str(count)] if count else []
        command = [python.path, "-m", "accelerate.commands.launch", *number, *train]
    deepspeed = data.get("deepspeed")
    files = [config]
    if isinstance(deepspeed, str) and Path(deepspeed).is_file():
        files.append(Path(deepspeed))
    base = python.environment(environ)
    plan = _plan(command, folder, base, environ, run_id, torch, gpus, without)
    if beating is not None:
        more = {k: v for k, v in heartbeat_variables(folder.resolve(), base).items() if k not in without}
        plan.added.update(more)
        plan.environment.update(more)
    output = data.get("output_dir")
    dynamic = data.get("dynamic_checkpoint")
    return Plan(
        **{f: getattr(plan, f) for f in ("command", "folder", "cwd", "environment", "added", "run_id")},
        python=python,
        config=config,
        files=tuple(files),
        output_dir=Path(str(output)) if output else Path("model-out"),
        dynamic_checkpoint=bool(isinstance(dynamic, dict) and dynamic.get("enabled")),
        checkpoint_file=str((dynamic or {}).get("trigger_file_path") or CHECKPOINT_FILE)
        if isinstance(dynamic, dict)
        else CHECKPOINT_FILE,
        processes=count,
        heartbeat=beating is not None,
        torch=torch,
        notes=tuple(notes),
    )


def _meeting(meet: Rendezvous | None) -> list[str]:
    """The options of torchrun on one node of several; alone it keeps to the port of its job."""
    if meet is None:
        return []
    who = {"nnodes": meet.nodes, "node_rank": meet.node, "master_addr": meet.address, "master_port": meet.port}
    return [part for name, value in who.items() for part in (f"--{name}", str(value))]


def for_command(
    command: Sequence[str],
    *,
    folder: Path,
    run_id: str,
    gpus: str | None,
    without: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> Plan:
    """Plan a run of any other trainer."""
    environ = os.environ if environ is None else environ
    return _plan(list(command), folder, dict(environ), environ, run_id, None, gpus, without)


def _plan(
    command: list[str],
    folder: Path,
    base: dict[str, str],
    environ: Mapping[str, str],
    run_id: str,
    torch: str | None,
    gpus: str | None,
    without: Sequence[str],
) -> Plan:
    wanted = {**variables(folder.resolve(), torch), "NCCL_RAS_ADDR": ras_address(run_id)}
    added = {k: v for k, v in wanted.items() if k not in without and k not in environ}
    if "NCCL_DEBUG" in environ:
        added.pop("NCCL_DEBUG_FILE", None)  # they want to see it in their own output
    if gpus is not None:
        added["CUDA_VISIBLE_DEVICES"] = gpus
    added[MARK] = run_id
    return Plan(tuple(command), folder, Path.cwd(), {**base, **added}, added, run_id)
