"""What `ftdoctor launch` does when a finding appears: stop the run, ask for a checkpoint, say so, or nothing.

A warning never stops a run, whatever was asked for: rules warn of what may pass.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ftdoctor.errors import UsageError
from ftdoctor.findings import Finding

ACTIONS = ("stop", "checkpoint", "notify", "ignore")
# these never pass by themselves, and every further step is GPU time lost
DEFAULTS = {"loss-nan": "stop", "gpu0-only": "stop", "labels-all-masked": "stop"}


@dataclass(frozen=True, slots=True)
class Policy:
    """Finding id -> action; everything not named is `notify`."""

    actions: dict[str, str] = field(default_factory=lambda: dict(DEFAULTS))

    def action(self, finding: Finding) -> str:
        """What to do about `finding` now: one of ACTIONS."""
        chosen = self.actions.get(finding.id, "notify")
        if chosen == "ignore" or finding.severity == "info":
            return "ignore"
        return "notify" if chosen == "stop" and finding.severity != "error" else chosen


def read_policy(given: Sequence[str], known: Collection[str]) -> Policy:
    """The defaults changed by `ID=ACTION` items; `known` are the ids of all rules.

    Raises:
        UsageError: not ID=ACTION, or no such finding; the nearest one is named.
    """
    actions = dict(DEFAULTS)
    for item in given:
        name, _, action = item.partition("=")
        if action not in ACTIONS:
            near = difflib.get_close_matches(action, ACTIONS, 1)
            hint = f"did you mean {name}={near[0]}?" if near else f"for example loss-nan=stop; {', '.join(ACTIONS)}"
            raise UsageError(f"`{item}` is not ID=ACTION", "--on-finding", hint)
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else "`ftdoctor rules list` names them"
            raise UsageError(f"no finding is called `{name}`", "--on-finding", hint)
        actions[name] = action
    return Policy(actions)
