"""Every example configuration of an Axolotl release through preflight: no error on any that Axolotl itself accepts.

    pip download --no-deps --no-binary axolotl axolotl==0.19.0 && tar xzf axolotl-0.19.0.tar.gz
    python -m tools.axolotl_examples axolotl-0.19.0/examples --python PYTHON_WITH_AXOLOTL [--assume 8xA100-80GB]

Prints each error-level finding on an accepted example, and exits with 1 when there is one that is not about memory:
examples larger than the machine described are listed apart.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ftdoctor.cli import preflight

VALIDATE = """
import contextlib, json, sys
paths = json.load(sys.stdin)
told = {}
with contextlib.redirect_stdout(sys.stderr):
    import yaml
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault
    able = {"bf16": True, "fp8": False, "tf32": True, "n_gpu": 8, "n_node": 1, "compute_capability": "sm_80"}
    for path in paths:
        try:
            config = DictDefault(yaml.safe_load(open(path, encoding="utf-8")))
            if config.plugins:
                prepare_plugins(config)
            validate_config(config, capabilities=able, env_capabilities={"torch_version": "2.11.0"})
            told[path] = ""
        except BaseException as error:
            told[path] = f"{type(error).__name__}: {error}"[:300]
print(json.dumps(told))
"""


def accepted(python: str, paths: list[Path]) -> dict[str, str]:
    """What Axolotl says of each: nothing when it accepts it."""
    done = subprocess.run(
        [python, "-c", VALIDATE], input=json.dumps([str(p) for p in paths]), capture_output=True, text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "AXOLOTL_DO_NOT_TRACK": "1"}, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    told: dict[str, str] = json.loads(done.stdout.strip().split("\n")[-1])
    return told


def errors(path: Path, assume: str) -> list[dict[str, Any]]:
    """The error-level findings of preflight."""
    out = io.StringIO()
    given = ["--only", "config,data,memory", "--no-validate", "--offline", "--assume", assume, "--format", "json"]
    with contextlib.redirect_stdout(out):
        preflight.main([str(path), *given])
    return [f for f in json.loads(out.getvalue())["findings"] if f["severity"] == "error"]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", required=True)
    parser.add_argument("--assume", default="8xA100-80GB")
    options = parser.parse_args()
    paths = sorted(p for p in options.folder.rglob("*.y*ml") if "base_model" in p.read_text(encoding="utf-8"))
    told = accepted(options.python, paths)
    refused = [path for path in paths if told[str(path)]]
    wrong: list[str] = []
    large: list[str] = []
    for path in paths:
        if told[str(path)]:
            continue
        for found in errors(path, options.assume):
            place = large if found["id"] in ("cuda-oom", "host-oom") else wrong
            place.append(f"{path.relative_to(options.folder)}: {found['id']}: {found['message']}")
    print(
        f"{len(paths)} examples, {len(refused)} refused by Axolotl itself, {len(large)} too large for {options.assume}"
    )
    print(*[f"refused {path.relative_to(options.folder)}: {told[str(path)]}" for path in refused], sep="\n")
    print(*[f"large {text}" for text in large], sep="\n")
    print(*[f"WRONG {text}" for text in wrong], sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
