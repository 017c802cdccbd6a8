"""What every key does, on a recorded run; untrusted text; resizing; answers while a big log is read."""

from __future__ import annotations

import asyncio
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textual")
from screen_samples import FIXTURES, drive, frame_of, log_read, session, shown, until
from textual import events
from textual.widgets import ContentSwitcher, Input

from ftdoctor.faces.tui.app import DoctorApp, FrameTaken
from ftdoctor.faces.tui.frame import EMPTY
from ftdoctor.faces.tui.poller import Poller
from ftdoctor.faces.tui.screens.help import HelpScreen
from ftdoctor.faces.tui.widgets.detail import Detail
from ftdoctor.faces.tui.widgets.findings import FindingList
from ftdoctor.faces.tui.widgets.log import LogView
from ftdoctor.faces.tui.widgets.tabs import ViewTabs

LOG = str(FIXTURES / "failing/full_lr_1/train.log")
CONFIG = str(FIXTURES / "failing/full_lr_1/config.yml")


def test_views_and_help() -> None:
    async def scenario(pilot: Any, app: DoctorApp) -> None:
        views = app.query_one("#views", ContentSwitcher)
        for key, view in (("2", "plots"), ("3", "gpus"), ("4", "log-view"), ("1", "overview")):
            await pilot.press(key)
            assert views.current == view
        assert isinstance(app.focused, FindingList)
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("escape")
        assert not isinstance(app.screen, HelpScreen)
        assert app.current_theme.dark
        await pilot.press("t")
        assert not app.current_theme.dark
        await pilot.press("ctrl+p")
        await pilot.pause()
        assert "CommandPalette" in type(app.screen).__name__

    drive((100, 30), scenario, frame_of(session(LOG, CONFIG)))


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_what_can_be_clicked(size: tuple[int, int]) -> None:
    async def click(pilot: Any, app: DoctorApp, words: str, row: int) -> None:
        lines = shown(app).split("\n")
        at = lines[row].index(words)
        await pilot.click(offset=(at + 1, row % len(lines)))
        await pilot.pause()

    async def scenario(pilot: Any, app: DoctorApp) -> None:
        views = app.query_one("#views", ContentSwitcher)
        await click(pilot, app, "GPUs", 2)
        assert views.current == "gpus"
        await click(pilot, app, "log line", -1)
        assert views.current == "log-view"
        await click(pilot, app, "errors only", -1)
        assert app.query_one(LogView).errors_only
        await click(pilot, app, "? help", -1)
        assert isinstance(app.screen, HelpScreen)
        await pilot.press("escape")
        await click(pilot, app, "^p palette", -1)
        await until(pilot, lambda: "CommandPalette" in type(app.screen).__name__)

    drive(size, scenario, frame_of(session(LOG, CONFIG), 8))


def test_choose_copy_and_jump() -> None:
    async def scenario(pilot: Any, app: DoctorApp) -> None:
        detail, log = app.query_one(Detail), app.query_one(LogView)
        first = detail.finding
        assert first is not None
        assert first.id == app.frame.diagnosis.findings[0].id
        await pilot.press("j")
        assert detail.finding is not None
        assert detail.finding != first
        await pilot.press("k")
        assert detail.finding is not None
        assert detail.finding.id == "lr-too-high"
        await pilot.press("y")
        assert "learning_rate:" in app.clipboard
        assert "- learning_rate" not in app.clipboard
        await pilot.press("Y")
        assert detail.finding.title in app.clipboard
        assert "why" in app.clipboard
        place = next(item for item in detail.finding.evidence if item.line_first)
        await pilot.press("enter")
        await log_read(pilot, app)
        assert (log.path, log.current, log.follow) == (place.path, place.line_first, False)
        expected = Path(place.path).read_text().split("\n")[place.line_first - 1].strip()[:30]
        assert expected in shown(app)
        await pilot.press("1")
        assert detail.finding == first

    drive((120, 40), scenario, frame_of(session(LOG, CONFIG)))


def test_log_keys() -> None:
    wanted = [n for n, line in enumerate(Path(LOG).read_text().split("\n"), 1) if "grad_norm" in line]

    async def scenario(pilot: Any, app: DoctorApp) -> None:
        log = app.query_one(LogView)
        await pilot.press("4")
        await log_read(pilot, app)
        assert log.follow
        assert "following" in log.status
        await pilot.press("slash", *"grad_norm", "enter")
        await until(pilot, lambda: log.current in wanted)
        assert not app.query_one("#search", Input).display
        here = log.current
        await pilot.press("n")
        assert log.current == wanted[(wanted.index(here) + 1) % len(wanted)]
        await pilot.press("N")
        assert log.current == here
        await pilot.press("escape")
        assert log.needle == ""
        assert log.current is None
        every = len(log.rows)
        await pilot.press("e")
        await log_read(pilot, app)
        assert 0 < len(log.rows) < every
        await pilot.press("e", "f")
        await until(pilot, lambda: len(log.rows) == every)
        await pilot.press("end")
        assert log.follow
        await pilot.press("up")
        assert not log.follow

    drive((100, 30), scenario, frame_of(session(LOG)))


