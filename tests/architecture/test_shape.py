"""The shape of the code base that no linter keeps."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent.parent / "ftdoctor"
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_modules_stay_small() -> None:
    assert {m.name: n for m in MODULES if (n := len(m.read_text().splitlines())) > 420} == {}


def test_only_the_api_the_merge_proof_and_prepared_samples_import_pandas_or_numpy() -> None:
    importers = {
        module.name
        for module in MODULES
        if module.parent.name != "merging"
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and any(name.split(".")[0] in ("pandas", "numpy") for name in imported(node))
    }
    assert importers == {"api.py", "prepared.py"}


def test_no_detector_and_no_run_model_reads_a_clock() -> None:
    for module in MODULES:
        if module.parent.name in ("detectors", "numeric", "run_model", "diagnosis"):
            names = {
                n
                for node in ast.walk(ast.parse(module.read_text()))
                if isinstance(node, (ast.Import, ast.ImportFrom))
                for n in imported(node)
            }
            assert not names & {"time", "datetime", "random"}, module


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""]


def test_test_modules_outside_packages_have_names_of_their_own() -> None:
    """Two of one name cannot be collected together: the whole suite would fail, each alone would pass."""
    places = [p for p in (PACKAGE.parent / "tests").rglob("test_*.py") if not (p.parent / "__init__.py").is_file()]
    names = [p.name for p in places]
    assert sorted({n for n in names if names.count(n) > 1}) == []
