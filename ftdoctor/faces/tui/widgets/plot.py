"""A curve in braille dots: limits as lines, evaluations as marks, axes in numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from rich.text import Text

from ftdoctor.faces.curves import Curve
from ftdoctor.faces.tui.theme import Palette, palette
from ftdoctor.faces.tui.widgets.lines import Lines
from ftdoctor.faces.words import shape, short, steps

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BRIEF = {"grad_norm": "grad", "learning_rate": "lr"}
AXIS = 8  # cells left of the canvas
NEAR = 4.0  # a limit is drawn when it lies within so many spans of the curve


class Plot(Lines):
    """One metric. The first line names it and its last value."""

    def __init__(self, curve: Curve, classes: str) -> None:
        super().__init__(name=curve.name, classes=classes)
        self._curve = curve

    def show(self, curve: Curve) -> None:
        """Draw another curve."""
        if curve is not self._curve:
            self._curve = curve
            self.changed()

    def rows(self, width: int, height: int) -> list[Text]:
        """The plot at the widget's size."""
        return draw(self._curve, width, height, palette(self.app))


class Metrics(Lines):
    """The curves in one row, for a screen that is too low for plots."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._curves: tuple[Curve, ...] = ()

    def show(self, curves: tuple[Curve, ...]) -> None:
        """Draw other curves."""
        if curves != self._curves:
            self._curves = curves
            self.changed()

    def rows(self, width: int, height: int) -> list[Text]:
        """Name, last value and shape of each."""
        colors, out = palette(self.app), Text(no_wrap=True)
        if not any(curve.ys for curve in self._curves):
            return [Text("no loss logged yet", colors.dim)]
        room = width // max(1, len(self._curves)) - 2
        for curve in self._curves:
            cell = Text.assemble((BRIEF.get(curve.name, curve.title), colors.dim), " ", short(_last(curve)), " ")
            cell.append(shape(curve.ys, room - cell.cell_len), colors.accent)
            cell.truncate(room, pad=True)
            out.append_text(cell)
            out.append("  ")
        return [out]


def _last(curve: Curve) -> float | None:
    return curve.ys[-1] if curve.ys else None


def draw(curve: Curve, width: int, height: int, colors: Palette) -> list[Text]:
    """A plot of `width` x `height` cells; below 20 x 4 only its title."""
    head = _head(curve, width, colors)
    rows, columns = height - 2, width - AXIS - 1
    if rows < 2 or columns < 12:
        return [head]
    if not curve.ys:
        return [head, *[Text()] * (rows // 2), Text("nothing logged yet".center(width), colors.dim)]
    low, high = _range(curve)
    first, last = min(curve.xs), max(curve.xs)
    grid = [[0] * columns for _ in range(rows)]
    spot = _Scale(first, last, low, high, columns * 2, rows * 4)
    _trace(curve, spot, grid)
    level = {spot.y(line.value) // 4: line for line in curve.limits if low <= line.value <= high}
    marks: dict[tuple[int, int], str] = {}
    for x, y in curve.marks:
        if first <= x <= last:
            on_loss = curve.name == "loss" and low <= y <= high
            marks[(spot.y(y) // 4 if on_loss else rows - 1, spot.x(x) // 2)] = "◆" if on_loss else "╵"
    out = [head]
    for row in range(rows):
        label = short(high) if row == 0 else short(low) if row == rows - 1 else ""
        line = level.get(row)
        if line is not None:
            label = short(line.value)
        text = Text(f"{label:>{AXIS - 1}} ", no_wrap=True)
        text.stylize(colors.warn if line else colors.dim)
        for color, run in itertools.groupby(
            _cells(grid[row], row, marks, line is not None, colors), key=lambda cell: cell[1]
        ):
            text.append("".join(char for char, _ in run), color or None)
        out.append(text)
    left, right = steps(first), steps(last)
    out.append(Text(" " * AXIS + left + " " * max(1, columns - len(left) - len(right)) + right, colors.dim))
    return out


def _cells(
    dots: list[int], row: int, marks: dict[tuple[int, int], str], limit: bool, colors: Palette
) -> Iterator[tuple[str, str]]:
    """Characters of one row with their colours."""
    for column, bits in enumerate(dots):
        mark = marks.get((row, column))
        if mark:
            yield mark, colors.good
        elif bits:
            yield chr(0x2800 + bits), colors.accent
        elif limit:
            yield "╌", colors.warn
        else:
            yield " ", ""


def _head(curve: Curve, width: int, colors: Palette) -> Text:
    head = Text.assemble((curve.title, "bold"), no_wrap=True)
    if curve.ys:
        head.append(f"  {short(curve.ys[-1])}", colors.accent)
    if curve.marks and curve.name == "loss":
        head.append("  ◆ eval", colors.good)
        head.append(f" {short(curve.marks[-1][1])}", colors.good)
    for line in curve.limits:
        extra = Text(f"  {'>' if line.side == 'above' else '<'} {short(line.value)}", colors.warn)
        if head.cell_len + extra.cell_len <= width:
            head.append_text(extra)
    head.truncate(max(1, width))
    return head


def _range(curve: Curve) -> tuple[float, float]:
    low, high = min(curve.ys), max(curve.ys)
    if curve.name == "loss" and curve.marks:
        finite = [y for _, y in curve.marks if math.isfinite(y)]
        low, high = min([low, *finite]), max([high, *finite])
    span = (high - low) or abs(high) or 1.0
    for line in curve.limits:
        if low - NEAR * span <= line.value <= high + NEAR * span:
            low, high = min(low, line.value), max(high, line.value)
    return (low, high) if high > low else (low - span / 2, high + span / 2)


class _Scale:
    """Values to dots; dot 0 is left and on top."""

    def __init__(self, x0: float, x1: float, y0: float, y1: float, width: int, height: int) -> None:
        self._x0, self._y1 = x0, y1
        self._dx = (width - 1) / ((x1 - x0) or 1.0)
        self._dy = (height - 1) / ((y1 - y0) or 1.0)

    def x(self, value: float) -> int:
        return round((value - self._x0) * self._dx)

    def y(self, value: float) -> int:
        return round((self._y1 - value) * self._dy)


def _trace(curve: Curve, spot: _Scale, grid: list[list[int]]) -> None:
    """Join the points by straight lines of dots."""
    previous: tuple[int, int] | None = None
    for x, y in zip(curve.xs, curve.ys, strict=True):
        point = (spot.x(x), spot.y(y))
        x0, y0 = previous or point
        count = max(abs(point[0] - x0), abs(point[1] - y0), 1)
        for i in range(count + 1):
            column, row = round(x0 + (point[0] - x0) * i / count), round(y0 + (point[1] - y0) * i / count)
            if 0 <= row < len(grid) * 4 and 0 <= column < len(grid[0]) * 2:
                grid[row // 4][column // 2] |= DOTS[row % 4][column % 2]
        previous = point
