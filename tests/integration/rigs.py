"""One test's folder on the rig."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tools.record.rig import MARK, Rig

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class RigFolder:
    """A folder of its own with the model, the data and a configuration."""

    folder: Path
    made: Rig
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def python(self) -> str:
        """The training python."""
        return str(self.made.venv / "bin/python")

    @property
    def torchrun(self) -> str:
        """Its torchrun."""
        return str(self.made.venv / "bin/torchrun")

    def config(self, name: str = "config.yml", **changes: Any) -> Path:
        """Write the base configuration with `changes`; a value of None removes the key."""
        if changes.get("deepspeed"):
            self.made.warm()
        data = {**yaml.safe_load((self.folder / "base.yml").read_text()), **changes}
        path = self.folder / name
        path.write_text(yaml.safe_dump({k: v for k, v in data.items() if v is not None}, sort_keys=False))
        return path

    def environment(self, **extra: str) -> dict[str, str]:
        """What makes the trainer run on CPU ranks. Whatever carries it is ended after the test."""
        return self.made.environment({MARK: self.mark, **extra})

    def ftdoctor(self, *arguments: str, **popen: Any) -> subprocess.Popen[str]:
        """Start `ftdoctor ARGUMENTS` in the folder, its output captured as text; `env` adds variables."""
        env = self.environment(**popen.pop("env", {}))
        env["FTDOCTOR_PYTHON"] = self.python
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env["PYTHONPATH"]])  # ftdoctor takes its own entry out again
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": self.folder, **popen}
        return subprocess.Popen([sys.executable, "-m", "ftdoctor", *arguments], env=env, **given)
