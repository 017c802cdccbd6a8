"""The log: any line of a file of any size, followed, searched, filtered. Text is shown as text, never as markup."""

from __future__ import annotations

import bisect
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from ftdoctor.faces.redact import redact
from ftdoctor.faces.terminal import cells, head, printable
from ftdoctor.faces.tui.theme import palette
from ftdoctor.parsing.logfile import ERRORS, LogFile, Matches

NUMBER = 8  # cells of the line number
CACHE = 2048
WIDEST = 4096
IDLE = 0.25
PIECE = 1 << 20  # bytes indexed in one go; the thread holds up the screen as long as that takes
TOLD_SECONDS = 0.1  # between two words of more lines while an old log is indexed


class LogView(ScrollView, can_focus=True):
    """One file. A thread of its own indexes and searches; only visible lines are ever read."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f", "follow", "follow"),
        Binding("e", "errors", "errors only"),
        Binding("r", "rank", "rank"),
        Binding("n", "next(1)", "next", show=False),
        Binding("N", "next(-1)", "previous", show=False),
        Binding("j", "scroll_down", "down", show=False),
        Binding("k", "scroll_up", "up", show=False),
        Binding("left_square_bracket", "file(-1)", "previous file", show=False),
        Binding("right_square_bracket", "file(1)", "next file", show=False),
        Binding("escape", "clear", "clear", show=False),
    ]

    class Grew(Message):
        """The index or the matches have changed."""

        def can_replace(self, message: Message) -> bool:
            """One is enough."""
            return isinstance(message, LogView.Grew)

    class Status(Message):
        """What the line above the log shows has changed."""

        def can_replace(self, message: Message) -> bool:
            """The last one counts."""
            return isinstance(message, LogView.Status)

    def __init__(self) -> None:
        super().__init__(id="log")
        self.paths: tuple[str, ...] = ()
        self.ranks: tuple[int, ...] = ()
        self.follow = True
        self.errors_only = False
        self.rank: int | None = None
        self.needle = ""
        self.current: int | None = None
        self._file: LogFile | None = None
        self._filter: Matches | None = None
        self._search: Matches | None = None
        self._wanted: int | None = None
        self._cache: OrderedDict[int, str] = OrderedDict()
        self._generation = 0
        self._turn = threading.Event()
        self._over = self._shown = False
        self._worker: threading.Thread | None = None

    # -- what is shown -------------------------------------------------------------------------------------------

    def show(self, paths: tuple[str, ...], ranks: tuple[int, ...]) -> None:
        """Files and ranks there are."""
        self.ranks = ranks
        if paths != self.paths:
            self.paths = paths
            if self._file is None and paths:
                self.open(paths[0])
            self.post_message(self.Status())

    def open(self, path: str, line: int | None = None) -> None:
        """Show a file, at a line when given: it is highlighted, and the view stops following."""
        if self._file is None or self._file.path != path:
            self._file = LogFile(path)
            self._cache.clear()
            self.current = None
            self._restart()
        if line is not None:
            if self._filter is not None:
                self.errors_only, self.rank = False, None
                self._restart()
            self.follow = False
            self.current = self._wanted = line
        self._turn.set()
        self._resize()

    @property
    def path(self) -> str:
        """File shown."""
        return self._file.path if self._file is not None else ""

    @property
    def rows(self) -> Sequence[int]:
        """Numbers of the lines that are shown."""
        if self._filter is not None:
            return self._filter.numbers
        return range(1, (self._file.lines if self._file is not None else 0) + 1)

    @property
    def status(self) -> str:
        """Counts and what is filtered, in words."""
        if self._file is None:
            return "no log yet"
        parts = [f"{len(self.rows):,} lines".replace(",", " ")]
        if self._file.size and self._file.indexed < self._file.size:
            parts.append(f"indexing {self._file.indexed / self._file.size:.0%}")
        if self.errors_only:
            parts.append("errors only")
        if self.rank is not None:
            parts.append(f"rank {self.rank}")
        if self._search is not None:
            found = len(self._search.numbers)
            parts.append(f"/{self.needle}  {found:,} found".replace(",", " ") + ("" if self._search.done else " …"))
        parts.append("following" if self.follow else "paused")
        return " · ".join(parts)

    # -- the thread ----------------------------------------------------------------------------------------------

    def on_mount(self) -> None:
        """Start the thread; it works only while the view can be seen."""
        self._worker = threading.Thread(target=self._work, name="ftdoctor-log", daemon=True)
        self._worker.start()

    def on_unmount(self) -> None:
        """End the thread."""
        self._over = True
        self._turn.set()

    def on_show(self) -> None:
        """Seen again: catch up."""
        self._shown = True
        self._turn.set()

    def on_hide(self) -> None:
        """Another view is looked at."""
        self._shown = False

    def _work(self) -> None:
        told, news = 0.0, False
        while not self._over:
            busy = False
            log, found = self._file, [m for m in (self._filter, self._search) if m is not None]
            if log is not None and self._shown:
                grew = log.extend(PIECE)
                hits = [matches.step() for matches in found]
                busy = log.indexed < log.size or any(not m.done for m in found)
                news = news or grew or any(hits)
                if news and (not busy or time.monotonic() - told >= TOLD_SECONDS):
                    self.post_message(self.Grew())
                    told, news = time.monotonic(), False
                if busy:
                    time.sleep(0.0005)  # the screen gets its turn
            if not busy:
                self._turn.wait(IDLE if self._shown else None)
                self._turn.clear()

    def on_log_view_grew(self) -> None:
        """Make room for what is new."""
        self._resize()

    def _restart(self) -> None:
        if self._file is not None:
            pattern = ERRORS if self.errors_only else None
            wanted = pattern is not None or self.rank is not None
            self._filter = Matches(self._file, pattern, self.rank) if wanted else None
            self._search = Matches(self._file, _needle(self.needle)) if self.needle else None
        self._turn.set()
        self.scroll_to(y=0, animate=False)
        self._resize()

    def _resize(self) -> None:
        log = self._file
        if log is not None and log.generation != self._generation:
            self._generation = log.generation
            self._cache.clear()
        if log is not None and self._cache:
            self._cache.pop(log.lines, None)  # the last line may have grown
            self._cache.pop(log.lines - 1, None)
        rows = self.rows
        self.virtual_size = Size(max(self.size.width, 1), len(rows))
        if self._wanted is not None and log is not None and log.lines >= self._wanted:
            self._to(self._wanted)
            self._wanted = None
        elif self.follow:
            self.scroll_to(y=max(0, len(rows) - self.size.height), animate=False, force=True)
        self.refresh()
        self.post_message(self.Status())

    def _to(self, line: int) -> None:
        at = bisect.bisect_left(self.rows, line)
        self.scroll_to(y=max(0, at - self.size.height // 3), animate=False, force=True)

    # -- drawing -------------------------------------------------------------------------------------------------

    def render_line(self, y: int) -> Strip:
        """One row of the screen."""
        at = round(self.scroll_offset.y) + y
        rows, colors = self.rows, palette(self.app)
        width = self.size.width
        base = self.rich_style
        if at < 0 or at >= len(rows):
            return Strip.blank(width, base)
        number = rows[at]
        text = self._text(at, number)
        if number == self.current:
            base += Style(bgcolor=self.app.theme_variables.get("panel"), bold=True)
        alarming = bool(ERRORS.search(text.encode()))
        body = base + Style(color=colors.bad if alarming else colors.text)
        mark = "▌" if number == self.current else " "
        room = max(1, self.scrollable_content_region.width - NUMBER - 2)  # what the scrollbar leaves
        shown = text if cells(text) <= room else head(text, room - 1) + "…"
        segments = [
            Segment(mark, base + Style(color=colors.accent)),
            Segment(f"{number:>{NUMBER}} ", base + Style(color=colors.dim)),
            *self._pieces(shown, body, base + Style(color="#14171c", bgcolor=colors.warn)),
        ]
        return Strip(segments).adjust_cell_length(width, base)

    def _pieces(self, text: str, style: Style, hit: Style) -> list[Segment]:
        if not self.needle:
            return [Segment(text, style)]
        out, at, low, needle = [], 0, text.lower(), self.needle.lower()
        while (found := low.find(needle, at)) >= 0 and len(low) == len(text):
            out += [Segment(text[at:found], style), Segment(text[found : found + len(needle)], hit)]
            at = found + len(needle)
        return [*out, Segment(text[at:], style)]

    def _text(self, at: int, number: int) -> str:
        known = self._cache.get(number)
        if known is not None:
            return known
        if self._file is None:
            return ""
        count = 1 if self._filter is not None else max(1, self.size.height)
        for offset, data in enumerate(self._file.read(number, count)):
            text = redact(printable(data.decode("utf-8", "replace")))[:WIDEST].replace("\n", " ")
            self._cache[number + offset] = text
        while len(self._cache) > CACHE:
            self._cache.popitem(last=False)
        return self._cache.setdefault(number, "")

    # -- keys ----------------------------------------------------------------------------------------------------

    def action_follow(self) -> None:
        """Follow the end, or stop."""
        self.follow = not self.follow
        self._resize()

    def action_errors(self) -> None:
        """Only lines that look like errors, or all."""
        self.errors_only = not self.errors_only
        self._restart()

    def action_rank(self) -> None:
        """All ranks, rank 0, rank 1, ..."""
        choices = [None, *self.ranks]
        at = choices.index(self.rank) if self.rank in choices else 0
        self.rank = choices[(at + 1) % len(choices)]
        if not self.ranks:
            self.app.notify("no line of this run says which rank wrote it", timeout=3)
        self._restart()

    def action_file(self, step: int) -> None:
        """The next or the previous log."""
        if len(self.paths) > 1:
            at = self.paths.index(self.path) if self.path in self.paths else 0
            self.follow = True
            self.open(self.paths[(at + step) % len(self.paths)])

    def action_clear(self) -> None:
        """No search, no filter."""
        self.needle, self.errors_only, self.rank, self.current = "", False, None, None
        self._restart()

    def search(self, needle: str) -> None:
        """Look for a text (not case-sensitive) in the whole file."""
        self.needle = needle
        if self._file is not None:
            self._search = Matches(self._file, _needle(needle)) if needle else None
        self._turn.set()
        self._resize()

    def action_next(self, step: int) -> None:
        """To the next or the previous line that was found."""
        if self._search is None or not len(self._search.numbers):
            return
        numbers = self._search.numbers
        rows = self.rows
        top = min(len(rows) - 1, max(0, round(self.scroll_offset.y)))
        here = self.current if self.current is not None else (rows[top] if len(rows) else 1)
        at = bisect.bisect_right(numbers, here) if step > 0 else bisect.bisect_left(numbers, here) - 1
        self.current = numbers[at % len(numbers)]
        self.follow = False
        self._to(self.current)
        self.refresh()
        self.post_message(self.Status())

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Who scrolls back reads."""
        self._read()

    def watch_scroll_y(self, old: float, new: float) -> None:
        """Draw the lines that come into view."""
        super().watch_scroll_y(old, new)
        self.refresh()

    def on_key(self, event: events.Key) -> None:
        """Who scrolls back reads; the end key follows again."""
        if event.key in ("up", "pageup", "home", "k"):
            self._read()
        elif event.key == "end":
            self.follow = True
            self._resize()

    def _read(self) -> None:
        if self.follow:
            self.follow = False
            self.post_message(self.Status())


def _needle(text: str) -> re.Pattern[bytes]:
    return re.compile(re.escape(text.encode()), re.IGNORECASE)
