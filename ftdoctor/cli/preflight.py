"""`ftdoctor preflight`: find it before the GPUs are paid for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftdoctor.cli.outcome import Outcome
    from ftdoctor.detectors.base import DetectorSpec
    from ftdoctor.findings import Diagnosis, Finding
    from ftdoctor.preflight.checks import CheckResult
    from ftdoctor.preflight.machines import Machine
    from ftdoctor.ruleset.types import FixSpec
    from ftdoctor.session import Session

EPILOG = """\
examples:
  ftdoctor preflight config.yml                               everything that can be told here
  ftdoctor preflight config.yml --only config                 the YAML and its DeepSpeed file alone, under a second
  ftdoctor preflight config.yml --assume 8xA100-80GB          judge for a machine that is not this one
  ftdoctor preflight config.yml --fix mended.yml              write the mended copy, comments kept

exit codes: 0 nothing at or above --fail-on, 1 findings, 2 usage or unreadable input
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor preflight",
        description="Judge machine, configuration, data and memory of a fine-tune before it is started.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("config", metavar="CONFIG.yml", help="the Axolotl YAML")
    add("--only", metavar="PART[,PART]", help="parts to judge: environment, config, data, memory (default: all)")
    add("--assume", metavar="GPUS", help="the machine to judge for, for example 8xA100-80GB or 2x24GB")
    add("--python", metavar="PATH", help="python of the training environment (default: found by itself)")
    add(
        "--no-validate",
        action="store_true",
        help="leave Axolotl's own validation out (its import takes 4 s, with a plugin 17 s)",
    )
    add("--offline", action="store_true", help="do not ask the Hugging Face Hub")
    add("--fix", metavar="OUT.yml", help="write a copy of the YAML with the changes a machine can make, comments kept")
    add("--format", choices=("text", "json", "sarif", "markdown"), default="text", help="default: text")
    add("--fail-on", choices=("error", "warning", "info", "never"), default="error",
        help="lowest severity that makes exit code 1 (default: error)")  # fmt: skip
    add("--rules", action="append", default=[], metavar="DIR", help="a folder of further rules; may be given again")
    add("--redact", action=argparse.BooleanOptionalAction, default=True, help="take tokens out of the report")
    add("--color", choices=("auto", "always", "never"), default="auto", help="default: auto")
    add("--ascii", action="store_true", help="plain ASCII output")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb; see EPILOG for the exit codes."""
    return run(build_parser().parse_args(argv)).code


def run(options: argparse.Namespace) -> Outcome:
    """Judge and print."""
    from ftdoctor.cli.outcome import Outcome
    from ftdoctor.faces.redact import redacted

    parts = _parts(options.only)
    config = _config(options)
    session = _session(config, options)
    machine, results = _look(session, config, parts, options)
    diagnosis = _kept(session, parts)
    shown = redacted(diagnosis) if options.redact else diagnosis
    from ftdoctor.cli.check import _write, render

    if options.format == "text":
        _write(_text(shown, session, config, machine, results, parts, options))
    else:
        options.no_fix = options.verbose = False
        _write(render(shown, options, session))
    if options.fix:
        from ftdoctor.mend import mend
        from ftdoctor.upstream.schema import axolotl_schema

        schema = axolotl_schema(str(session.run.fact("axolotl.schema") or ""))
        mended = mend(diagnosis.findings, config, Path(options.fix), schema)
        print("\n" + mended.report(), file=sys.stdout if options.format == "text" else sys.stderr)
    from ftdoctor.findings import SEVERITIES

    limit = -1 if options.fail_on == "never" else SEVERITIES.index(options.fail_on)
    return Outcome(int(any(SEVERITIES.index(f.severity) <= limit for f in diagnosis.findings)), diagnosis)


def _parts(only: str | None) -> tuple[str, ...]:
    from ftdoctor.errors import UsageError
    from ftdoctor.preflight.checks import SECTIONS

    if only is None:
        return SECTIONS
    wanted = [part.strip() for part in only.split(",") if part.strip()]
    unknown = [part for part in wanted if part not in SECTIONS]
    if unknown or not wanted:
        raise UsageError(f"no such part: {', '.join(unknown) or only!r}", "--only", f"choose of {', '.join(SECTIONS)}")
    return tuple(part for part in SECTIONS if part in wanted)


def _config(options: argparse.Namespace) -> Path:
    from ftdoctor.errors import InputError

    path = Path(options.config)
    if not path.is_file():
        seen = "is a folder" if path.is_dir() else "no such file"
        raise InputError(seen, options.config, "give the Axolotl YAML of the run")
    if options.fix:
        from ftdoctor.applyfix import refuse_existing

        refuse_existing(Path(options.fix), "--fix")
    return path


def _session(config: Path, options: argparse.Namespace) -> Session:
    """A session in which every detector of a rule speaks for itself: all problems are named, not one per rule."""
    from dataclasses import replace

    from ftdoctor.errors import InputError
    from ftdoctor.ruleset.load import load
    from ftdoctor.ruleset.types import RuleSet
    from ftdoctor.session import Session
    from ftdoctor.sources.files import Input

    rules = load([Path(p) for p in options.rules])
    single = [
        replace(rule, detect=(spec,), fixes=tuple(f for f in rule.fixes if _fits(f, spec)))
        for rule in rules.rules
        for spec in rule.detect
        if spec.kind != "log_signature"
    ]
    session = Session(RuleSet(tuple(single), rules.patterns))
    session.read_input(Input(str(config), "yaml"))
    if session.run.skipped:
        raise InputError(session.run.skipped[0].partition(": ")[2] or "not an Axolotl YAML", str(config),
                         "give the Axolotl YAML of the run")  # fmt: skip
    return session


def _fits(fix: FixSpec, spec: DetectorSpec) -> bool:
    """A remedy that names its conditions belongs to the detector that tests the same keys.

    A detector of facts alone (the memory estimate) takes every remedy whose conditions are about the configuration.
    """
    wanted = {str(test["key"]) for test in fix.only_if}
    about = {bare_key(key) for key in wanted} - {"preflight", "base_model"}
    keys = {str(test["key"]) for group in ("all", "any", "none") for test in spec.options.get(group, ())}
    facts_only = all(key.startswith("fact.") for key in keys)
    if facts_only and not any(key.startswith("fact.") for key in wanted):
        return True
    return not about or bool(about & {bare_key(key) for key in keys})


def bare_key(key: str) -> str:
    """The key without its scope, so that `yaml.x` and `axolotl.x` are one."""
    scope, _, rest = key.partition(".")
    return key if scope == "unknown" else rest


def _look(
    session: Session, config: Path, parts: tuple[str, ...], options: argparse.Namespace
) -> tuple[Machine | None, list[CheckResult]]:
    from ftdoctor.events import FactLearned, Origin
    from ftdoctor.preflight import checks, plan, suite
    from ftdoctor.preflight.machines import assume

    machine = assume(options.assume) if options.assume else None
    view = session.run.configs.get("axolotl")
    data = dict(view.data) if view is not None else {}
    planned = suite.Plan(config, data, machine, options.python, options.offline, not options.no_validate)
    say = _progress()
    results = checks.run_checks(suite.checks(planned, parts), say)
    zero = session.run.configs.get("deepspeed")
    results += checks.run_checks(suite.late(planned, parts, zero.data if zero else None), say)
    if say is not None:
        sys.stderr.write("\r\x1b[K")
    session.apply(checks.events(results, session.next_order))
    machine = machine or planned.found
    if view is not None:
        for name, value, key in plan.facts(data, config.parent, machine.count if machine else None):
            origin = Origin(str(config), view.line(key) if key else 0, order=session.next_order())
            session.apply([FactLearned(origin, name, value)])
    if machine is not None:
        session.state("world_size", machine.count, "the machine")
        if machine.bf16 is not None:
            session.state("gpu.bf16", machine.bf16, machine.name)
    return machine, results


def _progress() -> Callable[[CheckResult], None] | None:
    """Say on a terminal which checks are done; nothing elsewhere."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    done: list[str] = []

    def say(result: CheckResult) -> None:
        done.append(result.name)
        sys.stderr.write(f"\r\x1b[Kchecked: {' '.join(done)}"[:100])
        sys.stderr.flush()

    return say


