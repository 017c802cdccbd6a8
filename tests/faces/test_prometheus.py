"""`watch --prometheus`: what a scrape gets, and a real Prometheus that scrapes it."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")
from prometheus_client.parser import text_string_to_metric_families

from ftdoctor.errors import UsageError
from ftdoctor.events import GpuSample, Origin
from ftdoctor.faces.prometheus import Exporter
from ftdoctor.live import LiveSession
from ftdoctor.ruleset.load import load

STEP = "{{'loss': {loss}, 'grad_norm': 0.4, 'learning_rate': 0.0002, 'epoch': 0.{n:02d}}}\n"
LOG = "".join(STEP.format(loss=1.5, n=n) for n in range(12)) + "OSError: [Errno 28] No space left on device: 'out/x'\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def scrape(port: int) -> dict[str, list[tuple[dict[str, str], float]]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in families:
            for sample in family.samples:
                found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
        return found


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[LiveSession, Exporter, int]]:
    log = tmp_path / "train.log"
    log.write_text(LOG)
    live, port = LiveSession(load(), [str(log)]), free_port()
    exporter = Exporter("127.0.0.1", port, 'run "1"\n')
    for second in range(3):
        live.step(float(second), 1e9 + second)
    yield live, exporter, port
    exporter.close()


def test_before_anything_was_seen_the_verdict_is_unknown(watched: tuple[LiveSession, Exporter, int]) -> None:
    found = scrape(watched[2])
    assert {labels["verdict"]: value for labels, value in found["ftdoctor_verdict"]} == {
        "failing": 0.0, "suspicious": 0.0, "healthy": 0.0, "unknown": 1.0,
    }  # fmt: skip
    assert "ftdoctor_loss" not in found


def test_verdict_findings_metrics_and_gpus(watched: tuple[LiveSession, Exporter, int]) -> None:
    live, exporter, port = watched
    live.session.apply([
        GpuSample(Origin("nvml", time=1e9), n, f"GPU-{n}", "H100", memory_used=1024.0, memory_total=2048.0, utilization=50.0,
                  power=None, temperature=60.0, state="lost" if n else "ok")
        for n in range(2)
    ])  # fmt: skip
    exporter.look(live, 10.0, 1e9 + 10)
    found = scrape(port)
    assert {labels["verdict"]: value for labels, value in found["ftdoctor_verdict"]}["failing"] == 1.0
    ids = {labels["id"]: labels for labels, _ in found["ftdoctor_finding"]}
    assert ids["disk-full"]["severity"] == "error"
    assert found["ftdoctor_loss"][0][1] == 1.5
    assert 'run "1"' in found["ftdoctor_loss"][0][0]["run"]
    assert found["ftdoctor_learning_rate"][0][1] == pytest.approx(2e-4)
    assert [value for _, value in found["ftdoctor_gpu_memory_used_bytes"]] == [float(1 << 30)] * 2
    assert [value for _, value in found["ftdoctor_gpu_utilization_ratio"]] == [0.5, 0.5]
    assert [value for _, value in found["ftdoctor_gpu_up"]] == [1.0, 0.0]
    assert "ftdoctor_gpu_power_watts" not in found
    assert all(labels["uuid"] == f"GPU-{labels['gpu']}" for labels, _ in found["ftdoctor_gpu_up"])


def test_a_nan_loss_is_exported_as_nan(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(STEP.format(loss="nan", n=1) * 4)
    live, port = LiveSession(load(), [str(log)]), free_port()
    exporter = Exporter("127.0.0.1", port, "run")
    live.step(0.0, 1e9)
    exporter.look(live, 1.0, 1e9)
    assert math.isnan(scrape(port)["ftdoctor_loss"][0][1])
    exporter.close()


def test_a_port_in_use_is_an_error_in_words(watched: tuple[LiveSession, Exporter, int]) -> None:
    with pytest.raises(UsageError, match="cannot listen there"):
        Exporter("127.0.0.1", watched[2], "other")


def test_a_real_prometheus_scrapes_a_real_watch(tmp_path: Path) -> None:
    prometheus = shutil.which("prometheus")
    if prometheus is None:
        pytest.skip("no prometheus on this machine (Debian: apt-get install prometheus)")
    log, port, server = tmp_path / "train.log", free_port(), free_port()
    log.write_text(LOG)
    (tmp_path / "prometheus.yml").write_text(
        "global: {scrape_interval: 1s}\nscrape_configs:\n- job_name: ftdoctor\n"
        f"  static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n"
    )
    watch = subprocess.Popen(
        [sys.executable, "-m", "ftdoctor", "watch", str(log), "--headless", "--no-gpu", "--prometheus", str(port)],
        stdout=subprocess.DEVNULL,
    )
    database = subprocess.Popen(
        [prometheus, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'db'}",
         f"--web.listen-address=127.0.0.1:{server}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline, rows = time.monotonic() + 90, []
        query = urllib.parse.quote('ftdoctor_finding{id="disk-full"}')
        while not rows and time.monotonic() < deadline:
            time.sleep(0.5)
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{server}/api/v1/query?query={query}", timeout=5
                ) as answer:
                    rows = json.load(answer)["data"]["result"]
            except OSError:
                continue
        assert rows, "Prometheus never had the finding"
        assert rows[0]["metric"]["severity"] == "error"
        assert rows[0]["value"][1] == "1"
    finally:
        for process in (watch, database):
            process.kill()
            process.wait()
