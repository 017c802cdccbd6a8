"""Numbers and times in few characters."""

from __future__ import annotations

import math


def duration(seconds: float | None) -> str:
    """`8s`, `12m`, `3h 05m`, `2d 04h`; a dash when unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m" if whole >= 600 else f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def age(seconds: float) -> str:
    """How long ago: `now`, `25s`, `4m`, `3h`, `2d`. In steps, so that a list of ages is not drawn anew each second."""
    whole = max(0, int(seconds))
    if whole < 5:
        return "now"
    if whole < 60:
        return f"{whole // 5 * 5}s"
    for unit, name in ((86400, "d"), (3600, "h")):
        if whole >= unit:
            return f"{whole // unit}{name}"
    return f"{whole // 60}m"


def short(value: float | None) -> str:
    """Three digits and a unit: `3.41k`; small numbers as `2.0e-05`."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g}{unit}"
    if size and size < 1e-3:
        return f"{value:.1e}"
    return f"{value:.4g}"


def steps(value: float | None) -> str:
    """A step as a whole number."""
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}".replace(",", " ")


def gib(mebibytes: float | None) -> str:
    """`61.2`; a dash when unknown."""
    return "–" if mebibytes is None else f"{mebibytes / 1024:.1f}"


BLOCKS = "▁▂▃▄▅▆▇█"


def spark(values: tuple[float | None, ...], width: int, top: float = 100.0) -> str:
    """The newest `width` values as blocks; a gap where a value is unknown."""
    shown = values[-width:] if width > 0 else ()
    cells = [" " if v is None else BLOCKS[min(7, max(0, int(v / top * 7.999)))] for v in shown]
    return "".join(cells).rjust(width)


def shape(values: tuple[float, ...], width: int) -> str:
    """A curve in one row of blocks, from its lowest to its highest value; of each cell the highest."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite or width < 1:
        return ""
    low, high = min(finite), max(finite)
    width = min(width, len(finite))
    cells = [max(finite[n * len(finite) // width : (n + 1) * len(finite) // width]) for n in range(width)]
    return "".join(BLOCKS[min(7, int((v - low) / ((high - low) or 1.0) * 7.999))] for v in cells)


def bar(share: float | None, width: int) -> tuple[str, str]:
    """Filled and empty part of a bar of `width` cells."""
    if share is None:
        return "", "─" * width
    full = min(width, max(0, round(share * width)))
    return "━" * full, "─" * (width - full)
