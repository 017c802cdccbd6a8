"""Xid: the driver's numbered error reports, what they mean, and the events that bring them live.

Names and remedies after NVIDIA's public Xid catalogue (docs.nvidia.com/deploy/xid-errors, as of October 2025), in our
words. `kind` is the usual culprit: NVIDIA's table allows several for most numbers. `level` is what it costs: `gpu` the
GPU is unusable until it is reset or the node is rebooted, `run` the process on it ends, `note` nothing ends by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ftdoctor.upstream.nvml import TIMEOUT, Nvml

CATALOGUE = "2025-10"

_REMEDY = {
    "APP": "Restart the run. If it comes back, update the driver, then report it to NVIDIA.",
    "DEBUG": "Look for the run's own error first: an index out of range, a kernel that does not fit this GPU. Find the kernel with CUDA_LAUNCH_BLOCKING=1 or compute-sanitizer. Suspect the GPU only when a known good program does the same on it.",
    "IGNORE": "Nothing to do.",
    "SUPPORT": "Go on; if it repeats on the same GPU, report the GPU to whoever runs the machine, or to NVIDIA.",
    "EARLIER": "A consequence: look at the error before it, on this rank or on another one.",
    "RESET": "Stop every process on the GPU and reset it (nvidia-smi --gpu-reset -i N), or reboot the node. If it comes back, have the GPU replaced.",
    "DBE": "Stop using the GPU. With Xid 63 or 64 beside it: drain the node and reset the GPU, the bad row is then replaced. Without: run NVIDIA's diagnostics (dcgmi diag -r 3).",
    "LATER": "The run may go on. Reset the GPU at the next chance: the replacement takes effect then.",
    "CONTAINED": "Restart the run from its last checkpoint; reset the GPU when it is free. If it repeats, have the GPU checked.",
    "LINK": "Restart the run; if it comes back, reset all GPUs of the node together (links are trained at reset), check the NVLink bridges or the NVSwitch and the Fabric Manager log, then report the node.",
    "REBOOT": "Reboot the node, by a power cycle if the GPU stays away. If it comes back: power supply, cables, riser and cooling, then the GPU.",
    "GSP": "Reset the GPU or reboot the node, and update the driver: many of these were fixed in newer releases.",
    "MECHANICS": "Check the power cables of the GPU.",
    "UPDATE": "Update driver and vGPU software so that host and guest fit.",
    "ACTION": "The message names the action that the GPU now needs (none, reset, reboot, drain): do that.",
}
_TABLE = """    8 | GPU stopped processing | application | run | APP
   11 | Invalid or corrupted push buffer stream | driver | run | APP
   13 | Graphics engine exception (a kernel accessed memory out of bounds, or an illegal instruction) | application | run | DEBUG
   25 | Invalid or illegal push buffer stream | driver | run | APP
   31 | GPU memory page fault (a kernel used an address that is not mapped) | application | run | DEBUG
   32 | Invalid or corrupted push buffer stream | driver | run | APP
   37 | Driver firmware error | driver | note | IGNORE
   38 | Driver firmware error | driver | note | SUPPORT
   39 | Copy engine exception | driver | run | APP
   40 | Copy engine exception | driver | run | APP
   41 | Copy engine exception | driver | run | APP
   43 | GPU stopped processing (the process's channel was reset) | application | run | DEBUG
   44 | Graphics engine fault during context switch | driver | note | SUPPORT
   45 | Preemptive cleanup after an earlier error, or the process was killed | application | note | EARLIER
   46 | GPU stopped processing | driver | gpu | RESET
   48 | Double-bit ECC error | hardware | gpu | DBE
   54 | Auxiliary power is not connected to the GPU board | hardware | gpu | MECHANICS
   61 | Internal micro-controller breakpoint | hardware | gpu | RESET
   62 | Internal micro-controller halt | hardware | gpu | RESET
   63 | Memory row remapping (or page retirement) recorded | hardware | note | LATER
   64 | Memory row remapping (or page retirement) failed | hardware | gpu | RESET
   66 | Illegal access by driver | driver | note | IGNORE
   67 | Illegal access by driver | driver | note | SUPPORT
   68 | Video decoder exception | driver | run | APP
   69 | Graphics engine class error | application | run | DEBUG
   70 | Copy engine 3 error | driver | run | APP
   71 | Copy engine 4 error | driver | run | APP
   72 | Copy engine 5 error | driver | run | APP
   74 | NVLink error | hardware | gpu | LINK
   75 | Copy engine 6 error | driver | run | APP
   76 | Copy engine 7 error | driver | run | APP
   77 | Copy engine 8 error | driver | run | APP
   78 | vGPU start error | driver | gpu | UPDATE
   79 | GPU has fallen off the bus | hardware | gpu | REBOOT
   80 | Corrupted data sent to the GPU | driver | run | APP
   85 | Copy engine 9 error | driver | run | APP
   92 | High rate of single-bit ECC errors | hardware | note | SUPPORT
   93 | InfoROM wear limit exceeded | hardware | note | IGNORE
   94 | Contained memory error (only the process that used it ends) | hardware | run | CONTAINED
   95 | Uncontained memory error | hardware | gpu | RESET
  109 | Context switch timeout | driver | gpu | RESET
  110 | Security fault | driver | gpu | RESET
  119 | GSP RPC timeout (the GPU's own processor does not answer) | driver | gpu | GSP
  120 | GSP error (the GPU's own processor failed) | driver | gpu | GSP
  121 | Chip-to-chip link error | hardware | note | SUPPORT
  136 | NVLink training failed | hardware | gpu | LINK
  137 | NVLink privilege error (access to memory of a peer that is gone or not mapped) | application | run | EARLIER
  140 | Unrecovered ECC error | hardware | gpu | RESET
  141 | CUDA fast path error | driver | note | SUPPORT
  143 | GPU initialization error | hardware | gpu | RESET
  144 | NVLink error (SAW unit) | hardware | gpu | LINK
  145 | NVLink error (RLW unit) | hardware | gpu | LINK
  146 | NVLink error (TLW unit) | hardware | gpu | LINK
  147 | NVLink error (TREX unit) | hardware | gpu | LINK
  148 | NVLink error (NVLPW control) | hardware | gpu | LINK
  149 | NVLink error (NETIR unit: the link itself) | hardware | gpu | LINK
  150 | NVLink error (MSE unit) | hardware | gpu | LINK
  151 | Key rotation error (confidential computing) | driver | gpu | REBOOT
  154 | GPU recovery action changed | driver | note | ACTION
  155 | NVLink error defined by software | hardware | gpu | RESET
  156 | Resource retirement recorded | hardware | note | LATER
  157 | Resource retirement failed | hardware | note | SUPPORT
  158 | GPU fatal timeout | hardware | gpu | RESET
  160 | Channel retirement recorded | hardware | note | LATER
  161 | Channel retirement failed | hardware | note | SUPPORT
  167 | PCIe fatal timeout | hardware | gpu | REBOOT
  168 | GPU memory capacity reduced after errors in the protected region | hardware | note | SUPPORT
  169 | Internal micro-controller (SEC2) halt | hardware | gpu | RESET
  171 | Uncorrectable DRAM error (detail of Xid 48) | hardware | gpu | DBE
  172 | Uncorrectable SRAM error (detail of Xid 48) | hardware | gpu | DBE
"""


@dataclass(frozen=True, slots=True)
class Xid:
    """One number of the catalogue."""

    number: int
    name: str
    kind: str  # hardware | application | driver | unknown
    level: str  # gpu | run | note | unknown
    remedy: str


def _parse() -> dict[int, Xid]:
    found: dict[int, Xid] = {}
    for line in _TABLE.strip().splitlines():
        number, name, kind, level, remedy = (part.strip() for part in line.split("|"))
        found[int(number)] = Xid(int(number), name, kind, level, _REMEDY[remedy])
    return found


XIDS = _parse()


def xid(number: int) -> Xid:
    """What is known of an Xid; numbers that are not in the table get kind `unknown`."""
    known = XIDS.get(number)
    return known or Xid(
        number,
        f"Xid {number}",
        "unknown",
        "unknown",
        "Look the number up in NVIDIA's Xid catalogue: docs.nvidia.com/deploy/xid-errors.",
    )


_EVENTS = {1: "ecc_single_bit", 2: "ecc_double_bit", 8: "xid"}


class EventsFailed(Exception):
    """Waiting for events failed; `code` is NVML's."""

    def __init__(self, code: int) -> None:
        super().__init__(f"NVML error {code}")
        self.code = code


@dataclass(frozen=True, slots=True)
class NvmlEvent:
    """What the event set reported: `kind` is xid | ecc_single_bit | ecc_double_bit, `data` the Xid's number."""

    kind: str
    index: int | None
    uuid: str | None
    data: int


class EventSet:
    """Xid and ECC events of all devices that report them. One thread creates, waits and closes."""

    def __init__(self, nvml: Nvml) -> None:
        """Register every device that can be registered.

        Raises:
            EventsFailed: no event set can be made.
        """
        self._nvml, self._nv = nvml, nvml.module
        self.registered = 0
        self.codes: list[int] = []
        try:
            self._set = self._nv.nvmlEventSetCreate()
        except nvml.errors as error:
            raise EventsFailed(getattr(error, "value", 999)) from error
        for device in nvml.devices:
            try:
                wanted = self._nv.nvmlDeviceGetSupportedEventTypes(device.handle) & sum(_EVENTS)
                if wanted:
                    self._nv.nvmlDeviceRegisterEvents(device.handle, wanted, self._set)
                    self.registered += 1
            except nvml.errors as error:
                self.codes.append(getattr(error, "value", 999))

    def wait(self, milliseconds: int) -> NvmlEvent | None:
        """The next event, None when none came in time.

        Raises:
            EventsFailed: for example when one of the devices fell off the bus.
        """
        try:
            data = self._nv.nvmlEventSetWait(self._set, milliseconds)
        except self._nvml.errors as error:
            code = getattr(error, "value", 999)
            if code == TIMEOUT:
                return None
            raise EventsFailed(code) from error
        device = self._nvml.device_of(data.device)
        kind = _EVENTS.get(int(data.eventType), f"event {data.eventType:#x}")
        return NvmlEvent(kind, device.index if device else None, device.uuid if device else None, int(data.eventData))

    def close(self) -> None:
        """Free the set."""
        self._nvml.attempt(self._nv.nvmlEventSetFree, self._set)
