"""Score `ftdoctor check` on the labelled corpus, where it is present, and hold the scores.

    python -m tools.score --ftdoctor .venv/bin/ftdoctor --shared ../shared
    python -m tools.score ... --hold        # fail when a figure fell below tests/scores.json
    python -m tools.score ... --write       # record today's figures

Prints precision and recall per failure mode (log cases: is the label the root cause; curve cases: is the label among
the error and warning findings) and names every miss. The pass marks are those of the evaluation scripts beside the
corpus.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HELD = ROOT / "tests" / "scores.json"
NUMERIC = {
    "loss-nan", "loss-zero", "loss-stuck", "loss-diverging", "overfitting", "grad-norm-high", "grad-norm-zero",
    "grad-overflow",
}  # fmt: skip


@dataclass
class Tally:
    """Counts for one failure mode."""

    right: int = 0
    missed: int = 0
    wrongly: int = 0

    def line(self, name: str) -> str:
        """One row of the table."""
        said, real = self.right + self.wrongly, self.right + self.missed
        precision = f"{self.right / said:6.1%}" if said else "     -"
        recall = f"{self.right / real:6.1%}" if real else "     -"
        return f"{name:28} {real:5} {precision:>9} {recall:>9}"


def check(ftdoctor: str, path: Path) -> dict[str, Any] | None:
    """The diagnosis as JSON, None when the command failed to give one."""
    done = subprocess.run(
        [ftdoctor, "check", str(path), "--format", "json"], capture_output=True, text=True, timeout=120
    )
    try:
        result: dict[str, Any] = json.loads(done.stdout)
        return result
    except ValueError:
        return None


def cases(file: Path) -> list[dict[str, Any]]:
    """The labelled cases of one list; empty when the list is absent."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def score_logs(ftdoctor: str, corpus: Path, misses: list[str]) -> tuple[dict[str, Tally], dict[str, float]]:
    """Root causes of real logs."""
    todo = cases(corpus / "cases_crash.jsonl") + cases(corpus / "cases_quality.jsonl")
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda c: check(ftdoctor, corpus / c["file"]), todo))
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    failing = right = healthy = alarms = 0
    for case, result in zip(todo, results, strict=True):
        root = case["root"]
        said = ((result or {}).get("root_cause") or {}).get("id")
        if root is None:
            healthy += 1
            errors = sorted({f["id"] for f in (result or {}).get("findings", []) if f["severity"] == "error"})
            if errors or result is None:
                alarms += 1
                misses.append(f"FALSE ALARM {case['file']}: {errors or 'no JSON'}")
                for name in errors:
                    tallies[name].wrongly += 1
            continue
        if root.startswith("other:"):
            continue
        failing += 1
        if said == root or said in case.get("root_alt", ()):
            right += 1
            tallies[root].right += 1
        else:
            tallies[root].missed += 1
            if said:
                tallies[said].wrongly += 1
            misses.append(f"MISS {case['file']}: {root}, said {said}")
    figures = {"log_root_cause": right / max(failing, 1), "log_false_alarms": alarms}
    print(
        f"logs: root cause right in {right} of {failing} ({right / max(failing, 1):.1%}); "
        f"error-level alarms on {alarms} of {healthy} healthy"
    )
    return tallies, figures


def score_curves(ftdoctor: str, corpus: Path, misses: list[str]) -> tuple[dict[str, Tally], dict[str, float]]:
    """Findings on real loss curves."""
    todo = [
        c for c in cases(corpus / "cases_curves.jsonl") if not c.get("ambiguous") and (corpus / c["file"]).is_file()
    ]
    with tempfile.TemporaryDirectory() as temporary:
        paths = []
        for case in todo:
            history = json.loads((corpus / case["file"]).read_text(encoding="utf-8"))["log_history"]
            last = history[-1] if history else {}
            path = Path(temporary, case["case"], "trainer_state.json")
            path.parent.mkdir()
            state = {"log_history": history, "global_step": last.get("step", 0), "max_steps": last.get("step", 0)}
            path.write_text(json.dumps(state), encoding="utf-8")
            paths.append(path)
        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(lambda p: check(ftdoctor, p), paths))
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    healthy = failed = warned = sick = caught = 0
    for case, result in zip(todo, results, strict=True):
        found = [(f["id"], f["severity"]) for f in (result or {}).get("findings", []) if f["id"] in NUMERIC]
        said = {i for i, severity in found if severity in ("error", "warning")}
        if case["healthy"]:
            healthy += 1
            errors = sorted({i for i, severity in found if severity == "error"})
            failed += bool(errors)
            warned += bool(said) and not errors
            for name in said:
                tallies[name].wrongly += 1
            if said:
                misses.append(f"{'FALSE ERROR' if errors else 'FALSE WARNING'} {case['file']}: {sorted(said)}")
            continue
        sick += 1
        labels = set(case["labels"])
        if said & labels:
            caught += 1
            for name in said & labels:
                tallies[name].right += 1
        else:
            for name in labels:
                tallies[name].missed += 1
            misses.append(f"MISS {case['file']}: {sorted(labels)}, said {sorted(said)}")
    figures = {
        "curve_sick_caught": caught / max(sick, 1),
        "curve_healthy_failed": failed,
        "curve_healthy_warned": warned,
    }
    print(
        f"curves: {caught} of {sick} sick caught with a right name; "
        f"of {healthy} healthy {failed} failed, {warned} warned"
    )
    return tallies, figures


def main() -> int:
    """Exit code 1 when a pass mark or a held figure is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ftdoctor", required=True)
    parser.add_argument("--shared", required=True, type=Path)
    parser.add_argument("--hold", action="store_true")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    corpus = options.shared / "corpus"
    if not corpus.is_dir():
        print(f"no labelled corpus at {corpus}: nothing to score")
        return 0
    misses: list[str] = []
    logs, figures = score_logs(options.ftdoctor, corpus, misses)
    curves, more = score_curves(options.ftdoctor, corpus, misses)
    figures.update(more)
    header = f"{'failure mode':28} {'cases':>5} {'precision':>9} {'recall':>9}"
    for title, tallies in (("logs", logs), ("curves", curves)):
        print(f"\n{title}\n{header}")
        for name in sorted(tallies):
            print(tallies[name].line(name))
    print("\n" + "\n".join(misses) if misses else "\nno misses")
    if options.write:
        HELD.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return 1 if options.hold and not held(figures) else 0


def held(figures: dict[str, float]) -> bool:
    """True when no figure is worse than the one on record (counts may not grow, shares may not fall)."""
    record = json.loads(HELD.read_text(encoding="utf-8"))
    worse = [
        name
        for name, value in record.items()
        if (figures[name] < value - 1e-9 if name in ("log_root_cause", "curve_sick_caught") else figures[name] > value)
    ]
    for name in worse:
        print(f"{name} fell: {record[name]} -> {figures[name]}")
    return not worse


if __name__ == "__main__":
    sys.exit(main())
