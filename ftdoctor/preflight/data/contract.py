"""The prepared data set of a configuration: found, scanned, held against inference; the result as facts for the rules.

Facts: `prepared.rows`, `prepared.trained_share`, `prepared.masked` and `_rows`, `prepared.cut_rows`,
`prepared.doubled_rows`, `prepared.twins`, `prepared.leak` and `prepared.endless` and their `_rows`,
`prepared.lost_rows` of `prepared.raw_rows`, `parity.checked`, `parity.apart`, `parity.trained` and `parity.asked` (what
stands apart), `parity.diff`, `parity.row`, `parity.by_system` (samples that agree with
`parity.system` as the system message), `parity.turn_end`, `parity.eos`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError
from ftdoctor.events import Scalar
from ftdoctor.preflight import plan, sizes
from ftdoctor.preflight.data import parity, prepared
from ftdoctor.preflight.data.declared import declare
from ftdoctor.preflight.data.prepared import Asked
from ftdoctor.training_python import find_training_python

DEFAULT = "last_run_prepared"
SECONDS = 600.0


def sets(data: Mapping[str, Any], folder: Path) -> list[Path]:
    """The prepared data sets below dataset_prepared_path, the one that was written last at the end."""
    root = plan.find(str(data.get("dataset_prepared_path") or DEFAULT), folder)
    found = list(root.glob("*/state.json")) if root is not None else []
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime_ns)]


def newest(data: Mapping[str, Any], folder: Path) -> tuple[Path, Path | None]:
    """The prepared data set that was written last, and that of `test_datasets`, which Axolotl writes after it.

    Raises:
        InputError: there is none.
    """
    found = sets(data, folder)
    if not found:
        named = str(data.get("dataset_prepared_path") or DEFAULT)
        raise InputError("no prepared data set", named, "leave --no-run out, or run `axolotl preprocess` first")
    if data.get("test_datasets") and len(found) > 1:
        return found[-2], found[-1]
    return found[-1], None


def asked(data: Mapping[str, Any], tokenizer: Mapping[str, Any], test: Path | None) -> Asked:
    """What the scan must know of configuration and tokenizer."""
    length = int(plan.number(data.get("sequence_len")) or 0)
    held = plan.number(data.get("val_set_size")) or 0.0
    # the template's end of turn, the tokenizer's end of text, the YAML's eot_tokens: who learned one of them can stop
    ends = tokenizer.get("ends") or ()
    if data.get("rl") or not any(declare(item).prompted for item in sizes.datasets(data)):
        ends = ()  # text to continue has no end of turn
    known = tuple(sorted({int(end) for end in ends}))
    apart = 0.0 if data.get("dataset_exact_deduplication") else held
    return Asked(length or None, known, tokenizer.get("bos"), apart, str(test) if test else None)


def scan(folder: Path, asked: Asked, python: str | None) -> dict[str, Any]:
    """The counts of `prepared.scan`, by this process or, without pyarrow, by the training python.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return prepared.scan(folder, asked)
    except ImportError:
        return _by_training(folder, asked, python)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {str(error)[:200]}", str(folder), "delete it and preprocess again") from None


def _by_training(folder: Path, asked: Asked, python: str | None) -> dict[str, Any]:
    found = find_training_python(python)
    try:
        done = subprocess.run(
            [found.path, str(Path(prepared.__file__)), str(folder), asked.json()], capture_output=True, text=True,
            timeout=SECONDS, env=found.environment(), check=False,
        )  # fmt: skip
        result: dict[str, Any] = json.loads(done.stdout.strip().split("\n")[-1])
    except subprocess.TimeoutExpired:
        raise InputError(f"not read within {SECONDS:.0f} s", str(folder), "pip install 'ftdoctor[data]'") from None
    except ValueError:
        last = next((line for line in reversed(done.stderr.split("\n")) if line.strip()), f"code {done.returncode}")
        raise InputError(f"cannot be read: {last[:200]}", str(folder), "pip install 'ftdoctor[data]'") from None
    return result


def facts(found: Mapping[str, Any], raw_rows: int | None = None) -> Iterator[tuple[str, Scalar]]:
    """What the rules ask for; `raw_rows` is the number of rows before preparing, where it can be told."""
    rows = int(found["rows"])
    yield "prepared.rows", rows
    if raw_rows is not None and raw_rows > rows:
        yield "prepared.raw_rows", raw_rows
        yield "prepared.lost_rows", raw_rows - rows
    if not rows:
        return
    yield "prepared.trained_share", round(found["trained"] / max(1, found["tokens"]), 4)
    if found["masked"]:
        yield "prepared.masked", f"sample {found['masked_first']:,} is the first"
        yield "prepared.masked_rows", int(found["masked"])
    cut = found["cut"] if found["judged_ends"] else found["full"]
    if cut:
        yield "prepared.cut_rows", int(cut)
    if found["doubled"]:
        yield "prepared.doubled_rows", int(found["doubled"])
    if found["twins"]:
        one, other = found["twin_first"]
        yield "prepared.twins", f"{found['twins']:,} of {rows:,}, sample {one:,} repeats sample {other:,}"
        yield "prepared.twins_rows", int(found["twins"])
    if found["leak"]:
        one, other = found["leak_first"]
        yield (
            "prepared.leak",
            (
                f"{found['leak']:,} of {found['held']:,} samples held out for evaluation are trained as well: "
                f"sample {one:,} is sample {other:,}"
            ),
        )
        yield "prepared.leak_rows", int(found["leak"])
        yield "prepared.held_rows", int(found["held"])
    if found["endless"]:
        yield "prepared.endless", f"sample {found['endless_first']:,} is the first"
        yield "prepared.endless_rows", int(found["endless"])


def parity_facts(tokenizer: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[tuple[str, Scalar]]:
    """The proof's part of the facts."""
    names = tokenizer.get("names") or {}
    end, eos = tokenizer.get("turn_end"), tokenizer.get("eos")
    if end is not None:
        yield "parity.turn_end", names.get(str(end), str(end))
        yield "parity.eos", names.get(str(eos), "nothing")
    if not found.get("checked"):
        return
    yield "parity.checked", int(found["checked"])
    yield "parity.apart", int(found["apart"]) - int(found.get("by_system") or 0)
    if found.get("by_system"):
        yield "parity.by_system", int(found["by_system"])
        yield "parity.system", str(found["system"])
    if first := found.get("first"):
        yield "parity.diff", "\n".join(parity.diff_lines(first))
        yield "parity.trained", parity.frame(first, "-")
        yield "parity.asked", parity.frame(first, "+")
        yield "parity.row", int(first["row"])
