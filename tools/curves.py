"""Judge drawn training runs: families of healthy and sick curves, each printed as the Trainer prints it.

    python -m tools.curves                  # 30 runs of each family, a table and every wrong verdict
    python -m tools.curves --each 200 --seed 7
    python -m tools.curves --keep FOLDER    # leave the logs of the wrong ones there

The public corpus (`make score`) holds few sick curves; here each failure is drawn in many lengths, noises and logging
intervals.
A healthy run counts as failed or warned when any numeric rule says error or warning; a sick one as caught when one
of the names that fit it is said. Exit code 1 when more than 1 % of the healthy runs failed, 5 % warned, or less than
95 % of the sick ones were caught.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ftdoctor.ruleset.load import load
from ftdoctor.ruleset.types import RuleSet
from ftdoctor.session import Session

NUMERIC = {
    "loss-nan", "loss-zero", "loss-stuck", "loss-diverging", "overfitting", "grad-norm-high", "grad-norm-zero",
    "grad-overflow", "lr-too-low", "lr-too-high", "throughput-drop", "labels-all-masked",
}  # fmt: skip
MARKS = {"failed": 0.01, "warned": 0.05, "caught": 0.95}
Curve = Callable[[float], float]
OVERFLOW = (
    "[2024-01-05 10:00:00,000] [INFO] [loss_scaler.py:190:update_scale] [deepspeed] OVERFLOW! Rank 0 Skipping step."
)


@dataclass
class Drawn:
    """One run: what is logged at each point, as functions of the progress 0..1."""

    points: int
    logging_steps: int = 1
    loss: list[float] = field(default_factory=list)
    grad: list[float] | None = None
    evals: list[float] | None = None
    rate: float = 2e-4
    epochs: float = 3.0
    extra: dict[str, float] = field(default_factory=dict)
    warmup: float = 0.03
    constant_rate: bool = False
    seconds: list[float] | None = None  # of each step
    before: list[str] = field(default_factory=list)
    among: dict[int, list[str]] = field(default_factory=dict)
    base_eval: float | None = None
    from_epoch: float = 0.0
    quoted: bool = True

    def lines(self) -> Iterator[str]:
        """The log."""
        yield from self.before
        total = self.points * self.logging_steps
        elapsed = 0.0
        every = max(1, self.points // len(self.evals)) if self.evals else 0
        done = 0
        if self.base_eval is not None:
            yield self._row({"eval_loss": self.base_eval, "eval_runtime": 12.1, "epoch": 0.0})
        for i in range(self.points):
            step = (i + 1) * self.logging_steps
            elapsed += (self.seconds[i] if self.seconds else 1.5) * self.logging_steps
            clock = f"{int(elapsed) // 60:02d}:{int(elapsed) % 60:02d}"
            yield f"{100 * step // total:3d}%|####      | {step}/{total} [{clock}<10:00,  1.50s/it]"
            yield from self.among.get(i, ())
            epoch = self.from_epoch + (self.epochs - self.from_epoch) * (i + 1) / self.points
            if self.loss:
                row = {"loss": self.loss[i]}
                if self.grad is not None:
                    row["grad_norm"] = self.grad[i]
                row["learning_rate"] = self._rate(i)
                yield self._row({**row, **self.extra, "epoch": epoch})
            if self.evals and (i + 1) % every == 0 and done < len(self.evals):
                yield self._row({"eval_loss": self.evals[done], "eval_runtime": 12.1, "epoch": epoch})
                done += 1
        if self.loss and self.seconds is None:
            finite = [v for v in self.loss if math.isfinite(v)] or [0.0]
            yield self._row({"train_runtime": elapsed, "train_loss": sum(finite) / len(finite), "epoch": self.epochs})

    def _rate(self, i: int) -> float:
        if self.constant_rate:
            return self.rate
        warm = max(1, int(self.warmup * self.points))
        return self.rate * (
            i / warm if i < warm else 0.5 * (1 + math.cos(math.pi * (i - warm) / (self.points - warm + 1)))
        )

    def _row(self, values: dict[str, float]) -> str:
        if self.quoted:  # transformers 5
            return "{" + ", ".join(f"'{k}': '{v:.4g}'" for k, v in values.items()) + "}"
        return (
            "{"
            + ", ".join(f"'{k}': {v:.4f}" if k != "learning_rate" else f"'{k}': {v!r}" for k, v in values.items())
            + "}"
        )


def noisy(rng: random.Random, points: int, shape: Curve, noise: float, floor: float = 0.02) -> list[float]:
    """The shape with noise in proportion to its level, as losses of small batches have it."""
    return [max(floor, shape(i / points) * (1 + rng.gauss(0, noise))) for i in range(points)]


def norms(rng: random.Random, points: int, level: float = 0.8, early: float = 3.0) -> list[float]:
    """Gradient norms: high at the start, log-normal around a level."""
    return [level * (1 + early * math.exp(-20 * i / points)) * math.exp(rng.gauss(0, 0.25)) for i in range(points)]


def base(rng: random.Random, low: int = 25, high: int = 600) -> Drawn:
    """Length, interval and version of a run; nothing logged yet."""
    points = int(math.exp(rng.uniform(math.log(low), math.log(high))))
    return Drawn(
        points, rng.choice([1, 1, 5, 10, 25, 50]), quoted=rng.random() < 0.6, epochs=rng.choice([1.0, 2.0, 3.0, 4.0])
    )


def sft(rng: random.Random, noise: float | None = None, low: int = 25, high: int = 600) -> Drawn:
    """An instruction fine-tune: a quick fall, then a slow one."""
    run = base(rng, low, high)
    start, end, speed = rng.uniform(1.2, 3.0), rng.uniform(0.45, 0.85), rng.uniform(3, 25)

    def shape(t: float) -> float:
        return start * (end + (1 - end) * math.exp(-speed * t)) * (1 - 0.08 * t)

    run.loss = noisy(rng, run.points, shape, rng.uniform(0.02, 0.1) if noise is None else noise)
    run.grad = norms(rng, run.points, rng.uniform(0.1, 1.5))
    return run


def with_evals(rng: random.Random, run: Drawn, wobble: float = 0.01) -> Drawn:
    """Evaluations that follow the training loss."""
    count = rng.choice([2, 3, 5, 10, 20])
    count = min(count, run.points // 2)
    every = run.points // count
    run.evals = []
    for k in range(count):
        part = run.loss[max(0, (k + 1) * every - max(5, every)) : (k + 1) * every]
        run.evals.append(1.04 * sum(part) / len(part) * (1 + rng.gauss(0, wobble)))
    for k in range(1, count):  # what is held out falls more slowly than it wobbles
        run.evals[k] = min(run.evals[k], run.evals[k - 1] * (1 + abs(rng.gauss(0, wobble / 2))))
    if rng.random() < 0.5:
        run.base_eval = run.loss[0] * rng.uniform(0.9, 1.2)
    return run


# -- healthy ---------------------------------------------------------------------------------------------------------


def small_batch(rng: random.Random) -> Drawn:
    """Micro batch 1: the batches differ more than the trend."""
    return sft(rng, noise=rng.uniform(0.2, 0.5), low=60)


def dpo(rng: random.Random) -> Drawn:
    """Preference training: from ln 2 down, large norms, low rates."""
    run = base(rng)
    end, speed = rng.uniform(0.2, 0.62), rng.uniform(2, 10)
    run.loss = noisy(rng, run.points, lambda t: end + (0.693 - end) * math.exp(-speed * t), rng.uniform(0.03, 0.15))
    run.grad = norms(rng, run.points, rng.uniform(3, 30), 0.3)
    run.rate = rng.choice([5e-7, 1e-6, 5e-6, 1e-5])
    run.extra = {"rewards/chosen": 0.3, "rewards/rejected": -0.6, "rewards/accuracies": 0.71, "rewards/margins": 0.9}
    return run


def classification(rng: random.Random) -> Drawn:
    """A classifier on a small model, with evaluations."""
    run = base(rng, 25, 300)
    classes, end = rng.choice([2, 3, 5, 20]), rng.uniform(0.25, 0.6)
    start = math.log(classes)
    run.loss = noisy(rng, run.points, lambda t: start * (end + (1 - end) * math.exp(-6 * t)), rng.uniform(0.08, 0.25))
    run.grad = norms(rng, run.points, rng.uniform(2, 9), 0.5)
    run.rate = 2e-5
    return with_evals(rng, run)


def restarts(rng: random.Random) -> Drawn:
    """Cosine restarts: a small bump of the loss at each."""
    run = sft(rng, low=80)
    for k in (1, 2, 3):
        at = k * run.points // 4
        for i in range(at, min(run.points, at + run.points // 12)):
            run.loss[i] *= 1 + 0.15 * math.exp(-(i - at) / max(1, run.points / 40))
    return run


def low_plateau(rng: random.Random) -> Drawn:
    """A narrow task that is learned in the first tenth and stays low."""
    run = base(rng)
    start, level = rng.uniform(0.8, 2.5), rng.uniform(0.02, 0.2)
    run.loss = noisy(
        rng, run.points, lambda t: level + (start - level) * math.exp(-30 * t), rng.uniform(0.1, 0.4), 0.003
    )
    run.grad = norms(rng, run.points, 0.3)
    return run


def spiky(rng: random.Random) -> Drawn:
    """Single bad batches: the next point is back."""
    run = sft(rng, low=50)
    assert run.grad is not None
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(run.points - 2)
        run.loss[at] *= rng.uniform(2, 6)
        run.grad[at] *= rng.uniform(10, 60)
    return run


def accumulated(rng: random.Random) -> Drawn:
    """Transformers 4.46 summed the loss over the accumulation steps; norms of that size too."""
    run = sft(rng)
    factor = rng.choice([4, 8, 16])
    run.loss = [v * factor for v in run.loss]
    run.grad = [v * factor for v in run.grad or ()]
    return run


def evals_only(rng: random.Random) -> Drawn:
    """A log that kept the evaluation lines alone."""
    run = base(rng, 10, 60)
    start, end = rng.uniform(1.2, 2.2), rng.uniform(0.7, 1.1)
    run.evals = noisy(rng, run.points, lambda t: end + (start - end) * math.exp(-6 * t), 0.004)
    return run


def full_tune(rng: random.Random) -> Drawn:
    """All weights at 1e-5: norms above 5, the loss falls little."""
    run = base(rng, 60, 1000)
    start, drop = rng.uniform(0.8, 2.0), rng.uniform(0.12, 0.35)
    run.loss = noisy(rng, run.points, lambda t: start * (1 - drop * (1 - math.exp(-5 * t))), rng.uniform(0.02, 0.08))
    run.grad = norms(rng, run.points, rng.uniform(3, 9), 2.0)
    run.rate = rng.choice([5e-6, 1e-5, 2e-5])
    return run


def pretraining(rng: random.Random) -> Drawn:
    """From ln(vocabulary) down, with a warm-up."""
    run = base(rng, 80, 1500)
    start, end = rng.uniform(10.3, 12.2), rng.uniform(2.4, 4.0)
    run.loss = noisy(rng, run.points, lambda t: end + (start - end) * math.exp(-9 * t), 0.015)
    run.grad = norms(rng, run.points, 0.8, 12)
    return run


def fp16(rng: random.Random) -> Drawn:
    """The loss scale settles: some infinite norms at the start and single ones later."""
    run = sft(rng)
    assert run.grad is not None
    for at in [*range(rng.randint(0, 3)), *(rng.randrange(run.points) for _ in range(2))]:
        run.grad[at] = math.inf
    scale = 32
    run.before = []
    for _ in range(rng.randint(3, 18)):
        run.before.append(f"{OVERFLOW} Attempted loss scale: {2**scale}, reducing to {2 ** (scale - 1)}")
        scale -= 1
    return run


def rl(rng: random.Random) -> Drawn:
    """GRPO: a loss around zero, rewards that rise."""
    run = base(rng)
    run.loss = [rng.gauss(0.0, 0.003) for _ in range(run.points)]
    run.loss[0] = 0.0
    run.grad = norms(rng, run.points, 0.3)
    run.rate = 1e-6
    run.extra = {"reward": 0.4, "reward_std": 0.2, "kl": 0.01, "completion_length": 210.0}
    return run


def staircase(rng: random.Random) -> Drawn:
    """Several epochs: the loss steps down at each new one, evaluations stay level."""
    run = sft(rng, noise=0.05, low=60)
    run.epochs = 3.0
    drops = (1.0, rng.uniform(0.82, 0.95), rng.uniform(0.7, 0.85))
    plain = list(run.loss)
    run.loss = [v * drops[min(2, 3 * i // run.points)] for i, v in enumerate(run.loss)]
    tail = sum(plain[-10:]) / 10
    run.evals = [tail * 1.03, tail * 1.01, tail * rng.uniform(1.0, 1.04)]
    return run


def harder_later(rng: random.Random) -> Drawn:
    """Sorted data: later samples are somewhat harder."""
    run = sft(rng, low=60)
    rise = rng.uniform(0.0, 0.12)
    run.loss = [v * (1 + rise * i / run.points) for i, v in enumerate(run.loss)]
    return run


def resumed(rng: random.Random) -> Drawn:
    """The end of a run that was resumed: flat, because it had converged."""
    run = base(rng)
    level = rng.uniform(0.4, 1.3)
    run.loss = noisy(rng, run.points, lambda t: level * (1 - 0.02 * t), rng.uniform(0.02, 0.06))
    run.grad = norms(rng, run.points, 0.5, 0.0)
    run.epochs, run.from_epoch = 3.0, rng.uniform(1.0, 2.5)
    return run


def short(rng: random.Random) -> Drawn:
    """A trial of a few logged points."""
    return sft(rng, low=3, high=12)


def speed_wobbles(rng: random.Random) -> Drawn:
    """Step times differ with the length of the samples; evaluations and saves cost single long ones."""
    run = sft(rng, low=60)
    step = rng.uniform(0.6, 8)
    run.seconds = [step * math.exp(rng.gauss(0, 0.15)) for _ in range(run.points)]
    for at in range(run.points // 6, run.points, max(7, run.points // 6)):
        run.seconds[at] *= 6
    return run


# -- sick ------------------------------------------------------------------------------------------------------------


def diverges_fast(rng: random.Random) -> Drawn:
    """The loss jumps within a few points and stays."""
    run = sft(rng, low=40)
    at = rng.randint(run.points // 6, 4 * run.points // 5)
    high = rng.uniform(4.5, 11)
    for i in range(at, run.points):
        run.loss[i] = high * (1 + rng.gauss(0, 0.05)) - (high - run.loss[i]) * math.exp(-(i - at + 1) / 2)
    run.grad = [g * (1 if i < at else rng.uniform(3, 20)) for i, g in enumerate(run.grad or ())]
    return run


def diverges_slowly(rng: random.Random) -> Drawn:
    """The loss climbs over half of the run."""
    run = sft(rng, low=60)
    at = rng.randint(run.points // 5, run.points // 2)
    high = rng.uniform(2.2, 4.0)
    for i in range(at, run.points):
        run.loss[i] *= 1 + (high - 1) * ((i - at) / (run.points - at)) ** 0.7
    return run


def rate_zero(rng: random.Random) -> Drawn:
    """A learning rate of exactly zero."""
    run = base(rng, 40, 600)
    level = rng.uniform(0.9, 2.2)
    run.loss = noisy(rng, run.points, lambda t: level, rng.uniform(0.01, 0.1))
    run.grad = norms(rng, run.points, 0.8, 0.0)
    run.rate = 0.0
    return run


def stuck(rng: random.Random) -> Drawn:
    """LoRA at a rate that moves nothing: flat from the first step."""
    run = base(rng, 60, 1000)
    level = rng.uniform(1.8, 2.0)
    run.loss = noisy(rng, run.points, lambda t: level * (1 - 0.003 * t), rng.uniform(0.01, 0.06))
    run.grad = norms(rng, run.points, 0.8, 0.0)
    run.rate = rng.choice([1e-7, 1e-6, 2e-6])
    return run


def at_chance(rng: random.Random) -> Drawn:
    """The level of guessing: ln of the classes or the vocabulary."""
    run = base(rng, 40, 400)
    level = math.log(rng.choice([2, 3, 32000, 128256, 151936]))
    run.loss = noisy(rng, run.points, lambda t: level, 0.004)
    run.grad = norms(rng, run.points, 0.2, 0.0)
    return run


def nan_loss(rng: random.Random) -> Drawn:
    """logging_nan_inf_filter off: the loss reads nan from some step on."""
    run = sft(rng)
    at = rng.randint(1, max(1, run.points - 4))
    run.loss = [v if i < at else math.nan for i, v in enumerate(run.loss)]
    run.grad = [v if i < at else math.nan for i, v in enumerate(run.grad or ())]
    return run


def nan_hidden(rng: random.Random) -> Drawn:
    """The filter on: loss 0 (or the last average) and grad_norm nan."""
    run = sft(rng)
    at = rng.randint(1, max(1, run.points - 4))
    shown = rng.choice([0.0, run.loss[at - 1]])
    run.loss = [v if i < at else shown for i, v in enumerate(run.loss)]
    run.grad = [v if i < at else math.nan for i, v in enumerate(run.grad or ())]
    return run


def nan_evals(rng: random.Random) -> Drawn:
    """Only the evaluations show it."""
    run = with_evals(rng, sft(rng, low=40))
    run.evals = [math.nan] * max(2, len(run.evals or ()))
    run.base_eval = None
    return run


def zero(rng: random.Random) -> Drawn:
    """Every label masked: loss and gradients exactly zero."""
    run = base(rng, 8, 300)
    run.loss = [0.0] * run.points
    run.grad = [0.0] * run.points if rng.random() < 0.7 else None
    return run


def overfits(rng: random.Random) -> Drawn:
    """Training loss falls on, evaluation loss turns and rises."""
    run = sft(rng, noise=0.06, low=60)
    run.loss = [v * (1 - 0.6 * i / run.points) for i, v in enumerate(run.loss)]
    count = rng.randint(4, 12)
    best = rng.randint(1, count - 3)
    level = run.loss[0] * 0.75
    run.evals = [
        level * (1.12 - 0.12 * min(k, best) / best) if k <= best else level * (1 + rng.uniform(0.04, 0.12) * (k - best))
        for k in range(count)
    ]
    return run


def by_heart(rng: random.Random) -> Drawn:
    """Training loss near zero, evaluation loss level."""
    run = base(rng, 60, 400)
    run.epochs = rng.choice([8.0, 15.0, 30.0])
    run.loss = noisy(rng, run.points, lambda t: 1.6 * math.exp(-5 * t) + 0.01, 0.1, 0.001)
    run.grad = norms(rng, run.points, 0.5)
    run.evals = [rng.uniform(0.98, 1.0) * (1.3 - 0.02 * k) for k in range(5)]
    return run


def scale_collapses(rng: random.Random) -> Drawn:
    """fp16 overflows at every step until the loss scale is at its floor."""
    run = sft(rng, low=30)
    run.grad = None
    scale = 16
    for i in range(min(run.points, 40)):
        low = max(1, 2**scale)
        run.among[i] = [f"{OVERFLOW} Attempted loss scale: {low}, reducing to {max(1, low // 2)}"]
        scale -= 1
        if scale < 0:
            scale = 0
    return run


def slows_down(rng: random.Random) -> Drawn:
    """Steps take three times as long from some point on."""
    run = sft(rng, low=60)
    step, factor = rng.uniform(1.5, 8), rng.uniform(2.6, 8)
    at = rng.randint(run.points // 2, 2 * run.points // 3)
    run.seconds = [step * math.exp(rng.gauss(0, 0.05)) * (1 if i < at else factor) for i in range(run.points)]
    return run


HEALTHY: tuple[Callable[[random.Random], Drawn], ...] = (
    sft, small_batch, dpo, classification, restarts, low_plateau, spiky, accumulated, evals_only, full_tune,
    pretraining, fp16, rl, staircase, harder_later, resumed, short, speed_wobbles,
    lambda rng: with_evals(rng, sft(rng, low=40)),
)  # fmt: skip
SICK: dict[Callable[[random.Random], Drawn], frozenset[str]] = {
    diverges_fast: frozenset({"loss-diverging"}),
    diverges_slowly: frozenset({"loss-diverging"}),
    rate_zero: frozenset({"loss-stuck", "lr-too-low"}),
    stuck: frozenset({"loss-stuck", "lr-too-low"}),
    at_chance: frozenset({"loss-stuck"}),
    nan_loss: frozenset({"loss-nan"}),
    nan_hidden: frozenset({"loss-nan"}),
    nan_evals: frozenset({"loss-nan"}),
    zero: frozenset({"loss-zero", "labels-all-masked", "grad-norm-zero"}),
    overfits: frozenset({"overfitting"}),
    by_heart: frozenset({"overfitting"}),
    scale_collapses: frozenset({"grad-overflow"}),
    slows_down: frozenset({"throughput-drop"}),
}


def said(rules: RuleSet, lines: str, folder: Path) -> dict[str, str]:
    """Numeric findings above info: id to severity."""
    path = folder / "train.log"
    path.write_text(lines, encoding="utf-8")
    session = Session(rules)
    session.read([str(path)])
    return {f.id: f.severity for f in session.diagnose().findings if f.id in NUMERIC and f.severity != "info"}


def name_of(family: Callable[[random.Random], Drawn]) -> str:
    """The family's name in the table."""
    return "with_evals" if family.__name__ == "<lambda>" else family.__name__


