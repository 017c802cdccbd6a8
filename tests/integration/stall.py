"""An Axolotl plugin of the tests: from a step on, one rank stops coming. It is copied into a rig folder.

STALL=data|uneven   data: its data loader never gives the next batch; uneven: its data loader ends early
STALL_RANK, STALL_STEP
"""

from __future__ import annotations

import os
import time
from typing import Any

from axolotl.integrations.base import BasePlugin


class _Stalled:
    """A data loader that stops giving."""

    def __init__(self, inner: Any, how: str, after: int) -> None:
        self._inner, self._how, self._after = inner, how, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Any:
        for number, batch in enumerate(self._inner):
            if number >= self._after:
                if self._how == "uneven":
                    return
                read_next_rows()
            yield batch


def read_next_rows() -> None:
    """Storage that never answers."""
    while True:
        time.sleep(0.5)


class Stall(BasePlugin):
    """Wraps the training data loader of one rank."""

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Called on every rank."""
        if os.environ.get("RANK") != os.environ.get("STALL_RANK", "1"):
            return
        original = trainer.get_train_dataloader

        def stalled() -> Any:
            return _Stalled(original(), os.environ["STALL"], int(os.environ.get("STALL_STEP", "12")))

        trainer.get_train_dataloader = stalled
