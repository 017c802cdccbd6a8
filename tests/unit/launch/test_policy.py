"""What a finding leads to."""

from __future__ import annotations

import pytest

from ftdoctor.errors import UsageError
from ftdoctor.findings import Finding
from ftdoctor.launch.policy import read_policy

KNOWN = ("loss-nan", "hang", "gpu0-only", "labels-all-masked", "grad-norm-high")


def finding(name: str, severity: str) -> Finding:
    return Finding(id=name, title="", severity=severity, role="cause", message="", why="")  # type: ignore[arg-type,call-arg]


def test_defaults_and_warnings_never_stop() -> None:
    policy = read_policy(["grad-norm-high=stop", "hang=ignore"], KNOWN)
    assert policy.action(finding("loss-nan", "error")) == "stop"
    assert policy.action(finding("loss-nan", "warning")) == "notify"
    assert policy.action(finding("grad-norm-high", "warning")) == "notify"
    assert policy.action(finding("hang", "error")) == "ignore"
    assert policy.action(finding("anything", "error")) == "notify"


@pytest.mark.parametrize(
    ("given", "hint"), [("los-nan=stop", "loss-nan"), ("loss-nan=sto", "loss-nan=stop"), ("x", "")]
)
def test_what_is_not_known_is_refused_with_the_nearest(given: str, hint: str) -> None:
    with pytest.raises(UsageError) as error:
        read_policy([given], KNOWN)
    assert hint in str(vars(error.value)) + str(error.value)
