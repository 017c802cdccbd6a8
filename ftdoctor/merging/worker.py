"""The proof as a process of its own, so that its memory and its death are its own.

Reads one JSON object from standard input: {"merged", "base", "adapter", "threads"}; writes JSON lines to standard
output: {"event": "plan" | "row" | "done"}. Runs in any python with numpy, ftdoctor's own included.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from ftdoctor.merging.adapter import read_adapter
from ftdoctor.merging.proof import Plan, as_dict, plan, prove
from ftdoctor.merging.tensors import read_checkpoint
from ftdoctor.merging.tokenizer import _json


def say(event: str, **values: Any) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def prepare(job: dict[str, Any]) -> Plan:
    """Headers of the three folders, matched."""
    merged = read_checkpoint(job["merged"])
    base = read_checkpoint(job["base"]) if job.get("base") else None
    adapter = read_adapter(job["adapter"]) if job.get("adapter") else None
    config = _json(Path(job["merged"], "config.json"))
    nested = config.get("text_config")
    tied = config.get("tie_word_embeddings", nested.get("tie_word_embeddings") if isinstance(nested, dict) else None)
    if tied is None:  # the default of the architecture is not known here: the files tell
        tied = base is not None and not any(n.endswith("lm_head.weight") for n in base.tensors)
    return plan(merged, base, adapter, bool(tied), False)


def main() -> None:
    """Run one job."""
    job = json.load(sys.stdin)
    work = prepare(job)
    merged = work.merged
    say("plan", tensors=len(work.pairs), bytes=merged.size, missing=len(work.missing))
    done = 0
    for row in prove(work, int(job.get("threads", 2))):
        tensor = merged.tensors.get(row.name)
        done += tensor.size if tensor is not None else 0
        say("row", done=done, **as_dict(row))
    say("done")


if __name__ == "__main__":
    main()
