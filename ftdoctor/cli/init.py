"""`ftdoctor init`: a recipe with the person's own model, data and GPUs filled in."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

EPILOG = """\
examples:
  ftdoctor init --list
  ftdoctor init llama31-8b-qlora-2x24gb --data ./chats.jsonl --gpus 4 --out config.yml

Writes the YAML and, when the recipe has one, its DeepSpeed JSON beside it. Nothing is written over.
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor init",
        description="Copy a recipe that passes preflight, with your model, data and GPUs in it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("recipe", nargs="?", metavar="RECIPE", help="see --list")
    add("--list", action="store_true", help="the recipes and what they are for")
    add("--model", metavar="NAME", help="base model: a name on the Hub or a folder")
    add("--data", metavar="PATH", help="conversations: JSONL with `messages` (role, content), or a name on the Hub")
    add(
        "--gpus",
        type=int,
        metavar="N",
        help="number of GPUs; accumulation changes, the effective batch stays",
    )
    add("--output-dir", metavar="DIR", help="where the run writes")
    add("--out", metavar="OUT.yml", default="config.yml", help="default: config.yml")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb: 0 written or listed, 2 usage."""
    options = build_parser().parse_args(argv)
    from ftdoctor.errors import UsageError
    from ftdoctor.faces.terminal import width, wrap
    from ftdoctor.ruleset.load import shipped_dir

    folder = shipped_dir("configs")
    recipes = {path.stem: path for path in sorted(folder.glob("*.yml"))}
    if options.list or not options.recipe:
        for name, path in recipes.items():
            print("\n".join([name, *(f"    {line}" for line in wrap(_about(path), width() - 4))]))
        return 0
    if options.recipe not in recipes:
        raise UsageError("no such recipe", options.recipe, f"choose one of {', '.join(recipes)}")
    if options.gpus is not None and options.gpus < 1:
        raise UsageError("fewer than one GPU", "--gpus", "give the number of GPUs of the run")
    for path in _write(recipes[options.recipe], Path(options.out), options):
        print(f"wrote {path}")
    print(f"next: ftdoctor preflight {options.out}")
    return 0


def _about(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").split("\n")
    return " ".join(line[2:] for line in lines if line.startswith("# "))


def _write(recipe: Path, out: Path, options: argparse.Namespace) -> list[Path]:
    from ftdoctor.applyfix import Patch, load_yaml, patched, read_text, refuse_existing, write_new
    from ftdoctor.errors import UsageError

    refuse_existing(out, "--out")
    text = read_text(recipe)
    data = load_yaml(text, recipe)
    patch: Patch = {}
    written: list[Path] = []
    if options.model:
        patch[("base_model",)] = options.model
    if options.output_dir:
        patch[("output_dir",)] = options.output_dir
    if options.data:
        patch[("datasets", 0, "path")] = options.data
        patch[("datasets", 0, "split")] = None if Path(options.data).suffix else "train"
    if options.gpus:
        batch = int(data["gradient_accumulation_steps"]) * planned_gpus(recipe.stem)
        patch[("gradient_accumulation_steps",)] = max(1, round(batch / options.gpus))
    named: Any = data.get("deepspeed")
    if isinstance(named, str):
        beside = out.with_name(Path(named).name)
        if beside.exists() and beside.read_bytes() != (recipe.parent / named).read_bytes():
            raise UsageError("exists already, with other content", str(beside), "write to another folder with --out")
        patch[("deepspeed",)] = str(beside)
        if not beside.exists():
            write_new(beside, read_text(recipe.parent / named), recipe.parent / named)
        written.append(beside)
    write_new(out, patched(text, data, patch, recipe), recipe)
    return [out, *written]


def planned_gpus(name: str) -> int:
    """The number of GPUs in a recipe's name: `...-4x40gb`."""
    return int(name.rpartition("-")[2].partition("x")[0])
