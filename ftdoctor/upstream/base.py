"""The shape of a line parser.

A parser names literal `anchors`; it is given the lines that hold one of them (and, while it reports
`open`, every following line of its stream) and yields events. One instance serves one source.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol

from ftdoctor.events import Event, Origin


class LineParser(Protocol):
    """Turns lines of one source into events."""

    anchors: ClassVar[tuple[bytes, ...]]

    @property
    def open(self) -> bool:
        """True while the parser wants every following line."""

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""

    def finish(self) -> Iterable[Event]:
        """The source ended."""


class OneLine:
    """Base of parsers that never need a second line."""

    anchors: ClassVar[tuple[bytes, ...]] = ()

    @property
    def open(self) -> bool:
        """Never wants more than the anchored line."""
        return False

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        raise NotImplementedError

    def finish(self) -> Iterable[Event]:
        """Nothing is held back."""
        return ()
