"""DeepSpeed's own operator report without the rest of DeepSpeed; run by the training environment's python.

`python -m deepspeed.env_report` imports all of DeepSpeed before it asks the operators' builders: pipelines, inference,
torch._dynamo with sympy, 8 s of processor time of which the report needs none. Here the packages around the builders
are entered without running their `__init__`: their modules are the real ones, found where they are installed. The
table is printed by DeepSpeed's own `op_report`. Where that does not work (another release) this ends with an error,
and the caller runs the whole report.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types

# packages on the way to the builders, each with the one module that the builders want names of
ENTERED = {"deepspeed": "", "deepspeed.ops": "", "deepspeed.utils": "deepspeed.utils.logging"}


class _Entered(types.ModuleType):
    """A package whose `__init__` did not run; a name not found in it comes from the module that defines it."""

    def __getattr__(self, name: str) -> object:
        home = ENTERED[self.__name__]
        if name.startswith("__") or not home:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(home), name)


def enter() -> None:
    """Put the packages into `sys.modules`, with their real place.

    Raises:
        ImportError: DeepSpeed is not installed, or has no such package.
    """
    for name in ENTERED:
        parent = name.rpartition(".")[0]
        place = sys.modules[parent].__path__ if parent else None
        spec = importlib.machinery.PathFinder.find_spec(name, place)
        if spec is None or not spec.submodule_search_locations:
            raise ImportError(f"no package {name}")
        module = _Entered(name)
        module.__path__ = list(spec.submodule_search_locations)
        module.__spec__, module.__file__ = spec, spec.origin
        sys.modules[name] = module
        if parent:
            setattr(sys.modules[parent], name.rpartition(".")[2], module)


def main() -> None:
    """Print the table."""
    # what the builders never touch and torch or pydantic would look for
    sys.modules.update({"transformers": None, "sklearn": None})  # type: ignore[dict-item]
    enter()
    from deepspeed.env_report import op_report

    op_report()


if __name__ == "__main__":
    main()
