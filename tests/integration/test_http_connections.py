"""Connections of the gateway: deadlines, limits, and clients that use too many."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import httpx2 as httpx
import pytest

from daemon import Daemon, eventually, free_port
from gateway_process import GatewayProcess
from subtitled.config import schema
from subtitled.http.auth import MAX_CLIENT_REQUESTS
from subtitled.web.connections import (
    HEADER_TIMEOUT_S,
    LOG_INTERVAL_S,
    MAX_CONNECTIONS,
    RESERVED_DESCRIPTORS,
    HttpConnectionLimits,
    RateLimitedLog,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WAIT_S = 120.0
OTHER_CLIENT = "127.0.0.2"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running.start()


@pytest.fixture(scope="module")
def gateway(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(daemon, tmp_path_factory.mktemp("gateway")) as running:
        yield running


def connect(gateway: GatewayProcess, source: str = "127.0.0.1") -> socket.socket:
    host, port = gateway.listen.split(":")
    return socket.create_connection((host, int(port)), timeout=WAIT_S, source_address=(source, 0))


def is_closed(connection: socket.socket) -> bool:
    """Return whether the gateway closes the connection before the test's timeout."""
    with suppress(ConnectionResetError):
        while connection.recv(65536):
            pass
    return True


def health_from(gateway: GatewayProcess, source: str) -> int:
    transport = httpx.HTTPTransport(local_address=source)
    with httpx.Client(base_url=gateway.url, timeout=WAIT_S, transport=transport) as http:
        return http.get("/api/jobs").status_code


def test_connections_without_a_complete_header_are_closed(gateway: GatewayProcess) -> None:
    """Nothing at all, half a header, and half a header after a complete request."""
    complete = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        connections = []
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: loc", complete + b"GET /health HTTP/1.1\r\n"):
            connections.append(stack.enter_context(connect(gateway)))
            connections[-1].sendall(sent)
        started = time.monotonic()
        assert all(is_closed(connection) for connection in connections)
        assert time.monotonic() - started < WAIT_S, f"after {HEADER_TIMEOUT_S:g} s, not never"


def test_one_client_cannot_use_all_requests(gateway: GatewayProcess) -> None:
    """Each request waits for a form that never arrives."""
    head = (
        b"POST /api/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    with ExitStack() as stack:
        for _ in range(MAX_CLIENT_REQUESTS):
            stack.enter_context(connect(gateway)).sendall(head)
        eventually(lambda: health_from(gateway, "127.0.0.1") == 503, "the client's share is used up")
        assert health_from(gateway, OTHER_CLIENT) == 200
    eventually(lambda: health_from(gateway, "127.0.0.1") == 200, "the client's requests have ended")


def test_connections_over_the_limit_are_refused_with_one_line_in_the_log(
    daemon: Daemon, tmp_path: Path
) -> None:
    """With a low limit of descriptors, as many systems have it."""
    gateway = GatewayProcess(daemon, tmp_path / "gateway")
    with closing(gateway.start(max_descriptors=RESERVED_DESCRIPTORS + 40)), ExitStack() as stack:
        for _ in range(200):
            with suppress(ConnectionError):
                stack.enter_context(connect(gateway))
        assert health_from(gateway, OTHER_CLIENT) == 200, "another client still gets a connection"
        log = gateway.log_file.read_text("utf-8")
        assert log.count("http.connections_refused") == 1
        assert "Traceback" not in log
        assert "Too many open files" not in log


def test_limits_leave_descriptors_for_requests() -> None:
    assert HttpConnectionLimits(1_000_000).max_open == MAX_CONNECTIONS
    assert HttpConnectionLimits(1024).max_open == 1024 - RESERVED_DESCRIPTORS
    assert HttpConnectionLimits(256).max_open > 0


def test_a_repeated_event_is_logged_once_per_interval_with_its_count(
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    limited = RateLimitedLog("http.loop_failed", lambda: now[0])
    for _ in range(1000):
        limited.warn()
    now[0] = LOG_INTERVAL_S
    limited.warn()
    lines = [line for line in capsys.readouterr().out.splitlines() if "http.loop_failed" in line]
    assert len(lines) == 2
    assert "count=1000" in lines[1].replace("\x1b[0m", "").replace("\x1b[36m", "").replace("\x1b[35m", "")


@pytest.mark.long
def test_ctrl_c_stops_the_gateway_once_and_does_not_restart_it(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole group of processes."""
    address = f"127.0.0.1:{free_port()}"
    daemon = Daemon(tmp_path, http=schema.HttpConfig(listen=address))

    def is_available() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"http://{address}/health", timeout=WAIT_S).status_code == 200
        return False

    command = (sys.executable, "-m", "subtitled", "run", "--config", str(daemon.config_file))
    with daemon.log_file.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually(is_available, "the gateway answers")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(WAIT_S) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        daemon.close()
    events = [entry["event"] for entry in daemon.log()]
    assert (events.count("http.stopped"), events.count("http.lost")) == (1, 0)
    assert events.count("http.listening") == 1


def test_a_taken_port_is_reported_with_its_reason(gateway: GatewayProcess) -> None:
    command = (sys.executable, "-m", "subtitled", "http", "--config", str(gateway.config_file))
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 1
    assert f"http.listen {gateway.listen}: Address already in use" in done.stderr
