"""Write a copy of an Axolotl YAML with a fix's change in it; the original stays as it is.

The change is made in the text: only the lines of the patched keys differ, so comments, order, quoting, indentation
and line ends stay byte for byte. What the text edit cannot do (aliases, flow mappings, merge keys) is done by
ruamel.yaml's round trip. Either way the result is read back with PyYAML, as Axolotl reads it, and must equal the
original plus the patch; else nothing is written.

Keys of the DeepSpeed JSON go into a second copy beside the first, and the YAML's `deepspeed:` points there.
"""

from __future__ import annotations

import copy
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ftdoctor.diagnosis.fixes import in_words
from ftdoctor.errors import FtdoctorError, InputError, UsageError
from ftdoctor.faces.patch import as_yaml
from ftdoctor.findings import Diagnosis, Finding, Fix

Patch = dict[tuple["str | int", ...], object]
_GONE = object()
SO_ALREADY = "it is so already"


@dataclass(slots=True)
class Change:
    """What was written and what was not: lines for the reader. `whole`: nothing of the fix had to be left out."""

    fix: Fix
    written: list[Path] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    not_made: list[str] = field(default_factory=list)
    whole: bool = True

    def report(self) -> str:
        """Plain lines."""
        lines = [f"wrote {', '.join(map(str, self.written))}: {self.fix.title}"]
        lines += [f"  {text}" for text in self.made]
        lines += [f"  not changed: {text}" for text in self.not_made]
        return "\n".join(lines)


def refuse_existing(out: Path, option: str = "--apply-fix") -> None:
    """Raise UsageError when `out`, given with `option`, cannot be a new file."""
    if out.exists() or out.is_symlink():
        raise UsageError("exists already; ftdoctor never writes over a file", str(out), f"give {option} a new name")
    if not out.parent.is_dir():
        raise UsageError("its folder does not exist", str(out), f"make the folder {out.parent} first")
    if out.suffix not in (".yml", ".yaml"):
        raise UsageError("is not the name of a YAML file", str(out), f"name it {out.name}.yml")


def apply_fix(diagnosis: Diagnosis, config: Path | None, deepspeed: Path | None, out: Path) -> Change:
    """Write `out` with the first change of the root cause that can be made by machine.

    Args:
        diagnosis: what was found.
        config: the Axolotl YAML that was read, if any.
        deepspeed: where the DeepSpeed configuration was read, if anywhere; the YAML itself when it stands in there.
        out: a new file.

    Raises:
        FtdoctorError: nothing to fix, nothing that can be changed, or a file in the way. Nothing is written then.
    """
    refuse_existing(out)
    root = diagnosis.root_cause
    if root is None:
        raise UsageError("no failure was found, so there is nothing to fix", "--apply-fix", "leave the option out")
    if config is None:
        raise UsageError("no Axolotl YAML among the inputs to change", "--apply-fix", "give it with --config")
    original = read_text(config)
    data = load_yaml(original, config)
    problems: list[str] = []
    for fix in root.fixes:
        if not fix.config_patch:
            continue
        change, patch, json_patch = plan_change(fix, data, config, deepspeed)
        if patch or json_patch:
            return carry_out(change, patch, json_patch, original, data, config, deepspeed, out)
        problems += change.not_made
    raise UsageError(_nothing(root, problems), "--apply-fix", _instead(root))


def _nothing(root: Finding, problems: list[str]) -> str:
    if problems:
        return f"nothing of `{root.id}`'s fixes can be changed by machine: {'; '.join(problems)}"
    return f"the fix of `{root.id}` is no change of the configuration"


def _instead(root: Finding) -> str:
    title = root.fixes[0].title if root.fixes else ""
    return f"do it by hand: {title}" if title else "read the report"


# -- planning --------------------------------------------------------------------------------------------------------


def plan_change(fix: Fix, data: Mapping[str, Any], config: Path, deepspeed: Path | None) -> tuple[Change, Patch, Patch]:
    """The YAML's part and the DeepSpeed JSON's part of a fix, and what of it cannot be done."""
    change = Change(fix)
    patch: Patch = {}
    json_patch: Patch = {}
    inline = isinstance(data.get("deepspeed"), dict)
    for dotted, new in fix.config_patch.items():
        scope, _, rest = dotted.partition(".")
        path = tuple(rest.split("."))
        if in_words(new):
            change.not_made.append(f"{rest}: {new} (the current value is not known)")
        elif "[]" in rest:
            change.not_made.append(f"{rest}: {as_yaml(new)} (in every item of a list: do it by hand)")
        elif scope == "axolotl" or (scope == "deepspeed" and inline):
            path = path if scope == "axolotl" else ("deepspeed", *path)
            _want(change, patch, data, path, new)
        elif scope == "deepspeed" and deepspeed is not None and deepspeed != config:
            _want(change, json_patch, _load_json(deepspeed), path, new)
        elif scope == "deepspeed":
            change.not_made.append(
                f"{rest}: {as_yaml(new)} (the DeepSpeed JSON was not found; give it as an input too)"
            )
        else:
            change.not_made.append(f"{dotted}: {as_yaml(new)} (not a key of a file that ftdoctor writes)")
    change.whole = not [text for text in change.not_made if not text.endswith(SO_ALREADY)]
    return change, patch, json_patch


