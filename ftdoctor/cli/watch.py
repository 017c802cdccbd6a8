"""`ftdoctor watch`: beside a run that is going on."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftdoctor.faces.notify import Notifier
    from ftdoctor.faces.prometheus import Exporter
    from ftdoctor.findings import Diagnosis, Finding
    from ftdoctor.live import LiveSession

EPILOG = """\
examples:
  ftdoctor watch outputs/run1                 an output folder: logs and trainer_state.json as they grow
  ftdoctor watch train.log                    one log; it need not exist yet
  ftdoctor watch 41273                        a process whose output goes to a file
  ftdoctor watch train.log --headless --format jsonl --until-fail
  ftdoctor watch --replay run1.journal.jsonl --speed 20

On a terminal this opens a screen; anywhere else, and with --headless, --until-fail or --format, it prints.

exit codes: those of `ftdoctor check` for what is known when the run ends or the screen is left
"""

LOOPBACK = "127.0.0.1:8080"
SLEEP = 1.0  # between looks when the system says that a file grew


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor watch",
        description="Watch a run from the side: is it healthy, and when it is not, what happened and why.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="log files, output folders, YAML files, or one process id"
    )
    parser.add_argument(
        "--headless", action="store_true", help="no screen: print findings as they come, end with the run"
    )
    parser.add_argument("--format", choices=("text", "jsonl"), help="of --headless (default: text)")
    parser.add_argument("--until-fail", action="store_true", help="stop at the first finding of severity error")
    parser.add_argument(
        "--fail-on", choices=("error", "warning", "info", "never"), default="error", help="default: error"
    )
    parser.add_argument("--journal", metavar="FILE", help="record every event, to be replayed or checked later")
    parser.add_argument("--replay", metavar="JOURNAL", help="play a recorded run instead of following one")
    parser.add_argument("--speed", type=float, default=1.0, help="of --replay (default: 1)")
    parser.add_argument(
        "--rules", action="append", default=[], metavar="DIR", help="a folder of further rules; may be given again"
    )
    parser.add_argument(
        "--interval", type=float, default=0.25, metavar="SECONDS", help="longest wait between looks (default: 0.25)"
    )
    parser.add_argument(
        "--notify",
        metavar="URL",
        help="send new findings there through apprise (ntfy://..., slack://..., mailto://...)",
    )
    parser.add_argument(
        "--serve",
        nargs="?",
        const=LOOPBACK,
        metavar="HOST:PORT",
        help=f"the screen in a browser (default: {LOOPBACK}, this machine only)",
    )
    parser.add_argument(
        "--prometheus",
        metavar="[HOST:]PORT",
        help="offer verdict, findings, metrics and GPUs to Prometheus there (this machine only, unless HOST is given)",
    )
    parser.add_argument("--no-gpu", action="store_true", help="do not look at the GPUs")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    from ftdoctor.errors import UsageError

    options = build_parser().parse_args(argv)
    if bool(options.paths) == bool(options.replay):
        raise UsageError(
            "watch what?", "ftdoctor watch", "give a log, an output folder or a process id, or --replay JOURNAL"
        )
    if options.interval <= 0 or options.speed <= 0:
        raise UsageError(
            "--interval and --speed are positive numbers", "ftdoctor watch", "leave them out for the defaults"
        )
    if options.serve is not None:
        from ftdoctor.cli.serve import serve

        return serve(options.serve, argv, bool(options.journal))
    from ftdoctor.live import LiveSession, ReplaySession
    from ftdoctor.ruleset.load import load

    rules = load([Path(p) for p in options.rules])
    gc.freeze()  # the rules live as long as the process: a collection need not look at them
    live: LiveSession
    if options.replay:
        live = ReplaySession(rules, Path(options.replay), options.speed)
    else:
        journal = Path(options.journal) if options.journal else None
        live = LiveSession(rules, _resolve(options.paths), journal, machine=True, gpus=not options.no_gpu)
    exporter = None
    if options.prometheus:
        from ftdoctor.cli.serve import address, is_loopback
        from ftdoctor.faces.prometheus import Exporter

        host, port = address(options.prometheus)
        exporter = Exporter(host, port, _title(options))
        if not is_loopback(host):
            print(f"warning: whoever reaches {host}:{port} can read this run's state", file=sys.stderr)
    if _on_screen(options):
        from ftdoctor.cli.check import exit_code
        from ftdoctor.faces.tui import run

        title = _title(options)
        diagnosis = run(
            live, title=title, notify=options.notify, interval=options.interval, exporter=exporter,
            look=_looker(live, options),
        )  # fmt: skip
        return exit_code(diagnosis, options.fail_on)
    return headless(live, options, exporter)


def _on_screen(options: argparse.Namespace) -> bool:
    """True on a terminal, or below textual-serve, unless an option of --headless is used."""
    if options.headless or options.until_fail or options.format:
        return False
    return sys.stdout.isatty() or "TEXTUAL_DRIVER" in os.environ


def _title(options: argparse.Namespace) -> str:
    """Name of the run: the first thing that is watched."""
    if options.replay:
        return str(options.replay)
    more = len(options.paths) - 1
    return f"{options.paths[0]} +{more}" if more else str(options.paths[0])


def _resolve(paths: Sequence[str]) -> list[str]:
    """A process id becomes the files its standard streams go to.

    Raises:
        UsageError: the process does not exist, or writes to a terminal or a pipe.
    """
    from ftdoctor.errors import UsageError

    if len(paths) == 1 and paths[0].isdigit() and not os.path.exists(paths[0]):
        place = Path("/proc", paths[0], "fd")
        if not place.is_dir():
            raise UsageError("no such process", paths[0], "check the number with `ps`, or give the log file")
        targets = []
        for number in ("1", "2"):
            try:
                targets.append(os.readlink(place / number))
            except OSError:
                continue
        files = sorted({t for t in targets if t.startswith("/") and os.path.isfile(t)})
        if not files:
            raise UsageError(
                "this process writes to a terminal or a pipe, not to a file",
                paths[0],
                "start it with `... 2>&1 | tee train.log` and watch train.log",
            )
        return files
    return list(paths)


def headless(live: LiveSession, options: argparse.Namespace, exporter: Exporter | None = None) -> int:
    """Print findings as they come; the exit code is `check`'s when the run ends."""
    from ftdoctor.cli.check import exit_code
    from ftdoctor.sources.follow import Watcher

    notifier = None
    if options.notify:
        from ftdoctor.faces.notify import Notifier

        notifier = Notifier(options.notify, _title(options))
    printer = _Printer(options.format or "text", notifier)
    watcher = Watcher(live.paths)
    look = _looker(live, options)
    try:
        while True:
            if live.step(time.monotonic(), time.time()):
                diagnosis = live.diagnosis()
                if look is not None and look(live, diagnosis):
                    diagnosis = live.diagnosis()
                printer.show(diagnosis)
                if options.until_fail and printer.failed:
                    break
            if exporter is not None:
                exporter.look(live, time.monotonic(), time.time())
            if live.ended(time.monotonic()):
                break
            if not live.behind:
                watcher.wait(max(options.interval, SLEEP) if watcher.notified and live.calm else options.interval)
    except KeyboardInterrupt:
        pass
    finally:
        watcher.close()
    diagnosis = live.finish()
    printer.show(diagnosis)
    printer.end(diagnosis)
    if notifier is not None:
        notifier.close()
    if exporter is not None:
        exporter.close()
    return exit_code(diagnosis, options.fail_on)


