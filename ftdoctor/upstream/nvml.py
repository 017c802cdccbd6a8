"""NVML through nvidia-ml-py: the only module that imports pynvml, and only when asked (the import costs 50 ms).

    nvml = Nvml.open()
    for device in nvml.devices:
        state, values, detail = device.read(tier=FULL)      # values: fields of `GpuSample`

A call that fails leaves its field out (unknown, never 0). A call that a device or driver does not have is not made again.
Costs measured on an H200 with driver 580: 2-9 us for each call made here; PCIe throughput (21 ms), energy (4 ms) and process
utilisation (1.4 ms) are not in this module on purpose.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from ftdoctor.events import GpuProcess, NvLinks, RemappedRows

Values = dict[str, Any]
Call = Callable[..., Any]

FAST, SLOW, RARE = 0, 1, 2  # tiers of `Device.read`: every round, every few seconds, twice a minute
FULL = RARE
MIB = 1024.0 * 1024.0

NOT_SUPPORTED, NO_PERMISSION, TIMEOUT, FUNCTION_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED = 3, 4, 10, 13, 15, 16
_NOT_HERE = frozenset({NOT_SUPPORTED, FUNCTION_NOT_FOUND})
_WRONG_VERSION = frozenset(
    {2, NOT_SUPPORTED, FUNCTION_NOT_FOUND, 25, 26}
)  # also: invalid argument, version mismatch, deprecated
_STATES = {GPU_IS_LOST: "lost", RESET_REQUIRED: "reset_required"}

THROTTLE = {
    1: "idle",
    2: "application clocks",
    4: "software power cap",
    8: "hardware slowdown",
    16: "sync boost",
    32: "software thermal",
    64: "hardware thermal",
    128: "hardware power brake",
    256: "display clocks",
}
_UNAVAILABLE = {
    4: (
        "no_permission",
        "this user may not ask the NVIDIA driver: run as a user that can open /dev/nvidiactl, or give the container its GPUs",
    ),
    9: ("driver_not_loaded", "the NVIDIA kernel module is not loaded: no GPU here, or the driver is not installed"),
    12: (
        "library_not_found",
        "no NVIDIA driver library (libnvidia-ml.so.1) here: no GPU, or a container started without its GPUs",
    ),
    18: (
        "driver_mismatch",
        "the NVIDIA library and the loaded kernel module have different versions: the driver was updated, reboot (or reload the module)",
    ),
    999: ("unknown", "the NVIDIA driver answers with an unknown error: see `dmesg | grep -i nvrm`"),
}
# NVLink error counters: totals over the links (field ids of nvml.h), and the same by link for Hopper and later
_LINK_TOTALS = {"crc_errors": (38, 45), "replay_errors": (52,), "recovery_errors": (59,)}
_LINK_FIELDS = {"crc_errors": 163, "replay_errors": 161, "recovery_errors": 162}
_VALUE_OF = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}


class NvmlUnavailable(Exception):
    """NVML cannot be used at all; `reason` is a stable word, the text a sentence for the user."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def throttle_names(mask: int | None) -> tuple[str, ...]:
    """Words for a mask of clock event reasons; unknown bits by number."""
    if not mask:
        return ()
    bits = [1 << n for n in range(mask.bit_length()) if mask >> n & 1]
    return tuple(THROTTLE.get(bit, f"reason {bit:#x}") for bit in bits)


