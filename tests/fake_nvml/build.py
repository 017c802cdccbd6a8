"""Builds the fake NVML and runs tests under it.

    @fake_nvml('''
        gpus 2
        @0 * memory 143771 20000 615
    ''')
    def test_memory() -> None: ...

Such a test runs in a process of its own, in which nvidia-ml-py loads the fake through LD_LIBRARY_PATH.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SOURCE = HERE / "fake_nvml.c"
CHILD = "FTDOCTOR_TEST_IN_FAKE_NVML"


@functools.cache
def library() -> Path:
    """Folder that holds the fake libnvidia-ml.so.1, built once per test run."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    folder = Path(tempfile.mkdtemp(prefix="ftdoctor-fake-nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    options = ["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, *options, "-o", str(target), str(SOURCE), "-lpthread"], check=True, timeout=60)
    return folder


def environment(script: str, folder: Path, **more: str) -> dict[str, str]:
    """Environment in which a process finds the fake, playing `script`."""
    path = folder / "nvml.script"
    path.write_text(textwrap.dedent(script), encoding="utf-8")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(library()),
        "FAKE_NVML_SCRIPT": str(path),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        **more,
    }


def fake_nvml(script: str, **variables: str) -> Callable[[Callable[[], None]], Callable[..., None]]:
    """Run the test in a process of its own under the fake."""

    def decorate(test: Callable[[], None]) -> Callable[..., None]:
        if os.environ.get(CHILD):
            return test
        file = Path(sys.modules[test.__module__].__file__ or "")

        def run(tmp_path: Path) -> None:
            code = (
                f"import importlib.util as u; s = u.spec_from_file_location('t', {str(file)!r}); "
                f"m = u.module_from_spec(s); s.loader.exec_module(m); m.{test.__name__}()"
            )
            env = environment(script, tmp_path, **{CHILD: "1", **variables})
            done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate


def tick(value: int) -> None:
    """In a test: move the script's clock."""
    ctypes.CDLL("libnvidia-ml.so.1").fakeNvmlSetTick(value)


def calls(function: str) -> int:
    """In a test: how often a C function was called."""
    count = ctypes.CDLL("libnvidia-ml.so.1").fakeNvmlCalls
    count.restype = ctypes.c_long
    return int(count(function.encode()))
