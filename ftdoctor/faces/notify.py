"""Word of a new finding to wherever the user is, through apprise (`--notify URL`): chat, mail, phone.

Sent from a thread of its own: a slow or dead service delays nothing. What is sent is redacted.
"""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any

from ftdoctor.errors import UsageError
from ftdoctor.faces.redact import redact
from ftdoctor.findings import Finding

WAITING = 64
INSTALL = "pip install 'ftdoctor[notify]'   (or: pip install apprise)"


class Notifier:
    """Sends findings to one URL; `failed` is what the last attempt said when it did not work."""

    def __init__(self, url: str, run: str) -> None:
        """`url` as apprise writes them, for example `ntfy://topic`; `run` names the run in the message.

        Raises:
            UsageError: apprise is not installed, or it does not know this kind of URL.
        """
        try:
            import apprise
        except ImportError:
            raise UsageError(
                "--notify needs the package apprise, which is not installed", "--notify", INSTALL
            ) from None
        logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its words would land in the middle of the screen
        self._sender: Any = apprise.Apprise()
        if not self._sender.add(url):
            raise UsageError(
                "apprise does not understand this URL",
                "--notify",
                "see https://appriseit.com for the URL of each service",
            )
        self.failed = False
        self._run = run
        self._queue: queue.Queue[tuple[str, str, str] | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._loop, name="ftdoctor-notify", daemon=True)
        self._thread.start()

    def send(self, finding: Finding) -> None:
        """Queue one finding; dropped when `WAITING` others wait already."""
        kind = {"error": "failure", "warning": "warning"}.get(finding.severity, "info")
        title = f"ftdoctor: {self._run}: {finding.title}"
        body = finding.message + (f"\nfix: {finding.fixes[0].title}" if finding.fixes else "")
        try:
            self._queue.put_nowait((redact(title), redact(body), kind))
        except queue.Full:
            self.failed = True

    def close(self, seconds: float = 5.0) -> None:
        """Wait for what is queued, at most `seconds`."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(seconds)

    def _loop(self) -> None:
        while (item := self._queue.get()) is not None:
            title, body, kind = item
            try:
                self.failed = not self._sender.notify(title=title, body=body, notify_type=kind)
            except Exception:
                self.failed = True  # a plugin of apprise failed: that must not end the watch
