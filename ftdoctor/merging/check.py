"""Proving a merged folder: who is compared, the worker, and the facts that the rules judge.

target = targets("outputs/run/merged", None, None)
proof = prove_folder(target)
for name, value in facts(proof): session.state(name, value, target.merged)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError
from ftdoctor.events import Scalar
from ftdoctor.merging.adapter import CONFIG, Adapter, read_adapter, uncovered
from ftdoctor.merging.readiness import blockers, embedding_rows
from ftdoctor.merging.tensors import Checkpoint, read_checkpoint
from ftdoctor.merging.tokenizer import Difference, _json, differences, read_tokenizer

PROVEN = ("ok", "zero", "unapplied", "scaled", "quantized", "damaged", "wrong", "not-finite", "shape", "lost-rows")
SWALLOWED = 0.5  # less than this share of the update survives rounding


@dataclass(frozen=True, slots=True)
class Target:
    """Folders of one proof; `notes` say how they were found, or why there is none."""

    merged: str
    base: str | None
    adapter: str | None
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class Proof:
    """Everything that was found out."""

    target: Target
    model: Checkpoint
    adapter: Adapter | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    compared_tokenizer: bool = False
    blockers: list[str] = field(default_factory=list)
    died: str = ""
    code: int = 0
    mended: list[str] = field(default_factory=list)
    logits: dict[str, Any] = field(default_factory=dict)

    def logits_lines(self) -> list[str]:
        """The comparison of logits in words; empty when it was not made."""
        if not self.logits:
            return []
        if self.logits.get("skipped"):
            return [f"not compared: {self.logits['skipped']}"]
        lines = [
            f"merged and base + adapter differ by {self.logits['merged_adapter']:.2g} at most, "
            f"the same next token in {self.logits['agree']} of {self.logits['positions']} places"
        ]
        lines.append(f"merged and base differ by {self.logits['merged_base']:.2g} at most")
        return lines

    @property
    def targets(self) -> list[dict[str, Any]]:
        """Rows of the tensors that the adapter changes."""
        return [r for r in self.rows if r["kind"] != "none"]

    def count(self, *verdicts: str) -> int:
        """Rows with one of the verdicts."""
        return sum(r["verdict"] in verdicts for r in self.rows)


def find_model(name: str, near: Path | None = None) -> str | None:
    """A model's folder: as a path, beside the adapter, or the snapshot in the Hub's cache; None when it is not here."""
    if not name:
        return None
    for place in (Path(name).expanduser(), *([near / name, near.parent / name] if near is not None else [])):
        if (place / "config.json").is_file():
            return str(place)
    home = os.environ.get("HF_HOME") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "huggingface"
    )
    cache = Path(os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub"))
    repo = cache / ("models--" + name.replace("/", "--"))
    snapshots = sorted((repo / "snapshots").glob("*/config.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    try:
        main = repo / "snapshots" / (repo / "refs" / "main").read_text().strip()
        if (main / "config.json").is_file():
            return str(main)
    except OSError:
        pass
    return str(snapshots[0].parent) if snapshots else None


def targets(merged: str, base: str | None, adapter: str | None) -> Target:
    """Complete what was given: the adapter is the parent of `merged`, the base is named in the adapter.

    Raises:
        InputError: a folder is missing, or is not what it was given as.
    """
    root, notes = Path(merged), []
    if not root.is_dir():
        raise InputError("no such folder", merged, "give the folder of the merged model")
    if not (root / "config.json").is_file() and (root / CONFIG).is_file():
        raise InputError("this is an adapter, not a merged model", merged, "give the folder that merge-lora wrote")
    if adapter is not None and not Path(adapter).is_dir():
        raise InputError("no such folder", adapter, "give the adapter's folder with --adapter")
    if adapter is None:
        parent = root.resolve().parent
        if (parent / CONFIG).is_file():
            adapter = os.path.relpath(parent) if not root.is_absolute() else str(parent)
            notes.append("the adapter is the folder above")
        else:
            notes.append("no adapter given and none in the folder above: the update cannot be proven")
    named = base
    if base is None and adapter is not None:
        named = str(_json(Path(adapter, CONFIG)).get("base_model_name_or_path") or "")
    found = find_model(named or "", Path(adapter).resolve() if adapter else None)
    if base is not None and found is None:
        raise InputError("no such model on this machine", base, "give the base model's folder with --base")
    if named and found is None:
        notes.append(f"the base {named} is not on this machine: give it with --base to prove the update")
    return Target(merged, found, adapter, tuple(notes))


def prove_folder(target: Target, on_progress: Callable[[int, int], None] = lambda *_: None, threads: int = 2) -> Proof:
    """Run the worker, then compare the files around the weights. `on_progress` gets (bytes done, bytes in all)."""
    model = read_checkpoint(target.merged)
    adapter = read_adapter(target.adapter) if target.adapter else None
    proof = Proof(target, model, adapter)
    if model.tensors:
        _work(proof, on_progress, threads)
    look_around(proof)
    return proof


def look_around(proof: Proof) -> None:
    """Tokenizer, end tokens, readiness; again after a mend."""
    ours = read_tokenizer(proof.target.merged)
    trained = read_tokenizer(proof.target.adapter) if proof.target.adapter else None
    proof.compared_tokenizer = bool(trained and trained.present)
    proof.differences = differences(trained, ours) if trained is not None else []
    proof.blockers = blockers(proof.model, ours)


def _work(proof: Proof, on_progress: Callable[[int, int], None], threads: int) -> None:
    target = proof.target
    job = {"merged": target.merged, "base": target.base, "adapter": target.adapter, "threads": threads}
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
    environment = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    finished, total = False, proof.model.size
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as noise:
        process = subprocess.Popen(
            [sys.executable, "-m", "ftdoctor.merging.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=noise, text=True, encoding="utf-8", env=environment,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            try:
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            except BrokenPipeError:
                pass  # it died at once: said below
            for line in process.stdout:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # the line that was being written when it died
                kind = event.pop("event")
                finished |= kind == "done"
                if kind == "row":
                    on_progress(int(event.pop("done")), total)
                    proof.rows.append(event)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if not finished:
            proof.code = code
            noise.seek(0)
            last = next((x.strip() for x in reversed(noise.read()[-4000:].split("\n")) if x.strip()), "")
            proof.died = (
                "was killed (SIGKILL): out of memory?" if code == -9 else f"ended with code {code}: {last[:300]}"
            )


def facts(proof: Proof) -> dict[str, Scalar]:
    """What the rules of the merge stage ask for; counts are 0 when nothing is wrong, examples absent."""
    rows, adapter = proof.targets, proof.adapter
    verdicts = Counter(r["verdict"] for r in proof.rows)
    proven = [r for r in rows if r["verdict"] in PROVEN]
    found: dict[str, Scalar] = {
        "stage": "merge",
        "proof.tensors": len(proof.rows),
        "proof.targets": len(rows),
        "proof.updates": sum(r["kind"] in ("lora", "dora", "embedding", "bias") for r in rows),
        "proof.applied": sum(r["verdict"] in ("ok", "quantized") for r in rows),
        "proof.same": verdicts["same"],
    }
    if proven and not proof.died:
        found["proof.proven"] = len(proven)
    # what explains the rest comes first: of several hits of a rule the first one speaks
    if proof.model.problems:
        found["proof.damaged_file"] = "; ".join(proof.model.problems[:3])
    elif not proof.model.tensors:
        what = "only pickled weights, which are not opened" if proof.model.pickled else "no weights"
        found["proof.pickled" if proof.model.pickled else "proof.damaged_file"] = f"{proof.target.merged} holds {what}"
    if adapter is not None:
        if adapter.problems:
            found["proof.adapter_problem"] = "; ".join(adapter.problems[:3])
        found["proof.adapter_empty"] = len(adapter.empty)
        found["proof.uncovered"] = len(uncovered(adapter, proof.model.tensors))
    for verdict in (
        "zero", "unapplied", "scaled", "quantized", "damaged", "wrong", "not-finite", "shape", "lost-rows", "changed",
        "missing", "extra", "empty", "unreadable", "resized",
    ):  # fmt: skip
        name = verdict.replace("-", "_")
        hits = [r for r in proof.rows if r["verdict"] == verdict]
        found[f"proof.{name}"] = len(hits)
        if hits:
            detail = hits[0].get("detail")
            found[f"proof.{name}_first"] = hits[0]["name"] + (f" ({detail})" if detail else "")
    # tensors that the adapter leaves alone, for telling another base from a wrong update
    found["proof.kept"] = sum(r["kind"] == "none" and r["verdict"] in ("same", "ok") for r in proof.rows)
    shares = sorted(r["share"] / r["expected_share"] for r in rows if r["verdict"] == "scaled" and r["expected_share"])
    if shares:
        found["proof.scale"] = round(shares[len(shares) // 2], 3)
    kept = [r["expected_share"] for r in rows if r["verdict"] == "ok" and "expected_share" in r]
    if kept:
        found["proof.surviving"] = round(sum(kept) / len(kept), 3)
        found["proof.swallowed"] = sum(share < SWALLOWED for share in kept)
    quantization = _json(Path(proof.target.merged, "config.json")).get("quantization_config")
    base_too = proof.target.base and _json(Path(proof.target.base, "config.json")).get("quantization_config")
    if quantization and not base_too:
        found["proof.saved_quantized"] = str(quantization.get("quant_method", "unknown"))
    if proof.died:
        found["proof.died"] = proof.died
    for difference in proof.differences:
        if difference.serious:
            what = "eos" if difference.what == "special" else difference.what
            found[f"tokenizer.{what}"] = difference.text
    minor = [d.text for d in proof.differences if not d.serious]
    if minor:
        found["tokenizer.differs"] = "; ".join(minor)
    rows_there = embedding_rows(proof.model)
    if rows_there is not None:
        found["proof.embedding_rows"] = rows_there
        trained = read_tokenizer(proof.target.adapter) if proof.target.adapter else None
        if trained is not None and trained.vocabulary:
            found["proof.trained_tokens"] = trained.vocabulary
    return found
