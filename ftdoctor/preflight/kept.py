"""Answers of the training environment, kept on disk for as long as nothing in it changes.

Importing Axolotl or DeepSpeed takes ten seconds and more, and says the same each time: an answer is kept under a hash
of the packages installed there (their `*.dist-info` folders), the script that asked and what it was asked. With a
package installed in editable mode nothing is kept: its code may change while its version does not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ftdoctor.training_python import TrainingPython

VERSION = 1
MAX_KEPT = 200


def folder() -> Path:
    """`$XDG_CACHE_HOME/ftdoctor/preflight`, else below `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base, "ftdoctor", "preflight")


def ask(python: TrainingPython, about: Mapping[str, Any], make: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
    """What `make` gives, kept unless it is None. `about` is everything else that the answer depends on."""
    key = _key(python, about)
    path = folder() / f"{key}.json"
    if key is not None:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict):
                return found
    made = make()
    if made is None:
        return {}
    if key is not None:
        store(path, json.dumps(made))
    return made


def store(path: Path, text: str) -> bool:
    """Write atomically; False when that cannot be done, which is no error. The oldest answers go."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as handle:
            handle.write(text)
        os.replace(handle.name, path)
        for old in sorted(path.parent.glob("*.json"), key=lambda p: p.stat().st_mtime)[:-MAX_KEPT]:
            old.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _key(python: TrainingPython, about: Mapping[str, Any]) -> str | None:
    digest = hashlib.sha256(f"{VERSION} {python.path}\n".encode())
    infos = [info for place in python.folders() if place.is_dir() for info in place.glob("*.dist-info")]
    if not infos:
        return None
    for info in sorted(infos):
        try:
            if '"editable": true' in (info / "direct_url.json").read_text(encoding="utf-8"):
                return None
        except (OSError, ValueError):
            pass
        digest.update(f"{info}\n".encode())
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:32]
