"""Held-out rows of a configuration's validation split, as Axolotl makes it; run as a script by the training python.

It imports nothing of ftdoctor. Reads one JSON object from standard input: {"config", "rows", "folder"}; `folder` takes
what Axolotl writes. Writes JSON lines to standard output: {"event": "rows", "rows": [{"ids", "prompt", "reference"}],
"total"} and {"event": "done"}, or {"event": "error"}. A row's prompt is what precedes its last trained part.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

OUT = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)
DROPPED = ("deepspeed", "fsdp", "fsdp_config", "hub_model_id", "wandb_project", "mlflow_tracking_uri")


def row(tokenizer: Any, ids: list[int], labels: list[int]) -> dict[str, Any] | None:
    """Prompt ids and the answer that follows them; None for a row without a trained part after a prompt."""
    trained = [i for i, label in enumerate(labels) if label != -100]
    if not trained:
        return None
    last = trained[-1]
    first = last
    while first > 0 and labels[first - 1] != -100:
        first -= 1
    if first == 0:
        return None
    answer = tokenizer.decode(ids[first : last + 1], skip_special_tokens=True).strip()
    return {"ids": ids[:first], "prompt": tokenizer.decode(ids[:first]), "reference": answer}


def held_out(job: dict[str, Any]) -> dict[str, Any]:
    """Load the configuration's data sets as training did, and take the validation part."""
    import yaml
    from axolotl.cli.config import load_cfg
    from axolotl.common.datasets import load_datasets
    from axolotl.loaders import load_tokenizer

    with open(job["config"], encoding="utf-8") as handle:
        data = {k: v for k, v in yaml.safe_load(handle).items() if k not in DROPPED}
    data["output_dir"] = job["folder"]
    path = os.path.join(job["folder"], "rows.yml")
    with open(path, "w", encoding="utf-8") as handle:
        yaml.safe_dump(data, handle)
    cfg = load_cfg(path)
    found = load_datasets(cfg=cfg).eval_dataset
    if found is None:
        return {"rows": [], "total": 0}
    tokenizer, rows = load_tokenizer(cfg), []
    for item in found:
        made = row(tokenizer, list(item["input_ids"]), list(item["labels"]))
        if made is not None:
            rows.append(made)
        if len(rows) >= job["rows"]:
            break
    return {"rows": rows, "total": len(found)}


def main() -> int:
    """Run the job on standard input."""
    job = json.load(sys.stdin)
    try:
        result: dict[str, Any] = {"event": "rows", **held_out(job)}
    except BaseException as error:
        result = {"event": "error", "type": type(error).__name__, "message": str(error)[:2000]}
    for event in (result, {"event": "done"}) if result["event"] == "rows" else (result,):
        OUT.write(json.dumps(event, ensure_ascii=False) + "\n")
    OUT.flush()
    return int(result["event"] == "error")


if __name__ == "__main__":
    sys.exit(main())
