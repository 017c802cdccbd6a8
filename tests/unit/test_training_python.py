"""Which python is the training environment's."""

import os
import sys
from pathlib import Path

import pytest

from ftdoctor.errors import InputError
from ftdoctor.training_python import TrainingPython, find_training_python

REAL = sys.executable


def environment(folder: Path, *packages: str, tools: tuple[str, ...] = ()) -> Path:
    """A real virtual environment's outline: an interpreter whose site-packages holds empty packages."""
    packages_folder = folder / "packages"
    for name in packages:
        (packages_folder / name).mkdir(parents=True)
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{packages_folder}" exec "{REAL}" -S "$@"\n')
    python.chmod(0o755)
    for tool in tools:
        (folder / "bin" / tool).write_text("#!/bin/sh\n")
        (folder / "bin" / tool).chmod(0o755)
    return python


def test_what_is_given_wins_and_is_not_doubted(tmp_path: Path) -> None:
    python = environment(tmp_path)
    assert find_training_python(str(python), {"PATH": ""}) == TrainingPython(str(python), "--python")
    assert find_training_python(None, {"PATH": "", "FTDOCTOR_PYTHON": str(python)}).how == "$FTDOCTOR_PYTHON"
    with pytest.raises(InputError, match="no such program"):
        find_training_python(str(tmp_path / "none"), {"PATH": ""})


@pytest.fixture
def without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ftdoctor's own environment has no torch, be it installed beside these tests or not."""
    monkeypatch.setattr(sys, "executable", str(environment(tmp_path / "own")))
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not Path(p, "torch").is_dir()])


@pytest.mark.usefixtures("without_torch")
def test_the_environment_with_torch_is_found(tmp_path: Path) -> None:
    without = environment(tmp_path / "venv")
    beside = environment(tmp_path / "train", "torch", tools=("axolotl",))
    found = find_training_python(
        None, {"VIRTUAL_ENV": str(without.parent.parent), "PATH": f"{beside.parent}{os.pathsep}/usr/bin:/bin"}
    )
    assert found == TrainingPython(str(beside), "beside axolotl on PATH")
    assert found.tool("axolotl") == str(beside.with_name("axolotl"))
    assert found.tool("torchrun") is None
    conda = environment(tmp_path / "conda", "torch")
    assert find_training_python(None, {"CONDA_PREFIX": str(conda.parent.parent), "PATH": ""}).path == str(conda)


@pytest.mark.usefixtures("without_torch")
def test_none_is_an_error_with_one_thing_to_do() -> None:
    with pytest.raises(InputError, match="no python with torch") as raised:
        find_training_python(None, {"PATH": ""})
    assert "--python" in raised.value.remedy


def test_a_child_gets_its_own_programs_and_not_ftdoctor(tmp_path: Path) -> None:
    (tmp_path / "src" / "ftdoctor").mkdir(parents=True)
    given = {"PATH": "/usr/bin", "PYTHONPATH": f"{tmp_path / 'src'}:/home/user/plugins"}
    child = TrainingPython("/opt/train/bin/python", "--python").environment(given)
    assert child == {"PATH": "/opt/train/bin:/usr/bin", "PYTHONPATH": "/home/user/plugins"}
