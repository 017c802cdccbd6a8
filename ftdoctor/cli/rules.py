"""`ftdoctor rules`: list, explain, lint and test the rules."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

EPILOG = """\
examples:
  ftdoctor rules list
  ftdoctor rules explain cuda-oom
  ftdoctor rules lint --rules my-rules
  ftdoctor rules test cuda-oom nccl-timeout
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor rules", description="Look at the rules, check them and run their cases.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("action", choices=("list", "explain", "lint", "test"))
    parser.add_argument("ids", nargs="*", metavar="ID", help="failure modes (default: all)")
    parser.add_argument(
        "--rules", action="append", default=[], metavar="DIR", help="a folder of further rules; may be given again"
    )
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = build_parser().parse_args(argv)
    folders = [Path(p) for p in options.rules]
    if options.action == "test":
        return _test(folders, options.ids)
    if options.action == "lint":
        return _lint(folders)
    if options.action == "list":
        return _list(folders)
    return _explain(folders, options.ids)


def _lint(folders: list[Path]) -> int:
    from ftdoctor.rulecheck.lint import lint
    from ftdoctor.ruleset.load import rule_files, shipped_dir

    places = folders or [shipped_dir()]
    problems = [problem for folder in places for problem in lint(folder)]
    for problem in problems:
        print(problem)
    count = sum(len(rule_files(folder)) for folder in places)
    print(f"{count} rules, {len(problems)} problem{'s' if len(problems) != 1 else ''}")
    return 1 if problems or not count else 0


def _list(folders: list[Path]) -> int:
    from ftdoctor.ruleset.load import load

    rules = load(folders).rules
    width = max(len(rule.id) for rule in rules)
    for rule in rules:
        print(f"{rule.id:{width}}  {rule.severity:7}  {rule.title}")
    return 0


def _explain(folders: list[Path], ids: list[str]) -> int:
    from ftdoctor.errors import UsageError
    from ftdoctor.rulecheck.docs import page
    from ftdoctor.ruleset.load import raw_rules

    known = {entry["id"]: entry for entry in raw_rules(folders)}
    if not ids:
        raise UsageError("which rule?", "ftdoctor rules explain", "give an ID of `ftdoctor rules list`")
    for rule_id in ids:
        if rule_id not in known:
            import difflib

            near = difflib.get_close_matches(rule_id, known, 1)
            raise UsageError(
                f"no rule `{rule_id}`", "", f"did you mean `{near[0]}`?" if near else "see `ftdoctor rules list`"
            )
        print(page(known[rule_id]))
    return 0


def _test(folders: list[Path], ids: list[str]) -> int:
    from ftdoctor.rulecheck.cases import run_rule
    from ftdoctor.ruleset.load import load, rule_files, shipped_dir

    rules = load(folders)
    passed = failed = 0
    for folder in folders or [shipped_dir()]:
        for path in rule_files(folder):
            if ids and path.parent.name not in ids:
                continue
            for result in run_rule(path.parent, rules):
                passed += not result.problems
                failed += bool(result.problems)
                for problem in result.problems:
                    print(f"FAILED {result.rule}: {result.case}: {problem}")
    print(f"{passed} passed, {failed} failed")
    sys.stdout.flush()
    return 1 if failed or not passed else 0
