"""A second attempt of a run that failed, with the root cause's own change: `ftdoctor launch --retry-with-fix`.

Only a change that its rule marks `safe_to_retry` is made, and only whole: a micro batch that is halved without the
accumulation doubled would train something else. The change goes into a copy of the YAML in the first attempt's run
folder; the user's file stays. Where the failed attempt left a checkpoint the second one resumes from it; checkpoints of
earlier runs in the same output folder are none of its own and are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ftdoctor.applyfix import Change, carry_out, load_yaml, plan_change, read_text
from ftdoctor.errors import FtdoctorError
from ftdoctor.findings import Diagnosis
from ftdoctor.launch.checkpoints import last_checkpoint
from ftdoctor.launch.plan import Plan

CONFIG = "retry.yml"
RESUME = "resume_from_checkpoint"


class NoRetry(Exception):
    """There is nothing to restart the run with; the text says why."""


@dataclass(frozen=True, slots=True)
class Retry:
    """What the second attempt is: its configuration, why, and the checkpoint it goes on from (None: from the start)."""

    config: Path
    finding: str
    change: Change
    checkpoint: Path | None
    arguments: tuple[str, ...]

    def told(self, first: Path, original: Path) -> list[str]:
        """Plain lines for the reader. `first`: folder of the first attempt; `original`: the user's YAML."""
        start = f"resumes from {self.checkpoint}" if self.checkpoint else "no checkpoint was left: starts anew"
        return [
            f"second attempt because of {self.finding}: {self.change.fix.title}",
            *(f"  {text}" for text in self.change.made),
            f"  {start}",
            f"  the changed copy is {self.config}; {original} is as it was; the first attempt is in {first}",
        ]


def prepare(
    plan: Plan, diagnosis: Diagnosis, deepspeed: Path | None, started: float, arguments: Sequence[str] = ()
) -> Retry:
    """Write the configuration of the second attempt into the run folder of the first.

    Args:
        plan: the attempt that failed.
        diagnosis: what it died of.
        deepspeed: where its DeepSpeed configuration was read, if anywhere.
        started: when it began, seconds since 1970; older checkpoints are not its own.
        arguments: the trainer arguments of the user; those that would override the change are left out.

    Raises:
        NoRetry: no root cause, or none of its changes is safe and can be made whole.
        FtdoctorError: the copy cannot be written.
    """
    root = diagnosis.root_cause
    if root is None or root.severity != "error":
        raise NoRetry("no cause was found")
    if plan.config is None:
        raise NoRetry("the run has no Axolotl YAML to change")
    text = read_text(plan.config)
    data = load_yaml(text, plan.config)
    reasons: list[str] = []
    for fix in root.fixes:
        if not (fix.safe_to_retry and fix.config_patch):
            continue
        change, patch, json_patch = plan_change(fix, data, plan.config, deepspeed)
        if not change.whole or not (patch or json_patch):
            reasons += change.not_made
            continue
        checkpoint = last_checkpoint(plan.cwd / plan.output_dir, started) if plan.output_dir else None
        if checkpoint is not None:
            patch[(RESUME,)] = str(checkpoint)
            change.made.append(f"{RESUME}: {checkpoint}")
        names = {str(path[0]) for path in patch}
        out = plan.folder / CONFIG
        carry_out(change, patch, json_patch, text, data, plan.config, deepspeed, out)
        return Retry(out, root.id, change, checkpoint, tuple(without_options(arguments, names)))
    if reasons:
        raise NoRetry(f"the change for {root.id} cannot be made whole: {'; '.join(reasons)}")
    raise NoRetry(f"{root.id} has no fix that is safe to make unasked; see the report")


def without_options(arguments: Sequence[str], names: set[str]) -> list[str]:
    """Trainer arguments without those that set one of `names`: `--name=value`, `--name value`."""
    kept: list[str] = []
    given = iter(arguments)
    for item in given:
        name, equals, _ = item.partition("=")
        if name.startswith("--") and name[2:].replace("-", "_") in names:
            if not equals:
                next(given, None)
            continue
        kept.append(item)
    return kept


def folder_of(first: Path) -> Path:
    """A run folder for the second attempt beside the first: `NAME-retry`, `NAME-retry-2`, ..."""
    wanted, number = first.with_name(f"{first.name}-retry"), 1
    while wanted.exists():
        number += 1
        wanted = first.with_name(f"{first.name}-retry-{number}")
    return wanted


def note_in_first(plan: Plan, lines: Sequence[str], second: Path) -> None:
    """Say in the first attempt's report and exit.json where the run went on.

    Raises:
        FtdoctorError: the disk refuses.
    """
    from ftdoctor.launch import keeping

    report, ending = plan.folder / "report.txt", plan.folder / "exit.json"
    try:
        told = "\n".join([*lines, f"  the second attempt is in {second}"])
        before = report.read_text(encoding="utf-8") if report.is_file() else ""
        keeping.write(report, f"{before.rstrip()}\n\n{told}\n")
        if ending.is_file():
            keeping.write(ending, {**json.loads(ending.read_text(encoding="utf-8")), "retried_in": str(second)})
    except (OSError, ValueError) as error:
        raise FtdoctorError(f"the second attempt could not be noted: {error}", str(plan.folder), "free space") from None