def _kept(session: Session, parts: tuple[str, ...]) -> Diagnosis:
    """The diagnosis with the findings of the wanted parts only."""
    from dataclasses import replace

    from ftdoctor.diagnosis.attribution import attribute, verdict

    whole = session.diagnose()
    findings = _without_repeats([f for f in whole.findings if section_of(f, session) in parts])
    root, ordered = attribute([replace(f, explained_by=None) for f in findings], session.rules.by_id())
    return replace(whole, findings=ordered, root_cause=root, verdict=verdict(ordered, True))


def _without_repeats(findings: list[Finding]) -> list[Finding]:
    """Without notes on lines of which the same rule says something graver."""

    def places(finding: Finding) -> set[tuple[str, int]]:
        return {(e.path, e.line_first) for e in finding.evidence}

    grave = [f for f in findings if f.severity != "info"]
    return [
        f for f in findings if f.severity != "info" or not any(g.id == f.id and places(g) & places(f) for g in grave)
    ]


def section_of(finding: Finding, session: Session) -> str:
    """The part of the report a finding belongs to."""
    first = finding.evidence[0].path.partition(":")[0] if finding.evidence else ""
    if first in ("environment", "data", "memory"):
        return first
    if any(e.kind == "fact" and e.excerpt.startswith(("data.", "prepared.", "parity.")) for e in finding.evidence):
        return "data"
    folder = Path(session.rules.by_id()[finding.id].path).parts
    return next((part for part in ("environment", "data") if part in folder), "config")


def _text(
    shown: Diagnosis, session: Session, config: Path, machine: Machine | None, results: list[CheckResult],
    parts: tuple[str, ...], options: argparse.Namespace,
) -> str:  # fmt: skip
    from ftdoctor.faces import page, preflight, terminal
    from ftdoctor.findings import SEVERITIES

    batch = session.run.fact("plan.effective_batch")
    about = [str(config)]
    if machine is not None:
        about.append(f"{machine.count} x {machine.name}{' (assumed)' if machine.assumed else ''}")
    if batch is not None:
        about.append(f"effective batch {batch}")
    sections = {}
    for part in parts:
        lines = [(r.state, r.name, r.summary, r.remedy) for r in results if r.section == part]
        found = [f for f in shown.findings if section_of(f, session) == part]
        found.sort(key=lambda f: (SEVERITIES.index(f.severity), f.evidence[0].line_first if f.evidence else 0))
        if part == "data" and not lines and not found:
            lines = [("absent", "rows", "not judged here: give the log of `axolotl preprocess` to ftdoctor check", "")]
        sections[part] = (lines, found)
    return preflight.render(
        ", ".join(about),
        sections,
        page.Options(
            width=terminal.width(),
            color=terminal.use_color(sys.stdout, options.color),
            unicode=not options.ascii and terminal.use_unicode(sys.stdout, page.GLYPHS),
        ),
    )
