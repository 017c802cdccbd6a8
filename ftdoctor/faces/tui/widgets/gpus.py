"""A card per GPU, in as many columns as fit; further rows scroll."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from ftdoctor.faces.terminal import cut_end, printable
from ftdoctor.faces.tui.frame import Frame, Gpu
from ftdoctor.faces.tui.theme import Palette, palette
from ftdoctor.faces.tui.widgets.lines import Lines, spanned
from ftdoctor.faces.words import bar, gib, spark

CARD = 36  # smallest width of a card
ROW = 44  # cells of a GPU in the overview, with its bar
NARROW = 19  # without
HEIGHT = 7  # rows of a card with its border
STATES = {"lost": "lost", "reset_required": "needs a reset", "failing": "failing", "silent": "does not answer"}


class Card(Lines):
    """One GPU."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self._gpu = gpu

    def show(self, gpu: Gpu) -> None:
        """Draw another sample."""
        if gpu != self._gpu:
            self._gpu = gpu
            self.changed()

    def rows(self, width: int, height: int) -> list[Text]:
        """Five lines."""
        return card(self._gpu, width, palette(self.app))


def card(gpu: Gpu, width: int, colors: Palette) -> list[Text]:
    """Name and rank, memory, utilisation, power and temperature, the last minutes."""
    sample = gpu.sample
    rank = "" if gpu.rank is None else f"rank {gpu.rank}"
    label = f"GPU {sample.index}" + (" MIG" if sample.parent else "")
    model = cut_end(printable(sample.name or ""), max(1, width - len(label) - len(rank) - 4))
    bad = STATES.get(sample.state or "ok")
    head = Text.assemble((label, f"bold {colors.bad}" if bad else "bold"), "  ", (model, colors.dim))
    head.append(" " * max(1, width - head.cell_len - len(rank)) + rank, colors.accent)
    share = sample.memory_used / sample.memory_total if sample.memory_used is not None and sample.memory_total else None
    used = f"{gib(sample.memory_used)}/{gib(sample.memory_total)} GiB"
    load = None if sample.utilization is None else sample.utilization / 100
    lines = [
        head,
        _meter("mem ", share, used, width, colors),
        _meter("util", load, "–" if sample.utilization is None else f"{sample.utilization:.0f} %", width, colors),
    ]
    power = "– W" if sample.power is None else f"{sample.power:.0f}"
    if sample.power is not None:
        power += f"/{sample.power_limit:.0f} W" if sample.power_limit else " W"
    heat = "– °C" if sample.temperature is None else f"{sample.temperature:.0f} °C"
    values = Text.assemble(("pwr  ", colors.dim), f"{power:<11}", ("  temp ", colors.dim), heat)
    if bad:
        values.append(f"  {bad}", f"bold {colors.bad}")
    lines.append(values)
    lines.append(Text.assemble(("     ", ""), (spark(gpu.history, max(0, width - 5)), colors.info)))
    for line in lines:
        line.truncate(max(1, width))
    return lines


def _meter(label: str, share: float | None, text: str, width: int, colors: Palette) -> Text:
    room = max(3, width - len(label) - 17)
    full, rest = bar(share, room)
    return Text.assemble((f"{label} ", colors.dim), (full, colors.accent), (rest, colors.faint), f" {text:>15}")


