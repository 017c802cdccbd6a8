"""The merge proof for a terminal: the verdict and its cause first, then what was proven, then the updates by module."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftdoctor.faces import json_face, text
from ftdoctor.faces.page import Options, Page
from ftdoctor.findings import Diagnosis

if TYPE_CHECKING:
    from ftdoctor.merging.check import Proof

_NUMBERED = re.compile(r"^(?P<head>.*?)\.(?P<layer>\d+)\.(?P<module>.+?)(?:\.weight)?$")
GOOD = ("ok", "same", "quantized", "resized")


def render(diagnosis: Diagnosis, proof: Proof, options: Options) -> str:
    """The whole report."""
    page = Page(options)
    _table(page, proof, options)
    _checks(page, proof)
    # rules of other stages had nothing to judge here, and that is no news
    judged = tuple(o for o in diagnosis.outcomes if o.outcome != "not_evaluated")
    report = text.render(replace(diagnosis, outcomes=judged), options)
    if diagnosis.verdict == "healthy":
        head = Page(options)
        if left := proof.count("unproven"):
            there = f"{len(proof.targets)} modules are base + adapter; {left} tensors not covered"
            head.line((f"{head.glyph('unknown')} PROVEN IN PART  ", "warn"), (there, "strong"))
        else:
            head.line((f"{head.glyph('healthy')} PROVEN  ", "good"), (_proven(proof), "strong"))
        report = head.text()
    return report.rstrip("\n") + "\n\n" + page.text()


def _proven(proof: Proof) -> str:
    tokens = " and the tokenizer is the training's" if proof.compared_tokenizer else ""
    return f"The merged model is base + adapter in all {len(proof.targets)} modules{tokens}"


def _table(page: Page, proof: Proof, options: Options) -> None:
    groups = grouped(proof.targets)
    if not groups:
        return
    name = max(len("module"), *(len(g["module"]) for g in groups))
    name = min(name, page.width - 50)
    head = f"{'module':<{name}}  {'number':>6}  {'rank':>4}  {'scale':>6}  {'applied':>7}  {'|update| / |base|':>17}"
    page.line(("  " + head, "dim"))
    for group in groups:
        shares = group["share"]
        applied = "" if shares is None else f"{100 * shares:.0f} %"
        low, high = group["relative"]
        size = "" if high == 0 else f"{low:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} .. {high:.2g}"
        rank, scale = str(group["rank"] or ""), f"{group['scaling']:.3g}" if group["scaling"] else ""
        module = group["module"] if len(group["module"]) <= name else group["module"][: name - 1] + "~"
        row = f"{module:<{name}}  {group['number']:>6}  {rank:>4}  {scale:>6}  {applied:>7}  {size:>17}"
        bad = {v: n for v, n in group["verdicts"].items() if v not in GOOD}
        mark = page.glyph("failing") if bad else page.glyph("healthy")
        page.line((mark + " ", "bad" if bad else "good"), (row, ""))
        if bad:
            page.line(("    " + ", ".join(f"{n} {v}" for v, n in sorted(bad.items())), "bad"))
    page.gap()


def grouped(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the same module in different layers as one line."""
    groups: dict[tuple[str, int, float], list[dict[str, Any]]] = {}
    for row in rows:
        found = _NUMBERED.match(row["name"])
        module = found["module"] if found else row["name"].removesuffix(".weight")
        groups.setdefault((module, row.get("rank", 0), row.get("scaling", 0.0)), []).append(row)
    result = []
    for (module, rank, scaling), members in groups.items():
        shares = [m["share"] / m["expected_share"] for m in members if m.get("expected_share")]
        relative = [m.get("relative", 0.0) for m in members]
        verdicts: dict[str, int] = {}
        for member in members:
            verdicts[member["verdict"]] = verdicts.get(member["verdict"], 0) + 1
        result.append(
            {
                "module": module, "rank": rank, "scaling": scaling, "number": len(members), "verdicts": verdicts,
                "share": sum(shares) / len(shares) if shares else None, "relative": (min(relative), max(relative)),
            }
        )  # fmt: skip
    return sorted(result, key=lambda g: str(g["module"]))


def _checks(page: Page, proof: Proof) -> None:
    targets, target = proof.targets, proof.target
    applied = sum(r["verdict"] in ("ok", "quantized") for r in targets)
    kept = [r for r in proof.rows if r["kind"] == "none"]
    same = sum(r["verdict"] in ("same", "ok", "resized") for r in kept)
    page.labelled("merged", target.merged)
    page.labelled("base", target.base or "not compared")
    page.labelled("adapter", target.adapter or "not compared")
    for note in target.notes:
        page.labelled("", note, "dim")
    page.gap()
    if targets and target.base:
        page.labelled("updates", f"{applied} of {len(targets)} are base + scaling x B A")
    if kept and target.base:
        page.labelled("others", f"{same} of {len(kept)} tensors equal the base's")
    if proof.count("quantized"):
        page.labelled("NF4", f"{proof.count('quantized')} tensors were rounded through NF4 (adapter: qlora)", "warn")
    unproven = proof.count("unproven")
    if unproven and target.base:
        page.labelled("unproven", f"{unproven} tensors of a kind that the proof does not cover", "warn")
    for reason in proof.adapter.unproven[:3] if proof.adapter else ():
        page.labelled("unproven", reason, "warn")
    if proof.died:
        page.labelled("unproven", f"the proof {proof.died}", "bad")
    if proof.compared_tokenizer:
        texts = [d.text for d in proof.differences]
        page.labelled("tokens", "; ".join(texts) if texts else "as in training", "warn" if texts else "")
    else:
        page.labelled("tokens", "not compared: the adapter folder has none", "dim")
    for number, done in enumerate(proof.mended):
        page.labelled("" if number else "mended", done)
    page.labelled("GGUF", "; ".join(proof.blockers) or "ready to be converted", "warn" if proof.blockers else "")
    for number, line in enumerate(proof.logits_lines()):
        page.labelled("" if number else "logits", line)


def as_json(diagnosis: Diagnosis, proof: Proof) -> str:
    """Diagnosis and proof as one JSON object."""
    target = proof.target
    result = json_face.as_dict(diagnosis)
    result["merge"] = {
        "merged": target.merged, "base": target.base, "adapter": target.adapter, "notes": list(target.notes),
        "modules": [
            {**g, "relative": list(g["relative"])} for g in grouped(proof.targets)
        ],
        "tensors": proof.rows, "died": proof.died or None, "unproven": proof.adapter.unproven if proof.adapter else [],
        "tokenizer": [{"what": d.what, "text": d.text, "serious": d.serious} for d in proof.differences],
        "tokenizer_compared": proof.compared_tokenizer, "mended": proof.mended, "gguf_blockers": proof.blockers,
        "logits": proof.logits or None,
    }  # fmt: skip
    return json_face.dump(result)