def _want(change: Change, patch: Patch, data: Mapping[str, Any], path: tuple[str, ...], new: object) -> None:
    """Put one key into the patch, unless it is so already or stands below something that is no mapping."""
    name = ".".join(path)
    node: Any = data
    for part in path[:-1]:
        node = node.get(part, {}) if isinstance(node, Mapping) else _GONE
        node = {} if node is None else node
    if not isinstance(node, Mapping):
        change.not_made.append(f"{name}: {as_yaml(new)} (what it belongs to is not a mapping in this file)")
        return
    old = node.get(path[-1], _GONE)
    if (old is _GONE and new is None) or (old is not _GONE and type(old) is type(new) and old == new):
        change.not_made.append(f"{name}: {SO_ALREADY}")
        return
    patch[path] = new
    before = "(not set)" if old is _GONE else as_yaml(old)
    change.made.append(f"{name}: {before} -> {'(removed)' if new is None else as_yaml(new)}")


def carry_out(
    change: Change,
    patch: Patch,
    json_patch: Patch,
    original: str,
    data: dict[str, Any],
    config: Path,
    deepspeed: Path | None,
    out: Path,
) -> Change:
    """Write `out`, and the DeepSpeed JSON beside it where `json_patch` asks for one; all or nothing."""
    beside: Path | None = None
    if json_patch and deepspeed is not None:
        beside = out.with_suffix(".deepspeed.json")
        refuse = beside.exists() or beside.is_symlink()
        if refuse:
            raise UsageError(
                "exists already; ftdoctor never writes over a file", str(beside), "give --apply-fix a new name"
            )
        patch[("deepspeed",)] = str(beside)
        change.made.append(f"deepspeed: {as_yaml(data.get('deepspeed'))} -> {as_yaml(str(beside))}")
    text = patched(original, data, patch, config)
    if beside is not None and deepspeed is not None:
        write_new(beside, _patched_json(deepspeed, json_patch), deepspeed)
        change.written.append(beside)
    try:
        write_new(out, text, config)
    except FtdoctorError:
        if beside is not None:
            beside.unlink(missing_ok=True)
        raise
    change.written.insert(0, out)
    return change


# -- the text --------------------------------------------------------------------------------------------------------


def patched(text: str, data: dict[str, Any], patch: Patch, config: Path) -> str:
    """The YAML text with the patch; edited in place where possible, else written anew by ruamel.yaml.

    Raises:
        FtdoctorError: neither way gives the wanted result.
    """
    wanted = _with(data, patch)
    for way in (_edited, _round_trip):
        try:
            result = way(text, patch)
            if yaml.safe_load(result) == wanted:
                return result
        except Exception:  # a file this way cannot handle; the next one may, and the result is checked
            continue
    raise InputError("cannot be changed by machine", str(config), "make the change in the report by hand")


def _with(data: dict[str, Any], patch: Patch) -> dict[str, Any]:
    result = copy.deepcopy(data)
    for path, new in patch.items():
        _put(result, path, new)
    return result


def _put(node: Any, path: tuple[str | int, ...], new: object) -> None:
    """Set one key in nested mappings, made where they lack; None takes it out, a number is a place in a list."""
    for part in path[:-1]:
        if isinstance(part, int):
            node = node[part]
            continue
        if not isinstance(node.get(part), (dict, list)):
            if new is None:
                return
            node[part] = {}
        node = node[part]
    if new is None:
        node.pop(path[-1], None)
    else:
        node[path[-1]] = copy.deepcopy(new)


def _edited(text: str, patch: Patch) -> str:
    """One key after the other, each in the freshly parsed text."""
    for path, new in patch.items():
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise ValueError("not a mapping")
        text = _edit(text, root, path, new)
    return text


def _edit(text: str, root: yaml.MappingNode, path: tuple[str | int, ...], new: object) -> str:
    node = root
    for depth, part in enumerate(path):
        if isinstance(part, int):
            continue  # the list was entered with its key
        pair = next(((k, v) for k, v in node.value if k.value == part), None)
        last = depth == len(path) - 1
        if pair is None and new is None:
            return text
        if node.flow_style and last and new is None:
            raise ValueError("a flow mapping that loses a key")
        if pair is None:
            return _inserted(text, node, path[depth:], new)
        key, value = pair
        if last:
            return _removed(text, key, value) if new is None else _replaced(text, key, value, new)
        following = path[depth + 1]
        if isinstance(value, yaml.SequenceNode) and isinstance(following, int):
            value = value.value[following]
        if not isinstance(value, yaml.MappingNode):
            raise ValueError("the parent is not a mapping")
        node = value
    return text


