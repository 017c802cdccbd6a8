"""A session over a recorded run, GPU samples, and a way to drive the app without a terminal."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ftdoctor import findings
from ftdoctor.diagnosis import limits
from ftdoctor.events import Event, FactLearned, GpuSample, Origin
from ftdoctor.faces import curves
from ftdoctor.faces.tui import frame as frames
from ftdoctor.faces.tui.app import DoctorApp
from ftdoctor.faces.tui.frame import Camera, Frame, Gpu
from ftdoctor.faces.tui.widgets.log import LogView
from ftdoctor.live import LiveSession
from ftdoctor.ruleset.load import load
from ftdoctor.run_model import outlook

ROOT = Path(__file__).parents[3]
FIXTURES = ROOT / "fixtures"
FRAMES = Path(__file__).parent / "frames"
# a few rules only, so that a new rule does not change every picture
RULES = (
    "config-invalid",
    "lr-too-high",
    "loss-diverging",
    "grad-norm-high",
    "loss-nan",
    "disk-full",
    "gpu-missing",
    "interrupted",
)
NOW = 1_790_000_000.0


def session(*paths: str) -> LiveSession:
    """A session that has read all there is."""
    every = load()
    few = dataclasses.replace(every, rules=tuple(rule for rule in every.rules if rule.id in RULES))
    live = LiveSession(few, list(paths))
    for second in range(8):
        live.step(float(second), NOW - 8 + second)
    return live


def gpu_events(count: int, seconds: int = 90, lost: int | None = None) -> list[Event]:
    """One sample a second and GPU, as `sources.gpu` gives them, and the rank of each."""
    events: list[Event] = []
    for second in range(seconds):
        for index in range(count):
            origin = Origin("nvml", time=NOW - seconds + second, order=10_000 + second * count + index)
            state = "lost" if index == lost and second == seconds - 1 else "ok"
            events.append(
                GpuSample(
                    origin,
                    index,
                    f"GPU-{index}",
                    "NVIDIA H100 80GB HBM3",
                    memory_used=58_000.0 + 731 * index,
                    memory_total=81_559.0,
                    utilization=round(80 + 19 * math.sin(second / 7 + index)),
                    power=640.0 - 11 * index,
                    power_limit=700.0,
                    temperature=61.0 + index,
                    state=state,
                )
            )
    for index in range(count):
        events.append(FactLearned(Origin("nvml", order=90_000 + index), f"rank_gpu.{index}", f"GPU-{index}"))
    return events


def frame_of(live: LiveSession, gpus: int = 0, ended: bool = False, **more: Any) -> Frame:
    """What the screen gets."""
    live.session.apply(gpu_events(gpus, **more))
    live._cached = None
    camera = Camera(live)
    camera.take(NOW - 754, False)  # the findings appeared twelve minutes ago
    return camera.take(NOW, ended)


def recorded(name: str, gpus: int = 0, ended: bool = False, lost: int | None = None) -> Frame:
    """A frame as it was once: pictures do not change with the words of a rule or the judgement of a detector."""
    frame: Frame = _made(json.loads((FRAMES / f"{name}.json").read_text(encoding="utf-8")))
    samples: dict[int, list[GpuSample]] = {}
    for event in gpu_events(gpus, lost=lost):
        if isinstance(event, GpuSample):
            samples.setdefault(event.index, []).append(event)
    cards = tuple(Gpu(s[-1], index, tuple(x.utilization for x in s if x.state == "ok")) for index, s in samples.items())
    return dataclasses.replace(frame, gpus=cards, ended=ended)


def record(name: str, *paths: str) -> None:
    """Keep what the screen gets for these files now."""
    FRAMES.mkdir(exist_ok=True)
    text = json.dumps(_plain(frame_of(session(*paths))), indent=1, ensure_ascii=False)
    (FRAMES / f"{name}.json").write_text(text + "\n", encoding="utf-8")


_TYPES: dict[str, Any] = {
    kind: cls
    for module in (findings, frames, curves, limits, outlook)
    for kind, cls in vars(module).items()
    if dataclasses.is_dataclass(cls)
}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__, **fields}
    if isinstance(value, dict):
        return {"dict": {key: _plain(item) for key, item in value.items()}}
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_made(item) for item in value)
    if not isinstance(value, dict):
        return value
    if "dict" in value:
        return {key: _made(item) for key, item in value["dict"].items()}
    cls = _TYPES[value["is"]]
    known = {f.name for f in dataclasses.fields(cls)}
    return cls(**{key: _made(item) for key, item in value.items() if key in known})


Scenario = Callable[[Any, DoctorApp], Awaitable[None]]


def drive(size: tuple[int, int], scenario: Scenario, frame: Frame | None = None, app: DoctorApp | None = None) -> None:
    """Run the app at this size, show `frame`, and do `scenario(pilot, app)`."""

    async def main() -> None:
        screen = app or DoctorApp("outputs/llama3-lora")
        async with screen.run_test(size=size, notifications=True) as pilot:
            await pilot.pause()
            if frame is not None:
                screen.show(frame)
                await pilot.pause()
            await scenario(pilot, screen)

    asyncio.run(main())


async def until(pilot: Any, condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for a condition that a thread makes true."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "this did not happen in time"
        await pilot.pause(0.02)
    await pilot.pause()


async def log_read(pilot: Any, app: DoctorApp) -> None:
    """Wait until the log view knows the whole file."""
    log = app.query_one(LogView)
    await until(pilot, lambda: log._file is not None and 0 < log._file.size == log._file.indexed)
    await until(pilot, lambda: all(m.done for m in (log._filter, log._search) if m is not None))
    log._resize()
    await pilot.pause()


def shown(app: DoctorApp) -> str:
    """The screen as text."""
    lines = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip) for strip in lines)


def picture(app: DoctorApp) -> str:
    """The screen as SVG, without what differs from run to run."""
    svg = app.export_screenshot(title="ftdoctor")
    svg = re.sub(r"terminal-\d+", "terminal", svg)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return re.sub(r"[ \t]+\n", "\n", svg)
