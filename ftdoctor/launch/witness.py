"""Those who look on while a run goes on and gather what a later diagnosis needs: stacks of a hang, traces of a crash.

`Launch` calls each witness in its own thread of work, between two looks at the run, and shields the run from it: an
exception of a witness is said once and the run goes on. What it finds it adds as events: `scene.live.session.apply`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from ftdoctor.findings import Diagnosis
    from ftdoctor.launch.child import Child
    from ftdoctor.launch.plan import Plan
    from ftdoctor.live import LiveSession


@dataclass(frozen=True, slots=True)
class Scene:
    """One attempt of a run: what was started, the process, what is known of it. `say` prints a line of ftdoctor's."""

    plan: Plan
    child: Child
    live: LiveSession
    say: Callable[[str], None]

    @property
    def evidence(self) -> Path:
        """Where a witness leaves files."""
        return self.plan.folder / "evidence"

    def ranks(self) -> dict[int, int]:
        """RANK -> pid of the ranks that are there."""
        from ftdoctor.launch.child import ranks

        return ranks(self.plan.run_id)


class Witness(Protocol):
    """See the module."""

    def looked(self, scene: Scene, diagnosis: Diagnosis) -> None:
        """A new diagnosis is there while the run goes on. Must return soon (well below a minute)."""

    def stopping(self, scene: Scene, reason: str) -> None:
        """The run is about to be stopped, for a finding's id or a signal's name; every process is still there."""

    def ended(self, scene: Scene, code: int) -> None:
        """The run has ended with `code` (negative: a signal), before the last diagnosis is made."""
