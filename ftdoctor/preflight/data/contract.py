"""The prepared data set of a configuration: found, scanned, and its counts as facts for the rules.

Facts: `prepared.rows`, `prepared.trained_share`, `prepared.masked` and `_rows`, `prepared.cut_rows`,
`prepared.doubled_rows`, `prepared.twins` and `_rows`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError
from ftdoctor.events import Scalar
from ftdoctor.preflight import plan
from ftdoctor.preflight.data import prepared
from ftdoctor.training_python import find_training_python

DEFAULT = "last_run_prepared"
SECONDS = 600.0


def newest(data: Mapping[str, Any], folder: Path) -> Path:
    """The prepared data set that was written last.

    Raises:
        InputError: there is none.
    """
    named = str(data.get("dataset_prepared_path") or DEFAULT)
    root = plan.find(named, folder)
    found = list(root.glob("*/state.json")) if root is not None else []
    if not found:
        raise InputError("no prepared data set", named, "leave --no-run out, or run `axolotl preprocess` first")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def scan(folder: Path, data: Mapping[str, Any], python: str | None) -> dict[str, Any]:
    """The counts of `prepared.scan`, by this process or, without pyarrow, by the training python.

    Raises:
        InputError: it cannot be read.
    """
    length = int(plan.number(data.get("sequence_len")) or 0)
    try:
        return prepared.scan(folder, length or None)
    except ImportError:
        return _by_training(folder, length, python)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {str(error)[:200]}", str(folder), "delete it and preprocess again") from None


def _by_training(folder: Path, length: int, python: str | None) -> dict[str, Any]:
    found = find_training_python(python)
    try:
        done = subprocess.run(
            [found.path, str(Path(prepared.__file__)), str(folder), str(length)], capture_output=True, text=True,
            timeout=SECONDS, env=found.environment(), check=False,
        )  # fmt: skip
        result: dict[str, Any] = json.loads(done.stdout.strip().split("\n")[-1])
    except subprocess.TimeoutExpired:
        raise InputError(f"not read within {SECONDS:.0f} s", str(folder), "pip install 'ftdoctor[data]'") from None
    except ValueError:
        last = next((line for line in reversed(done.stderr.split("\n")) if line.strip()), f"code {done.returncode}")
        raise InputError(f"cannot be read: {last[:200]}", str(folder), "pip install 'ftdoctor[data]'") from None
    return result


def facts(found: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    """What the rules ask for."""
    rows = int(found["rows"])
    yield "prepared.rows", rows
    if not rows:
        return
    yield "prepared.trained_share", round(found["trained"] / max(1, found["tokens"]), 4)
    if found["masked"]:
        yield "prepared.masked", f"sample {found['masked_first']:,} is the first"
        yield "prepared.masked_rows", int(found["masked"])
    if found["full"]:
        yield "prepared.cut_rows", int(found["full"])
    if found["doubled"]:
        yield "prepared.doubled_rows", int(found["doubled"])
    if found["twins"]:
        one, other = found["twin_first"]
        yield "prepared.twins", f"{found['twins']:,} of {rows:,}, sample {one:,} repeats sample {other:,}"
        yield "prepared.twins_rows", int(found["twins"])


def told(found: Mapping[str, Any], sequence_len: int | None) -> str:
    """One line for the reader: samples, tokens, share that is trained, lengths."""
    rows = int(found["rows"])
    if not rows:
        return "no samples"
    share = 100 * found["trained"] / max(1, found["tokens"])
    mean = found["tokens"] / rows
    of = f" of {sequence_len:,}" if sequence_len else ""
    return (
        f"{rows:,} samples, {found['tokens']:,} tokens, {share:.0f} % of them trained; "
        f"length {mean:,.0f} in the mean, {found['longest']:,}{of} at most"
    )
