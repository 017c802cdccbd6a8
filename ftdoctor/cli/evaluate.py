"""`ftdoctor evaluate`: judge answers, given or generated."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ftdoctor.cli.outcome import Outcome
    from ftdoctor.evaluation.compare import Judged
    from ftdoctor.evaluation.generate import Generation
    from ftdoctor.evaluation.suite import Prompt
    from ftdoctor.findings import Diagnosis

EPILOG = """\
examples:
  ftdoctor evaluate --answers answers.jsonl                       judge answers that were generated elsewhere
  ftdoctor evaluate --model outputs/merged                        ask a merged model the built-in prompts
  ftdoctor evaluate --base org/model --adapter outputs/run1       base and base + adapter side by side
  ftdoctor evaluate --model outputs/merged --base org/model --adapter outputs/run1 --prompts mine.jsonl

  ftdoctor evaluate --config run.yml --held-out 64                rows of the validation split, with perplexity
  ftdoctor evaluate --model outputs/merged --samples 3            greedy, and three sampled answers to each prompt
  ftdoctor evaluate --config run.yml --lm-eval arc_easy,hellaswag the same, then Axolotl's lm-eval on the model

An interrupted run goes on where it was: answers in --out that were made with the same settings are kept.

exit codes: 0 no finding of severity error, 1 broken answers or a model that could not be asked, 2 usage or input
"""


def build_parser() -> argparse.ArgumentParser:
    """Options of the verb."""
    parser = argparse.ArgumentParser(
        prog="ftdoctor evaluate",
        description="Judge the answers of a fine-tuned model: echo, leaked tokens, loops, no end, no sense.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--answers", metavar="FILE", help='JSON lines of {"prompt", "output", "finish_reason", "template"}')
    add("--prompts", metavar="FILE", help="your own prompts, JSON lines (default: the built-in suite)")
    add("--out", metavar="FILE.jsonl", default="evaluation.jsonl", help="results; FILE.html is written beside it")
    add("--format", choices=("json", "text"), help="default: json with --answers, else text")
    model_options(parser)
    add("--config", metavar="YAML", help="the Axolotl YAML of the run: names base, adapter and the merged folder")
    add("--held-out", type=positive, metavar="N", help="ask N rows of the configuration's validation split")
    add("--samples", type=positive, metavar="N", help="N sampled answers to each prompt besides the greedy one")
    add("--lm-eval", metavar="TASKS", help="run Axolotl's lm-eval on the last model too: names or files, with commas")
    add("--batch-size", type=positive, default=8, metavar="N", help="prompts at a time (default: 8)")
    return parser


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"not a whole number above zero: {text}")
    return int(text)


def model_options(parser: argparse.ArgumentParser) -> None:
    """Options that `infer` shares."""
    add = parser.add_argument
    add("--model", metavar="DIR", help="a merged or full model")
    add("--base", metavar="MODEL", help="the base model: a folder or a name on the Hub")
    add("--adapter", metavar="DIR", help="a LoRA adapter, with --base")
    add("--python", metavar="EXE", help="python of the training environment (default: found beside axolotl)")
    add("--max-new-tokens", type=positive, default=256, metavar="N", help="limit of an answer (default: 256)")
    add("--sample", action="store_true", help="temperature 0.7, top_p 0.9, instead of the most likely token")
    add("--chat-template", metavar="FILE", help="a Jinja template instead of the shipped one, to see what it does")
    add("--no-generation-prompt", action="store_true", help="ask without the assistant's header, to see what it does")
    add("--seed", type=int, default=0, metavar="N", help="seed of --sample (default: 0)")


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    options = build_parser().parse_args(argv)
    from ftdoctor.errors import UsageError

    if options.answers:
        if options.model or options.base or options.adapter:
            raise UsageError("--answers needs no model", "", "leave out --answers, or the model")
        return judge_file(options.answers, options.format or "json")
    return judge_models(options).code


def judge_file(path: str, form: str) -> int:
    """Judge a file of answers and print the result."""
    from ftdoctor.evaluation.answers import read_answers
    from ftdoctor.evaluation.judge import judge

    judged = [judge(answer) for answer in read_answers(path)]
    broken = sum(bool(j.labels) for j in judged)
    if form == "json":
        rows = [
            {"index": i, "labels": list(j.labels), "verdict": j.verdict, "scores": j.scores, "reasons": j.reasons}
            for i, j in enumerate(judged)
        ]
        json.dump({"results": rows, "answers": len(rows), "broken": broken}, sys.stdout, ensure_ascii=True, indent=1)
        print()
    else:
        for i, j in enumerate(judged):
            for name, reason in j.reasons.items():
                print(f"{i:>4}  {name:<20}  {reason}")
        print(f"{broken} of {len(judged)} answers are broken")
    return 1 if broken else 0


def targets(options: argparse.Namespace) -> list[Generation]:
    """The models that the options name, what was tuned last.

    Raises:
        UsageError: no model, or an adapter without its base.
        InputError: a folder is not what it was given as.
    """
    from ftdoctor.errors import UsageError
    from ftdoctor.evaluation.generate import Generation, check_model

    if options.adapter and not options.base:
        raise UsageError("an adapter without its base", "--adapter", "give --base too: alone, the adapter is no model")
    found = []
    if options.base:
        check_model(options.base, options.adapter)
        found.append(Generation("base", options.base, None))
    if options.adapter:
        found.append(Generation("base + adapter", options.base, options.adapter))
    if options.model:
        check_model(options.model, None)
        found.append(Generation("merged model" if options.base else "model", options.model, None))
    if not found:
        raise UsageError("no model and no answers", "", "give --model DIR, --base and --adapter, or --answers FILE")
    return found


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """How answers are made; kept with every answer."""
    chosen: dict[str, Any] = {"max_new_tokens": options.max_new_tokens}
    if options.no_generation_prompt:
        chosen["generation_prompt"] = False
    if options.chat_template:
        chosen["chat_template"] = _template(options.chat_template)
    sampling = options.sample or getattr(options, "samples", None)
    return chosen | ({"temperature": 0.7, "top_p": 0.9} if sampling else {})


def _template(path: str) -> str:
    from ftdoctor.errors import InputError

    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot be read: {error}", path, "give a file with a Jinja chat template") from None


def diagnose(result: Judged, trained: str | None = None) -> Diagnosis:
    """The rules' verdict on one model's answers; `trained` is the adapter whose tokenizer it should be asked through.

    What a worker that died left on standard error is read as a log.
    """
    from ftdoctor.evaluation.compare import facts
    from ftdoctor.events import ExitSeen, Origin
    from ftdoctor.merging.tokenizer import differences, read_tokenizer
    from ftdoctor.ruleset.load import load
    from ftdoctor.session import Session
    from ftdoctor.sources.files import Input

    session, made = Session(load()), result.generation
    if made.died:
        session.state("stage", "infer", made.name)
        router = session.router(Input("worker", "log"))
        session.apply(router.feed(f"{made.noise}\n{made.died}\n".encode()))
        session.apply(router.finish())
        session.apply([ExitSeen(Origin("worker", order=session.next_order()), made.code, by="the generation worker")])
    for name, value in facts(result).items():
        session.state(name, value, made.name)
    if trained is not None and made.adapter is None:
        for difference in differences(read_tokenizer(trained), read_tokenizer(made.model)):
            if difference.serious:
                what = "eos" if difference.what == "special" else difference.what
                session.state(f"tokenizer.{what}", difference.text, made.model)
    return session.diagnose()


def trained_with(target: Generation, adapter: str | None) -> str | None:
    """The adapter folder behind a merged model: as given, or the folder above; None for a base model."""
    if target.adapter is not None or target.name == "base" or not Path(target.model).is_dir():
        return None
    parent = Path(target.model).resolve().parent
    return adapter or (str(parent) if (parent / "adapter_config.json").is_file() else None)


def from_config(options: argparse.Namespace) -> None:
    """Fill in base, adapter and merged model from the Axolotl YAML, where the options do not name them.

    Raises:
        UsageError: --held-out without --config.
    """
    from ftdoctor.errors import UsageError
    from ftdoctor.merging.run import read_merge

    if not options.config:
        if options.held_out or options.lm_eval:
            raise UsageError("the configuration is needed", "--config", "give the Axolotl YAML of the run")
        return
    found = read_merge(options.config)
    tuned = Path(found.adapter)
    if options.model or options.base or options.adapter:
        return
    options.base = found.base_folder or found.base
    if (tuned / "adapter_config.json").is_file():
        options.adapter = str(tuned)
        options.model = str(found.output) if (found.output / "config.json").is_file() else None
    else:
        options.model = str(tuned)


def judge_models(options: argparse.Namespace) -> Outcome:
    """Generate, judge, write results and report, print the summary."""
    from ftdoctor.cli.outcome import Outcome
    from ftdoctor.evaluation import report
    from ftdoctor.evaluation.compare import judged, result_rows, resume, write_atomic
    from ftdoctor.evaluation.generate import generate, held_out, training_python
    from ftdoctor.evaluation.lm_eval import run_lm_eval
    from ftdoctor.evaluation.suite import SUITE, read_prompts, sampled

    from_config(options)
    models = targets(options)
    python = training_python(options.python)
    prompts = read_prompts(options.prompts) if options.prompts else SUITE
    if options.held_out:
        rows, total = held_out(python, options.config, options.held_out)
        print(f"ftdoctor: {len(rows)} of {total} validation rows", file=sys.stderr)
        prompts = rows if not options.prompts else prompts + rows
    prompts = sampled(prompts, options.samples or int(options.sample), options.seed, greedy=not options.sample)
    chosen, out = settings(options), Path(options.out)
    kept = resume(out, models, prompts, chosen)
    if kept:
        print(f"ftdoctor: {kept} answers of {out} are kept", file=sys.stderr)
    keep = Keeper(lambda: write_atomic(out, _lines(models, prompts, chosen)))
    with keep, progress_bar() as bar:
        base = next((m for m in models if m.name == "base"), None)
        # the base comes last: loaded once, it answers and judges how likely the answers of the others are
        for target in [*(m for m in models if m is not base), *([base] if base else [])]:
            advance = bar(target.name, len(target.rows), len(prompts))

            def progress(
                event: dict[str, Any], advance: Callable[[int], None] = advance, made: Generation = target
            ) -> None:
                if event["event"] == "answer":
                    keep()
                    advance(len(made.rows))

            keys, texts = to_score(models) if target is base else ([], [])
            generate(python, target, prompts, chosen | {"batch_size": options.batch_size}, progress, texts)
            if target is base:
                for place, loss in target.base_loss.items():
                    keys[place][0].base_loss[keys[place][1]] = loss
                target.base_loss = {}
    results = [judged(target, prompts) for target in models]
    diagnoses = [diagnose(result, trained_with(result.generation, options.adapter)) for result in results]
    write_atomic(out, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in result_rows(results, prompts, chosen)))
    table: list[dict[str, Any]] = []
    if options.lm_eval:
        table = run_lm_eval(python, options.config, options.lm_eval, models[-1], out.absolute().parent)
    page = out.with_suffix(".html")
    write_atomic(page, report.render(results, diagnoses, prompts, chosen, table))
    if options.format == "json":
        print(json.dumps({**_as_json(results, diagnoses, out, page), "lm_eval": table}, indent=1))
    else:
        for result, diagnosis in zip(results, diagnoses):  # noqa: B905
            print_result(result, diagnosis)
        for row in table:
            print(f"  lm-eval {row['task']} {row['metric']}: {row['value']:.4f}")
        print(f"results: {out}\nreport:  {page}")
    tuned = list(zip(results, diagnoses))[-1:]  # noqa: B905 - the base model's faults are not the run's
    failed = any(r.generation.died for r in results)
    broken = failed or any(f.severity == "error" for _, d in tuned for f in d.findings)
    return Outcome(int(broken), tuned[0][1])


def to_score(models: Sequence[Generation]) -> tuple[list[tuple[Generation, int]], list[str]]:
    """The tuned models' answers, whose likelihood under the base is evidence of incoherence, and whose they are."""
    from ftdoctor.evaluation.markers import strip_markers

    keys = [(m, i) for m in models if m.name != "base" for i in sorted(m.rows)]
    return keys, [strip_markers(str(m.rows[i]["output"])).strip() for m, i in keys]


