"""`ftdoctor watch --serve`: the same screen in a browser, through textual-serve."""

from __future__ import annotations

import ipaddress
import shlex
import sys
from collections.abc import Sequence

from ftdoctor.errors import UsageError

INSTALL = "pip install 'ftdoctor[serve]'   (or: pip install textual-serve)"


def serve(place: str, argv: Sequence[str], journal: bool) -> int:
    """Serve until Ctrl-C; each browser gets a watch of its own with the rest of `argv`.

    Raises:
        UsageError: textual-serve is missing, `place` is not HOST:PORT, or a journal would be written by several.
    """
    host, port = address(place)
    if journal:
        raise UsageError(
            "each browser that connects starts a watch of its own, and they cannot share one journal",
            "--serve --journal",
            "record with a second `ftdoctor watch --headless --journal FILE`",
        )
    try:
        from textual_serve.server import Server
    except ImportError:
        raise UsageError(
            "--serve needs the package textual-serve, which is not installed", "--serve", INSTALL
        ) from None
    if not is_loopback(host):
        print(f"warning: whoever reaches {host}:{port} can read this run's logs; there is no password", file=sys.stderr)
    command = shlex.join([sys.executable, "-m", "ftdoctor", "watch", *without_serve(argv)])
    try:
        Server(command, host=host, port=port, title="ftdoctor").serve()
    except OSError as error:
        raise UsageError(
            f"cannot listen there: {error.strerror or error}", place, "give another HOST:PORT to --serve"
        ) from None
    return 0


def address(place: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[::1]:PORT`, or `PORT` alone on the loopback.

    Raises:
        UsageError: it is none of these.
    """
    host, _, number = place.rpartition(":")
    if number.isdigit() and 0 < int(number) < 65536:
        return host.strip("[]") or "127.0.0.1", int(number)
    raise UsageError(
        "not HOST:PORT", place, "write --serve=127.0.0.1:8080, or put --serve after the paths for the default"
    )


def is_loopback(host: str) -> bool:
    """True when only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_serve(argv: Sequence[str]) -> list[str]:
    """The arguments without `--serve` and its value."""
    from ftdoctor.cli.watch import build_parser

    left: list[str] = []
    at = 0
    while at < len(argv):
        word = argv[at]
        name = word.partition("=")[0]
        if name.startswith("--s") and len(name) > 3 and "--serve".startswith(name):
            # argparse took the next word as the value when it is not an option
            takes = "=" not in word and at + 1 < len(argv) and not argv[at + 1].startswith("-")
            at += 2 if takes else 1
            continue
        left.append(word)
        at += 1
    build_parser().parse_args(left)  # what is left must still make sense
    return left
