"""`watch --prometheus PORT`: the present state, for Prometheus to fetch. A scrape reads the last frame only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ftdoctor.errors import UsageError
from ftdoctor.faces.redact import redact
from ftdoctor.faces.terminal import printable
from ftdoctor.faces.tui.frame import EMPTY, Camera, Frame, Gpu

if TYPE_CHECKING:
    from ftdoctor.live import LiveSession

INSTALL = "pip install 'ftdoctor[prometheus]'   (or: pip install prometheus-client)"
EVERY = 1.0  # seconds between frames without a screen
VERDICTS = ("failing", "suspicious", "healthy", "unknown")
METRICS = {
    "loss": ("ftdoctor_loss", "Training loss, last logged."),
    "eval_loss": ("ftdoctor_eval_loss", "Evaluation loss, last logged."),
    "grad_norm": ("ftdoctor_grad_norm", "Gradient norm, last logged."),
    "learning_rate": ("ftdoctor_learning_rate", "Learning rate, last logged."),
}
GPU = {
    "memory_used": ("ftdoctor_gpu_memory_used_bytes", "Memory in use.", 1 << 20),
    "memory_total": ("ftdoctor_gpu_memory_total_bytes", "Memory of the GPU.", 1 << 20),
    "utilization": ("ftdoctor_gpu_utilization_ratio", "Share of time in which a kernel ran, 0 to 1.", 0.01),
    "power": ("ftdoctor_gpu_power_watts", "Power draw.", 1),
    "temperature": ("ftdoctor_gpu_temperature_celsius", "Core temperature.", 1),
}


class Exporter:
    """Listens from the start; `show` replaces what a scrape gets."""

    def __init__(self, host: str, port: int, run: str) -> None:
        """`run` becomes the label `run` of every sample.

        Raises:
            UsageError: prometheus-client is not installed, or nothing can listen there.
        """
        try:
            from prometheus_client import CollectorRegistry, start_http_server
        except ImportError:
            raise UsageError(
                "--prometheus needs the package prometheus-client, which is not installed", "--prometheus", INSTALL
            ) from None
        self._frame: Frame = EMPTY
        self._run = redact(printable(run))
        self._camera: Camera | None = None
        self._looked = float("-inf")
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server: Any = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise UsageError(
                f"cannot listen there: {error.strerror or error}", f"{host}:{port}", "give another port to --prometheus"
            ) from None

    def show(self, frame: Frame) -> None:
        """What the next scrape gets."""
        self._frame = frame

    def look(self, live: LiveSession, monotonic: float, wall: float) -> None:
        """Take a frame of `live` when the last one is a second old: for a watch without a screen."""
        if monotonic - self._looked < EVERY:
            return
        self._looked = monotonic
        self._camera = self._camera or Camera(live)
        self.show(self._camera.take(wall, live.ended(monotonic)))

    def close(self) -> None:
        """Listen no more."""
        if isinstance(self._server, tuple):  # before 0.19 nothing is handed out; the thread is a daemon
            self._server[0].shutdown()
            self._server[0].server_close()

    def collect(self) -> Iterator[Any]:
        """Called by prometheus_client for each scrape, in its thread."""
        from prometheus_client.core import GaugeMetricFamily

        frame, look = self._frame, self._frame.outlook

        def family(name: str, text: str, rows: list[tuple[dict[str, str], float | None]]) -> Iterator[Any]:
            rows = [(labels, value) for labels, value in rows if value is not None]
            if rows:
                names = ["run", *rows[0][0]]
                out = GaugeMetricFamily(name, text, labels=names)
                for labels, value in rows:
                    out.add_metric([self._run, *labels.values()], float(value or 0.0))
                yield out

        verdict = frame.diagnosis.verdict
        yield from family(
            "ftdoctor_verdict",
            "1 for the present verdict, 0 for the others.",
            [({"verdict": name}, float(name == verdict)) for name in VERDICTS],
        )
        findings = frame.diagnosis.findings
        names = [
            {"id": f.id, "severity": f.severity, "role": f.role, "explained_by": f.explained_by or ""} for f in findings
        ]
        yield from family("ftdoctor_finding", "1 for each finding that holds now.", [(n, 1.0) for n in names])
        yield from family(
            "ftdoctor_finding_first_seen_timestamp_seconds",
            "When this watch first said it.",
            [({"id": f.id}, frame.seen.get(f.id)) for f in findings],
        )
        for name, text, value in (
            ("ftdoctor_step", "Optimizer step.", look.step),
            ("ftdoctor_steps_total_planned", "Optimizer steps planned.", look.total),
            ("ftdoctor_seconds_per_step", "Mean of the last steps.", look.seconds_per_step),
            ("ftdoctor_seconds_left", "Until the last step at the present speed.", look.seconds_left),
            ("ftdoctor_tokens_per_second", "Of all GPUs together.", look.tokens_per_second),
            ("ftdoctor_silence_seconds", "Since the last sign of life of the run.", frame.silence),
            ("ftdoctor_unread_bytes", "Log that is there and not read yet.", float(frame.behind)),
            ("ftdoctor_run_ended", "1 when the run has ended.", float(frame.ended)),
        ):
            yield from family(name, text, [({}, value)])
        metrics = frame.diagnosis.run.last_metrics
        for key, (name, text) in METRICS.items():
            known = metrics.get(key)  # a loss that is NaN is exported as NaN: that is the point
            yield from family(name, text, [({}, known)])
        for field, (name, text, scale) in GPU.items():
            rows = [(_labels(gpu), _scaled(getattr(gpu.sample, field), scale)) for gpu in frame.gpus]
            yield from family(name, text, rows)
        yield from family(
            "ftdoctor_gpu_up",
            "1 while the GPU answers and needs no reset.",
            [(_labels(gpu), float(gpu.sample.state in (None, "ok"))) for gpu in frame.gpus],
        )


def _labels(gpu: Gpu) -> dict[str, str]:
    return {
        "gpu": str(gpu.sample.index),
        "uuid": gpu.sample.uuid or "",
        "rank": "" if gpu.rank is None else str(gpu.rank),
    }


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None or not math.isfinite(value) else value * scale