class Keeper:
    """Writes what there is now and then, so that an interrupted run loses little and writing costs little.

    All answers are judged again with each writing: it takes at most a tenth of the time. As a context manager it writes
    what is left when an exception ends it; after a good end its user writes the results.
    """

    def __init__(self, write: Callable[[], object], clock: Callable[[], float] = time.monotonic) -> None:
        """`write` writes all of it; `clock` gives seconds."""
        self._write, self._clock, self._next, self._left = write, clock, 0.0, False

    def __call__(self) -> None:
        """There is something new."""
        began = self._clock()
        self._left = began < self._next
        if not self._left:
            self._write()
            ended = self._clock()
            self._next = ended + max(1.0, 9 * (ended - began))

    def __enter__(self) -> Keeper:
        """Nothing to do."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Write what would be lost."""
        if self._left and kind is not None:
            self._write()


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], Callable[[int], None]]]:
    """`bar(name, done, total)` gives a function that takes the number done; silent where nobody looks."""
    if not (sys.stderr and sys.stderr.isatty()):
        yield lambda *_: lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as shown:

        def bar(name: str, done: int, total: int) -> Callable[[int], None]:
            task = shown.add_task(name, total=total, completed=done)
            return lambda now: shown.update(task, completed=now)

        yield bar


def _lines(models: list[Generation], prompts: Sequence[Prompt], chosen: dict[str, Any]) -> str:
    from ftdoctor.evaluation.compare import judged, result_rows

    rows = result_rows([judged(m, prompts) for m in models], prompts, chosen)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def print_result(result: Judged, diagnosis: Diagnosis) -> None:
    """One model in a few lines; what is shown never holds control characters of an answer."""
    from ftdoctor.faces.terminal import printable

    made, total = result.generation, len(result.judgements)
    print(f"{made.name}: {made.model}" + (f" + adapter {made.adapter}" if made.adapter else " (no adapter)"))
    if made.died:
        print(f"  could not be asked: {printable(made.died)}")
    print(f"  {total - result.broken} of {total} answers are healthy")
    if speed := made.measured.get("speed"):
        print(f"  {speed['answers']} answers of {speed['tokens']:,} tokens in {speed['seconds']:.1f} s")
    if result.same:
        print(f"  {len(result.same)} identical answers to different prompts")
    if result.perplexity is not None:
        print(f"  perplexity {result.perplexity:.3g} of {made.measured['reference']['rows']} reference answers")
    if result.drift is not None and not 0.5 <= result.drift <= 2.0:
        print(f"  answers are {result.drift:.2g} times as long as the references")
    for finding in diagnosis.findings:
        mark = "  <- first cause" if finding is diagnosis.root_cause else ""
        print(f"  {finding.severity}: {finding.id}: {printable(finding.message)}{mark}")
        for fix in finding.fixes[:2] if finding.explained_by is None else ():
            print(f"      fix: {fix.title}. {fix.note or fix.command}")


def _as_json(results: list[Judged], diagnoses: list[Diagnosis], out: Path, page: Path) -> dict[str, Any]:
    return {
        "models": [
            {
                "name": r.generation.name,
                "path": r.generation.model,
                "adapter": r.generation.adapter,
                "info": r.generation.info,
                "died": r.generation.died,
                "answers": len(r.judgements),
                "broken": r.broken,
                "labels": dict(r.counts()),
                "identical": len(r.same),
                "perplexity": r.perplexity,
                "length_drift": r.drift,
                "root_cause": d.root_cause.id if d.root_cause else None,
                "findings": [{"id": f.id, "severity": f.severity, "message": f.message} for f in d.findings],
            }
            for r, d in zip(results, diagnoses)  # noqa: B905
        ],
        "results": str(out),
        "report": str(page),
    }
