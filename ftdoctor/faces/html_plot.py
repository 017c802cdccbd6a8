"""A curve as inline SVG: levels that rules look at as dashed lines, evaluations as diamonds."""

from __future__ import annotations

import html
import math

from ftdoctor.faces.curves import Curve
from ftdoctor.faces.words import short, steps

WIDTH, HEIGHT = 360, 180  # user units; the picture scales with the page
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 8, 20
NEAR = 4.0  # a limit is drawn when it lies within so many spans of the curve
DOTS = 700  # points of a path


def plot(curve: Curve) -> str:
    """A figure with its caption. `curve` has at least one point."""
    marks = [(x, y) for x, y in curve.marks if math.isfinite(y)] if curve.name == "loss" else []
    low, high = min(curve.ys), max(curve.ys)
    if marks:
        low, high = min(low, *(y for _, y in marks)), max(high, *(y for _, y in marks))
    span = (high - low) or abs(high) or 1.0
    shown = [line for line in curve.limits if low - NEAR * span <= line.value <= high + NEAR * span]
    low, high = min([low, *(line.value for line in shown)]), max([high, *(line.value for line in shown)])
    if high <= low:
        low, high = low - span / 2, high + span / 2
    first, last = min(curve.xs), max(curve.xs)

    def x(value: float) -> float:
        return round(LEFT + (value - first) / ((last - first) or 1.0) * (WIDTH - LEFT - RIGHT), 1)

    def y(value: float) -> float:
        return round(TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    every = max(1, len(curve.xs) // DOTS)
    points = " ".join(f"{x(a)},{y(b)}" for a, b in list(zip(curve.xs, curve.ys, strict=True))[::every])
    parts = [
        f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}" stroke="var(--line)"/>',
        f'<polyline points="{points}" fill="none" stroke="var(--accent)" stroke-width="1.5" stroke-linejoin="round"/>',
    ]
    if len(curve.xs) == 1:
        parts.append(f'<circle cx="{x(first)}" cy="{y(curve.ys[0])}" r="3" fill="var(--accent)"/>')
    labels = {y(high): (high, ""), y(low): (low, "")}
    for line in shown:
        at = y(line.value)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" stroke="var(--warn)" stroke-dasharray="4 3"/>'
        )
        labels = {key: known for key, known in labels.items() if abs(key - at) > 11}
        labels[at] = (line.value, ' class="limit"')
    for a, b in marks:
        if first <= a <= last:
            parts.append(f'<path d="M{x(a)} {y(b) - 4}l4 4l-4 4l-4 -4z" fill="var(--good)"/>')
    parts += [
        f'<text x="{LEFT - 5}" y="{at + 4}" text-anchor="end"{kind}>{html.escape(short(value))}</text>'
        for at, (value, kind) in labels.items()
    ]
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 5}">{steps(first)}</text>')
    if last != first:
        parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{steps(last)}</text>')
    said = f"<b>{html.escape(curve.title)}</b>{html.escape(short(curve.ys[-1]))}"
    if marks:
        said += f" · eval {html.escape(short(marks[-1][1]))}"
    name = html.escape(f"{curve.title} over steps {steps(first)} to {steps(last)}, last {short(curve.ys[-1])}")
    return (
        f'<figure><figcaption>{said}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{name}">{"".join(parts)}</svg></figure>'
    )
