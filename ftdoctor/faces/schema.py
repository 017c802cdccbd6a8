"""The published JSON Schema of `--format json`.

`diagnosis.schema.json` is written by hand: it is a promise to those who read the output, so it changes on purpose
only. Keys are added within a `schema_version`, never removed or given another meaning.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("diagnosis.schema.json")


def diagnosis_schema() -> dict[str, Any]:
    """The schema as an object."""
    schema: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))
    return schema
