"""Axolotl's own validation of one YAML; run by the training environment's python, never imported by ftdoctor.

Standard input: {"config": path, "capabilities": {...}, "torch": null or "2.11.0", "known": the version of a schema}.
The last line of standard output is {"axolotl": version, "error": text or null, "warnings": [...], "light": bool,
"prepared": {"train", "test"} or null,
"schema": {...} unless known}; "prepared" are the names of the folders in which this release keeps the prepared data of
this configuration. Everything else Axolotl prints goes to standard error. With `--schema` nothing is read
and the schema alone is printed: the names of all keys that the installed release reads, of the records inside them, and
of its own plugins.

Importing all that `axolotl.utils.config` names takes 12 s, most of it for loading models (every model class of
transformers, scikit-learn, sympy), which validation never touches. Those two modules of Axolotl are replaced by empty
ones, which leaves 4 s; where that does not work (plugins, another release) everything is imported.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import importlib.metadata
import json
import logging
import pkgutil
import sys
import types
import typing
import warnings
from typing import Any

# records whose fields are read as they stand; others (fsdp_config) are rewritten before Axolotl looks at them
NESTED = ("datasets", "test_datasets", "special_tokens")


LOADING = {"axolotl.loaders.constants": "MULTIMODAL_AUTO_MODEL_MAPPING", "axolotl.loaders.utils": "load_model_config"}


_NAMING = "generate_dataset_hash_from_config"


class _NeedsWhole(Exception):
    """Validation asked for what was left out."""


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("axolotl"):
            self.seen.append(record.getMessage())


def names(model: Any) -> set[str]:
    """Fields of a pydantic model, aliases included."""
    found = set()
    for name, field in model.model_fields.items():
        found |= {name} | {alias for alias in (field.alias, field.validation_alias) if isinstance(alias, str)}
    return found


def records(annotation: Any, listed: bool = False) -> tuple[dict[bool, set[Any]], bool]:
    """The models that an annotation allows, by whether they are listed; True when something else may stand there."""
    found: dict[bool, set[Any]] = {True: set(), False: set()}
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return records(typing.get_args(annotation)[0], listed)
    if origin in (typing.Union, types.UnionType):
        free = False
        for part in typing.get_args(annotation):
            more, loose = records(part, listed)
            free |= loose
            for key, models in more.items():
                found[key] |= models
        return found, free
    if isinstance(origin, type) and issubclass(origin, typing.Sequence) and origin is not str:
        return records(typing.get_args(annotation)[0], True) if typing.get_args(annotation) else (found, True)
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        found[listed].add(annotation)
        return found, getattr(annotation, "model_config", {}).get("extra") == "allow"
    scalars = (str, int, float, bool, type(None))
    return found, not (annotation in scalars or origin is typing.Literal or _is_enum(annotation))


def _is_enum(annotation: Any) -> bool:
    import enum

    return isinstance(annotation, type) and issubclass(annotation, enum.Enum)


def schema() -> dict[str, Any]:
    """`keys`: top level; `nested`: `datasets[]` to its fields; `plugins`: module to keys."""
    import axolotl.integrations
    from axolotl.utils.schemas.config import AxolotlInputConfig

    nested = {}
    for name in NESTED:
        models, free = records(AxolotlInputConfig.model_fields[name].annotation)
        for listed, some in models.items():
            if some and not free:
                nested[name + "[]" * listed] = sorted(set().union(*map(names, some)))
    plugins = {}
    for module in pkgutil.iter_modules(axolotl.integrations.__path__):
        place = f"axolotl.integrations.{module.name}"
        try:
            args = importlib.import_module(f"{place}.args")
        except Exception:  # no keys of its own, or what it needs is not installed
            continue
        own = [m for m in vars(args).values() if hasattr(m, "model_fields") and m.__module__ == args.__name__]
        own = [m for m in own if m.__name__.endswith("Args")] or own
        plugins[place] = sorted(set().union(*map(names, own)))
    return {
        "axolotl": importlib.metadata.version("axolotl"), "keys": sorted(names(AxolotlInputConfig)),
        "nested": nested, "plugins": plugins,
    }  # fmt: skip


def _left_out(*_: Any, **__: Any) -> Any:
    raise _NeedsWhole


def _leave_out() -> None:
    for name, wanted in LOADING.items():
        empty = types.ModuleType(name)
        setattr(empty, wanted, _left_out)
        sys.modules[name] = empty


def _bring_back() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "axolotl"]:
        del sys.modules[name]


def _validate(config: dict[str, Any], job: dict[str, Any]) -> Any:
    """The configuration as Axolotl's own `validate_config` leaves it.

    Raises:
        Exception: whatever it refuses with.
    """
    import torch
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault

    given = DictDefault(config)
    if given.plugins:
        from axolotl.cli.config import prepare_plugins

        prepare_plugins(given)
    environment = {"torch_version": job.get("torch") or str(torch.__version__).split("+", maxsplit=1)[0]}
    return validate_config(given, capabilities=job["capabilities"], env_capabilities=environment)


def _taken(source: str, name: str) -> ast.Module:
    """The function `name` of a module with the functions and constants of that module that it needs, not annotated."""
    defined: dict[str, ast.stmt] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            node.decorator_list, node.returns = [], None
            for argument in ast.walk(node.args):
                if isinstance(argument, ast.arg):
                    argument.annotation = None
            defined[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            defined[node.targets[0].id] = node
    wanted, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        if one in defined and one not in wanted:
            wanted.add(one)
            waiting += [n.id for n in ast.walk(defined[one]) if isinstance(n, ast.Name)]
    return ast.Module([node for key, node in defined.items() if key in wanted], [])


def prepared_names(config: Any) -> dict[str, str | None]:
    """The folders of the prepared data, `train` and `test`, by Axolotl's own hash of a validated configuration.

    The module with that function imports all of Axolotl's data loading, so it and what it calls are taken out of the
    installed file; beside themselves they use the standard library.

    Raises:
        Exception: this release names its folders otherwise.
    """
    import enum
    import hashlib
    import pathlib

    from axolotl.utils.config import normalize_cfg_datasets

    file = pathlib.Path(next(iter(sys.modules["axolotl"].__path__)), "utils", "data", "shared.py")
    space: dict[str, Any] = {
        "json": json, "Enum": enum.Enum, "Path": pathlib.Path,
        "md5": lambda text: hashlib.md5(text.encode(), usedforsecurity=False).hexdigest(),
    }  # fmt: skip
    exec(compile(_taken(file.read_text(encoding="utf-8"), _NAMING), str(file), "exec"), space)
    normalize_cfg_datasets(config)
    config.tokenizer_config = config.tokenizer_config or config.base_model_config or config.base_model
    named = space[_NAMING]
    listed = {"train": config.datasets, "test": config.test_datasets}
    return {key: named(config, sets, config.tokenizer_config) if sets else None for key, sets in listed.items()}


def main() -> None:
    """Read the job, validate, print the result."""
    if sys.argv[1:] == ["--schema"]:
        with contextlib.redirect_stdout(sys.stderr):
            found = schema()
        json.dump(found, sys.stdout, indent=1, sort_keys=True)
        sys.stdout.write("\n")
        return
    job = json.load(sys.stdin)
    result: dict[str, Any] = {"axolotl": None, "error": None, "warnings": [], "prepared": None}
    seen = _Warnings()
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import yaml

        result["axolotl"] = importlib.metadata.version("axolotl")
        try:
            with open(job["config"], encoding="utf-8") as handle:
                config = yaml.safe_load(handle)
        except (OSError, ValueError, yaml.YAMLError) as error:
            config, result["error"] = None, f"{type(error).__name__}: {error}"[:4000]
        result["light"] = isinstance(config, dict) and not config.get("plugins")
        if result["light"]:
            _leave_out()
        for name in ("", "axolotl"):
            logging.getLogger(name).addHandler(seen)
        valid = None
        if config is not None:
            try:
                try:
                    valid = _validate(copy.deepcopy(config), job)
                except (_NeedsWhole, ImportError, AttributeError):
                    if not result["light"]:
                        raise
                    _bring_back()
                    result["light"], seen.seen = False, []
                    valid = _validate(config, job)
            except Exception as error:
                result["error"] = f"{type(error).__name__}: {error}"[:4000]
        if valid is not None:
            with contextlib.suppress(Exception):  # the reader then goes by the time of writing
                result["prepared"] = prepared_names(valid)
        if job.get("known") != result["axolotl"]:
            try:
                _bring_back()
                result["schema"] = schema()
            except Exception as error:  # a release that is built otherwise: the shipped list is used
                result["schema_error"] = f"{type(error).__name__}: {error}"[:300]
    result["warnings"] = list(dict.fromkeys(seen.seen))[:20]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
