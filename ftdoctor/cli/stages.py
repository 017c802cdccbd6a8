"""The stages of `ftdoctor pipeline`: each calls the function of the verb that a person would type."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftdoctor.cli.outcome import Outcome
from ftdoctor.errors import FtdoctorError, InputError
from ftdoctor.pipeline import report, vram
from ftdoctor.pipeline.state import STAGES, Record, digest, read, stamp

if TYPE_CHECKING:
    from ftdoctor.faces.curves import Curve
    from ftdoctor.findings import Diagnosis
    from ftdoctor.launch.runner import Launch

_ANSWERS = re.compile(r"\d+ of \d+ answers are healthy")
# a checkpoint of a run that went wrong in its numbers is not worth going on from
_NUMERIC = ("loss-", "grad-")
_DATA = ("datasets", "test_datasets", "pretraining_dataset")


@dataclass(slots=True)
class Done:
    """What a stage came to; `absent` says why there was nothing to do."""

    outcome: Outcome
    told: str = ""
    outputs: list[Path] = field(default_factory=list)
    absent: bool = False


class Pipeline:
    """One configuration and what has been done for it."""

    def __init__(self, options: argparse.Namespace, rest: Sequence[str]) -> None:
        """Read configuration and state.

        Raises:
            InputError: one of them cannot be read.
        """
        from ftdoctor.launch.plan import read_config

        self.options, self.rest = options, list(rest)
        self.config = Path(options.config)
        self.data = read_config(self.config)
        self.output = Path(str(self.data.get("output_dir") or "model-out"))
        name = options.name or f"{self.config.stem}-pipeline"
        self.state = read(Path(options.runs) / name, str(self.config.resolve()))
        self.ran: list[str] = []
        self._now: Record | None = None

    # -- which ---------------------------------------------------------------------------------------------------

    def plan(self) -> Iterator[tuple[str, str]]:
        """Each stage and what will become of it."""
        changed = False
        for stage in STAGES:
            if stage in self.options.skip:
                yield stage, "left out, as asked"
            elif self._before_start(stage):
                yield stage, f"left out: --from {self.options.start}"
            elif not changed and not self._forced(stage) and self.state.is_done(stage, self.inputs(stage)):
                yield stage, "done before, inputs unchanged"
            else:
                changed = True  # what comes later depends on what this stage will make
                yield stage, "will be done"

    def _before_start(self, stage: str) -> bool:
        return self.options.start is not None and STAGES.index(stage) < STAGES.index(self.options.start)

    def _forced(self, stage: str) -> bool:
        return self.options.start is not None and not self._before_start(stage)

    def inputs(self, stage: str) -> str:
        """Digest of what a stage is made from."""
        from ftdoctor.preflight.plan import find

        given = self.options
        values: dict[str, Any] = {"python": given.python}
        if stage == "vram":
            record = self.state.records.get("train")
            return digest([], {"run": record.folder if record else ""})
        named = [self.data.get(key) for key in ("deepspeed", "base_model", "chat_template_jinja")]
        for key in _DATA:
            listed = self.data.get(key)
            for item in listed if isinstance(listed, list) else [listed]:
                named += [item.get("path"), item.get("data_files")] if isinstance(item, dict) else [item]
        paths = [self.config]
        for name in named:
            if isinstance(name, str) and name and "\n" not in name:
                paths += [found] if (found := find(name, self.config.parent)) is not None else []
        if stage in ("preflight", "train"):
            values |= {"gpus": given.gpus, "processes": given.processes, "assume": given.assume}
        if stage == "train":
            values |= {"launcher": given.launcher, "arguments": self.rest}
        elif stage == "merge":
            paths += self._weights()
        elif stage == "evaluate":
            paths += [self._model(), *([Path(given.prompts)] if given.prompts else [])]
            values |= {"held_out": given.held_out, "tokens": given.max_new_tokens}
        return digest(paths, values)

    def _weights(self) -> list[Path]:
        """What the training left."""
        names = (
            ("adapter_config.json", "adapter_model.*")
            if self.data.get("adapter")
            else ("config.json", "model*.safetensors")
        )
        return sorted(path for name in names for path in self.output.glob(name))

    def _model(self) -> Path:
        return self.output / "merged" if self.data.get("adapter") else self.output

    # -- doing ---------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Every stage that is due, up to the first that fails; the exit code of the verb."""
        for number, stage in enumerate(STAGES, 1):
            if stage in self.options.skip:
                self.state.put(stage, Record(status="skipped"))
                continue
            if self._before_start(stage):
                continue
            inputs = self.inputs(stage)
            head = f"[{number}/{len(STAGES)}] {stage}"
            if not self._forced(stage) and self.state.is_done(stage, inputs):
                self.say(f"{head}: done before, its inputs are unchanged")
                continue
            self.say(f"{head} ...")
            code = self._one(stage, inputs)
            record = self.state.records[stage]
            self.say(
                f"{head}: {'FAILED' if code else 'ok'} in {record.seconds:.0f} s{': ' * bool(record.told)}{record.told}"
            )
            if code:
                return code
        return 0

    def _one(self, stage: str, inputs: str) -> int:
        """One stage: done, judged, noted. What later stages were is forgotten when it fails."""
        previous = self.state.records.get(stage)
        record = self._now = self.state.begin(stage, inputs)
        self.ran.append(stage)
        began = time.monotonic()
        code = 2
        try:
            done = self._train(record, previous) if stage == "train" else getattr(self, f"_{stage}")()
            code = done.outcome.code
            record.status = "failed" if code else "absent" if done.absent else "done"
            record.told = done.told
            record.outputs = {str(path): stamp(path) for path in done.outputs}
            if done.outcome.diagnosis is not None:
                self._keep(stage, record, done.outcome.diagnosis)
        except FtdoctorError as error:
            record.status = "failed"
            record.told = f"{error.where + ': ' if error.where else ''}{error}"
            raise
        finally:
            record.code, record.seconds = code, time.monotonic() - began
            if record.status == "failed":
                for later in STAGES[STAGES.index(stage) + 1 :]:
                    self.state.records.pop(later, None)
            self.state.put(stage, record)
        return 0 if not code else 3 if code == 3 else 1

    def _keep(self, stage: str, record: Record, diagnosis: Diagnosis) -> None:
        from ftdoctor.faces.redact import redacted

        record.root = diagnosis.root_cause.id if diagnosis.root_cause else None
        try:
            report.keep(self.state.folder, stage, redacted(diagnosis))
        except OSError as error:
            self.say(f"{stage}.json could not be kept: {error.strerror}")

    def _captured(self, stage: str, verb: Any, options: argparse.Namespace) -> tuple[Outcome, str]:
        """The verb with its report in a file of the folder instead of on the screen."""
        from ftdoctor.launch import keeping

        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                outcome: Outcome = verb(options)
        finally:
            with contextlib.suppress(OSError):
                keeping.write(self.state.folder / f"{stage}.txt", printed.getvalue())
        return outcome, printed.getvalue()

    def _python(self) -> list[str]:
        return ["--python", self.options.python] if self.options.python else []

    def _preflight(self) -> Done:
        from ftdoctor.cli import preflight

        flags = [f"--{name}" for name in ("offline", "no-validate") if getattr(self.options, name.replace("-", "_"))]
        flags += ["--assume", self.options.assume] if self.options.assume else []
        options = preflight.build_parser().parse_args(
            [str(self.config), *self._python(), *flags, "--fail-on", self.options.fail_on]
        )
        outcome, _ = self._captured("preflight", preflight.run, options)
        return Done(outcome, counted(outcome.diagnosis))

    def _preprocess(self) -> Done:
        from ftdoctor.cli import preprocess
        from ftdoctor.preflight.data import contract

        options = preprocess.build_parser().parse_args(
            [str(self.config), *self._python(), "--fail-on", self.options.fail_on]
        )
        outcome, _ = self._captured("preprocess", preprocess.run, options)
        made = [] if outcome.code else [contract.newest(self.data, self.config.parent)[0]]
        return Done(outcome, counted(outcome.diagnosis), made)

    def _train(self, record: Record, previous: Record | None) -> Done:
        from ftdoctor.cli import launch
        from ftdoctor.launch.forensics import Forensics
        from ftdoctor.launch.policy import read_policy
        from ftdoctor.launch.runner import Launch, Settings
        from ftdoctor.ruleset.load import load

        if previous is not None and previous.status == "running":
            refuse_while_running(Path(previous.folder))
        rest = [*self.rest, *self._resumed(record, previous)]
        folder = numbered(self.state.folder)
        plan = launch.make_plan(self.options, rest, folder=folder)
        record.folder = str(folder)
        self.state.put("train", record)
        rules = load()
        settings = Settings(gpus=not self.options.no_gpu, fail_on=self.options.fail_on)
        policy = read_policy(self.options.on_finding, rules.by_id())
        first = Launch(plan, rules, policy, settings, witnesses=[Forensics(), vram.VramWitness()])
        with handlers_kept():
            code, last = launch.attempts(first, self.options, rest)
        return self._trained(record, code, last)

    def _trained(self, record: Record, code: int, last: Launch) -> Done:
        record.folder = str(last.plan.folder)
        ended = last.ended
        if ended is None:
            return Done(Outcome(code))
        record.signalled = ended.signalled
        run, made = ended.diagnosis.run, self._weights()
        parts = [f"step {run.last_step:.0f}"] if run.last_step is not None else []
        if (loss := run.last_metrics.get("loss")) is not None:
            parts.append(f"loss {loss:.4g}")
        if ended.signalled:
            parts.append("ended by a signal; the next call goes on from its last checkpoint")
            code = code or 1
        elif not made:
            parts.append(f"no weights in {self.output}")
            code = code or 1
        elif not code:
            parts.append(f"saved to {self.output}")
        if code and ended.diagnosis.root_cause is not None:
            parts.append(ended.diagnosis.root_cause.id)
        return Done(Outcome(1 if code else 0, ended.diagnosis), ", ".join(parts), [] if code else made)

    def _resumed(self, record: Record, previous: Record | None) -> list[str]:
        """The trainer's argument that goes on from the last checkpoint of an attempt that was cut off."""
        from ftdoctor.launch.checkpoints import last_checkpoint
        from ftdoctor.retry import RESUME

        if previous is None or previous.status not in ("failed", "running") or previous.inputs != record.inputs:
            return []
        mine = any(RESUME in item for item in self.rest) or self.data.get(RESUME)
        if mine or self._forced("train") or str(previous.root or "").startswith(_NUMERIC):
            return []
        record.started = previous.started  # checkpoints of every attempt since then are this training's own
        checkpoint = last_checkpoint(self.output.absolute(), previous.started)
        if checkpoint is None:
            return []
        self.say(f"goes on from {checkpoint}")
        return [f"--{RESUME}={checkpoint}"]

    def _vram(self) -> Done:
        from ftdoctor.findings import SEVERITIES

        train = self.state.records.get("train")
        if train is None or not train.folder:
            return Done(Outcome(0), "not checked: no training of this pipeline", absent=True)
        told, findings = vram.judged(Path(train.folder), report.kept(self.state.folder, "train"))
        bad = self.options.fail_on != "never" and any(
            SEVERITIES.index(f.severity) <= SEVERITIES.index(self.options.fail_on) for f in findings
        )
        return Done(Outcome(int(bad)), told, absent=told == vram.NOT_SEEN)

    def _merge(self) -> Done:
        from ftdoctor.cli import merge

        if not self.data.get("adapter"):
            return Done(Outcome(0), "a full fine-tune: nothing to merge", absent=True)
        flags = ["--no-logits"] if self.options.no_logits else []
        options = merge.build_parser().parse_args([str(self.config), "--mend", "--replace", *flags, *self._python()])
        with handlers_kept():
            outcome, _ = self._captured("merge", merge.merge, options)
        root = outcome.diagnosis.root_cause if outcome.diagnosis else None
        told = "proven" if not outcome.code else root.id if root else f"exit code {outcome.code}"
        return Done(outcome, f"{told}: {self._model()}", [] if outcome.code else [self._model()])

    def _evaluate(self) -> Done:
        from ftdoctor.cli import evaluate

        given = ["--model", str(self._model()), "--config", str(self.config), *self._python()]
        given += ["--max-new-tokens", str(self.options.max_new_tokens)]
        for name in ("prompts", "held_out"):
            if (value := getattr(self.options, name)) is not None:
                given += [f"--{name.replace('_', '-')}", str(value)]
        out = self.state.folder / "evaluation.jsonl"
        options = evaluate.build_parser().parse_args([*given, "--out", str(out), "--format", "text"])
        outcome, printed = self._captured("evaluate", evaluate.judge_models, options)
        told = (_ANSWERS.findall(printed) or ["no answer"])[-1]
        return Done(outcome, f"{told}; {out.with_suffix('.html')}")

    # -- telling -------------------------------------------------------------------------------------------------

    def diagnosis(self) -> tuple[Diagnosis, list[Curve]]:
        """All stages in one, and the curves of the training."""
        from ftdoctor.faces.curves import Curves
        from ftdoctor.faces.redact import redacted
        from ftdoctor.findings import RunSummary
        from ftdoctor.ruleset.load import load
        from ftdoctor.session import Session

        train = self.state.records.get("train")
        run, curves = RunSummary(sources=(str(self.config),)), []
        if train is not None and train.folder and Path(train.folder).is_dir():
            rules = load()
            session = Session(rules)
            with contextlib.suppress(InputError):
                session.read([train.folder])
                run, curves = session.diagnose().run, list(Curves(rules).of(session.run))
        whole = report.whole(self.state, replace(run, sources=run.sources or (str(self.config),)))
        return redacted(whole), curves

    def say(self, text: str) -> None:
        """A line of ours, to standard error."""
        with contextlib.suppress(OSError, ValueError):
            print(f"ftdoctor: {text}", file=sys.stderr, flush=True)