class Nvml:
    """An open NVML with its devices. Thread-safe as far as NVML is: one thread may read one device at a time."""

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module
        self.errors = (
            module.NVMLError,
            getattr(module, "NVMLLibraryMismatchError", module.NVMLError),
            UnicodeDecodeError,
        )
        self.driver_version: str | None = self.attempt(module.nvmlSystemGetDriverVersion)
        cuda = self.attempt(module.nvmlSystemGetCudaDriverVersion)
        self.cuda_version = f"{cuda // 1000}.{cuda % 1000 // 10}" if isinstance(cuda, int) and cuda > 0 else None
        self.devices: list[Device] = []
        self.unreadable: list[tuple[int, str]] = []
        try:
            count = module.nvmlDeviceGetCount()
        except self.errors as error:
            raise _unavailable(error) from error
        for index in range(count):
            try:
                handle = module.nvmlDeviceGetHandleByIndex(index)
            except self.errors as error:
                self.unreadable.append((index, _text(error)))
            else:
                self.devices.append(Device(self, handle, index))

    @classmethod
    def open(cls) -> Nvml:
        """Load the library and find the devices; may take seconds on a GPU without persistence mode.

        Raises:
            NvmlUnavailable: no package, no library, no driver, no permission, or versions that do not fit.
        """
        try:
            import pynvml
        except ImportError as error:
            raise NvmlUnavailable("package_missing", "the package nvidia-ml-py is not installed") from error
        if not hasattr(pynvml, "nvmlDeviceGetRemappedRows"):
            raise NvmlUnavailable(
                "package_shadowed", "another package named pynvml hides nvidia-ml-py: uninstall `pynvml`"
            )
        try:
            pynvml.nvmlInit()
        except (pynvml.NVMLError, OSError, AttributeError) as error:
            raise _unavailable(error) from error
        try:
            return cls(pynvml)
        except NvmlUnavailable:
            pynvml.nvmlShutdown()
            raise

    def close(self) -> None:
        """Shut NVML down; never while a call is still out."""
        self.attempt(self.module.nvmlShutdown)

    def device_of(self, handle: Any) -> Device | None:
        """The device that an event's handle belongs to."""
        address = _address(handle)
        known = next((d for d in self.devices if d.address == address), None)
        if known is None:
            uuid = self.attempt(self.module.nvmlDeviceGetUUID, handle)
            known = next((d for d in self.devices if d.uuid == uuid), None) if uuid else None
        return known

    def first_of(self, *names: str) -> Call:
        """A call that uses the first of several functions that package and library both have, and stays with it."""
        return _FirstOf([getattr(self.module, name) for name in names if hasattr(self.module, name)], self.errors)

    def attempt(self, call: Call, *arguments: object) -> Any:
        """The call's result, None when it failed."""
        try:
            return call(*arguments)
        except self.errors:
            return None


