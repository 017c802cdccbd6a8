"""Fires on Python exceptions, by where they were raised.

The first traceback that ended a process, with its deepest user frame: the last frame that lies neither in an installed
package nor in the standard library, else the last frame. What other rules have explained is taken away by
attribution.

Options:
    ignore:   exception classes (last part of the name) that are not errors or only repeat another process's end
    types:    exception classes that count (default: all)
    frames:   regular expressions; one must match a frame, written `file:line in function: code`,
              with forward slashes on Windows too
    deepest:  look for `frames` among the last so many frames only (default: all)
    unnamed:  true: not when a signature of any rule matches the exception's text
"""

from __future__ import annotations

import re
from functools import lru_cache

from ftdoctor.detectors.base import DetectorSpec, Hit, Missing, Result
from ftdoctor.events import Frame, TracebackSeen
from ftdoctor.findings import Evidence
from ftdoctor.run_model.run import Run

_LIBRARY = re.compile(
    r"(?:site|dist)-packages/|/lib/python\d|^<frozen|^<string>|^<__array_function__|/lib64/python\d|importlib"
)


def user_frame(frames: tuple[Frame, ...]) -> Frame | None:
    """The deepest frame of the user's own code, else the deepest frame."""
    for frame in reversed(frames):
        if not _LIBRARY.search(frame.file):
            return frame
    return frames[-1] if frames else None


def _raised_in(traceback: TracebackSeen, frames: list[re.Pattern[str]], deepest: int) -> bool:
    """Whether one of the (deepest) frames matches."""
    written = [f"{f.file}:{f.line} in {f.function}: {f.code}".replace("\\", "/") for f in traceback.frames[-deepest:]]
    return any(regex.search(text) for text in written for regex in frames)


def _named(traceback: TracebackSeen, run: Run) -> bool:
    """Whether a signature matched the text of the exception."""
    path, first, last = traceback.origin.path, traceback.origin.line, traceback.line_last
    return any(
        match.role == "exception" and match.origin.path == path and first <= match.origin.line <= last
        for hits in run.signatures.hits.values()
        for match in hits.kept
    )


@lru_cache(maxsize=512)
def _compiled(regex: str) -> re.Pattern[str]:
    return re.compile(regex)


class Traceback:
    """See the module."""

    def evaluate(self, spec: DetectorSpec, run: Run) -> Result:
        """One hit per rank, the earliest first."""
        if not run.paths:
            return Missing(("log",))
        options = spec.options
        ignored = set(options.get("ignore", ()))
        types = options.get("types")
        frames = [_compiled(regex) for regex in options.get("frames", ())]
        seen: dict[int | None, TracebackSeen] = {}
        for traceback in run.tracebacks:
            name = traceback.type.rpartition(".")[2]
            if not name or name in ignored or (traceback.chained and not frames):
                continue
            if types is not None and name not in types:
                continue
            if frames and not _raised_in(traceback, frames, int(options.get("deepest", 0))):
                continue
            if options.get("unnamed") and _named(traceback, run):
                continue
            seen.setdefault(traceback.origin.rank, traceback)
        return [self._hit(traceback) for traceback in seen.values()]

    def _hit(self, traceback: TracebackSeen) -> Hit:
        frame = user_frame(traceback.frames)
        place = f"{frame.file}:{frame.line} in {frame.function}" if frame else "an unknown place"
        first_line = traceback.message.split("\n", 1)[0][:200]
        text = f"{traceback.type}: {first_line}" if first_line else traceback.type
        origin = traceback.origin
        return Hit(
            origin,
            {"type": traceback.type, "text": first_line, "place": place, "exception": text},
            (
                Evidence("log", origin.path, traceback.line_last, traceback.line_last, text),
                Evidence("stack", origin.path, origin.line, traceback.line_last, place),
            ),
            origin.rank,
        )