def main() -> int:
    """Exit code 1 when a mark is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=30, help="runs of each family")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder for the logs of wrong verdicts")
    options = parser.parse_args()
    rules = load()
    counts = {"healthy": 0, "failed": 0, "warned": 0, "sick": 0, "caught": 0}
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        for family in (*HEALTHY, *SICK):
            wanted = SICK.get(family)
            right = 0
            for number in range(options.each):
                lines = "\n".join(family(random.Random(f"{name_of(family)} {options.seed} {number}")).lines()) + "\n"
                found = said(rules, lines, Path(temporary))
                good = not found if wanted is None else bool(wanted & found.keys())
                right += good
                counts["healthy" if wanted is None else "sick"] += 1
                if wanted is not None:
                    counts["caught"] += good
                elif found:
                    counts["failed" if "error" in found.values() else "warned"] += 1
                if not good:
                    wrong.append(f"{name_of(family)} {options.seed} {number}: {found or 'nothing said'}")
                    if options.keep:
                        options.keep.mkdir(parents=True, exist_ok=True)
                        (options.keep / f"{name_of(family)}-{options.seed}-{number}.log").write_text(
                            lines, encoding="utf-8"
                        )
            kind = "quiet" if wanted is None else "caught"
            print(f"{name_of(family):18} {kind:7} {right:4} of {options.each}", flush=True)
    failed, warned = (counts[k] / counts["healthy"] for k in ("failed", "warned"))
    caught = counts["caught"] / counts["sick"]
    print("\n".join(["", *wrong[:40]]))
    print(
        f"\nof {counts['healthy']} healthy runs {failed:.1%} failed and {warned:.1%} warned; "
        f"of {counts['sick']} sick ones {caught:.1%} caught"
    )
    return 0 if failed <= MARKS["failed"] and warned <= MARKS["warned"] and caught >= MARKS["caught"] else 1


if __name__ == "__main__":
    sys.exit(main())
