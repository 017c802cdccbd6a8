"""Errors that a user can act on: what was seen, where, and one thing to do.

FtdoctorError            exit code 2, printed without a traceback
+-- UsageError           the command line does not make sense
+-- InputError           a file cannot be read or holds nothing we know
+-- RuleError            one or more rules are broken (all of them, each with file:line)
"""

from __future__ import annotations


class FtdoctorError(Exception):
    """Base of all errors shown to the user; `where` is a path or option, `remedy` one thing to do."""

    def __init__(self, seen: str, where: str = "", remedy: str = "") -> None:
        super().__init__(seen)
        self.seen = seen
        self.where = where
        self.remedy = remedy


class UsageError(FtdoctorError):
    """The command line does not make sense."""


class InputError(FtdoctorError):
    """A file cannot be read, or holds nothing ftdoctor knows."""


class RuleError(FtdoctorError):
    """Rules are broken; `problems` are lines of the form `path:line: text`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(f"{len(problems)} problem(s) in rules", "", "run `ftdoctor rules lint` for the list")
        self.problems = problems
