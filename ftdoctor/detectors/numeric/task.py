"""What kind of training this is, from the configuration or, failing that, from the names of the metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping

_RL = (
    "reward",
    "kl",
    "completion_length",
    "completions/mean_length",
    "policy_loss",
    "objective/kl",
    "rewards/mean",
    "reward_std",
)
_PREFERENCE = ("rewards/chosen", "rewards/margins", "rewards/accuracies", "logps/chosen", "rewards/rejected")
_CLASSES = (
    "eval_accuracy",
    "eval_f1",
    "eval_precision",
    "eval_matthews_correlation",
    "eval_roc_auc",
    "eval_mse",
    "eval_macro_f1",
)


def guess_task(names: Collection[str], facts: Mapping[str, object]) -> str:
    """lora, qlora, full, dpo, rl, classification, asr or unknown."""
    rl = str(facts.get("rl", "")).lower()
    if any(name in names for name in _PREFERENCE) or rl in ("dpo", "ipo", "kto", "orpo", "simpo"):
        return "dpo"
    if (
        rl in ("grpo", "ppo", "gdpo")
        or any(name in names for name in _RL)
        or any(n.startswith("rewards/") for n in names)
    ):
        return "rl"
    if "eval_wer" in names or "eval_cer" in names:
        return "asr"
    if any(name in names for name in _CLASSES):
        return "classification"
    adapter = str(facts.get("adapter", "")).lower()
    if adapter in ("lora", "qlora"):
        return adapter
    return "unknown"