def counted(diagnosis: Diagnosis | None) -> str:
    """`1 error, 2 warnings: cuda-oom`."""
    if diagnosis is None:
        return ""
    numbers = [(word, sum(f.severity == word for f in diagnosis.findings)) for word in ("error", "warning")]
    found = ", ".join(f"{n} {word}{'s' if n > 1 else ''}" for word, n in numbers if n)
    root = f": {diagnosis.root_cause.id}" if diagnosis.root_cause else ""
    return f"{found}{root}" if found else "nothing found"


def numbered(folder: Path) -> Path:
    """A run folder for one more attempt: train-1, train-2, ..."""
    number = 1
    while (place := folder / f"train-{number}").exists():
        number += 1
    return place


def refuse_while_running(folder: Path) -> None:
    """A trainer outlives ftdoctor; a second one in the same output folder would spoil both.

    Raises:
        InputError: processes of the run in `folder` are still there.
    """
    from ftdoctor.launch.child import marked
    from ftdoctor.launch.plan import MARK

    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        run_id = json.loads((folder / "run.json").read_text(encoding="utf-8"))["added"][MARK]
        if left := marked(str(run_id)):
            raise InputError(
                f"is still training (process {left[0]})", str(folder),
                f"let it end (ftdoctor watch {folder}), or end it and call again",
            )  # fmt: skip


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """What a stage does to signals ends with it."""
    from ftdoctor.launch.runner import SIGNALS

    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
