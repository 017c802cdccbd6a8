"""A curve in braille dots: limits as lines, evaluations as marks, axes in numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from rich.text import Text

from ftdoctor.faces.curves import Curve
from ftdoctor.faces.tui.theme import Palette, palette
from ftdoctor.faces.tui.widgets.lines import Lines, spanned
from ftdoctor.faces.words import shape, short, steps

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
BRAILLE = [" ", *(chr(0x2800 + bits) for bits in range(1, 256))]
BRIEF = {"grad_norm": "grad", "learning_rate": "lr"}
AXIS = 8  # cells left of the canvas
GRID = 10  # parts of the range that its ends are rounded to
SLACK = 1e-9  # of rounding
ENDS = (1.0, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2.0, 2.2, 2.5, 2.8, 3.2, 3.6, 4.0, 4.5, 5.0, 5.6, 6.4, 7.2, 8.0, 9.0, 10.0)
NEAR = 4.0  # a limit is drawn when it lies within so many spans of the curve


class Plot(Lines):
    """One metric. The first line names it and its last value."""

    MARGIN = 1

    def __init__(self, curve: Curve, classes: str) -> None:
        super().__init__(name=curve.name, classes=classes)
        self.curve = curve

    def show(self, curve: Curve) -> None:
        """Draw another curve."""
        if curve is not self.curve:
            self.curve = curve
            self.changed()

    def rows(self, width: int, height: int) -> list[Text]:
        """The plot at the widget's size."""
        return draw(self.curve, width, height, palette(self.app))


class Metrics(Lines):
    """The curves in one row, for a screen that is too low for plots."""

    MARGIN = 1
    ruled = True

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self.curves: tuple[Curve, ...] = ()

    def show(self, curves: tuple[Curve, ...]) -> None:
        """Draw other curves."""
        if curves != self.curves:
            self.curves = curves
            self.changed()

    def rows(self, width: int, height: int) -> list[Text]:
        """Name, last value and shape of each."""
        colors, out = palette(self.app), Text(no_wrap=True)
        if not any(curve.ys for curve in self.curves):
            return [Text("no loss logged yet", colors.dim)]
        room = width // max(1, len(self.curves)) - 2
        for curve in self.curves:
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
    first, last = min(curve.xs), _beyond(max(curve.xs))
    spot = _Scale(first, last, low, high, columns * 2, rows * 4)
    grid = _trace(curve, spot, rows, columns)
    level = {spot.y(line.value) // 4: line for line in curve.limits if low <= line.value <= high}
    marks: dict[tuple[int, int], str] = {}
    for x, y in curve.marks:
        if first <= x <= last:
            on_loss = curve.name == "loss" and low <= y <= high
            marks[(spot.y(y) // 4 if on_loss else rows - 1, spot.x(x) // 2)] = "◆" if on_loss else "╵"
    out, marked = [head], {row for row, _ in marks}
    for row in range(rows):
        label = short(high) if row == 0 else short(low) if row == rows - 1 else ""
        line = level.get(row)
        if line is not None:
            label = short(line.value)
        side = (f"{label:>{AXIS - 1}} ", colors.warn if line else colors.dim)
        if line is None and row not in marked:
            out.append(spanned(side, ("".join(map(BRAILLE.__getitem__, grid[row])), colors.accent)))
            continue
        cells = _cells(grid[row], row, marks, line is not None, colors)
        runs = [
            ("".join(c for c, _ in run), color) for color, run in itertools.groupby(cells, key=lambda cell: cell[1])
        ]
        out.append(spanned(side, *runs))
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
            yield BRAILLE[bits], colors.accent
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
    if high <= low:
        return (low - span / 2, high + span / 2)
    # ends on round numbers: readable, and a new lowest loss does not draw the whole picture anew
    step = _nice((high - low) / GRID)
    return (math.floor(low / step + SLACK) * step, math.ceil(high / step - SLACK) * step)


def _nice(value: float) -> float:
    """The next of 1, 2, 5, 10, ... that is not below."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(f * power for f in (1.0, 2.0, 5.0, 10.0) if f * power >= value * (1 - SLACK))


def _beyond(last: float) -> float:
    """Right end of the axis: the last step, or a round number not far beyond, so that a step adds a dot to the curve
    and leaves the others where they are.
    """
    if last <= 0:
        return last
    power = 10.0 ** math.floor(math.log10(last))
    return next(f * power for f in ENDS if f * power >= last * (1 - SLACK))


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


def _trace(curve: Curve, spot: _Scale, rows: int, columns: int) -> list[list[int]]:
    """The curve as braille bits. Each column of dots is filled from the lowest to the highest point of the line in it:
    the work is that of the points and the dots, however many points fall into one column.
    """
    low, high = [rows * 4] * (columns * 2), [-1] * (columns * 2)

    x0 = y0 = -1
    for x, y in [(spot.x(x), spot.y(y)) for x, y in zip(curve.xs, curve.ys, strict=True)]:
        if x != x0 and 0 <= x0 < x:  # the line from the last column: each column in between has its part
            slope, edge = (y - y0) / (x - x0), float(y0)
            for column in range(x0, x):
                enters, edge = edge, y0 + slope * (column + 0.5 - x0)
                top, bottom = (round(enters), round(edge)) if slope > 0 else (round(edge), round(enters))
                low[column], high[column] = min(low[column], top), max(high[column], bottom)
            low[x], high[x] = min(low[x], round(edge)), max(high[x], round(edge))
        if 0 <= x < columns * 2:
            if y < low[x]:
                low[x] = y
            if y > high[x]:
                high[x] = y
        x0, y0 = x, y
    grid = [[0] * columns for _ in range(rows)]
    for column in range(columns * 2):
        for row in range(max(0, low[column]), min(rows * 4 - 1, high[column]) + 1):
            grid[row // 4][column // 2] |= DOTS[row % 4][column % 2]
    return grid
