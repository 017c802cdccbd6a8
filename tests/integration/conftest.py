"""Real training runs of a 125,000-parameter model on CPU ranks: Axolotl, accelerate or torchrun, DDP or DeepSpeed ZeRO-3.

They need a training environment: `$FTDOCTOR_TEST_PYTHON`, `.rig-venv/bin/python` or `.venv` in the checkout; without one they
are skipped. A run takes half a minute to two, so tests share runs where they can.

    def test_it(rig: RigFolder) -> None:  # from tests.integration.rigs import RigFolder
        rig.config(deepspeed="./deepspeed_z3.json", max_steps=12)
        done = subprocess.run([rig.torchrun, "--nproc_per_node", "2", "-m", "axolotl.cli.train", "config.yml"],
                              cwd=rig.folder, env=rig.environment())
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.rigs import RigFolder
from tools.record.rig import MARK, Rig, end_marked

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 300.0  # seconds for one run, on a machine that has other things to do


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A real run needs more time than the suite's usual limit."""
    for item in items:
        if item.get_closest_marker("rig") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3 * PATIENCE))


@pytest.fixture(scope="session")
def training_python() -> Path:
    """The python that has torch, Axolotl and DeepSpeed."""
    given = os.environ.get("FTDOCTOR_TEST_PYTHON")
    found = Path(given) if given else ROOT / ".rig-venv/bin/python"
    if not given and not found.is_file() and any((ROOT / ".venv").glob("lib/python*/site-packages/axolotl")):
        found = ROOT / ".venv/bin/python"  # `make` installs the training stack beside ftdoctor
    if not found.is_file():
        pytest.skip(f"no training environment: {found} is missing (set FTDOCTOR_TEST_PYTHON)")
    return found.absolute()


@pytest.fixture(scope="session")
def _rig_made(training_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """The tiny model and its data sets, made once."""
    return Rig(training_python.parent.parent, tmp_path_factory.mktemp("rig"))


@pytest.fixture
def rig(_rig_made: Rig, tmp_path: Path) -> Iterator[RigFolder]:
    """A fresh folder; everything that a test started in it is ended afterwards."""
    folder = tmp_path / "rig"
    shutil.copytree(_rig_made.folder, folder, ignore=shutil.ignore_patterns("torch_extensions"))
    guest = RigFolder(folder, _rig_made)
    yield guest
    end_marked(f"{MARK}={guest.mark}")


@pytest.fixture
def wait_for() -> Callable[..., None]:
    """`wait_for(condition, seconds, what)`: look ten times a second, fail with `what` when the time is over."""

    def wait(condition: Callable[[], object], seconds: float = PATIENCE, what: str = "") -> None:
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, ValueError, KeyError):
                if condition():
                    return
            assert time.monotonic() < end, f"waited {seconds:.0f} s for {what or condition}"
            time.sleep(0.1)

    return wait