class Device:
    """One GPU or MIG instance: a cached handle and the calls that work on it."""

    def __init__(self, nvml: Nvml, handle: Any, index: int, parent: Device | None = None) -> None:
        self._nvml, self.handle = nvml, handle
        nv = nvml.module
        self.index = index
        self.address = _address(handle)
        self.uuid: str | None = nvml.attempt(nv.nvmlDeviceGetUUID, handle)
        self.name: str | None = nvml.attempt(nv.nvmlDeviceGetName, handle)
        self.parent = parent
        self.instances: list[Device] = []
        self._kept: Values = {}  # of the slower tiers
        self._memory_v2 = True
        self._names: dict[int, str | None] = {}
        self._links: list[int] | None = None
        self._link_fields_by_link = False
        mode = None if parent else nvml.attempt(nv.nvmlDeviceGetMigMode, handle)
        self.mig = None if mode is None else bool(mode[0])
        self.static = self._static()
        event_reasons = nvml.first_of(
            "nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"
        )
        temperature = nvml.first_of("nvmlDeviceGetTemperature", "nvmlDeviceGetTemperatureV")
        self._processes_of = nvml.first_of(
            "nvmlDeviceGetComputeRunningProcesses",
            "nvmlDeviceGetComputeRunningProcesses_v2",
            "nvmlDeviceGetComputeRunningProcesses_v1",
        )
        self._ask: Any = nv
        self._readers: list[list[Callable[[Any, Values], None]]] = [[self._memory], [self._processes], []]
        if parent is None:
            self._readers[FAST] += [
                self._utilization,
                lambda h, v: v.update(power=nv.nvmlDeviceGetPowerUsage(h) / 1000.0),
                lambda h, v: v.update(temperature=float(temperature(h, 0))),
                lambda h, v: v.update(sm_clock=float(nv.nvmlDeviceGetClockInfo(h, 1))),
                lambda h, v: v.update(throttle_reasons=event_reasons(h)),
            ]
            self._readers[SLOW] += [
                lambda h, v: v.update(power_limit=nv.nvmlDeviceGetEnforcedPowerLimit(h) / 1000.0),
                lambda h, v: v.update(memory_clock=float(nv.nvmlDeviceGetClockInfo(h, 2))),
                lambda h, v: v.update(ecc_corrected=nv.nvmlDeviceGetTotalEccErrors(h, 0, 0)),
                lambda h, v: v.update(ecc_uncorrected=nv.nvmlDeviceGetTotalEccErrors(h, 1, 0)),
                self._remapped,
            ]
            self._readers[RARE] += [self._nvlinks]
        self._find_instances()

    def read(self, tier: int = FAST) -> tuple[str, Values, str]:
        """State, fields of a `GpuSample`, and what was wrong. Slower tiers keep their last values in between."""
        failed: list[str] = []
        done = 0
        kept: Values = {}
        values: Values = {}
        for level in range(tier + 1):
            into = kept if level else values
            for reader in tuple(self._readers[level]):
                try:
                    reader(self.handle, into)
                    done += 1
                except self._nvml.errors as error:
                    code = getattr(error, "value", FUNCTION_NOT_FOUND)
                    if code in _STATES:
                        self._kept = {}
                        return _STATES[code], {}, _text(error)
                    if code in _NOT_HERE:
                        self._readers[level].remove(reader)
                    else:
                        failed.append(_text(error))
        if failed and not done:
            return "failing", {}, failed[0]
        if tier >= SLOW:
            rare = {} if tier >= RARE else {key: self._kept[key] for key in ("nvlinks",) if key in self._kept}
            self._kept = {**rare, **kept}
        if tier >= RARE:
            self._find_instances()
        return "ok", {**self.static, **self._kept, **values}, failed[0] if failed else ""

    def _static(self) -> Values:
        values: Values = {"uuid": self.uuid, "name": self.name, "mig": self.mig}
        if self.parent is not None:
            return {**values, "parent": self.parent.uuid, "pci_bus": self.parent.static.get("pci_bus")}
        nvml, handle, nv = self._nvml, self.handle, self._nvml.module
        pci = nvml.attempt(nv.nvmlDeviceGetPciInfo, handle)
        if pci is not None:
            bus = pci.busId
            values["pci_bus"] = bus.decode(errors="replace") if isinstance(bus, bytes) else bus
        for key, call, what in (
            ("sm_clock_max", nv.nvmlDeviceGetMaxClockInfo, 1),
            ("temperature_slowdown", nv.nvmlDeviceGetTemperatureThreshold, 1),
        ):
            found = nvml.attempt(call, handle, what)
            values[key] = None if found is None else float(found)
        return values

    def _memory(self, handle: Any, values: Values) -> None:
        if self._memory_v2:
            try:
                memory = self._ask.nvmlDeviceGetMemoryInfo(handle, self._ask.nvmlMemory_v2)
            except self._nvml.errors as error:
                if getattr(error, "value", 0) not in _WRONG_VERSION:
                    raise
                self._memory_v2 = False
            else:
                values["memory_used"] = memory.used / MIB
                values["memory_total"] = memory.total / MIB
                values["memory_reserved"] = memory.reserved / MIB
                values["memory_includes_reserved"] = False
                return
        memory = self._ask.nvmlDeviceGetMemoryInfo(handle)
        values["memory_used"] = memory.used / MIB
        values["memory_total"] = memory.total / MIB
        values["memory_includes_reserved"] = True

    def _utilization(self, handle: Any, values: Values) -> None:
        rates = self._ask.nvmlDeviceGetUtilizationRates(handle)
        values["utilization"] = float(rates.gpu)
        values["memory_utilization"] = float(rates.memory)

    def _remapped(self, handle: Any, values: Values) -> None:
        corrected, uncorrected, pending, failed = self._ask.nvmlDeviceGetRemappedRows(handle)
        values["remapped_rows"] = RemappedRows(corrected, uncorrected, bool(pending), bool(failed))

    def _processes(self, handle: Any, values: Values) -> None:
        found = self._processes_of(handle)
        names = self._names
        self._names = {p.pid: names[p.pid] if p.pid in names else self._process_name(p.pid) for p in found}
        values["processes"] = tuple(
            GpuProcess(p.pid, self._names[p.pid], None if p.usedGpuMemory is None else p.usedGpuMemory / MIB)
            for p in sorted(found, key=lambda p: int(p.pid))
        )

    def _process_name(self, pid: int) -> str | None:
        name = self._nvml.attempt(self._ask.nvmlSystemGetProcessName, pid)
        return name[:256] if name else None

    def _nvlinks(self, handle: Any, values: Values) -> None:
        if self._links is None:
            self._links = [
                link for link in range(self._ask.NVML_NVLINK_MAX_LINKS) if self._link(handle, link) is not None
            ]
        states = {link: self._link(handle, link) for link in self._links}
        if self._links:
            down = tuple(link for link, up in states.items() if up is False)
            values["nvlinks"] = NvLinks(sum(up is True for up in states.values()), down, **self._link_errors(handle))

    def _link(self, handle: Any, link: int) -> bool | None:
        try:
            return bool(self._ask.nvmlDeviceGetNvLinkState(handle, link))
        except self._nvml.errors as error:
            if getattr(error, "value", 0) in _STATES:
                raise
            return None

    def _link_errors(self, handle: Any) -> dict[str, int | None]:
        if not self._link_fields_by_link:
            totals = self._sums(handle, {name: [(n, 0) for n in ids] for name, ids in _LINK_TOTALS.items()})
            if any(value is not None for value in totals.values()):
                return totals
            self._link_fields_by_link = True
        return self._sums(handle, {name: [(n, link) for link in self._links or ()] for name, n in _LINK_FIELDS.items()})

    def _sums(self, handle: Any, wanted: dict[str, list[tuple[int, int]]]) -> dict[str, int | None]:
        """Sum of the fields of each name; None when one of them cannot be read."""
        flat = [pair for pairs in wanted.values() for pair in pairs]
        try:
            answers = iter(self._ask.nvmlDeviceGetFieldValues(handle, flat))
        except self._nvml.errors as error:
            if getattr(error, "value", 0) in _STATES:
                raise
            return dict.fromkeys(wanted)
        sums: dict[str, int | None] = {}
        for name, pairs in wanted.items():
            numbers = [_number(next(answers)) for _ in pairs]
            sums[name] = sum(n for n in numbers if n is not None) if numbers and None not in numbers else None
        return sums

    def _find_instances(self) -> None:
        """MIG instances as they are now; known ones are kept."""
        if not self.mig:
            return
        nvml, nv = self._nvml, self._nvml.module
        known = {d.uuid: d for d in self.instances}
        found: list[Device] = []
        for slot in range(nvml.attempt(nv.nvmlDeviceGetMaxMigDeviceCount, self.handle) or 0):
            handle = nvml.attempt(nv.nvmlDeviceGetMigDeviceHandleByIndex, self.handle, slot)
            if handle is not None:
                uuid = nvml.attempt(nv.nvmlDeviceGetUUID, handle)
                found.append(known[uuid] if uuid in known else Device(nvml, handle, self.index, self))
        self.instances = found


