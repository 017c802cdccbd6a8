"""The demo from the empty folder to the judged answer. Each act is a command of ftdoctor that a person would type."""

from __future__ import annotations

import difflib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ftdoctor.demo.faults import ZERO3, Fault, broken, recipe
from ftdoctor.errors import FtdoctorError
from ftdoctor.training_python import TrainingPython

HERE = Path(__file__).parent
PRETRAIN_STEPS = 250
CPU_RANKS = 2
ACTS = 7


class Story:
    """One performance in `folder`."""

    def __init__(self, folder: Path, fault: Fault, python: TrainingPython, say: Callable[[str], None]) -> None:
        self.folder, self.fault, self.python, self.say = folder, fault, python, say
        self.began = time.monotonic()
        self.act = 0
        self.gpus = 0
        self.deepspeed = True

    def play(self) -> int:
        """Every act; 0 when the fault was named and the repaired model answers well, else 1."""
        self.prepare()
        named = self.break_it()
        repaired = self.repair()
        self.title("the repaired run is trained", "launch", repaired, *self._launcher(), "--name", "repaired")
        code = self.launch(repaired, "repaired")
        if code:
            self.say(f"    the repaired run failed with exit code {code}; see ftdoctor-runs/repaired/report.txt")
            return 1
        healthy = self.merge(repaired) and self.ask()
        self.end(named, healthy)
        return 0 if named and healthy else 1

    # -- acts ------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Model, data and configuration."""
        self.title(f"a small Llama is made and pre-trained in {self.folder}")
        self.say(f"    training python: {self.python.path} ({self.python.how})")
        command = [self.python.path, str(HERE / "maker.py"), str(PRETRAIN_STEPS)]
        made: dict[str, Any] = {}
        with (self.folder / "maker.log").open("w") as noise:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment(maker=True),
                stdout=subprocess.PIPE,
                stderr=noise,
                text=True,
            )
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):
                    event = json.loads(line)
                    made.update(event)
                    if event.get("step", 1) % 100 == 0:
                        self.say(f"    pre-training: step {event['step']} of {event['steps']}, loss {event['loss']}")
            if process.wait():
                raise FtdoctorError(
                    f"the model could not be made (exit code {process.returncode})", str(self.folder / "maker.log"),
                    "read the log; the training python needs torch and transformers",
                )  # fmt: skip
        self.gpus = int(made["gpus"])
        self.deepspeed = bool(self.gpus or shutil.which("g++") or shutil.which("c++"))
        self.say(
            f"    {made['parameters']:,} parameters; {made['rows']} questions to train on, {made['kept']} kept back"
        )
        where = (
            f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}" if self.gpus else f"{CPU_RANKS} CPU ranks (no GPU here)"
        )
        self.say(f"    trains on {where}" + (", DeepSpeed ZeRO-3" if self.deepspeed else ""))
        if not self.deepspeed:
            self.say("    plain DDP: DeepSpeed compiles an operator on a CPU and there is no C++ compiler (g++)")
        shutil.copy(HERE / "cpu_ranks.py", self.folder)
        (self.folder / "zero3.json").write_text(json.dumps(ZERO3, indent=1) + "\n")

    def break_it(self) -> bool:
        """The broken run under `ftdoctor launch`; True when the fault was named."""
        good = recipe(self.gpus, self.deepspeed)
        bad = broken(good, self.fault)
        (self.folder / "broken.yml").write_text(bad)
        self.title(f"the fault `{self.fault.name}` goes in: {self.fault.shows}")
        self.difference(good, bad)
        if self.fault.signal:
            name = signal.Signals(self.fault.signal).name
            self.say(f"    {name} to rank {self.fault.rank} once it trains")
        self.title(
            "the broken run is trained and watched", "launch", "broken.yml", *self._launcher(), "--name", "broken"
        )
        self.launch("broken.yml", "broken", self.fault)
        diagnosis = json.loads((self.folder / "ftdoctor-runs/broken/diagnosis.json").read_text())
        root = (diagnosis.get("root_cause") or {}).get("id")
        self.quote((self.folder / "ftdoctor-runs/broken/report.txt").read_text())
        named = root in self.fault.expect
        self.say(f"    named live: {root}" if named else f"    NOT NAMED: {root or 'nothing'} was found")
        return named

    def repair(self) -> str:
        """Apply the fix; the name of the repaired configuration."""
        from ftdoctor.applyfix import apply_fix
        from ftdoctor.errors import UsageError
        from ftdoctor.ruleset.load import load
        from ftdoctor.session import Session
        from ftdoctor.sources.files import Input

        # the folder, not the log alone: the ranks' own records show NaN before the Trainer's filter hides it
        run, config, out = "ftdoctor-runs/broken", "broken.yml", "repaired.yml"
        self.title("the fix goes into a copy of the YAML", "check", run, "--config", config, "--apply-fix", out)
        session = Session(load())
        session.read([str(self.folder / run)])
        session.read_input(Input(str(self.folder / config), "yaml"))
        good, bad = recipe(self.gpus, self.deepspeed), (self.folder / config).read_text()
        try:
            if self.fault.repair:
                raise UsageError("by hand")
            apply_fix(session.diagnose(), self.folder / config, None, self.folder / out)
        except UsageError as error:
            self.say(f"    {self.fault.repair or error}")
            (self.folder / out).write_text(good)
        self.difference(bad, (self.folder / out).read_text())
        return out

    def merge(self, config: str) -> bool:
        """Merge and prove; True when proven."""
        self.title("the adapter is merged, and the merge proven tensor by tensor", "merge", config, "--mend")
        code, text = self.ftdoctor("merge", config, "--mend")
        self.quote(text)
        return code == 0

    def ask(self) -> bool:
        """Questions that were kept back; True when every answer is healthy and right."""
        kept = [json.loads(line) for line in (self.folder / "kept.jsonl").read_text().splitlines()]
        asked = kept[:: max(len(kept) // 3, 1)][:3]
        prompts = [part for row in asked for part in ("--prompt", row["prompt"])]
        self.title(
            "the merged model is asked what it never saw in this form", "infer", "--model", "out/merged", *prompts
        )
        code, text = self.ftdoctor("infer", "--model", "out/merged", "--max-new-tokens", "40", *prompts)
        self.quote(text)
        right = sum(row["answer"] in text for row in asked)
        self.say(f"    {right} of {len(asked)} answers are right")
        return code == 0 and right == len(asked)

    def end(self, named: bool, healthy: bool) -> None:
        """What was seen, in a few lines."""
        self.say("")
        self.say(f"{'Done' if named and healthy else 'NOT AS EXPECTED'} in {time.monotonic() - self.began:.0f} s.")
        self.say(f"  the fault `{self.fault.name}` was {'named while it happened' if named else 'not named'}")
        self.say(f"  the repaired model is {'merged, proven, and answers rightly' if healthy else 'not right'}")
        self.say(f"  everything is in {self.folder}: configurations, run folders, the merged model")
        self.say("  other faults: ftdoctor demo --list")

    # -- running ---------------------------------------------------------------------------------------------------

    def launch(self, config: str, name: str, fault: Fault | None = None) -> int:
        """A run under `ftdoctor launch`, its progress shown; the exit code."""
        from ftdoctor.demo.running import Watched

        command = [sys.executable, "-m", "ftdoctor", "launch", config, "--name", name, *self._launcher()]
        return Watched(command, self.folder, name, self.environment(), self.say).run(fault)

    def ftdoctor(self, *arguments: str) -> tuple[int, str]:
        """A command of ftdoctor to its end: exit code and what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "ftdoctor", *arguments], cwd=self.folder, env=self.environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout

    def environment(self, maker: bool = False) -> dict[str, str]:
        """Offline, without telemetry, and on CPU ranks where there is no GPU."""
        env = dict(os.environ)
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            env.pop(name, None)
        env.update(AXOLOTL_DO_NOT_TRACK="1", HF_HUB_OFFLINE="1", FTDOCTOR_PYTHON=self.python.path, TQDM_MININTERVAL="1")
        if maker:
            return env
        env["PYTHONPATH"] = os.pathsep.join(p for p in (str(self.folder), env.get("PYTHONPATH", "")) if p)
        if not self.gpus:
            env.update(
                CUDA_VISIBLE_DEVICES="", DS_ACCELERATOR="cpu", ACCELERATE_TORCH_DEVICE="cpu", OMP_NUM_THREADS="1"
            )
        return env

    def _launcher(self) -> tuple[str, ...]:
        return ("--launcher", "torchrun", "--processes", str(self.gpus or CPU_RANKS))

    # -- showing ---------------------------------------------------------------------------------------------------

    def title(self, text: str, *command: str) -> None:
        """The head of an act."""
        self.act += 1
        self.say("")
        self.say(f"[{time.monotonic() - self.began:3.0f} s] {self.act}/{ACTS} {text}")
        if command:
            self.say(f"    $ ftdoctor {shlex.join(command)}")

    def quote(self, text: str) -> None:
        """What a command printed."""
        for line in text.rstrip().splitlines():
            self.say(f"    | {line}".rstrip())

    def difference(self, old: str, new: str) -> None:
        """The changed lines."""
        for line in difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0):
            if not line.startswith(("---", "+++", "@@")):
                self.say(f"      {line[0]} {line[1:].strip()}")
