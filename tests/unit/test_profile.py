"""Profiles change thresholds by name and state the kind of training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftdoctor.errors import InputError
from ftdoctor.ruleset.load import load
from ftdoctor.ruleset.profile import apply_profile, load_profile, names
from ftdoctor.session import Session, check

RULES = load()


def state(folder: Path, **series: list[float]) -> str:
    length = len(next(iter(series.values())))
    history = [{"step": i + 1, **{k: v[i] for k, v in series.items()}} for i in range(length)]
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"log_history": history}))
    return str(path)


@pytest.mark.parametrize("name", names())
def test_every_shipped_profile_applies(name: str) -> None:
    profile = load_profile(name)
    assert profile.task == name
    apply_profile(RULES, profile)


def test_a_threshold_moves(tmp_path: Path) -> None:
    path = state(tmp_path, loss=[1.9 - i / 100 for i in range(30)], grad_norm=[30.0] * 30)
    assert "grad-norm-high" in {f.id for f in check([path], RULES).findings}
    full = apply_profile(RULES, load_profile("dpo"))
    assert "grad-norm-high" not in {f.id for f in check([path], full).findings}


def test_the_stated_task_wins_over_the_guess(tmp_path: Path) -> None:
    path = state(tmp_path, loss=[0.0] * 20)
    assert "loss-zero" in {f.id for f in check([path], RULES).findings}
    session = Session(RULES)
    session.state("task", "rl", "profile")
    session.read([path])
    assert "loss-zero" not in {f.id for f in session.diagnose().findings}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("task: nonsense", "not a profile"),
        ("thresholds: {no-such-rule: {above: 1}}", "no-such-rule"),
        ("thresholds: {grad-norm-high: {above: high}}", "numbers by name"),
        ("thresholds: {package-missing-x: 3}", "package-missing-x"),
        ("thresholds: {cuda-oom: {above: 3}}", "no thresholds"),
        ("[", "not valid YAML"),
    ],
)
def test_bad_profiles_say_what_is_wrong(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=says):
        apply_profile(RULES, load_profile(str(path)))


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="no profile") as caught:
        load_profile("lara")
    assert "lora" in caught.value.remedy
