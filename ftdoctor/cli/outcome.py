"""What a verb came to, for `ftdoctor pipeline`, which runs one after the other in one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftdoctor.findings import Diagnosis


@dataclass(frozen=True, slots=True)
class Outcome:
    """The verb's exit code, and what it judged; None where nothing was."""

    code: int
    diagnosis: Diagnosis | None = None
