"""The checks of each part of a preflight, for one configuration and one machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftdoctor.errors import InputError
from ftdoctor.events import Scalar
from ftdoctor.preflight import environment, memory, network, plan, room, validate
from ftdoctor.preflight.checks import Check, Seen
from ftdoctor.preflight.data import check, contract, existing
from ftdoctor.preflight.machines import Machine
from ftdoctor.preflight.validate import Answer
from ftdoctor.training_python import TrainingPython, find_training_python


@dataclass(slots=True)
class Plan:
    """What is to be judged. `found` is the machine that the GPU check saw."""

    config: Path
    data: Mapping[str, Any]
    machine: Machine | None
    python: str | None
    offline: bool = False
    validate: bool = True
    found: Machine | None = None
    _training: TrainingPython | InputError | None = None
    _answer: Answer | None = None
    _asking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def folder(self) -> Path:
        """Where the YAML lies."""
        return self.config.parent

    def training(self) -> TrainingPython:
        """The training environment, looked for once.

        Raises:
            InputError: there is none.
        """
        if self._training is None:
            try:
                self._training = find_training_python(self.python)
            except InputError as error:
                self._training = error
        if isinstance(self._training, InputError):
            raise self._training
        return self._training

    def validated(self) -> Answer:
        """The answer of the installed Axolotl, asked for once: a check that comes while it runs waits for it."""
        try:
            python = self.training()
        except InputError as error:
            return Answer({}, error.seen)
        if not python.has("axolotl"):
            return Answer({}, f"Axolotl is not installed in {python.path}")
        named = self.data.get("deepspeed")
        deepspeed = plan.find(named, self.folder) if isinstance(named, str) else None
        with self._asking:
            if self._answer is None:
                self._answer = validate.ask(python, self.config, self.machine or self.found, deepspeed)
            return self._answer


def checks(planned: Plan, parts: tuple[str, ...]) -> list[Check]:
    """The checks of the wanted parts. Lint alone starts no process: Axolotl's validation then needs `python`."""
    wanted: list[Check] = []
    if planned.machine is None and {"environment", "memory"} & set(parts):
        wanted.append(Check("gpus", "environment", 20.0, lambda: _gpus(planned)))
    if "environment" in parts:
        wanted += _environment(planned)
    if "config" in parts:
        wanted.append(Check("model", "config", 5.0, lambda: _model(planned)))
        if planned.validate and (parts != ("config",) or planned.python) and planned.data:
            wanted.append(Check("axolotl", "config", validate.SECONDS, lambda: _validated(planned)))
    if "data" in parts and planned.data:
        wanted.append(Check("rows", "data", check.SECONDS, lambda: check.look(planned.data, planned.folder)))
        if contract.sets(planned.data, planned.folder):
            wanted.append(Check("samples", "data", validate.SECONDS + existing.SECONDS, lambda: _samples(planned)))
    return wanted


def late(planned: Plan, parts: tuple[str, ...], deepspeed: Mapping[str, Any] | None) -> list[Check]:
    """Checks that need to know the GPUs first."""
    if "memory" not in parts or not planned.data:
        return []
    return [Check("estimate", "memory", 5.0, lambda: _estimate(planned, deepspeed))]


def _estimate(planned: Plan, deepspeed: Mapping[str, Any] | None) -> Seen:
    base = str(planned.data.get("base_model") or "")
    config = plan.model_config(planned.data, planned.folder)
    model = memory.shape(config) if config else memory.preset(base)
    if model is None:
        why = "not a dense decoder" if config else "its config.json is not here, and it is none of the presets"
        return Seen(f"no estimate for {base or 'no base_model'}: {why}", {}, "absent")
    named = planned.data.get("deepspeed")
    if deepspeed is None and isinstance(named, str):
        deepspeed = memory.deepspeed_by_name(named)
        if deepspeed is None:
            return Seen(f"no estimate: the DeepSpeed file {named} is not here", {}, "absent")
    machine = planned.machine or planned.found
    if machine is None or machine.memory is None:
        found = memory.estimate(model, planned.data, deepspeed, 1)
        told = f"{found.needed(1):.1f} GiB on one GPU; the GPU is not known (--assume 8xA100-80GB)"
        return Seen(f"{told}\n{memory.bar(found, 1, 0.0)}", {}, "absent")
    room, count = machine.memory, machine.count
    found = memory.estimate(model, planned.data, deepspeed, count)
    needed = found.needed(count)
    verdict = memory.verdict(model, planned.data, deepspeed, count, room)
    micro, longest = memory.largest(model, planned.data, deepspeed, count, room)
    most = (
        f"largest micro_batch_size here {micro}, longest sequence at micro batch 1: {longest}"
        if micro or longest
        else ("nothing smaller fits either")
    )
    by = " (while the model is loaded)" if found.load > found.peak else ""
    if verdict == "tight" and needed > room:
        by += ", when the samples of a batch reach sequence_len"
    facts: dict[str, Scalar] = {
        "memory.verdict": verdict, "memory.needed": round(needed, 1), "memory.available": round(room, 1),
        "memory.host_needed": round(found.host), "memory.largest": most,
    }  # fmt: skip
    host = f", {found.host:.0f} GiB of host memory" if found.host >= 1 else ""
    if planned.data.get("adapter") and planned.data.get("merge_method") == "legacy":  # the default goes shard by shard
        facts["memory.merge_host"] = round(2.0 * (model.block * model.layers + model.embeddings) / memory.GIB)
    return Seen(
        f"{verdict}: about {needed:.1f} of {room:.1f} GiB per GPU{by}{host}; {most}\n{memory.bar(found, count, room)}",
        facts, {"fits": "good", "tight": "note"}.get(verdict, "bad"),
    )  # fmt: skip


