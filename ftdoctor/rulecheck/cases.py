"""Run the cases beside each rule through the real path.

`cases.yaml`:

    rule: grad-norm-high
    cases:
      - name: what this case shows
        given:
          log: |                      # text, or the name of a .log file in the rule's folder
            [rank3]: torch.OutOfMemoryError: ...
          files: {rank1.log: '...'}   # further files (trainer_state.json, README, ...)
          config: {adapter: qlora}    # the Axolotl YAML (mapping or text)
          deepspeed: {...}            # the DeepSpeed JSON (mapping or text)
          series: {loss: '2.0x20 nan', grad_norm: '1.2x10 7.5x20', eval_loss: '2.1 _x9 2.0'}   # VxN = N samples,
              A..BxN = N samples on a line, _ = not logged
          logging_steps: 5
          gpus:                       # a live run: `seconds` of steps, then `silent` seconds without
            {seconds: 90, silent: 0, world_size: 4, each: [{memory_used: 60000, utilization: 99, power: 600}, ...],
             processes: [[R, 99], [T, 0]], xids: [[0, 79]]}     # `later: {...}` in a GPU: its state while silent
          heartbeats:                 # `steps` optimizer steps of each rank; the parts in seconds
            {steps: 40, ranks: [{dt: 2.0, data: 0.1, forward: 0.5, loss: 1.5}, ...]}
          facts: {answers.total: 8}   # facts that no file says, as a verb states them
        expect:
          outcome: fired              # fired | quiet | not_evaluated
          severity: error
          rank: 3
          message_has: [1.95 GiB]     # each must be in the finding's message
          excerpt_has: [...]          # each must be in some evidence
          patch: {axolotl.bf16: auto} # entries that some fix's config_patch must hold
          missing: [exit status]
          root: true                  # true: it is the root cause; false: it is not
          root_cause: id | null
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftdoctor.events import Event, FactLearned, GpuSample, MetricSample, Origin, ProcessSample, Tick, XidSeen
from ftdoctor.findings import Diagnosis
from ftdoctor.ruleset.load import rule_files
from ftdoctor.ruleset.types import RuleSet
from ftdoctor.session import Session

_RUN = re.compile(r"^(?P<a>[^x]+?)(?:\.\.(?P<b>[^x]+?))?(?:x(?P<n>\d+))?$")


@dataclass(frozen=True, slots=True)
class CaseResult:
    """One case: `problems` is empty when it held."""

    rule: str
    case: str
    problems: tuple[str, ...]


def run_all(folder: Path, rules: RuleSet) -> Iterator[CaseResult]:
    """Every case below `folder`."""
    for path in rule_files(folder):
        yield from run_rule(path.parent, rules)


def run_rule(folder: Path, rules: RuleSet) -> Iterator[CaseResult]:
    """The cases of one rule folder."""
    import yaml

    path = folder / "cases.yaml"
    if not path.is_file():
        yield CaseResult(folder.name, "cases.yaml", ("there is no cases.yaml beside the rule",))
        return
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        yield CaseResult(folder.name, "cases.yaml", (f"not valid YAML: {' '.join(str(error).split())}",))
        return
    rule = str(data.get("rule", folder.name))
    for case in data.get("cases", []):
        try:
            diagnosis = diagnose(case["given"], rules, folder)
            problems = tuple(_compare(rule, case["expect"], diagnosis))
        except Exception as error:
            problems = (f"{type(error).__name__}: {error}",)
        yield CaseResult(rule, str(case.get("name", "?")), problems)


def diagnose(given: Mapping[str, Any], rules: RuleSet, folder: Path) -> Diagnosis:
    """Write the given input to files and read them as a user's run."""
    session = Session(rules)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        paths = [str(path) for path in _write(given, place, folder)]
        session.read(paths)
        for name, value in given.get("facts", {}).items():
            session.state(name, value, "case")
        if "gpus" in given:
            session.apply(_watched(given["gpus"], session))
        return session.diagnose()


def _watched(given: Mapping[str, Any], session: Session) -> Iterator[Event]:
    """A run that logs a loss every second beside its GPUs, as the live path sees it."""
    start, seconds = 1_700_000_000.0, int(given.get("seconds", 90))
    silent = int(given.get("silent", 0))

    def at(second: float, rank: int | None = None) -> Origin:
        return Origin("live", rank=rank, time=start + second, order=session.next_order())

    if "world_size" in given:
        yield FactLearned(at(0), "world_size", int(given["world_size"]))
    for second in range(seconds + silent):
        yield Tick(at(second))
        if second < seconds and given.get("trains", True):
            yield MetricSample(at(second), "loss", 2.0 - second / (2 * seconds), float(second), "stated")
        for index, card in enumerate(given["each"]):
            values = {"memory_total": 81559.0, "power_limit": 700.0, "temperature": 60.0, "state": "ok", **card}
            values |= values.pop("later", {}) if second >= seconds else {}
            values.pop("later", None)
            yield GpuSample(at(second), index, uuid=f"GPU-{index}", name="NVIDIA H100 80GB HBM3", **values)
        for rank, (state, cpu) in enumerate(given.get("processes", ())):
            yield ProcessSample(at(second, rank), 1000 + rank, state if second >= seconds else "R", float(cpu))
    for index, number in given.get("xids", ()):
        yield XidSeen(at(seconds), index, f"GPU-{index}", int(number))


