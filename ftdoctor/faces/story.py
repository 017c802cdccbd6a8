"""What text and markdown both tell, in words: where a failure was, what it led to, what the run did, what could not be
judged.
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Iterable

from ftdoctor.diagnosis.fixes import in_words
from ftdoctor.faces.json_face import finite
from ftdoctor.findings import Diagnosis, Evidence, Finding, RuleOutcome, RunSummary

_NUMBERS = re.compile(r"[0-9a-f]*\d[0-9a-f]*(?:\.\d+)?")
HEADLINES = {"healthy": "No failure found in what was read", "unknown": "Nothing here that can be judged"}
STAGES = {
    "environment": "environment", "config": "configuration", "preprocess": "preprocessing", "load": "loading",
    "train": "training", "eval": "evaluation", "save": "saving", "merge": "merging", "infer": "inference",
}  # fmt: skip
ADVICE = (
    "the trainer's own output: stdout and stderr of every rank",
    "or the run's output folder: logs, trainer_state.json, config",
    "or the Axolotl YAML alone",
)


def root_of(diagnosis: Diagnosis) -> Finding | None:
    """The finding to open with."""
    if diagnosis.root_cause is not None:
        return diagnosis.root_cause
    return next((f for f in diagnosis.findings if f.severity != "info"), None)


def consequences(diagnosis: Diagnosis, finding_id: str) -> list[Finding]:
    """Findings folded under this one."""
    return [f for f in diagnosis.findings if f.explained_by == finding_id and f.id != finding_id]


def others(diagnosis: Diagnosis, root: Finding | None) -> list[Finding]:
    """Findings that are neither the root cause nor a consequence of a finding that is shown."""
    shown = {f.id for f in diagnosis.findings}
    rest = (f for f in diagnosis.findings if root is None or f.id != root.id)
    return [f for f in rest if f.explained_by is None or f.explained_by not in shown]


def ordered(diagnosis: Diagnosis) -> list[tuple[Finding, bool]]:
    """Findings as listed, each followed by what it explains; True for those that another one explains."""
    root = root_of(diagnosis)
    rows: list[tuple[Finding, bool]] = []
    for finding in ([root] if root is not None else []) + others(diagnosis, root):
        rows.append((finding, False))
        rows += [(folded, True) for folded in consequences(diagnosis, finding.id)]
    listed = {finding.id for finding, _ in rows}
    return rows + [(f, True) for f in diagnosis.findings if f.id not in listed]


def can_apply(diagnosis: Diagnosis, finding: Finding) -> bool:
    """True when a YAML was read and a fix changes one of its keys to a known value."""
    if not any(source.endswith((".yml", ".yaml")) for source in diagnosis.run.sources):
        return False
    return any(
        key.startswith("axolotl.") and "[]" not in key and not in_words(value)
        for fix in finding.fixes[:1]
        for key, value in fix.config_patch.items()
    )


def ranges(numbers: Iterable[int]) -> str:
    """`0-3, 6` for 0 1 2 3 6."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    texts = [str(p[0]) if len(p) == 1 else f"{p[0]}, {p[1]}" if len(p) == 2 else f"{p[0]}-{p[-1]}" for p in parts]
    return ", ".join(texts[:12]) + (", ..." if len(texts) > 12 else "")


def ranks(finding: Finding) -> str:
    """`rank 3`, `ranks 0-2, 4`, or nothing."""
    known = finding.ranks or (() if finding.rank is None else (finding.rank,))
    return f"rank{'s' if len(set(known)) > 1 else ''} {ranges(known)}" if known else ""


def number(value: float) -> str:
    """A number as people write it."""
    exact = finite(value)
    return f"{exact:.4g}" if isinstance(exact, float) else str(exact)


