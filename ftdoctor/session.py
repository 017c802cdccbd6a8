"""The one path: sources -> events -> run -> rules -> attribution -> `Diagnosis`.

    session = Session(load())
    session.read(["train.log", "rank1.log"])
    diagnosis = session.diagnose()

A session may be fed step by step (`source`, then `feed`) or read whole (`read`); the diagnosis is the same.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ftdoctor.diagnosis.attribution import attribute, verdict
from ftdoctor.diagnosis.engine import Memory, evaluate
from ftdoctor.errors import InputError
from ftdoctor.events import Event, FactLearned, LogRecord, Origin, Scalar, SourceChanged
from ftdoctor.findings import Diagnosis, RunSummary
from ftdoctor.parsing.router import Router, Vocabulary
from ftdoctor.ruleset.types import RuleSet
from ftdoctor.run_model.run import Run
from ftdoctor.sources.files import Damaged, Input, chunks, expand
from ftdoctor.sources.journal import JournalWriter, is_journal, read_journal
from ftdoctor.sources.nodes import merged, node_folders
from ftdoctor.sources.rank_logs import rest_of
from ftdoctor.sources.structured import READERS

BINARY_PROBE = 8192
_JUDGED = {
    "finished",
    "saved",
    "preprocessed",
    "merged",
    "weights.tensors",
    "adapter.weights",
    "answers.total",
    "proof.proven",
}


class Session:
    """One run under diagnosis."""

    def __init__(self, rules: RuleSet, journal: JournalWriter | None = None) -> None:
        """`journal` records every event that is applied."""
        self.rules = rules
        self.journal = journal
        self.run = Run({p.id: p.regex for p in rules.patterns})
        self.unreadable: list[InputError] = []
        self.orders = itertools.count(1)
        self._vocabulary: Vocabulary | None = None
        self._memory = Memory()

    @property
    def vocabulary(self) -> Vocabulary:
        """Anchors of all parsers and rules, compiled at first use."""
        if self._vocabulary is None:
            self._vocabulary = Vocabulary([p.anchors for p in self.rules.patterns])
        return self._vocabulary

    def apply(self, events: Iterable[Event]) -> None:
        """Fold events into the run."""
        apply, journal = self.run.apply, self.journal
        for event in events:
            apply(event)
            if journal is not None:
                journal.write(event)

    def state(self, name: str, value: Scalar, origin: str) -> None:
        """Add a fact that no source says, for example the kind of training a profile names."""
        self.apply([FactLearned(Origin(origin, order=self.next_order()), name, value)])

    def skip(self, path: str, reason: str) -> None:
        """Say that a part of the input was left out."""
        self.run.apply(SourceChanged(Origin(path, order=next(self.orders)), "skipped", reason))

    def next_order(self) -> int:
        """Number for one more event."""
        return next(self.orders)

    def replay(self, path: Path) -> Iterator[Event]:
        """Events of a journal, ready to be applied: log records name the patterns of this session's rules."""
        find, wanted = self.vocabulary.anchors.find, self.vocabulary.wanted
        for event in read_journal(path):
            if isinstance(event, LogRecord):
                hits = {pattern for _, index in find(event.raw.encode() + b"\n") for pattern in wanted[index].patterns}
                event = replace(event, hits=tuple(sorted(hits)))
            yield event

    def router(self, item: Input) -> Router:
        """A reader for one more log of this run."""
        return Router(item.name, self.vocabulary, self.orders, item.rank, item.node, _year(item))

    def _joined(self, folder: Path) -> Iterator[Event]:
        """The journals of all nodes that have ended."""
        ended = [(node, place) for node, place in node_folders(folder) if (place / "exit.json").is_file()]
        journals = [(node, self.replay(place / "journal.jsonl")) for node, place in ended]
        return merged(journals, self.next_order)

    def read(self, paths: Iterable[str]) -> None:
        """Read files and folders whole. Of several, those that cannot be opened are skipped and kept in `unreadable`.

        Raises:
            InputError: nothing at all could be opened.
        """
        opened: set[str] = set()
        for path in paths:
            try:
                found = expand([path])
            except InputError as error:
                self.unreadable.append(error)
                continue
            for item in found:
                key = item.path if item.path == "-" else os.path.realpath(item.path)
                try:
                    if key not in opened:
                        self.read_input(item)
                        opened.add(key)
                except InputError as error:
                    self.unreadable.append(error)
        if self.unreadable and not opened:
            raise self.unreadable[0]
        for failed in self.unreadable:
            self.run.apply(SourceChanged(Origin(failed.where, order=next(self.orders)), "skipped", failed.seen))

    def read_input(self, item: Input) -> None:
        """Read one input; damage is recorded as a skipped part, not raised."""
        if item.kind == "nodes":
            self.apply(self._joined(Path(item.path)))
            return
        if item.kind in ("json", "log") and item.path != "-" and is_journal(item.path):
            self.apply(self.replay(Path(item.path)))
            return
        if item.kind != "log" and self._read_structured(item):
            return
        self._changed(item, "opened")
        router = self.router(item)
        first = True
        try:
            for chunk in chunks(item) if not item.without else rest_of(item):
                if first and b"\0" in chunk[:BINARY_PROBE]:
                    self._changed(item, "skipped", "binary data, not a log")
                    return
                first = False
                self.apply(router.feed(chunk))
        except Damaged as error:
            self._changed(item, "partial", str(error))
        if first:
            self._changed(item, "skipped", "empty file")
        self.apply(router.finish())
        if router.clipped:
            self._changed(item, "partial", f"{router.clipped} line(s) too long: judged by their first 128 KiB")

    def _read_structured(self, item: Input) -> bool:
        """True when the file was read or refused; False for JSON of no known kind, which may be a log of JSON lines."""
        try:
            events = list(READERS[item.kind](item, self.orders))
        except Damaged as error:
            if not item.given and item.kind in ("json", "yaml"):
                return True  # some other file of the folder
            if item.kind == "json":
                return False
            self._changed(item, "opened")
            self._changed(item, "skipped", str(error))
            return True
        self._changed(item, "opened")
        self.apply(events)
        return True

    def diagnose(self) -> Diagnosis:
        """Judge what is known so far."""
        findings, outcomes = evaluate(self.rules, self.run, self._memory)
        stopped_for = self.run.fact("stopped_for")
        root, ordered = attribute(findings, self.rules.by_id(), None if stopped_for is None else str(stopped_for))
        run = summary(self.run)
        return Diagnosis(
            run=run,
            verdict=verdict(ordered, self._judged() and not run.exit),
            root_cause=root,
            findings=ordered,
            outcomes=tuple(outcomes),
        )

    def _judged(self) -> bool:
        """True when the input held something whose health can be told."""
        run = self.run
        return bool(
            any(name.partition("@")[0] in ("loss", "train_loss", "eval_loss") for name in run.series)
            or run.configs
            or any(
                sample.state is None for sample in run.gpus
            )  # a table in a log; live GPUs alone say nothing of the run
            or _JUDGED & run.facts.keys()
            or run.fact("exit_code") == 0
        )

    def _changed(self, item: Input, change: str, detail: str = "") -> None:
        self.run.apply(SourceChanged(Origin(item.name, order=next(self.orders)), change, detail))