def test_rank_filter_and_files(tmp_path: Path) -> None:
    both, other = tmp_path / "a.log", tmp_path / "b.log"
    both.write_text("".join(f"[rank{n % 2}]: line {n} of 1\n" for n in range(100)))
    other.write_text("second file\n")

    async def scenario(pilot: Any, app: DoctorApp) -> None:
        log = app.query_one(LogView)
        log.show((str(both), str(other)), (0, 1))
        await pilot.press("4")
        await log_read(pilot, app)
        await pilot.press("r", "r")
        await log_read(pilot, app)
        assert log.rank == 1
        assert list(log.rows) == list(range(2, 101, 2))
        await pilot.press("r", "right_square_bracket")
        await log_read(pilot, app)
        assert log.rank is None
        assert "second file" in shown(app)

    drive((100, 30), scenario)


def test_escapes_and_markup_are_text(tmp_path: Path) -> None:
    log = tmp_path / "evil.log"
    log.write_text(
        "[bold red]x[/] [link=http://e]y[/link] [/nope]\n\x1b]52;c;ZXZpbA==\x07\x1b[31mred\x1b[2Jz\nRLO\u202etxt\n"
    )

    async def scenario(pilot: Any, app: DoctorApp) -> None:
        app.query_one(LogView).show((str(log),), ())
        await pilot.press("4")
        await log_read(pilot, app)
        text = shown(app)
        assert "[bold red]x[/] [link=http://e]y[/link] [/nope]" in text
        assert "redz" in text
        assert "RLOtxt" in text
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", text)

    drive((100, 24), scenario)


def test_resize() -> None:
    async def scenario(pilot: Any, app: DoctorApp) -> None:
        for size in ((80, 24), (200, 50), (81, 25), (120, 40), (40, 12), (80, 24)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            lines = shown(app).split("\n")
            assert len(lines) == size[1]
            assert "SUSPICIOUS" in lines[0]

    drive((80, 24), scenario, frame_of(session(LOG, CONFIG), 8))


@pytest.mark.skipif("FTDOCTOR_TIMING" not in os.environ, reason="a measurement: FTDOCTOR_TIMING=1, or make bench")
def test_answers_while_a_big_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "big.log"
    block = Path(LOG).read_bytes() * 20

    def grow(size: int) -> None:
        with open(log, "ab") as file:
            while size > 0:
                size -= file.write(block)

    grow(60 << 20)
    from ftdoctor.live import LiveSession
    from ftdoctor.ruleset.load import load

    live = LiveSession(load(), [str(log)])
    poller = Poller(live, 0.25)
    app = DoctorApp("big", poller=poller)
    times: list[float] = []
    idle: list[float] = []

    async def unhurried(pilot: Any, app: DoctorApp) -> None:
        for key in ("2", "3", "4", "1") * 2:
            idle.append(await repaint(app, key))

    drive((120, 40), unhurried, frame_of(session(LOG, CONFIG), 8))

    async def scenario(pilot: Any, app: DoctorApp) -> None:
        for key in ("2", "3", "4", "1") * 4:
            if live.behind < 20 << 20:  # however fast this machine reads, at each key there is much to read
                grow(20 << 20)
            times.append(await repaint(app, key))

    try:
        drive((120, 40), scenario, app=app)
    finally:
        poller.stop()
    times.sort()
    print(
        f"key to repaint: median {times[len(times) // 2] * 1e3:.0f} ms, worst {times[-1] * 1e3:.0f} ms of {len(times)}"
    )
    # `make bench` holds the goal of 100 ms; a busy machine slows both
    assert times[len(times) // 2] < max(0.5, 12 * sorted(idle)[len(idle) // 2]), (times, idle)


async def repaint(app: DoctorApp, key: str) -> float:
    """Seconds from a key to the screen drawn anew (pilot.press waits for an idle process, which there is not)."""
    tabs, done = app.query_one(ViewTabs), asyncio.Event()
    before, began = tabs._current, time.perf_counter()
    app.post_message(events.Key(key, key))
    while tabs._current == before:
        assert time.perf_counter() - began < 60, "the key was never heard"
        await asyncio.sleep(0.001)
    app.call_after_refresh(done.set)
    await asyncio.wait_for(done.wait(), 60)
    return time.perf_counter() - began


def test_words_of_the_reading_threads_while_the_screen_is_taken_down() -> None:
    async def scenario(pilot: Any, app: DoctorApp) -> None:
        await app.query_one(LogView).remove()
        app._running = False  # the first thing a shutdown does; messages that were on their way still arrive
        app._log_status()
        app._taken(FrameTaken(EMPTY))
        app._running = True

    drive((80, 24), scenario)


def test_reading_gives_way_to_keys_but_never_stops(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from ftdoctor.faces.tui import poller as module
    from ftdoctor.live import LiveSession
    from ftdoctor.ruleset.load import load

    clock, waits = [100.0], []

    class Stop:
        def wait(self, seconds: float) -> None:
            waits.append(seconds)
            clock[0] += seconds

    poller = Poller(LiveSession(load(), [str(tmp_path / "none.log")]), 0.25)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(poller, "_stop", Stop())
    assert poller._give_way(), "nobody acts: frames may be made"
    assert not waits, "and reading does not rest"
    for number in range(100):  # a key every 20 ms for two seconds, 10 ms of reading in each
        clock[0] = max(clock[0], 100.0 + number * 0.02)
        poller.attend()
        assert not poller._give_way()
        clock[0] += 0.01
    assert sum(waits) > 0.5, "it rests while keys come"
    assert sum(waits) < 0.75 * (clock[0] - 100.0), "and reads on all the same"
    clock[0] += 1.0
    assert poller._give_way()
    poller._watcher.close()
