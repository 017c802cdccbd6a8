"""ftdoctor: the doctor beside a multi-GPU LLM fine-tune."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftdoctor.version import __version__

if TYPE_CHECKING:
    from ftdoctor.api import LoadedRun, load_run

__all__ = ["LoadedRun", "__version__", "load_run"]


def __getattr__(name: str) -> Any:
    """Load the Python API at first use: it needs pandas, which the commands do not."""
    if name in ("load_run", "LoadedRun"):
        from ftdoctor import api

        return getattr(api, name)
    raise AttributeError(f"module 'ftdoctor' has no attribute {name!r}")
