"""Write a copy of an Axolotl YAML with every change that the findings of preflight ask for and that a machine can make.

The text is edited in place as in `applyfix`: comments, order and quoting stay. What needs a person (other data, another
template) is listed, not done.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftdoctor.applyfix import Patch, load_yaml, patched, read_text, refuse_existing, write_new
from ftdoctor.diagnosis.fixes import in_words
from ftdoctor.faces.patch import as_yaml
from ftdoctor.findings import Finding, Fix
from ftdoctor.upstream.schema import Schema, axolotl_schema, is_gone


@dataclass(slots=True)
class Mended:
    """`made`: one line per change; `left`: one line per finding that needs a person."""

    out: Path
    made: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def report(self) -> str:
        """Plain lines."""
        head = f"wrote {self.out}: {len(self.made)} change{'s' if len(self.made) != 1 else ''}"
        return "\n".join([head, *(f"  {t}" for t in self.made), *(f"  by hand: {t}" for t in self.left)])


def mend(findings: Sequence[Finding], config: Path, out: Path, schema: Schema | None = None) -> Mended:
    """Write `out`; the original stays as it is. `schema`: of the installed Axolotl, else the shipped one.

    Raises:
        FtdoctorError: `out` exists, the YAML cannot be read, or the changes cannot be made. Nothing is written then.
    """
    refuse_existing(out, "--fix")
    text = read_text(config)
    data = load_yaml(text, config)
    mended = Mended(out)
    patch: Patch = {}
    _rename(data, patch, mended, schema or axolotl_schema())
    for finding in findings:
        if finding.severity == "info" and not any(
            "attn_implementation" in k for f in finding.fixes for k in f.config_patch
        ):
            continue  # a note: nothing has to change
        _take(finding, data, patch, mended)
    write_new(out, patched(text, data, patch, config) if patch else text, config)
    return mended


def _rename(data: Mapping[str, Any], patch: Patch, mended: Mended, schema: Schema) -> None:
    """Unknown keys get their real name; those that are gone go. Axolotl drops them anyway."""
    for key in schema.unknown(data):
        real = schema.nearest(key)
        if is_gone(key):
            patch[(key,)] = None
            mended.made.append(f"{key}: (removed; Axolotl no longer reads it)")
        elif plugin := schema.plugin_of(key):
            mended.left.append(f"{key} is read by {plugin} only; list that plugin or remove the key")
        elif places := _places(key, real, data, patch):
            for old, new, value in places:
                patch[old], patch[new] = None, value
            mended.made.append(f"{key} -> {real}: {as_yaml(places[0][2])}")
        else:
            mended.left.append(f"{key} is no key of Axolotl" + (f"; {real} is set already" if real else ""))


Place = tuple["str | int", ...]


def _places(key: str, real: str | None, data: Mapping[str, Any], patch: Patch) -> list[tuple[Place, Place, object]]:
    """Where `key` stands, where it should stand, and its value; empty when the real key is set or there is none."""
    parent, _, name = key.rpartition(".")
    if real is None:
        return []
    held = data.get(parent) if parent else data
    records: list[tuple[Place, Any]] = (
        [((parent, n), item) for n, item in enumerate(held)] if isinstance(held, list)
        else [((parent,) if parent else (), held)]
    )  # fmt: skip
    return [
        ((*place, name), (*place, real), record[name])
        for place, record in records
        if isinstance(record, Mapping) and name in record and real not in record and (*place, real) not in patch
    ]


def _take(finding: Finding, data: Mapping[str, Any], patch: Patch, mended: Mended) -> None:
    """The first fix of the finding that can be made whole."""
    for fix in finding.fixes:
        planned = _planned(fix, data)
        if planned is None:
            continue
        for path, new in planned.items():
            if path not in patch:
                patch[path] = new
                name = ".".join(map(str, path))
                mended.made.append(f"{name}: {'(removed)' if new is None else as_yaml(new)}  ({finding.id})")
        return
    by_hand = [fix for fix in finding.fixes if fix.config_patch and not _is_done(fix, patch)]
    if by_hand and finding.severity != "info" and not finding.message.startswith("Axolotl does not know these keys"):
        mended.left.append(f"{finding.id}: {by_hand[0].title}")


def _is_done(fix: Fix, patch: Patch) -> bool:
    return all(tuple(key.partition(".")[2].split(".")) in patch for key in fix.config_patch)


def _planned(fix: Fix, data: Mapping[str, Any]) -> Patch | None:
    """The fix as paths into the YAML; None when it is no change of the YAML alone, or asks for other data."""
    planned: Patch = {}
    for dotted, new in fix.config_patch.items():
        scope, _, rest = dotted.partition(".")
        if scope != "axolotl" or in_words(new):
            return None
        if "[]" not in rest:
            planned[tuple(rest.split("."))] = new
        else:
            found = dict(_items(rest, new, fix, data))
            if not found:
                return None
            planned.update(found)
    return {p: n for p, n in planned.items() if not _is_so(p, n, data)} or None


def _items(rest: str, new: object, fix: Fix, data: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """`datasets[].x` for the items that the fix is about: a new `type` alone would ask for other data."""
    name, _, key = rest.partition("[].")
    listed = data.get(name)
    if "axolotl.datasets[].field_messages" not in fix.config_patch:
        return
    for number, item in enumerate(listed if isinstance(listed, list) else ()):
        if isinstance(item, Mapping) and str(item.get("type", "")).startswith("sharegpt"):
            yield (name, number, *key.split(".")), new


def _is_so(path: tuple[str | int, ...], new: object, data: Any) -> bool:
    node = data
    for part in path:
        try:
            node = node[part]
        except (KeyError, IndexError, TypeError):
            return new is None
    return new is not None and type(node) is type(new) and bool(node == new)
