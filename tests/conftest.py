"""Tests of real processes, threads and terminals get a second chance; a fault of the code fails twice.

They share a machine with whatever else runs there. A repeated test is printed as `R`.
"""

from __future__ import annotations

import pytest

REAL = ("tests/integration/", "tests/faces/tui/", "tests/unit/live/", "tests/unit/launch/", "tests/unit/sources/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark them for one repetition, where pytest-rerunfailures (an extra of the tests) knows the mark."""
    if not config.pluginmanager.hasplugin("rerunfailures"):
        return
    for item in items:
        if item.nodeid.startswith(REAL):
            item.add_marker(pytest.mark.flaky(reruns=1))
