"""Every view at every size, as SVG. Renew: FTDOCTOR_UPDATE_SNAPSHOTS=1 pytest tests/faces/tui/test_snapshots.py, then LOOK."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("textual")
import textual
from screen_samples import ROOT, drive, frame_of, log_read, picture, session, shown

HERE = Path(__file__).parent / "snapshots"
SIZES = [(80, 24), (120, 40), (200, 50)]
UPDATE = bool(os.environ.get("FTDOCTOR_UPDATE_SNAPSHOTS"))
FAILING = ("fixtures/failing/full_lr_1/train.log", "fixtures/failing/full_lr_1/config.yml")
HEALTHY = ("fixtures/healthy/lora_long/train.log", "fixtures/healthy/lora_long/config.yml")
DEAD = ("fixtures/failing/disk_full/train.log",)
STOPPED = ("fixtures/healthy/sigint_1rank/train.log",)
CASES = {
    "overview": (FAILING, 8, []),
    "plots": (FAILING, 0, ["2"]),
    "gpus-8": (FAILING, 8, ["3"]),
    "log": (FAILING, 0, ["4"]),
    "healthy": (HEALTHY, 2, []),
    "help": (FAILING, 4, ["question_mark"]),
    "ended-failed": (DEAD, 2, []),
    "many": (HEALTHY, 16, []),
    "gpus-16": (HEALTHY, 16, ["3"]),
}
SINGLE = {
    "gpus-1": (FAILING, 1, ["3"]),
    "gpus-2": (FAILING, 2, ["3"]),
    "gpus-4": (FAILING, 4, ["3"]),
    "gpus-none": (FAILING, 0, ["3"]),
    "light": (FAILING, 4, ["t"]),
    "jump": (FAILING, 0, ["j", "o"]),
    "ended-healthy": (HEALTHY, 4, []),
    "ended-stopped": (STOPPED, 1, []),
    "gpus-lost": (HEALTHY, 8, ["3"]),
    "lost": (HEALTHY, 8, []),
    "light-plots": (HEALTHY, 0, ["t", "2"]),
    "light-gpus": (FAILING, 8, ["t", "3"]),
    "light-log": (FAILING, 0, ["t", "4"]),
}
ALL = [(name, size) for name in CASES for size in SIZES] + [(name, (120, 40)) for name in SINGLE]


@pytest.mark.parametrize(("name", "size"), ALL, ids=lambda v: v if isinstance(v, str) else f"{v[0]}x{v[1]}")
def test_looks_as_recorded(name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    paths, gpus, keys = {**CASES, **SINGLE}[name]
    frame = frame_of(session(*paths), gpus, ended=name.startswith("ended"), lost=3 if "lost" in name else None)
    seen: list[str] = []

    async def scenario(pilot, app):  # type: ignore[no-untyped-def]
        app.clear_notifications()
        for key in keys:
            await pilot.press(key)
        if app.query("#log-view")[0].display:
            await log_read(pilot, app)
        await pilot.pause()
        seen.extend((picture(app), shown(app)))

    drive(size, scenario, frame)
    lines = seen[1].split("\n")
    assert len(lines) == size[1], "the screen is filled exactly"
    assert max(map(len, lines)) <= size[0]
    path, version = HERE / f"{name}-{size[0]}x{size[1]}.svg", HERE / "textual-version.txt"
    if UPDATE:
        HERE.mkdir(exist_ok=True)
        path.write_text(seen[0])
        version.write_text(textual.__version__ + "\n")
        return
    recorded = version.read_text().strip()
    if recorded != textual.__version__:
        pytest.skip(f"recorded with textual {recorded}; {textual.__version__} draws some details otherwise")
    if path.read_text() != seen[0]:
        (tmp_path / path.name).write_text(seen[0])
        pytest.fail(f"{path.name} looks different now: compare {path} with {tmp_path / path.name}")
