"""GPUs as they are now: NVML polled beside the run, as events.

    poller = GpuPoller(session.orders)
    while watching:
        session.apply(poller.poll(time.monotonic(), time.time()))      # as often as you like
    poller.close()

NVML is read in a thread of its own. `poll` starts a round every `every` seconds, waits for it at most `wait` seconds
and returns what is there; what comes later is returned by the next call, with the time of its round. A call that does
not return costs its GPU, not the session: after `deadline` seconds (of the caller's clock) the GPU is `silent`, its
thread is left behind, and a new one reads the others. A GPU that is lost is asked again every `rare` seconds only,
after all others. Xid and ECC events come from a second thread that sleeps in NVML.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

from ftdoctor.events import Event, FactLearned, GpuChanged, GpuSample, Origin, Scalar, XidSeen
from ftdoctor.upstream.nvml import FAST, RARE, SLOW, Device, Nvml, NvmlUnavailable
from ftdoctor.upstream.xid import EventSet, EventsFailed, NvmlEvent

PATH = "nvml"
OPEN_DEADLINE = 30.0
EVENT_WAIT_MS = 500
MAX_EVENTS = 256
_SAID = {
    "lost": "NVML: the GPU is lost (it fell off the bus, or its driver gave it up)",
    "reset_required": "NVML: the GPU must be reset before it can be used again",
    "failing": "NVML: every call fails",
    "silent": "NVML: a call to this GPU does not return",
    "ok": "the GPU answers again",
}


class _Card:
    """What the poller remembers of one device."""

    __slots__ = ("asked", "device", "state")

    def __init__(self, device: Device) -> None:
        self.device = device
        self.state: str | None = None
        self.asked = float("-inf")


class _Round:
    """One pass over the cards, run in a worker's thread; `current` is what it is reading, `results` what it has."""

    def __init__(self, cards: list[_Card], tier: int, now: float, stamp: float, results: deque[Any]) -> None:
        self.cards, self.tier, self.now, self.stamp, self.results = cards, tier, now, stamp, results
        self.current: _Card | None = None
        self.noted: tuple[_Card, float, int] | None = None  # what it was seen reading, since when, in how many polls
        self.abandoned = False
        self.done = threading.Event()

    def run(self) -> None:
        for card in self.cards:
            if self.abandoned:
                break
            self.current = card
            for device in (card.device, *card.device.instances):
                self.results.append((self, card, device, *self._read(device)))
        self.current = None
        self.done.set()

    def _read(self, device: Device) -> tuple[str, dict[str, Any], str]:
        try:
            return device.read(self.tier)
        except Exception as error:  # a surprise in one card must not end the polling of the others
            return "failing", {}, f"{type(error).__name__}: {error}"


