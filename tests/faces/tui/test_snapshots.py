"""Every view at every size, as SVG. Renew: FTDOCTOR_UPDATE_SNAPSHOTS=1 pytest tests/faces/tui/test_snapshots.py, then LOOK."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("textual")
import textual
from screen_samples import ROOT, drive, frame_of, log_read, picture, record, recorded, session, shown

HERE = Path(__file__).parent / "snapshots"
SIZES = [(80, 24), (120, 40), (200, 50)]
UPDATE = bool(os.environ.get("FTDOCTOR_UPDATE_SNAPSHOTS"))
# what is seen comes from `frames`, recorded once from these files: FTDOCTOR_UPDATE_FRAMES=1 records it anew
RUNS = {
    "failing": ("fixtures/failing/full_lr_1/train.log", "fixtures/failing/full_lr_1/config.yml"),
    "healthy": ("fixtures/healthy/lora_long/train.log", "fixtures/healthy/lora_long/config.yml"),
    "dead": ("fixtures/failing/disk_full/train.log",),
    "stopped": ("fixtures/healthy/sigint_1rank/train.log",),
}
CASES = {
    "overview": ("failing", 8, []),
    "plots": ("failing", 0, ["2"]),
    "gpus-8": ("failing", 8, ["3"]),
    "log": ("failing", 0, ["4"]),
    "healthy": ("healthy", 2, []),
    "help": ("failing", 4, ["question_mark"]),
    "ended-failed": ("dead", 2, []),
    "many": ("healthy", 16, []),
    "gpus-16": ("healthy", 16, ["3"]),
}
SINGLE = {
    "gpus-1": ("failing", 1, ["3"]),
    "gpus-2": ("failing", 2, ["3"]),
    "gpus-4": ("failing", 4, ["3"]),
    "gpus-none": ("failing", 0, ["3"]),
    "light": ("failing", 4, ["t"]),
    "jump": ("failing", 0, ["j", "o"]),
    "ended-healthy": ("healthy", 4, []),
    "ended-stopped": ("stopped", 1, []),
    "gpus-lost": ("healthy", 8, ["3"]),
    "lost": ("healthy", 8, []),
    "light-plots": ("healthy", 0, ["t", "2"]),
    "light-gpus": ("failing", 8, ["t", "3"]),
    "light-log": ("failing", 0, ["t", "4"]),
}
ALL = [(name, size) for name in CASES for size in SIZES] + [(name, (120, 40)) for name in SINGLE]


@pytest.mark.parametrize("name", RUNS)
def test_the_recorded_frames_are_what_a_session_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if os.environ.get("FTDOCTOR_UPDATE_FRAMES"):
        record(name, *RUNS[name])
    kept, now = recorded(name), frame_of(session(*RUNS[name]))
    # words and counts may have changed since; curves, logs and the run's own figures may not
    assert (kept.curves, kept.logs, kept.outlook) == (now.curves, now.logs, now.outlook)
    assert kept.diagnosis.verdict == now.diagnosis.verdict


@pytest.mark.parametrize(("name", "size"), ALL, ids=lambda v: v if isinstance(v, str) else f"{v[0]}x{v[1]}")
def test_looks_as_recorded(name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    run, gpus, keys = {**CASES, **SINGLE}[name]
    frame = recorded(run, gpus, ended=name.startswith("ended"), lost=3 if "lost" in name else None)
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
    drawn_by = version.read_text().strip()
    if drawn_by != textual.__version__:
        pytest.skip(f"recorded with textual {drawn_by}; {textual.__version__} draws some details otherwise")
    if path.read_text() != seen[0]:
        (tmp_path / path.name).write_text(seen[0])
        pytest.fail(f"{path.name} looks different now: compare {path} with {tmp_path / path.name}")
