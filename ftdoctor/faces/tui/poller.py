"""The thread that reads the run. It hands frames to the screen and never waits for it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

from ftdoctor.faces.tui.frame import Camera, Frame
from ftdoctor.findings import Diagnosis
from ftdoctor.live import LiveSession
from ftdoctor.sources.follow import Watcher

FRAME_SECONDS = 0.15  # shortest time between two frames
# ages and silence move on even when nothing is written; above a second, because a step a second brings its own frames
IDLE_SECONDS = 1.2
PART = 0.25  # of the time at most goes into frames
PART_BEHIND = 0.04  # while an old log is read: its pictures are soon out of date, and making one slows keys down
ATTEND_SECONDS = 0.06  # reading rests this long after a key
AGAIN_SECONDS = 0.03  # and goes on at least this long before it rests again
LATE_SECONDS = 2.0  # a frame comes at least this often, whatever the keys do (unless making one takes too long)
SWITCH_SECONDS = 0.001  # between threads; Python's 5 ms are felt as many times as a repaint gives up the lock


class Poller:
    """Polls a session until `stop`; `error` is what ended it early."""

    def __init__(
        self,
        live: LiveSession,
        interval: float,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        also: Callable[[Frame], object] | None = None,
        look: Callable[[LiveSession, Diagnosis], bool] | None = None,
    ) -> None:
        """`also` gets each frame before the screen does; `look` sees each diagnosis and may add to the session what it
        finds out (True: it did). Both are called in the thread.
        """
        self.error: BaseException | None = None
        self._live = live
        self._interval = interval
        self._monotonic, self._wall = monotonic, wall
        self._camera = Camera(live)
        self._deliver: Callable[[Frame | None], object] = lambda frame: None
        self._also, self._look = also, look
        self._stop = threading.Event()
        self._attended = self._rested = float("-inf")
        self._watcher = Watcher(live.paths)
        self._thread = threading.Thread(target=self._loop, name="ftdoctor-poll", daemon=True)

    def start(self, deliver: Callable[[Frame | None], object]) -> None:
        """Begin; `deliver` gets each frame, or None when reading failed, in this thread."""
        self._deliver = deliver
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread.start()

    def attend(self) -> None:
        """A key was pressed or the mouse moved: the screen goes before the reading for a moment. Any thread."""
        self._attended = time.monotonic()

    def stop(self) -> None:
        """End the thread and wait for it, so that the session is the caller's again."""
        self._stop.set()
        self._watcher.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._watcher.close()

    def _give_way(self) -> bool:
        """Rest while somebody acts on the screen, two thirds of the time at most.

        True: nobody acts, a frame may be made.
        """
        since = time.monotonic() - self._attended
        if since < ATTEND_SECONDS and time.monotonic() - self._rested >= AGAIN_SECONDS:
            self._stop.wait(ATTEND_SECONDS - since)
            self._rested = time.monotonic()
        return since >= FRAME_SECONDS

    def _loop(self) -> None:
        try:
            self._read()
        except BaseException as error:
            self.error = error
            if not self._stop.is_set():
                self._deliver(None)

    def _read(self) -> None:
        live, last, cost, ended = self._live, float("-inf"), 0.0, False
        pending = True
        while not self._stop.is_set():
            now = self._monotonic()
            pending = live.step(now, self._wall()) or pending
            over = live.ended(self._monotonic())
            now, behind = self._monotonic(), live.behind
            due = now - last >= max(FRAME_SECONDS, cost / (PART_BEHIND if behind else PART))
            if behind:
                due = (self._give_way() or now - last >= LATE_SECONDS) and due
            if over != ended or (due and (pending or now - last >= IDLE_SECONDS)):
                ended, pending = over, False
                if self._look is not None:
                    self._look(live, live.diagnosis())
                frame = self._camera.take(self._wall(), ended)
                if self._also is not None:
                    self._also(frame)
                if self._stop.is_set():
                    return
                self._deliver(frame)
                last = self._monotonic()
                cost = last - now
            if live.behind:
                time.sleep(0.0005)  # the screen gets its turn
            else:
                calm = self._watcher.notified and live.calm
                idle = max(self._interval, IDLE_SECONDS) if calm else self._interval
                self._watcher.wait(min(self._interval, FRAME_SECONDS) if pending else idle)
