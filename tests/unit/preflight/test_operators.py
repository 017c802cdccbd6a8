"""DeepSpeed's operator report without the rest of DeepSpeed, and the whole report where that does not work."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ftdoctor.preflight import environment
from ftdoctor.training_python import TrainingPython

BUILDERS = """
from deepspeed.utils import logger
assert logger == "a logger"
def op_report():
    print("async_io ............... [NO] ....... [OKAY]", flush=True)
    {then}
    print("cpu_adam ............... [NO] ....... [NO]")
"""


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package laid out as DeepSpeed is, whose import is counted in a file; `env_report.py` is the test's."""
    package = tmp_path / "site" / "deepspeed"
    for name in ("ops", "utils"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").write_text("from .logging import logger\n" if name == "utils" else "")
    (package / "utils" / "logging.py").write_text("logger = 'a logger'\n")
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('whole ')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return package


def test_the_table_is_had_without_importing_deepspeed(release: Path, tmp_path: Path) -> None:
    (release / "env_report.py").write_text(BUILDERS.format(then="pass"))
    seen = environment.deepspeed_ops(TrainingPython(sys.executable, "here"))
    assert seen.facts == {"ds_op.async_io": True, "ds_op.cpu_adam": False}
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("then", ["raise RuntimeError('needs the whole')", "import deepspeed; deepspeed.comm"])
def test_half_a_table_is_none_and_the_whole_report_is_asked(release: Path, tmp_path: Path, then: str) -> None:
    whole = BUILDERS.format(then="pass") + "if __name__ == '__main__':\n    op_report()\n"
    (release / "env_report.py").write_text(
        f"import sys\nif __name__ == '__main__':\n    exec({whole!r})\nelse:\n    exec({BUILDERS.format(then=then)!r})\n"
    )
    seen = environment.deepspeed_ops(TrainingPython(sys.executable, "here"))
    assert seen.facts == {"ds_op.async_io": True, "ds_op.cpu_adam": False}
    assert (tmp_path / "imported").read_text() == "whole "


def test_no_table_at_all_says_why(release: Path) -> None:
    (release / "env_report.py").write_text("raise ImportError('libcudart.so.13 is missing')\n")
    seen = environment.deepspeed_ops(TrainingPython(sys.executable, "here"))
    assert seen.state == "absent"
    assert "libcudart.so.13 is missing" in seen.summary