def _looker(live: LiveSession, options: argparse.Namespace) -> Callable[[LiveSession, Diagnosis], bool] | None:
    """Looks at where the ranks of a silent run stand, when it is time to see; None for a replay, whose run is over.

    What it returns says whether something was learned.
    """
    if options.replay:
        return None
    from ftdoctor.launch.forensics.hang import Looks

    looks = Looks(live.session, None)

    def look(live: LiveSession, diagnosis: Diagnosis) -> bool:
        now = time.monotonic()
        if not looks.due(now, any(f.id == "hang" for f in diagnosis.findings)):
            return False
        ranks = live.session.run.rank_pids
        if ranks:
            live.session.apply(looks.look(ranks, now, time.time()))
            live.refresh()
        return bool(ranks)

    return look


class _Printer:
    """Each finding once when it appears, again when its severity rises, and when it is over."""

    def __init__(self, form: str, notifier: Notifier | None = None) -> None:
        self._json = form == "jsonl"
        self._notifier = notifier
        self._said: dict[str, str] = {}
        self.failed = False

    def show(self, diagnosis: Diagnosis) -> None:
        """Print what is new."""
        from ftdoctor.faces.redact import redacted

        for finding in diagnosis.findings:
            if self._said.get(finding.id) == finding.severity:
                continue
            self._said[finding.id] = finding.severity
            self.failed = self.failed or finding.severity == "error"
            self._print(redacted(finding))
            if self._notifier is not None and finding.severity != "info" and finding.explained_by is None:
                self._notifier.send(finding)
        for gone in [i for i in self._said if i not in {f.id for f in diagnosis.findings}]:
            del self._said[gone]

    def end(self, diagnosis: Diagnosis) -> None:
        """The last word."""
        if not self._json:
            root = f": {diagnosis.root_cause.id}" if diagnosis.root_cause else ""
            print(f"end of run: {diagnosis.verdict}{root}", flush=True)

    def _print(self, finding: Finding) -> None:
        if self._json:
            import json

            from ftdoctor.faces.json_face import finding_dict

            print(json.dumps(finding_dict(finding), ensure_ascii=False, default=str), flush=True)
            return
        stamp = time.strftime("%H:%M:%S")
        cause = f" (because of {finding.explained_by})" if finding.explained_by else ""
        print(f"{stamp} {finding.severity}: {finding.id}: {finding.message}{cause}", flush=True)
        for item in finding.evidence[:2]:
            place = f"{item.path}:{item.line_first}" if item.line_first else item.path
            print(f"         {place}: {item.excerpt[:160]}", flush=True)
