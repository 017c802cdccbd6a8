"""nvidia-smi's table, old (one space) and new (two spaces) layout, as people paste it into logs.

|   0  NVIDIA H100 80GB HBM3          On  | 00000000:53:00.0 Off |                    0 |
| N/A   37C    P0             112W / 700W |  55217MiB / 81559MiB |    100%      Default |
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import ClassVar

from ftdoctor.events import Event, FactLearned, GpuSample, Origin
from ftdoctor.upstream.base import OneLine

_HEADER = re.compile(
    r"NVIDIA-SMI\s+(?P<smi>[\d.]+)\s+(?:Driver|KMD) Version:\s*(?P<driver>[\d.]+)(?:\s+CUDA Version:\s*(?P<cuda>[\d.]+))?"
)
_NAME = re.compile(
    r"^\s*\|\s*(?P<index>\d+)\s+(?P<name>\S.*?)\s+(?:On|Off|N/A)\s*\|\s*(?P<bus>[0-9A-Fa-f]{4,8}:[0-9A-Fa-f:.]+)\s"
)
_STATE = re.compile(
    r"^\s*\|\s*(?:N/A|\d+%|ERR!)\s+(?P<temp>\d+|N/A)C?\s+(?:P\d+|N/A|\?)\s+(?P<power>[\d.]+|N/A)W?\s*/\s*(?P<limit>[\d.]+|N/A)W?\s*\|"
    r"\s*(?P<used>\d+)MiB\s*/\s*(?P<total>\d+)MiB\s*\|\s*(?P<util>\d+|N/A)%?"
)


def _float(text: str | None) -> float | None:
    return None if text is None or text == "N/A" else float(text)


class SmiTable(OneLine):
    """GPU rows to `GpuSample`s; the header to facts."""

    anchors: ClassVar[tuple[bytes, ...]] = (b"NVIDIA-SMI ", b"| 0000", b"|   0000", b"MiB / ", b"MiB |")

    def __init__(self) -> None:
        self._index: int | None = None
        self._name: str | None = None

    def feed(self, text: str, origin: Origin) -> Iterable[Event]:
        """One cleaned line."""
        found = _HEADER.search(text)
        if found:
            yield FactLearned(origin, "driver_version", found["driver"])
            if found["cuda"]:
                yield FactLearned(origin, "driver_cuda_version", found["cuda"])
            yield FactLearned(origin, "smi_snapshot", origin.order)
            return
        found = _NAME.match(text)
        if found:
            self._index, self._name = int(found["index"]), found["name"]
            return
        found = _STATE.match(text)
        if found and self._index is not None:
            yield GpuSample(
                origin,
                self._index,
                name=self._name,
                memory_used=_float(found["used"]),
                memory_total=_float(found["total"]),
                utilization=_float(found["util"]),
                power=_float(found["power"]),
                power_limit=_float(found["limit"]),
                temperature=_float(found["temp"]),
            )
            self._index = None