def place(finding: Finding, run: RunSummary) -> list[str]:
    """Which rank, node, step and when; empty where nothing is known."""
    who = ranks(finding)
    if run.world_size and run.world_size > 1 and len(finding.ranks) < 2:
        who = f"{who} of {run.world_size}" if who else f"{run.world_size} ranks"
    known = [f"{who} on {finding.node}".strip() if finding.node else who]
    if finding.step is not None and finding.step == finding.step:
        known.append(f"step {number(finding.step)}" + (f" of {number(run.total_steps)}" if run.total_steps else ""))
    elif run.last_step is not None:
        known.append(
            f"last step {number(run.last_step)}" + (f" of {number(run.total_steps)}" if run.total_steps else "")
        )
    if finding.count > 1:
        known.append(f"{finding.count} times")
    if finding.time is not None:
        known.append(when(finding.time))
    return [part for part in known if part]


def when(seconds: float) -> str:
    """The stamp as the log shows it (stamps without a zone count as UTC)."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return ""


def location(evidence: Evidence) -> str:
    """`path:line`, `path` for a whole file."""
    if not evidence.path or not evidence.line_first:
        return evidence.path
    last = f"-{evidence.line_last}" if evidence.line_last > evidence.line_first else ""
    return f"{evidence.path}:{evidence.line_first}{last}"


def exit_text(code: int) -> str:
    """`-9 (SIGKILL)`; an exit code above 128 is a shell's way to say a signal."""
    number = -code if code < 0 else code - 128
    try:
        return f"{code} ({signal.Signals(number).name})"
    except ValueError:
        return str(code)


def alike(evidence: Iterable[Evidence]) -> list[list[Evidence]]:
    """Quotes of one file that differ in numbers only, together: the same message of eight ranks is read once."""
    groups: dict[tuple[str, str, str], list[Evidence]] = {}
    for item in evidence:
        shape = _NUMBERS.sub("0", item.excerpt[:4000]) if item.line_first else item.excerpt
        groups.setdefault((item.kind, item.path, shape), []).append(item)
    return list(groups.values())


def progress(run: RunSummary) -> list[tuple[str, str]]:
    """What the run was seen to do, as label and text."""
    rows: list[tuple[str, str]] = []
    parts = ["finished"] if run.finished else [STAGES.get(run.stage, run.stage)] if run.stage else []
    if run.world_size:
        parts.append(f"{run.world_size} rank{'s' if run.world_size > 1 else ''}")
    if run.last_step is not None:
        of = f" of {number(run.total_steps)}" if run.total_steps else ""
        first = (
            f"{number(run.first_step)} to " if run.first_step is not None and run.first_step != run.last_step else ""
        )
        parts.append(f"step{'s' if first else ''} {first}{number(run.last_step)}{of}")
    if parts:
        rows.append(("run", ", ".join(parts)))
    if not run.finished and run.total_steps and run.last_step is not None and run.last_step < run.total_steps:
        rows.append(("ends", "in the middle: the run still goes on, or it ended without a word"))
    metrics = run.last_metrics
    last = [
        f"{name} {number(metrics[name])}"
        for name in ("loss", "train_loss", "eval_loss", "grad_norm")
        if name in metrics
    ]
    if last:
        rows.append(("last", ", ".join(last)))
    if run.saved:
        rows.append(("saved", "yes"))
    if run.exit is not None:
        rows.append(("exit", exit_text(run.exit)))
    return rows


def not_judged(outcomes: Iterable[RuleOutcome], most: int = 4) -> str:
    """One sentence, or nothing when every rule could be judged."""
    listed = list(outcomes)
    absent = [o for o in listed if o.outcome == "not_evaluated"]
    if not absent:
        return ""
    lacking = Counter(name for outcome in absent for name in outcome.missing)
    named = [f"{name} ({count})" for name, count in lacking.most_common(most)]
    rest = "" if len(lacking) <= most else ", ..."
    return f"{len(absent)} of {len(listed)} rules" + (f", which need {', '.join(named)}{rest}" if named else "")


def crashed(outcomes: Iterable[RuleOutcome]) -> list[RuleOutcome]:
    """Rules that failed themselves: a bug of ftdoctor or of a user's rule."""
    return [o for o in outcomes if o.outcome == "crashed"]
