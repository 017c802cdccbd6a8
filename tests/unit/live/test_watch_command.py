"""`ftdoctor watch` as a command: what it prints, when it ends, whom it tells. Real processes; patience, not pace, decides."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

STEP = "{'loss': '1.5', 'grad_norm': '0.5', 'learning_rate': '0.0002', 'epoch': '0.1'}\n"
OOM = "[rank3]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.95 GiB. GPU 3 has a total capacity of 79.11 GiB\n"
SAVED = "[2026-01-02 10:00:00,000] [INFO] [axolotl.train] Model successfully saved to ./out\n"
PATIENCE = 90.0


class Watch:
    """One command and the lines it has printed so far."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "ftdoctor", "watch", "--no-gpu", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, (what, self.lines)
            time.sleep(0.05)

    def ends(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code


@contextmanager
def watch(*arguments: str) -> Iterator[Watch]:
    started = Watch(*arguments)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.wait()


def add(log: Path, text: str) -> None:
    with log.open("a") as handle:
        handle.write(text)


def test_each_finding_is_one_object_at_once_and_the_run_s_end_is_the_end(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    with watch(str(log), "--headless", "--format", "jsonl") as seen:
        add(log, STEP * 5 + OOM)
        seen.until(lambda: seen.lines, "the finding, while the run goes on")
        assert seen.process.poll() is None
        finding = json.loads(seen.lines[0])
        assert (finding["id"], finding["severity"], finding["rank"]) == ("cuda-oom", "error", 3)
        add(log, STEP * 5 + SAVED)
        assert seen.ends() == 0  # survived: a warning, below --fail-on
        again = [json.loads(line) for line in seen.lines]
        assert [(f["id"], f["severity"]) for f in again] == [("cuda-oom", "error"), ("cuda-oom", "warning")]


def test_until_fail_ends_at_the_first_error(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    with watch(str(log), "--until-fail") as seen:
        add(log, STEP * 5)
        time.sleep(0.5)
        assert seen.process.poll() is None
        add(log, OOM)
        assert seen.ends() == 1
        assert "error: cuda-oom" in seen.lines[0]
        assert seen.lines[-1] == "end of run: failing: cuda-oom\n"


def test_a_process_id_is_the_file_it_writes_to(tmp_path: Path) -> None:
    log = tmp_path / "of-the-process.log"
    code = f"import sys, time; time.sleep(1); sys.stderr.write({OOM!r}); sys.stderr.flush(); time.sleep(600)"
    with log.open("w") as handle:
        trainer = subprocess.Popen([sys.executable, "-c", code], stdout=handle, stderr=handle)
    try:
        with watch(str(trainer.pid), "--until-fail", "--format", "jsonl") as seen:
            assert seen.ends() == 1
            finding = json.loads(seen.lines[0])
            assert finding["id"] == "cuda-oom"
            assert finding["evidence"][0]["path"] == str(log)
    finally:
        trainer.kill()
        trainer.wait()
    with watch(str(trainer.pid), "--headless") as seen:
        assert seen.ends() == 2
        assert seen.process.stderr is not None
        assert "no such process" in seen.process.stderr.read()


def test_new_findings_reach_a_server(tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    log = tmp_path / "train.log"
    try:
        with watch(str(log), "--headless", "--notify", f"json://127.0.0.1:{server.server_port}/") as seen:
            add(log, STEP * 5 + OOM)
            seen.until(lambda: bodies, "the message")
            assert seen.process.poll() is None
    finally:
        server.shutdown()
    assert bodies[0]["type"] == "failure"
    assert "A GPU ran out of memory" in bodies[0]["title"]
    assert "fix: " in bodies[0]["message"]


def test_ctrl_c_gives_the_last_word(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    with watch(str(log), "--headless") as seen:
        add(log, STEP * 5 + OOM)
        seen.until(lambda: seen.lines, "the finding")
        seen.process.send_signal(signal.SIGINT)
        assert seen.ends() == 1
        assert seen.lines[-1] == "end of run: failing: cuda-oom\n"


def test_the_screen_in_a_browser(tmp_path: Path) -> None:
    """Page and screen, as a browser gets them: over HTTP and a WebSocket, on the loopback alone."""
    pytest.importorskip("textual_serve")
    import asyncio
    import socket

    import aiohttp

    log = tmp_path / "train.log"
    log.write_text(STEP * 5 + OOM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ftdoctor", "watch", str(log), "--no-gpu", "--serve", f"127.0.0.1:{port}"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def browser() -> str:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
            while True:
                try:
                    page = await session.get(f"http://127.0.0.1:{port}/")
                    break
                except aiohttp.ClientConnectionError:
                    assert server.poll() is None
                    await asyncio.sleep(0.1)
            assert page.status == 200
            assert "data-session-websocket-url" in await page.text()
            shown = ""
            async with session.ws_connect(f"http://127.0.0.1:{port}/ws?width=100&height=30") as socket_:
                async for message in socket_:
                    if message.type is aiohttp.WSMsgType.BINARY:
                        shown += message.data.decode("utf-8", "replace")
                    if "FAILING" in shown:
                        return shown
            return shown

    try:
        assert "FAILING" in asyncio.run(browser())
        listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def test_it_leaves_the_run_alone(tmp_path: Path) -> None:
    """The watcher dies, in any way; the trainer and its log do not notice."""
    log = tmp_path / "train.log"
    code = f"import time\nwhile True: print({STEP.strip()!r}, flush=True); time.sleep(0.1)"
    with log.open("w") as handle:
        trainer = subprocess.Popen([sys.executable, "-c", code], stdout=handle)
    try:
        with watch(str(log), "--headless", "--journal", str(tmp_path / "j")) as seen:
            seen.until(
                lambda: (tmp_path / "j").exists() and "MetricSample" in (tmp_path / "j").read_text(),
                "the first step in the journal",
            )
            os.kill(seen.process.pid, signal.SIGKILL)
            seen.ends()
        size = log.stat().st_size
        end = time.monotonic() + PATIENCE
        while log.stat().st_size <= size:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert trainer.poll() is None
    finally:
        trainer.kill()
        trainer.wait()
