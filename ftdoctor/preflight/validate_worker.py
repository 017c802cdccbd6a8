"""Axolotl's own validation of one YAML; run by the training environment's python, never imported by ftdoctor.

Standard input: {"config": path, "capabilities": {...}, "torch": null or "2.11.0"}. The last line of standard output is
{"axolotl": version, "error": text or null, "warnings": [...], "schema": {...}}; everything else Axolotl prints goes to
standard error. With `--schema` nothing is read and the schema alone is printed: the names of all keys that the
installed release reads, of the records inside them, and of its own plugins.
"""

from __future__ import annotations

import contextlib
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


def main() -> None:
    """Read the job, validate, print the result."""
    if sys.argv[1:] == ["--schema"]:
        with contextlib.redirect_stdout(sys.stderr):
            found = schema()
        json.dump(found, sys.stdout, indent=1, sort_keys=True)
        sys.stdout.write("\n")
        return
    job = json.load(sys.stdin)
    result: dict[str, Any] = {"axolotl": None, "error": None, "warnings": []}
    seen = _Warnings()
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import yaml
        from axolotl.utils.config import validate_config
        from axolotl.utils.dict import DictDefault

        result["axolotl"] = importlib.metadata.version("axolotl")
        logging.getLogger().addHandler(seen)
        logging.getLogger("axolotl").addHandler(seen)
        try:
            with open(job["config"], encoding="utf-8") as handle:
                config = DictDefault(yaml.safe_load(handle))
            if config.plugins:
                from axolotl.cli.config import prepare_plugins

                prepare_plugins(config)
            environment = {"torch_version": job.get("torch") or str(torch.__version__).split("+", maxsplit=1)[0]}
            validate_config(config, capabilities=job["capabilities"], env_capabilities=environment)
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"[:4000]
        try:
            result["schema"] = schema()
        except Exception as error:  # a release that is built otherwise: the shipped list is used
            result["schema_error"] = f"{type(error).__name__}: {error}"[:300]
    result["warnings"] = list(dict.fromkeys(seen.seen))[:20]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