def _year(item: Input) -> int | None:
    """Year of the file's last change, for log stamps that have none."""
    try:
        return time.gmtime(os.stat(item.path).st_mtime).tm_year if item.path != "-" else None
    except OSError:
        return None


def summary(run: Run) -> RunSummary:
    """The facts every face prints."""
    metrics = {
        name: series.values[-1]
        for name, series in run.series.items()
        if len(series) and "@" not in name and "/" not in name
    }
    steps = [s for series in run.series.values() for s in series.steps[:1] if s == s]
    code = run.number("exit_code")
    if code is None and run.exits:
        code = next((float(e.code) for e in run.exits if e.code), 0.0)
    return RunSummary(
        stage=run.stage,
        world_size=run.world_size,
        first_step=min(steps) if steps else None,
        last_step=run.last_step,
        total_steps=run.total_steps,
        last_metrics=metrics,
        exit=None if code is None else int(code),
        finished=bool(run.fact("finished") or run.fact("saved")),
        saved=True if run.fact("saved") else None,
        sources=tuple(run.paths),
        skipped=tuple(run.skipped),
    )


def check(paths: Iterable[str], rules: RuleSet) -> Diagnosis:
    """Diagnose a run from its files.

    Raises:
        InputError: nothing given, or a path that cannot be read.
    """
    given = list(paths)
    if not given:
        raise InputError("nothing to read", "", "give a log file, several, or the run's output folder")
    session = Session(rules)
    session.read(given)
    return session.diagnose()


def events_of(item: Input, session: Session) -> Iterator[Event]:
    """Events of one log, for tests and tools."""
    router = session.router(item)
    for chunk in chunks(item):
        yield from router.feed(chunk)
    yield from router.finish()