def _replaced(text: str, key: yaml.Node, value: yaml.Node, new: object) -> str:
    """The value's own characters exchanged; blanks and a comment after it stay."""
    start, end = value.start_mark.index, value.end_mark.index
    if isinstance(value, yaml.CollectionNode) and not value.flow_style:
        raise ValueError("a block value")
    if isinstance(value, yaml.ScalarNode) and value.style in ("|", ">"):
        raise ValueError("a block scalar")
    if start == end:  # `key:` without a value
        colon = text.index(":", key.end_mark.index) + 1
        return f"{text[:colon]} {as_yaml(new)}{text[colon:]}"
    shown = as_yaml(new)
    if isinstance(new, str) and isinstance(value, yaml.ScalarNode) and value.style in ("'", '"') and shown == new:
        shown = f"{value.style}{new}{value.style}"
    return text[:start] + shown + text[end:]


def _removed(text: str, key: yaml.Node, value: yaml.Node) -> str:
    """The key's lines, from the line it starts on to the last line of its value."""
    begin = text.rfind("\n", 0, key.start_mark.index) + 1
    if text[begin : key.start_mark.index].strip(" \ufeff"):
        raise ValueError("not alone on its line")
    end = len(text[: value.end_mark.index].rstrip()) if not _inline(value) else value.end_mark.index
    stop = text.find("\n", max(end, key.end_mark.index))
    return text[:begin] + ("" if stop < 0 else text[stop + 1 :])


def _inline(value: yaml.Node) -> bool:
    return isinstance(value, yaml.ScalarNode) and value.style not in ("|", ">")


def _inserted(text: str, parent: yaml.MappingNode, path: tuple[str | int, ...], new: object) -> str:
    """A new key after the parent's last line, at the indentation of its other keys."""
    if parent.flow_style:
        end = parent.end_mark.index - 1
        inner = text[parent.start_mark.index + 1 : end].rstrip()
        for part in path[:0:-1]:
            new = {part: new}
        comma = ", " if inner and not inner.endswith(",") else ""
        return f"{text[:end]}{comma}{as_yaml(path[0])}: {as_yaml(new)}{text[end:]}"
    first, last = parent.value[0][0], parent.value[-1][1]
    newline = "\r\n" if "\r\n" in text else "\n"
    end = last.end_mark.index
    stop = len(text[:end].rstrip()) if not _inline(last) else end
    stop = text.find("\n", stop)
    before, after = (text, "") if stop < 0 else (text[: stop + 1], text[stop + 1 :])
    if before and not before.endswith("\n"):
        before += newline
    pad = " " * first.start_mark.column
    for part in path[:-1]:
        before += f"{pad}{as_yaml(part)}:{newline}"
        pad += "  "
    return f"{before}{pad}{as_yaml(path[-1])}: {as_yaml(new)}{newline}{after}"


def _round_trip(text: str, patch: Patch) -> str:
    from ruamel.yaml import YAML
    from ruamel.yaml.util import load_yaml_guess_indent

    _, indent, offset = load_yaml_guess_indent(text)
    handler = YAML()
    handler.preserve_quotes = True
    handler.width = 1 << 16
    handler.indent(mapping=2, sequence=indent or 2, offset=offset or 0)
    handler.representer.add_representer(
        float, lambda representer, value: representer.represent_scalar("tag:yaml.org,2002:float", as_yaml(value))
    )
    data = handler.load(text)
    for path, new in patch.items():
        _put(data, path, new)
    stream = io.StringIO()
    handler.dump(data, stream)
    return stream.getvalue()


def _patched_json(source: Path, patch: Patch) -> str:
    text = read_text(source)
    found = re.search(r"^\{\s*\n([ \t]+)\"", text)
    indent: int | str = 2 if not found else "\t" if "\t" in found[1] else len(found[1])
    return json.dumps(_with(_load_json(source), patch), indent=indent, ensure_ascii=False) + "\n"


# -- files -----------------------------------------------------------------------------------------------------------


def read_text(path: Path) -> str:
    """The text with its own line ends; InputError when it cannot be read."""
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            return handle.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"cannot be read: {reason}", str(path), "check the file") from None


def load_yaml(text: str, path: Path) -> dict[str, Any]:
    """The YAML as PyYAML reads it; InputError when it is no mapping."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(
            f"not valid YAML: {getattr(error, 'problem', error)}", str(path), "mend the YAML first"
        ) from None
    if not isinstance(data, dict):
        raise InputError("not a YAML mapping", str(path), "give the Axolotl YAML of the run with --config")
    return data


def _load_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(path).lstrip("\ufeff"))
    except ValueError as error:
        raise InputError(f"not valid JSON: {error}", str(path), "mend the JSON first") from None
    if not isinstance(data, dict):
        raise InputError("not a JSON object", str(path), "give the DeepSpeed JSON of the run")
    return data


def write_new(path: Path, text: str, source: Path) -> None:
    """All of it or nothing, and never over a file: a temporary file that is linked to its name when complete."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, source.stat().st_mode & 0o777)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if path.exists() or path.is_symlink():
                raise FileExistsError(17, "File exists") from None
            os.replace(temporary, path)
    except FileExistsError:
        raise UsageError(
            "exists already; ftdoctor never writes over a file", str(path), "give --apply-fix a new name"
        ) from None
    except OSError as error:
        raise FtdoctorError(
            f"cannot be written: {error.strerror}", str(path), "check the folder and the free space"
        ) from None
    finally:
        Path(temporary).unlink(missing_ok=True)