def _write(given: Mapping[str, Any], place: Path, folder: Path) -> Iterator[Path]:
    log = given.get("log")
    if log is not None:
        text = (folder / log).read_text(encoding="utf-8") if log.endswith(".log") and "\n" not in log else log
        yield _file(place, "train.log", text)
    for name, text in given.get("files", {}).items():
        yield _file(place, name, text)
    for rank, parts in enumerate(given.get("heartbeats", {}).get("ranks", ())):
        beats = [
            {"t": 1.7e9 + number * parts.get("dt", 1.0), "s": number, "p": "step", **parts}
            for number in range(1, int(given["heartbeats"].get("steps", 40)) + 1)
        ]
        yield _file(place, f"heartbeat-rank{rank}.jsonl", "".join(json.dumps(beat) + "\n" for beat in beats))
    if "deepspeed" in given:
        value = given["deepspeed"]
        yield _file(place, "ds.json", value if isinstance(value, str) else json.dumps(value, indent=1))
    if "config" in given:
        import yaml

        value = given["config"]
        yield _file(place, "config.yml", value if isinstance(value, str) else yaml.safe_dump(value, sort_keys=False))
    if "series" in given:
        yield _file(place, "trainer_state.json", json.dumps(_state(given)))


def _file(place: Path, name: str, text: str) -> Path:
    path = place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def values(notation: str) -> list[float | None]:
    """`1.2x3 5 2..4x3 _` = [1.2, 1.2, 1.2, 5, 2, 3, 4, None]."""
    result: list[float | None] = []
    for token in str(notation).split():
        found = _RUN.match(token)
        if found is None:
            raise ValueError(f"not a series token: {token}")
        count = int(found["n"] or 1)
        if found["a"] == "_":
            result += [None] * count
        elif found["b"]:
            first, last = float(found["a"]), float(found["b"])
            result += [first + (last - first) * i / max(count - 1, 1) for i in range(count)]
        else:
            result += [float(found["a"])] * count
    return result


def _state(given: Mapping[str, Any]) -> dict[str, Any]:
    steps = int(given.get("logging_steps", 1))
    columns = {name: values(text) for name, text in given["series"].items()}
    length = max(len(column) for column in columns.values())
    history: list[dict[str, Any]] = []
    for i in range(length):
        entry = {n: c[i] for n, c in columns.items() if i < len(c) and c[i] is not None}
        train = {n: v for n, v in entry.items() if not n.startswith("eval_")}
        evaluation = {n: v for n, v in entry.items() if n.startswith("eval_")}
        for part in (train, evaluation):
            if part:
                history.append({**part, "step": (i + 1) * steps, "epoch": round((i + 1) / length, 4)})
    return {"log_history": history, "global_step": length * steps, "max_steps": length * steps}


def _compare(rule: str, expect: Mapping[str, Any], diagnosis: Diagnosis) -> Iterator[str]:
    outcome = next((o for o in diagnosis.outcomes if o.id == rule), None)
    if outcome is None:
        yield f"no rule of this id: {rule}"
        return
    if "outcome" in expect and outcome.outcome != expect["outcome"]:
        yield f"outcome {outcome.outcome} ({outcome.reason}), expected {expect['outcome']}"
    if "missing" in expect and sorted(outcome.missing) != sorted(expect["missing"]):
        yield f"missing {list(outcome.missing)}, expected {expect['missing']}"
    root = diagnosis.root_cause.id if diagnosis.root_cause else None
    if "root_cause" in expect and root != expect["root_cause"]:
        yield f"root cause {root}, expected {expect['root_cause']}"
    if "root" in expect and (root == rule) != expect["root"]:
        yield f"root cause {root}"
    finding = next((f for f in diagnosis.findings if f.id == rule), None)
    if finding is None:
        return
    for key in ("severity", "rank", "count", "state", "explained_by"):
        if key in expect and getattr(finding, key) != expect[key]:
            yield f"{key} {getattr(finding, key)}, expected {expect[key]}"
    if "step" in expect and not math.isclose(finding.step or math.nan, expect["step"]):
        yield f"step {finding.step}, expected {expect['step']}"
    for text in expect.get("message_has", ()):
        if str(text) not in finding.message:
            yield f"`{text}` not in message: {finding.message}"
    for text in expect.get("excerpt_has", ()):
        if not any(str(text) in e.excerpt for e in finding.evidence):
            yield f"`{text}` in no evidence: {[e.excerpt for e in finding.evidence]}"
    for key, value in expect.get("patch", {}).items():
        if not any(key in f.config_patch and f.config_patch[key] == value for f in finding.fixes):
            yield f"no fix sets {key}: {value!r}; fixes: {[f.config_patch for f in finding.fixes]}"