class _Worker:
    """A daemon thread that runs jobs one after the other; one that never returns can be left behind."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._loop, name="ftdoctor-nvml", daemon=True)
        self.thread.start()

    def submit(self, job: Callable[[], None]) -> None:
        self._jobs.put(job)

    def end(self) -> None:
        """No more jobs; the thread ends after the one it runs."""
        self._jobs.put(None)

    def _loop(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


class GpuPoller:
    """See the module. `error` is None as long as NVML works; one instance is used from one thread."""

    def __init__(
        self,
        orders: Iterator[int],
        *,
        node: str | None = None,
        every: float = 1.0,
        slow: float = 5.0,
        rare: float = 30.0,
        deadline: float = 3.0,
        wait: float = 0.05,
        opener: Callable[[], Nvml] = Nvml.open,
    ) -> None:
        self._orders, self._node, self._opener = orders, node, opener
        self._every, self._slow, self._rare = every, slow, rare
        self._deadline, self._wait = deadline, wait
        self.error: str | None = None
        self._nvml: Nvml | None = None
        self._cards: list[_Card] = []
        self._worker: _Worker | None = None
        self._left: list[threading.Thread] = []
        self._opened = threading.Event()
        self._outcome: Nvml | NvmlUnavailable | None = None
        self._since: float | None = None
        self._round: _Round | None = None
        self._results: deque[Any] = deque()
        self._last = {FAST: float("-inf"), SLOW: float("-inf"), RARE: float("-inf")}
        self._seen: deque[NvmlEvent | bool] = deque(maxlen=MAX_EVENTS)
        self._stop = threading.Event()
        self._watcher: threading.Thread | None = None
        self._closed = False

    def poll(self, now: float, stamp: float | None = None) -> list[Event]:
        """Events since the last call.

        `now` is a steady clock for intervals and deadlines, `stamp` the time to write on events (default `now`).
        """
        stamp = now if stamp is None else stamp
        if self._closed:
            return []
        events: list[Event] = []
        if self._nvml is None:
            events += self._open(now, stamp)
        if self._nvml is not None:
            events += self._overdue(now, stamp)
            if (self._round is None or self._round.done.is_set()) and now - self._last[FAST] >= self._every:
                self._begin(now, stamp)
                if self._round is not None:
                    self._round.done.wait(self._wait)
            events += self._collect(stamp)
            events += self._drain(stamp)
        return events

    def close(self) -> None:
        """Stop the threads; NVML is shut down when none of them is still inside it."""
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        if self._round is not None:
            self._round.abandoned = True
        threads = list(self._left)
        if self._worker is not None:
            self._worker.end()
            threads.append(self._worker.thread)
        if self._watcher is not None:
            threads.append(self._watcher)
        for thread in threads:
            thread.join(0.0 if thread in self._left else 2.0 * EVENT_WAIT_MS / 1000)
        if self._nvml is not None and not any(thread.is_alive() for thread in threads):
            self._nvml.close()

    # -- opening -------------------------------------------------------------------------------------------------

    def _open(self, now: float, stamp: float) -> list[Event]:
        if self._since is None:
            self._since = now
            self._worker = _Worker()
            self._worker.submit(self._opening)
        if self.error is not None and self._outcome is None:
            return []
        if not self._opened.wait(self._wait):
            if now - self._since > OPEN_DEADLINE and self.error is None:
                text = f"the NVIDIA driver does not answer: NVML could not be opened in {OPEN_DEADLINE:.0f} seconds"
                return self._failed("silent", text, stamp)
            return []
        outcome = self._outcome
        if isinstance(outcome, NvmlUnavailable):
            if self._worker is not None:
                self._worker.end()
                self._worker = None
            return [] if self.error else self._failed(outcome.reason, str(outcome), stamp)
        assert outcome is not None
        events: list[Event] = []
        if self.error is not None:
            events += self._failed(None, None, stamp)
        self._nvml = outcome
        self._cards = [_Card(device) for device in outcome.devices]
        self._watcher = threading.Thread(target=self._watch, args=(outcome,), name="ftdoctor-xid", daemon=True)
        self._watcher.start()
        facts: dict[str, Scalar] = {
            "gpu_count": len(outcome.devices) + len(outcome.unreadable),
            "driver_version": outcome.driver_version,
            "driver_cuda_version": outcome.cuda_version,
        }
        events += [self._fact(name, value, stamp) for name, value in facts.items() if value is not None]
        events += [GpuChanged(self._origin(stamp), index, None, "unreadable", why) for index, why in outcome.unreadable]
        return events

    def _opening(self) -> None:
        try:
            self._outcome = self._opener()
        except NvmlUnavailable as error:
            self._outcome = error
        except Exception as error:  # whatever a broken driver does, the session goes on without GPUs
            self._outcome = NvmlUnavailable("failed", f"NVML cannot be used: {type(error).__name__}: {error}")
        self._opened.set()

    def _failed(self, reason: str | None, text: str | None, stamp: float) -> list[Event]:
        self.error = text
        return [self._fact("nvml_error", text, stamp), self._fact("nvml_error_reason", reason, stamp)]

    # -- rounds --------------------------------------------------------------------------------------------------

    def _begin(self, now: float, stamp: float) -> None:
        tier = FAST
        for level, every in ((SLOW, self._slow), (RARE, self._rare)):
            if now - self._last[level] >= every:
                tier = level
        for level in range(FAST, tier + 1):
            self._last[level] = now
        well = [c for c in self._cards if c.state in (None, "ok")]
        ill = [c for c in self._cards if c.state not in (None, "ok", "silent") and now - c.asked >= self._rare]
        due = [*well, *ill]  # those that may hang come last
        for card in due:
            card.asked = now
        self._round = None
        if due:
            assert self._worker is not None
            self._round = _Round(due, tier, now, stamp, self._results)
            self._worker.submit(self._round.run)

    def _overdue(self, now: float, stamp: float) -> list[Event]:
        """Leave a round behind that does not come back, and go on without the card it is stuck in."""
        stuck = self._round
        card = stuck.current if stuck is not None else None
        if stuck is None or card is None or stuck.done.is_set() or self._worker is None:
            return []
        if stuck.noted is None or stuck.noted[0] is not card:
            stuck.noted = (card, now, 1)
            return []
        since, polls = stuck.noted[1], stuck.noted[2] + 1
        stuck.noted = (card, since, polls)
        if polls < 3 or now - since < self._deadline:  # a jump of the clock alone is no proof
            return []
        stuck.abandoned = True
        self._round = None
        self._worker.end()
        self._left = [t for t in self._left if t.is_alive()] + [self._worker.thread]
        self._worker = _Worker()
        return self._turned(card, "silent", "", stamp)

    def _collect(self, stamp: float) -> list[Event]:
        events: list[Event] = []
        while self._results:
            round_, card, device, state, values, detail = self._results.popleft()
            time = stamp if round_.abandoned else round_.stamp
            if device is card.device:
                events += self._turned(card, state, detail, time)
            if state == "ok":
                events.append(GpuSample(self._origin(time), device.index, state="ok", **values))
        return events

    def _turned(self, card: _Card, state: str, detail: str, stamp: float) -> list[Event]:
        """Events of a change of state; none when it stayed the same."""
        before, card.state = card.state, state
        if state == before or (before is None and state == "ok"):
            return []
        device = card.device
        text = _SAID[state] + (f": {detail}" if detail and state != "ok" else "")
        events: list[Event] = [GpuChanged(self._origin(stamp), device.index, device.uuid, state, text)]
        if state != "ok":
            events.append(GpuSample(self._origin(stamp), device.index, state=state, **device.static))
        gone = [c.device for c in self._cards if c.state == "lost"]
        if state == "lost" or before == "lost":
            events.append(self._fact("gpu_lost", ", ".join(f"GPU {d.index} ({d.uuid})" for d in gone) or None, stamp))
        return events

    # -- events --------------------------------------------------------------------------------------------------

    def _watch(self, nvml: Nvml) -> None:
        """Thread: wait for Xids. Never busy: after an error it waits, longer each time."""
        pause, first = 1.0, True
        while not self._stop.is_set():
            events: EventSet | None = None
            try:
                events = EventSet(nvml)
                if first:
                    self._seen.append(events.registered > 0)
                    first = False
                if not events.registered:
                    return
                while not self._stop.is_set():
                    seen = events.wait(EVENT_WAIT_MS)
                    if seen is not None:
                        pause = 1.0
                        if seen.kind == "xid" or seen not in self._seen:
                            self._seen.append(seen)
                        self._stop.wait(0.005)  # a storm of ECC events costs 200 wake-ups a second at most
            except EventsFailed:
                if first:
                    self._seen.append(False)
                    first = False
            finally:
                if events is not None:
                    events.close()
            self._stop.wait(pause)
            pause = min(30.0, pause * 2)

    def _drain(self, stamp: float) -> list[Event]:
        events: list[Event] = []
        while self._seen:
            seen = self._seen.popleft()
            if isinstance(seen, bool):
                events.append(self._fact("xid_events", seen, stamp))
            elif seen.kind == "xid":
                events.append(XidSeen(self._origin(stamp), seen.index, seen.uuid, seen.data))
            else:
                events.append(GpuChanged(self._origin(stamp), seen.index, seen.uuid, seen.kind))
        return events

    # -- origins -------------------------------------------------------------------------------------------------

    def _origin(self, stamp: float) -> Origin:
        return Origin(PATH, node=self._node, time=stamp, order=next(self._orders))

    def _fact(self, name: str, value: Scalar, stamp: float) -> FactLearned:
        return FactLearned(self._origin(stamp), name, value)
