"""--notify and --serve: what is sent, what is refused."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ftdoctor.cli.serve import address, is_loopback, serve, without_serve
from ftdoctor.errors import UsageError
from ftdoctor.faces.notify import Notifier
from ftdoctor.findings import Finding


def test_sends_a_redacted_finding() -> None:
    pytest.importorskip("apprise")
    bodies: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    notifier = Notifier(f"json://127.0.0.1:{server.server_port}/", "run1")
    token = "hf_AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
    notifier.send(Finding("cuda-oom", "error", "cause", "A GPU ran out of memory", f"token {token}"))
    notifier.close()
    server.shutdown()
    assert not notifier.failed
    assert len(bodies) == 1
    assert "A GPU ran out of memory" in bodies[0]["title"]
    assert "run1" in bodies[0]["title"]
    assert token not in json.dumps(bodies)


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(UsageError) as caught:
        Notifier("ntfy://x", "run")
    assert "pip install" in caught.value.remedy
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    with pytest.raises(UsageError) as caught:
        serve("127.0.0.1:8080", ["x.log"], False)
    assert "pip install" in caught.value.remedy


def test_addresses() -> None:
    assert address("127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert address("9000") == ("127.0.0.1", 9000)
    assert address("[::1]:80") == ("::1", 80)
    for wrong in ("train.log", "host", "host:0", "host:70000"):
        with pytest.raises(UsageError):
            address(wrong)
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")


def test_the_served_command() -> None:
    assert without_serve(["a.log", "--serve"]) == ["a.log"]
    assert without_serve(["--serve", "127.0.0.1:1", "a.log"]) == ["a.log"]
    assert without_serve(["--serve=0.0.0.0:1", "a.log", "--interval", "1"]) == ["a.log", "--interval", "1"]
    assert without_serve(["--replay", "j", "--speed", "2", "--serve"]) == ["--replay", "j", "--speed", "2"]
    with pytest.raises(UsageError):
        serve("127.0.0.1:1", ["a.log", "--journal", "j"], True)
