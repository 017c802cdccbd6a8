"""CUDA_VISIBLE_DEVICES: which physical GPUs a process sees, in its own order.

CUDA reads a list of numbers, `GPU-` uuids or `MIG-` uuids (a prefix will do), stops at the first entry that it cannot use, and sees
nothing when a device is named twice. Numbers count in CUDA's order: fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID. Where the
answer depends on something that cannot be known from outside (GPUs of several models, numbers with MIG on) it is None, not a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from ftdoctor.events import GpuSample

_NUMBER = re.compile(r"\s*([+-]?\d+)")


def visible_devices(value: str | None, order: str | None, gpus: Iterable[GpuSample]) -> tuple[str, ...] | None:
    """Uuids of the GPUs (or the MIG instance) that a process sees, its device 0 first; None when it cannot be known.

    `value` and `order` are its CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER (None: not set); `gpus` are the latest samples of the machine.
    """
    gpus = list(gpus)
    whole = [g for g in gpus if g.parent is None]
    if any(g.uuid is None for g in whole):
        return None
    if value is not None:
        first = value.split(",")[0].strip()
        if first.startswith("GPU-"):
            return _by_uuid(value, [g.uuid for g in whole if g.uuid])
        if first.startswith("MIG-GPU-"):
            return None  # the form of old drivers: instance numbers, which no sample carries
        if first.startswith("MIG-"):
            found = _by_uuid(value, [g.uuid for g in gpus if g.parent is not None and g.uuid])
            return found[:1]  # CUDA gives a process one MIG instance, however many are named
    ordered = _cuda_order(whole, order)
    if value is None:
        return ordered
    numbers = _numbers(value)
    if not numbers:
        return ()
    return None if ordered is None else _by_number(numbers, ordered)


def _cuda_order(whole: list[GpuSample], order: str | None) -> tuple[str, ...] | None:
    if any(g.mig for g in whole):
        return None
    by_bus = (order or "").strip().upper() == "PCI_BUS_ID"
    if not by_bus and len({g.name for g in whole}) > 1:
        return None  # fastest first: which one that is only CUDA knows
    if any(g.pci_bus is None for g in whole):
        return None if len(whole) > 1 else tuple(g.uuid for g in whole if g.uuid)
    return tuple(g.uuid for g in sorted(whole, key=lambda g: (g.pci_bus or "").upper()) if g.uuid)


def _numbers(value: str) -> list[int]:
    """Numbers up to the first entry that is none or negative, as strtol reads them."""
    numbers: list[int] = []
    for entry in value.split(","):
        found = _NUMBER.match(entry)
        if found is None or int(found[1]) < 0:
            break
        numbers.append(int(found[1]))
    return numbers


def _by_number(numbers: list[int], ordered: tuple[str, ...]) -> tuple[str, ...]:
    seen: list[str] = []
    for number in numbers:
        if number >= len(ordered):
            break
        if ordered[number] in seen:
            return ()
        seen.append(ordered[number])
    return tuple(seen)


def _by_uuid(value: str, uuids: list[str]) -> tuple[str, ...]:
    seen: list[str] = []
    for entry in value.split(","):
        fitting = [uuid for uuid in uuids if uuid.startswith(entry.strip())] if entry.strip() else []
        if len(fitting) != 1:
            break
        if fitting[0] in seen:
            return ()
        seen.append(fitting[0])
    return tuple(seen)
