"""The screen of `ftdoctor watch`. Textual loads only when `run` is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ftdoctor.faces.prometheus import Exporter
    from ftdoctor.findings import Diagnosis
    from ftdoctor.live import LiveSession


def run(
    live: LiveSession,
    *,
    title: str,
    notify: str | None,
    interval: float,
    exporter: Exporter | None = None,
    look: Callable[[LiveSession, Diagnosis], bool] | None = None,
) -> Diagnosis:
    """Show `live` until the user leaves; the final diagnosis.

    `title` names the run, `notify` is a URL for apprise or None, `interval` the longest wait between looks in
    seconds; `exporter` gets each frame too, and `look` sees each diagnosis (`Poller`).

    Raises:
        UsageError: textual is missing, or `notify` cannot be used.
    """
    from ftdoctor.errors import UsageError
    from ftdoctor.faces.notify import Notifier

    notifier = Notifier(notify, title) if notify else None
    try:
        from ftdoctor.faces.tui.app import DoctorApp
    except ImportError as error:
        raise UsageError(
            f"the screen needs the package textual ({error})",
            "ftdoctor watch",
            "pip install 'textual>=3', or --headless",
        ) from None
    from ftdoctor.faces.tui.poller import Poller

    poller = Poller(live, interval, also=exporter.show if exporter is not None else None, look=look)
    app = DoctorApp(title, poller=poller, notifier=notifier)
    try:
        app.run()
    finally:
        poller.stop()
        diagnosis = live.finish()
        if notifier is not None:
            notifier.close()
        if exporter is not None:
            exporter.close()
    if poller.error is not None:
        raise poller.error
    return diagnosis
