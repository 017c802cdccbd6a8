"""Python tracebacks out of a line stream: chained, interleaved between ranks, plain or in Rich's box.

    [rank1]: Traceback (most recent call last):
    [rank1]:   File "/opt/axolotl/train.py", line 20, in <module>
    [rank1]:     main()
    [rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.22 GiB. ...

Lines are grouped by rank prefix. Two ranks that write without a prefix into one stream cannot be told apart for
certain: the newest open traceback whose state fits takes the line. What stands before the header (a stamp, a job
number) is taken off the lines that follow. A traceback whose header was cut off begins at its first frame; a line that
names an exception, of which all else was cut off, is a traceback without frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ftdoctor.events import Frame, Origin, TracebackSeen

START = "Traceback (most recent call last)"
FRAME = '", line '
BARE = ("Error: ", "Exception: ")  # an exception of which only the last line was kept
MAX_LINES = 400
MAX_MESSAGE = 4096
MAX_CONTINUATION = 30
MAX_OPEN = 64

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
# IPython: 'File /a.py:12, in f(x)', '/a.py in f(x)', '[/a.py](https://localhost:8080/#) in f(x)', 'Cell In[8], line 1'
_NOTEBOOK_FRAME = re.compile(
    r"^(?:File |\[)?(?P<file>(?:[A-Za-z]:)?[/\\~][^\s\]:]+\.py)"
    r"(?:\]\([^)]*\))?(?::(?P<line>\d+))?,? in (?P<function>[\w.<>]+)"
    r"|^(?P<cell><ipython-input-[\w-]+>) in "
    r"|^\[<?(?P<linked><?ipython-input-[\w-]+>)\]\([^)]*\) in |^(?P<in>Cell In ?\[\d+\])"
)
_RICH_FRAME = re.compile(r"^\s*[│|]\s*(?:❱\s*)?(?P<file>[^\s│:]+\.py):(?P<line>\d+) in (?P<function>[\w.<>]+)")
_EXCEPTION = re.compile(r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?:: ?(?P<message>.*))?$")
_BARE = re.compile(r"^(?P<type>(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)): (?P<message>\S.*)$")
_GOES_ON = re.compile(r"retry|retries|ignor|skip|caught|warning|fall(?:ing|s)? back|will be|continu", re.IGNORECASE)
_CHAIN = re.compile(
    r"^(?:During handling of the above exception|The above exception was the direct cause of the following exception)"
)
_NEW_RECORD = re.compile(
    r"^(?:\[?\d{4}-\d\d-\d\d|\[?[IWEF]\d{4} |\[rank\d+\]|\{'|\s*\d+%\|"
    r"|\d\d/\d\d(?:/\d{4})? \d\d:\d\d:\d\d|\[(?:DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL)[|:\]]|wandb: |slurmstepd: "
    r"|Traceback \(most|ERROR:|WARNING:|INFO:|srun: |\$ )"
)
# what Python and its logging print above a traceback that ends nothing
_HARMLESS = ("Exception ignored in", "--- Logging error ---", "Error in atexit._run_exitfuncs")
_RICH_TOP = re.compile(r"[╭┌+][─\-]+.*" + re.escape(START))
_RICH_BOTTOM = re.compile(r"^\s*[╰└+][─\-]{5,}")


@dataclass(slots=True)
class _Open:
    key: str
    origin: Origin
    rich: bool
    chained: bool
    frames: list[Frame] = field(default_factory=list)
    type: str = ""
    message: list[str] = field(default_factory=list)
    lines: int = 0
    last: int = 0
    boxed: bool = False
    continuation: int = 0
    headless: bool = False
    harmless: bool = False
    prefix: re.Pattern[str] | None = None


class TracebackParser:
    """Feed cleaned lines; get complete tracebacks. `open` says whether more lines are needed."""

    def __init__(self) -> None:
        self._open: list[_Open] = []
        self._chain: dict[str, bool] = {}
        self._after: dict[str, int] = {}

    @property
    def open(self) -> bool:
        """True while a traceback, or the line after one that may continue the chain, is awaited."""
        return bool(self._open) or bool(self._after)

    def feed(self, text: str, key: str, origin: Origin, before: str = "") -> tuple[str, str, Iterator[TracebackSeen]]:
        """One line, and the one before it.

        Returns its role (`frame`, `exception`, `line`; `ignored` for an exception that Python itself ignored), its
        text and the tracebacks it completes.
        """
        done: list[TracebackSeen] = []
        if START in text:
            self._close_finished(key, done)
            self._start(text, key, origin)
            self._open[-1].harmless = any(words in before for words in _HARMLESS)
            return "frame", text, iter(done)
        text = self._without_prefix(text, key)
        if key in self._after:
            if _CHAIN.match(text):
                self._chain[key] = True
            self._after[key] -= 1
            if self._after[key] <= 0 or (text.strip() and not self._chain.get(key)):
                self._after.pop(key)
        for entry in reversed(self._open):
            if entry.key != key:
                entry.lines += 1
                if entry.lines > 2 * MAX_LINES:
                    self._finish(entry, done)
                continue
            if entry.type and self._belongs_to_another(entry, text):
                self._finish(entry, done)
                continue
            role = self._step(entry, text, origin, done)
            if role:
                if entry.harmless:
                    role = "ignored"
                # without a header it may be anything that quotes code: a line stays a line until an exception proves it
                return "line" if entry.headless and role == "frame" else role, text, iter(done)
        found = _FRAME.match(text)
        if found and found["function"]:
            self._start(text, key, origin)
            self._step(self._open[-1], text, origin, done)
            return "line", text, iter(done)
        found = _BARE.match(text)
        if found and not _GOES_ON.search(text):
            done.append(TracebackSeen(origin, found["type"], found["message"][:MAX_MESSAGE], (), origin.line, False))
            return "exception", text, iter(done)
        return "line", text, iter(done)

    def finish(self) -> Iterator[TracebackSeen]:
        """Close whatever is open (end of stream)."""
        done: list[TracebackSeen] = []
        for entry in list(self._open):
            self._finish(entry, done)
        self._after.clear()
        self._chain.clear()
        return iter(done)

    def settle(self) -> Iterator[TracebackSeen]:
        """Close what has its exception line: nothing more has come for a while (the last words of a live run)."""
        done: list[TracebackSeen] = []
        for entry in [e for e in self._open if e.type]:
            self._finish(entry, done)
        return iter(done)

    def _start(self, text: str, key: str, origin: Origin) -> None:
        if len(self._open) >= MAX_OPEN:
            del self._open[0]
        rich = _RICH_TOP.search(text) is not None
        chained = self._chain.pop(key, False)
        self._after.pop(key, None)
        before, header, _ = text.partition(START)
        self._open.append(_Open(key, origin, rich, chained, last=origin.line, headless=not header))
        # IPython writes the exception's name there, which is no prefix
        if before and not rich and not _EXCEPTION.match(before.strip()):
            self._open[-1].prefix = re.compile(re.sub(r"\d+", r"\\d+", re.escape(before.rstrip() or before)) + " ?")

    def _without_prefix(self, text: str, key: str) -> str:
        """The line without what stood before the header of the newest traceback of its stream."""
        for entry in reversed(self._open):
            if entry.key == key and entry.prefix is not None:
                found = entry.prefix.match(text)
                if found is not None:
                    return text[found.end() :]
        return text

    def _close_finished(self, key: str, done: list[TracebackSeen]) -> None:
        for entry in [e for e in self._open if e.key == key and e.type]:
            self._finish(entry, done)

    def _belongs_to_another(self, entry: _Open, text: str) -> bool:
        """An exception line while a second traceback of the stream still lacks its own."""
        found = _EXCEPTION.match(text)
        return bool(
            found
            and found["type"].endswith(("Error", "Exception", "Interrupt", "Exit"))
            and any(e is not entry and e.key == entry.key and not e.type for e in self._open)
        )

    def _step(self, entry: _Open, text: str, origin: Origin, done: list[TracebackSeen]) -> str:
        entry.lines += 1
        if entry.lines > MAX_LINES:
            self._finish(entry, done)
            return ""
        if entry.type:
            return self._continue(entry, text, origin, done)
        if entry.rich and not entry.boxed:
            entry.last = origin.line
            found = _RICH_FRAME.match(text)
            if found:
                entry.frames.append(Frame(found["file"], int(found["line"]), found["function"]))
            elif _RICH_BOTTOM.match(text):
                entry.boxed = True
            return "frame"
        found = _FRAME.match(text)
        if found:
            entry.last = origin.line
            entry.frames.append(Frame(found["file"], int(found["line"]), found["function"] or ""))
            return "frame"
        found = _NOTEBOOK_FRAME.match(text)
        if found:
            entry.last = origin.line
            file = found["file"] or found["cell"] or found["linked"] or found["in"]
            entry.frames.append(Frame(file, int(found["line"] or 0), found["function"] or ""))
            return "frame"
        if not text.strip():
            return "" if entry.headless else "frame"
        if text[0] in " \t":
            if entry.frames and not entry.frames[-1].code and text.strip(" ^~"):
                top = entry.frames[-1]
                entry.frames[-1] = Frame(top.file, top.line, top.function, text.strip()[:200])
            entry.last = origin.line
            return "frame"
        found = _EXCEPTION.match(text)
        sure = found is not None and found["type"].endswith(("Error", "Exception"))
        if found is None or (not sure and (not entry.frames or entry.headless)):
            if entry.headless:
                self._open.remove(entry)  # frames of something else: a warning's stack, a log of calls
            return ""  # a foreign line between the frames
        entry.type = found["type"]
        entry.message.append(found["message"] or "")
        entry.last = origin.line
        return "exception"

    def _continue(self, entry: _Open, text: str, origin: Origin, done: list[TracebackSeen]) -> str:
        ends = not text.strip() or _NEW_RECORD.match(text) or entry.continuation >= MAX_CONTINUATION
        if ends or _CHAIN.match(text):
            self._finish(entry, done)
            if _CHAIN.match(text):
                self._chain[entry.key] = True
            return ""
        entry.continuation += 1
        entry.message.append(text)
        entry.last = origin.line
        return "exception"

    def _finish(self, entry: _Open, done: list[TracebackSeen]) -> None:
        if entry in self._open:
            self._open.remove(entry)
        if entry.harmless or (not entry.type and not entry.frames):
            return
        self._after[entry.key] = 4
        message = "\n".join(entry.message).strip()[:MAX_MESSAGE]
        done.append(TracebackSeen(entry.origin, entry.type, message, tuple(entry.frames), entry.last, entry.chained))
