"""Judges of logged numbers: pure functions of a run's series, one per failure."""

from __future__ import annotations

from ftdoctor.detectors.numeric.gradients import (
    grad_norm_high,
    loss_scale_collapse,
    lr_too_high,
    lr_too_low,
    throughput_drop,
)
from ftdoctor.detectors.numeric.nonfinite import exact_zero_loss, grad_norm_zero, non_finite, nothing_to_learn
from ftdoctor.detectors.numeric.task import guess_task
from ftdoctor.detectors.numeric.trend import loss_diverging, loss_stuck, overfitting
from ftdoctor.detectors.numeric.types import Judge, Judgement, Missing, NumericContext, Result

JUDGES: dict[str, Judge] = {
    "non_finite": non_finite,
    "exact_zero_loss": exact_zero_loss,
    "nothing_to_learn": nothing_to_learn,
    "loss_stuck": loss_stuck,
    "loss_diverging": loss_diverging,
    "overfitting": overfitting,
    "grad_norm_high": grad_norm_high,
    "grad_norm_zero": grad_norm_zero,
    "loss_scale_collapse": loss_scale_collapse,
    "throughput_drop": throughput_drop,
    "lr_too_low": lr_too_low,
    "lr_too_high": lr_too_high,
}

__all__ = ["JUDGES", "Judge", "Judgement", "Missing", "NumericContext", "Result", "guess_task"]
