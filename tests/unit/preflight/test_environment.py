"""Checks of the machine: bounded in time, one crash is one result, refusals of the Hub told apart."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftdoctor.preflight import environment
from ftdoctor.preflight.checks import Check, Seen, run_checks
from tests.fake_nvml.build import fake_nvml


def test_a_hanging_and_a_crashing_check_are_results_and_the_rest_goes_on() -> None:
    stop = threading.Event()

    def hang() -> Seen:
        stop.wait(20)
        return Seen("too late")

    def crash() -> Seen:
        raise OSError("stale file handle")

    start = time.monotonic()
    told: list[str] = []
    results = run_checks(
        [Check("nfs", "environment", 0.3, hang), Check("bad", "environment", 5, crash),
         Check("good", "environment", 5, lambda: Seen("fine", {"a": 1}))],
        lambda result: told.append(result.name),
    )  # fmt: skip
    stop.set()
    assert time.monotonic() - start < 10
    assert [(r.name, r.state) for r in results] == [("nfs", "timed_out"), ("bad", "crashed"), ("good", "good")]
    assert results[0].facts == {"silent.nfs": True}
    assert "stale file handle" in results[1].summary
    assert sorted(told) == ["bad", "good", "nfs"]


class _Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        code, error = {"open": (200, ""), "gated": (403, "GatedRepo"), "gated401": (401, "GatedRepo"),
                       "private": (401, "RepoNotFound"), "none": (404, "")}[self.path.split("/")[2]]  # fmt: skip
        self.send_response(code)
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield
    server.shutdown()


@pytest.mark.parametrize(
    ("name", "problem"),
    [("open", None), ("gated", "gated"), ("gated401", "gated"), ("private", "unauthorized"), ("none", "missing")],
)
@pytest.mark.usefixtures("hub")
def test_refusals_of_the_hub_are_told_apart(name: str, problem: str | None) -> None:
    assert environment.hub(f"org/{name}", False, False).facts == {"hub.problem": problem}


def test_no_network_is_no_error_when_the_model_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert environment.hub("org/m", False, False).facts == {"hub.problem": "unreachable"}
    assert environment.hub("org/m", False, True).facts == {}
    assert environment.hub("/models/m", True, False).state == "good"


def test_versions_against_what_axolotl_requires() -> None:
    needs = ["torch<=2.13.0,>=2.11.0", "transformers==5.16.1", "deepspeed<0.19.0; extra == 'deepspeed'", "not a need !"]
    installed = {"torch": "2.3.0", "transformers": "5.16.1", "deepspeed": "0.20"}
    assert environment.conflicts(needs, installed, "3.11.5") == ["torch 2.3.0, Axolotl wants <=2.13.0,>=2.11.0"]


def test_what_this_machine_has(tmp_path: Path) -> None:
    seen = environment.memory()
    assert float(str(seen.facts["host.memory"])) > 0
    assert float(str(environment.disk(str(tmp_path / "a" / "b"), tmp_path).facts["disk.free"])) > 0
    assert "open files" in environment.limits().summary


@fake_nvml("gpus 4\ndriver 580.95.05\n@0 * memory 81559 1000 615\n")
def test_gpus_as_the_driver_sees_them() -> None:
    seen, machine = environment.gpus()
    assert machine is not None
    assert (machine.count, seen.facts["gpu.count"], seen.facts["driver.version"]) == (4, 4, "580.95.05")
    assert machine.memory == pytest.approx(79.6, abs=0.2)