@dataclass(slots=True)
class _FirstOf:
    """See `Nvml.first_of`."""

    candidates: list[Call]
    errors: tuple[type[BaseException], ...]
    chosen: Call | None = field(default=None)

    def __call__(self, *arguments: object) -> Any:
        if self.chosen is not None:
            return self.chosen(*arguments)
        for number, call in enumerate(self.candidates, 1):
            try:
                result = call(*arguments)
            except self.errors as error:
                if number < len(self.candidates) and getattr(error, "value", FUNCTION_NOT_FOUND) == FUNCTION_NOT_FOUND:
                    continue
                raise
            self.chosen = call
            return result
        raise AttributeError("no such function in this nvidia-ml-py")


def _unavailable(error: BaseException) -> NvmlUnavailable:
    code = getattr(error, "value", None)
    if code in _UNAVAILABLE:
        return NvmlUnavailable(*_UNAVAILABLE[code])
    return NvmlUnavailable("failed" if code is None else f"error_{code}", f"NVML cannot be used: {_text(error)}")


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _address(handle: Any) -> int | None:
    return ctypes.cast(handle, ctypes.c_void_p).value


def _number(answer: Any) -> int | None:
    if answer.nvmlReturn != 0 or answer.valueType not in _VALUE_OF:
        return None
    return int(getattr(answer.value, _VALUE_OF[answer.valueType]))
