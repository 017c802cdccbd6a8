"""The files around the weights: tokenizer, chat template, special tokens, end token, as the adapter folder has them.

Only files are read: tokenizer.json, tokenizer_config.json, special_tokens_map.json, chat_template.jinja, config.json,
generation_config.json. `axolotl merge-lora` copies them from the base model, so what training added is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TEMPLATE = "chat_template.jinja"
FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", TEMPLATE,
    "tokenizer.model", "vocab.json", "merges.txt", "spiece.model",
)  # fmt: skip
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
KEPT = "before-mend"
# Tokens that end a turn in the known templates.
TURN_ENDS = (
    "<|eot_id|>",
    "<|eot|>",
    "<|im_end|>",
    "<end_of_turn>",
    "<turn|>",
    "<|end|>",
    "<|eom_id|>",
    "<|return|>",
    "[/INST]",
    "</s>",
)


@dataclass(slots=True)
class Tokenizer:
    """What a folder says of its tokenizer; `present` is False when it has none."""

    folder: str
    present: bool = False
    template: str | None = None
    special: dict[str, str] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    vocabulary: int = 0
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the merged folder lost. `what`: template | special | vocabulary | eos | pad | files."""

    what: str
    text: str
    serious: bool = True


def _json(path: Path, into: list[str] | None = None) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return data if isinstance(data, dict) else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        if into is not None:
            into.append(f"{path.name} cannot be read: {error}")
        return {}


def read_tokenizer(folder: str) -> Tokenizer:
    """Read a folder's tokenizer files."""
    root, found = Path(folder), Tokenizer(folder)
    config = _json(root / "tokenizer_config.json", found.unreadable)
    special = _json(root / "special_tokens_map.json", found.unreadable)
    full = _json(root / "tokenizer.json", found.unreadable)
    found.present = bool(config or full) or any((root / n).is_file() for n in ("tokenizer.model", "spiece.model"))
    for name in SPECIAL:
        value = config.get(name) or special.get(name)
        if isinstance(value, dict):
            value = value.get("content")
        if isinstance(value, str):
            found.special[name] = value
    found.template = _template(root, config)
    model = full.get("model") or {}
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, dict):
        found.ids.update({t: i for t, i in vocabulary.items() if isinstance(i, int)})
    elif isinstance(vocabulary, list):  # Unigram: pairs of token and score
        found.ids.update({str(pair[0]): i for i, pair in enumerate(vocabulary) if pair})
    for added in full.get("added_tokens") or ():
        found.ids[added["content"]] = added["id"]
    for number, added in (config.get("added_tokens_decoder") or {}).items():
        found.ids.setdefault(added.get("content", ""), int(number))
    found.vocabulary = max(found.ids.values(), default=-1) + 1
    return found


def _template(root: Path, config: dict[str, Any]) -> str | None:
    with contextlib.suppress(OSError, UnicodeError):
        return (root / TEMPLATE).read_text(encoding="utf-8")
    value = config.get("chat_template")
    if isinstance(value, list):
        value = next((v.get("template") for v in value if v.get("name") == "default"), None)
    return value if isinstance(value, str) else None


def end_ids(folder: str) -> tuple[list[int], str]:
    """Ids that stop generation, and the file that says so."""
    for name in ("generation_config.json", "config.json"):
        value = _json(Path(folder, name)).get("eos_token_id")
        if isinstance(value, int):
            return [value], name
        if isinstance(value, list) and value:
            return [int(v) for v in value], name
    return [], ""


def differences(trained: Tokenizer, merged: Tokenizer) -> list[Difference]:
    """What training's tokenizer has and the merged folder lost."""
    if not trained.present:
        return []
    found = []
    if not merged.present:
        found.append(Difference("files", "the merged folder has no tokenizer"))
    if trained.template is not None and merged.template is None:
        found.append(Difference("template", "the chat template is gone"))
    elif trained.template is not None and _plain(trained.template) != _plain(merged.template or ""):
        found.append(Difference("template", "the chat template is another one"))
    for name in SPECIAL if merged.present else ():
        now, then = merged.special.get(name), trained.special.get(name)
        if then is not None and now != then:
            serious = name == "eos_token"
            found.append(Difference("special", f"{name} was {then} in training and is {now or 'unset'}", serious))
    if trained.ids and merged.ids:
        lost = [t for t, i in trained.ids.items() if merged.ids.get(t) != i]
        if lost:
            example = ", ".join(lost[:3])
            found.append(Difference("vocabulary", f"{len(lost)} token(s) are missing or have another id: {example}"))
    stops, file = end_ids(merged.folder)
    end = trained.special.get("eos_token")
    if end is not None and trained.ids.get(end) is not None and file and trained.ids[end] not in stops:
        found.append(Difference("eos", f"training ended with {end} ({trained.ids[end]}), {file} stops at {stops}"))
    elif stops and trained.template:
        turns = [t for t in TURN_ENDS if t in trained.template and t in trained.ids]
        if turns and not any(trained.ids[t] in stops for t in turns):
            text = f"the template ends a turn with {turns[0]} ({trained.ids[turns[0]]}), {file} stops at {stops}"
            found.append(Difference("eos", text, serious=False))
    return found


def _plain(template: str) -> str:
    return "\n".join(line.rstrip() for line in template.strip().splitlines())


def mend(trained: Tokenizer, merged_folder: str, rows: int | None) -> list[str]:
    """Copy training's tokenizer files into the merged folder and set the end and pad ids.

    Replaced files are kept in `before-mend`. `rows` of the embedding bound the tokenizer. Gives what was done.
    """
    if not trained.present:
        return []
    if rows is not None and trained.vocabulary > rows:
        return [f"not mended: the tokenizer has {trained.vocabulary} tokens and the embedding {rows} rows"]
    root, done = Path(merged_folder), []
    kept = root / KEPT
    source = Path(trained.folder)
    for name in FILES:
        new, old = source / name, root / name
        if not new.is_file() or (old.is_file() and old.read_bytes() == new.read_bytes()):
            continue
        _keep(old, kept)
        _place(old, new.read_bytes())
        done.append(f"{name} copied from {trained.folder}")
    done += _set_ids(trained, root, kept)
    return done


def _set_ids(trained: Tokenizer, root: Path, kept: Path) -> list[str]:
    end = trained.ids.get(trained.special.get("eos_token", ""))
    pad = trained.ids.get(trained.special.get("pad_token", ""))
    done = []
    for name in ("generation_config.json", "config.json"):
        path = root / name
        data = _json(path)
        if not data:
            continue
        before = dict(data)
        stops = data.get("eos_token_id")
        listed = stops if isinstance(stops, list) else [] if stops is None else [stops]
        if end is not None and end not in listed and (listed or name == "generation_config.json"):
            data["eos_token_id"] = [end, *listed] if name == "generation_config.json" else end
        if pad is not None and (name == "config.json" or "pad_token_id" in data):
            data["pad_token_id"] = pad
        changed = [f"{key} {value}" for key, value in data.items() if before.get(key) != value]
        if changed:
            _keep(path, kept)
            _place(path, (json.dumps(data, indent=2) + "\n").encode())
            done.append(f"{name}: {', '.join(changed)}")
    return done


def _keep(old: Path, kept: Path) -> None:
    if old.is_file():
        kept.mkdir(exist_ok=True)
        if not (kept / old.name).exists():
            shutil.copy2(old, kept / old.name)


def _place(path: Path, data: bytes) -> None:
    """Write beside and rename: a reader sees the old file or the new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
