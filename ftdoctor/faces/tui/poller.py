"""The thread that reads the run. It hands frames to the screen and never waits for it."""

from __future__ import annotations

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
PART = 0.25  # of the time at most goes into frames while much is to be read


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
        self._watcher = Watcher(live.paths)
        self._thread = threading.Thread(target=self._loop, name="ftdoctor-poll", daemon=True)

    def start(self, deliver: Callable[[Frame | None], object]) -> None:
        """Begin; `deliver` gets each frame, or None when reading failed, in this thread."""
        self._deliver = deliver
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it, so that the session is the caller's again."""
        self._stop.set()
        self._watcher.wake()
        if self._thread.ident is not None:
            self._thread.join()
        self._watcher.close()

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
            now = self._monotonic()
            due = now - last >= max(FRAME_SECONDS, cost / PART)
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
                time.sleep(0.002)  # the screen gets its turn
            else:
                calm = self._watcher.notified and live.calm
                idle = max(self._interval, IDLE_SECONDS) if calm else self._interval
                self._watcher.wait(min(self._interval, FRAME_SECONDS) if pending else idle)