def _environment(planned: Plan) -> list[Check]:
    base = str(planned.data.get("base_model") or "")
    output = str(planned.data.get("output_dir") or "./model-out")
    local = plan.find(base, planned.folder) is not None if base else True
    found = [
        Check("packages", "environment", 40.0, lambda: _in_training(planned, _packages)),
        Check("nvcc", "environment", 6.0, environment.nvcc),
        Check("memory", "environment", 3.0, environment.memory),
        Check("disk", "environment", 5.0, lambda: environment.disk(output, planned.folder, _room(planned))),
        Check("network", "environment", 3.0, network.interfaces),
        Check("clock", "environment", 3.0, lambda: environment.clock(planned.config)),
        Check("limits", "environment", 3.0, environment.limits),
    ]
    if planned.machine is None:
        found.insert(0, Check("topology", "environment", network.SECONDS + 2, network.topology))
        found.insert(1, Check("pcie", "environment", 5.0, network.pcie))
    if planned.data.get("wandb_project") and planned.data.get("use_wandb") is not False:
        found.append(Check("wandb", "environment", 3.0, lambda: environment.wandb(planned.data)))
    if planned.data.get("deepspeed"):
        found.append(
            Check(
                "deepspeed", "environment", environment.DEEPSPEED_SECONDS + 2, lambda: _in_training(planned, _deepspeed)
            )
        )
    offline = planned.offline or os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
    if base and not offline:
        cached = plan.model_config(planned.data, planned.folder) is not None
        found.append(Check("hub", "environment", 8.0, lambda: environment.hub(base, local, cached)))
    return found


def _room(planned: Plan) -> tuple[float, str] | None:
    config = plan.model_config(planned.data, planned.folder)
    model = memory.shape(config) if config else memory.preset(str(planned.data.get("base_model") or ""))
    return room.needed(model, planned.data, bool(planned.data.get("deepspeed"))) if model else None


def _gpus(planned: Plan) -> Seen:
    seen, planned.found = environment.gpus()
    return seen


def _in_training(planned: Plan, look: Callable[[Plan, TrainingPython], Seen]) -> Seen:
    try:
        python = planned.training()
    except InputError as error:
        return Seen(error.seen, {}, "absent", error.remedy)
    return look(planned, python)


def _packages(planned: Plan, python: TrainingPython) -> Seen:
    return environment.packages(python, planned.data)


def _deepspeed(planned: Plan, python: TrainingPython) -> Seen:
    if not python.has("deepspeed"):
        return Seen("not installed", {}, "absent")
    return environment.deepspeed_ops(python)


def _model(planned: Plan) -> Seen:
    base = planned.data.get("base_model")
    found = plan.model_config(planned.data, planned.folder)
    if found is None:
        return Seen(f"{base or 'no base_model'}: its config.json is not on this machine", {}, "absent")
    text = found.get("text_config")
    inner = text if isinstance(text, dict) else found
    context = inner.get("max_position_embeddings")
    kind = found.get("model_type", "unknown type")
    return Seen(
        f"{base} ({kind}, context {context or 'unknown'})",
        {"model.context": context if isinstance(context, int) else None, "model.type": str(kind)},
    )


def _validated(planned: Plan) -> Seen:
    try:
        planned.training()
    except InputError as error:
        return Seen(f"Axolotl's own validation was not run: {error.seen}", {}, "absent", error.remedy)
    return validate.told(planned.validated())


def _samples(planned: Plan) -> Seen:
    def names() -> existing.Names | None:
        return planned.validated().prepared if planned.validate else None

    return _in_training(planned, lambda _, python: existing.look(python, planned.config, planned.data, names))