class GpuGrid(VerticalScroll):
    """All cards, or why there is none."""

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._cards: list[Card] = []
        self._frame: Frame | None = None
        self._laid_out: tuple[int, int] | None = None
        self._reason = ""

    def compose(self) -> ComposeResult:
        """The reason; cards come with the samples."""
        yield Static("", classes="reason")
        yield Grid(classes="cards")

    def show(self, frame: Frame) -> None:
        """Another frame: mount or remove cards where their number changed."""
        self._frame = frame
        reason, cards = self.query_one(".reason", Static), self.query_one(Grid)
        reason.display = not frame.gpus
        if not frame.gpus and frame.gpu_reason != self._reason:
            self._reason = frame.gpu_reason
            reason.update(Text(f"no GPU data: {printable(frame.gpu_reason)}", palette(self.app).dim))
        while len(self._cards) > len(frame.gpus):
            self._cards.pop().remove()
        for item, gpu in zip(self._cards, frame.gpus, strict=False):
            item.show(gpu)
        new = [Card(gpu) for gpu in frame.gpus[len(self._cards) :]]
        if new:
            self._cards += new
            cards.mount(*new)
        self.lay_out()

    def lay_out(self) -> None:
        """As many columns as fit, in full rows where they fit: 8 GPUs as 4 + 4, not 5 + 3."""
        grid = self.query_one(Grid)
        count = max(1, len(self._cards))
        most = max(1, min(count, (self.size.width - 2) // CARD))
        even = max(n for n in range(1, most + 1) if count % n == 0)
        columns = even if count // even * HEIGHT <= self.size.height else most
        rows = -(-count // columns)
        if (columns, rows) == self._laid_out:
            return  # setting a style again would lay out the whole screen again
        self._laid_out = (columns, rows)
        grid.styles.grid_size_columns = columns
        grid.styles.grid_rows = str(HEIGHT)
        grid.styles.height = rows * HEIGHT

    def on_resize(self) -> None:
        """Another width, another number of columns."""
        self.lay_out()


class Grid(Widget):
    """Holds the cards."""


class GpuStrip(Lines):
    """A line per GPU for the overview."""

    MARGIN = 1

    def __init__(self, name: str) -> None:
        super().__init__(id=name)
        self._frame: Frame | None = None

    @property
    def ruled(self) -> bool:
        """Not on a low screen, where each row counts."""
        return not self.screen.has_class("-low")

    def show(self, frame: Frame) -> None:
        """Another frame."""
        self._frame = frame
        self.changed()

    def rows(self, width: int, height: int) -> list[Text]:
        """GPUs, two columns where there is room."""
        colors, frame = palette(self.app), self._frame
        if frame is None or not frame.gpus:
            reason = printable(frame.gpu_reason) if frame is not None else ""
            return [Text(cut_end(f"no GPU data: {reason}", max(10, width)), colors.dim)]
        rows, total = max(1, height), len(frame.gpus)
        columns = min(-(-total // rows), max(1, width // NARROW))
        columns = max(columns, min(total, width // ROW))
        width = width // columns - 2
        shown = frame.gpus[: rows * columns]
        if len(shown) < total:
            shown = shown[:-1]
        cells = [_row(gpu, width, colors) for gpu in shown]
        if len(shown) < total:
            cells.append(Text(f"and {total - len(shown)} more".ljust(width), colors.dim))
        return [Text("  ").join(cells[at : at + columns]) for at in range(0, len(cells), columns)]


def _row(gpu: Gpu, width: int, colors: Palette) -> Text:
    sample = gpu.sample
    share = sample.memory_used / sample.memory_total if sample.memory_used is not None and sample.memory_total else None
    load = "  –" if sample.utilization is None else f"{sample.utilization:3.0f}"
    heat = "–" if sample.temperature is None else f"{sample.temperature:.0f}°"
    power = "–" if sample.power is None else f"{sample.power:.0f}W"
    rank = "" if gpu.rank is None else f"r{gpu.rank}"
    wide = width >= ROW - 4
    parts = [(f"{sample.index:>2} ", "bold"), (f"{rank:<3}", colors.accent)]
    if sample.state not in (None, "ok"):
        parts.append((f" {STATES.get(sample.state or '', sample.state or '')}", f"bold {colors.bad}"))
    else:
        if wide:
            full, empty = bar(share, width - 33)
            parts += [(full, colors.accent), (empty, colors.faint), (" ", "")]
        parts += [(f"{gib(sample.memory_used):>5}", ""), ("G", colors.dim), (f" {load}", ""), ("%", colors.dim)]
        parts += [(f" {power:>5} {heat:>4}", "")] if wide else []
    line = spanned(*parts)
    line.truncate(width, pad=True)
    return line
