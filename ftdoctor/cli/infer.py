"""`ftdoctor infer`: ask a model as it should be asked, and judge the answer."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ftdoctor.evaluation.compare import Judged
    from ftdoctor.evaluation.generate import Generation
    from ftdoctor.evaluation.suite import Prompt

EPILOG = """\
examples:
  ftdoctor infer --model outputs/merged --prompt "Name three colours."
  ftdoctor infer --base org/model --adapter outputs/run1            interactive: answers each line, Ctrl-D ends

The prompt goes through the chat template of the shipped tokenizer, with the assistant's header.
exit codes: 0 healthy, 1 a broken answer or a model that could not be asked, 2 usage or input
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    from ftdoctor.cli.evaluate import model_options

    parser = argparse.ArgumentParser(
        prog="ftdoctor infer",
        description="Ask a merged model, or a base model with its adapter, and judge the answer.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    model_options(parser)
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be given again")
    parser.add_argument("--system", metavar="TEXT", help="a system turn in front of each prompt")
    return parser


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = build_parser().parse_args(argv)
    from ftdoctor.cli.evaluate import diagnose, print_result, settings, targets, trained_with
    from ftdoctor.errors import UsageError
    from ftdoctor.evaluation.compare import judged
    from ftdoctor.evaluation.generate import Generation, Worker, job_of, question, training_python
    from ftdoctor.evaluation.suite import Prompt

    if options.model and (options.base or options.adapter):
        raise UsageError("two models", "--model", "give --model, or --base with --adapter")
    target = targets(options)[-1]
    if options.base and not options.adapter:
        print("ftdoctor: no --adapter: this asks the base model, not what was trained", file=sys.stderr)
    system = ({"role": "system", "content": options.system},) if options.system else ()
    seed = options.seed if options.sample else None
    chosen = settings(options) | {"batch_size": 8}
    typed = iter(options.prompt) if options.prompt else _typed()
    prompts: list[Prompt] = []
    with Worker(training_python(options.python), target, {**job_of(target, (), chosen), "stay": True}) as worker:
        alive = worker.until_done()
        if alive:
            print(asked(target), file=sys.stderr)
        for text in typed if alive else ():
            prompts.append(Prompt("own", (*system, {"role": "user", "content": text}), seed))
            given = Generation(target.name, target.model, target.adapter, info=target.info)
            worker.target = given
            worker.send([question(prompts[-1])])
            alive = worker.until_done()
            target.died, target.code, target.noise = given.died, given.code, given.noise
            if not alive:
                break
            target.rows[len(prompts) - 1] = given.rows[0]
            show(judged(given, prompts[-1:]), prompts[-1])
    if not prompts and not target.died:
        raise UsageError("no prompt", "", 'give --prompt "..."')
    result = judged(target, prompts)
    print_result(result, diagnose(result, trained_with(target, options.adapter)))
    return 1 if result.broken or target.died else 0


def asked(target: Generation) -> str:
    """Which model answers, and how it is asked."""
    info = target.info
    who = f"{target.model} + adapter {target.adapter}" if target.adapter else f"{target.model}, no adapter"
    how = f"template {info['template']}, stops on {info['eos']}, {info['dtype']} on {info['device']}"
    return f"{target.name}: {who}; {how}"


def show(result: Judged, prompt: Prompt) -> None:
    """One answer and its verdict."""
    from ftdoctor.faces.terminal import printable

    for i, answer in result.answers.items():
        found = result.judgements[i]
        print(f"> {printable(prompt.text)}\n{printable(answer.output)}\n[{found.verdict}: {answer.finish}]")
        for label, reason in found.reasons.items():
            print(f"  {label}: {printable(reason)}")
        print(flush=True)


def _typed() -> Iterator[str]:
    """Lines of standard input; in a terminal with line editing."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives input() its editing
        while True:
            try:
                line = input("ask> ")
            except EOFError:
                print()
                return
            if line.strip():
                yield line
    for line in sys.stdin:
        if line.strip():
            yield line.rstrip("\n")
