"""A burst of connections under a low limit of open files does not end the process, and does not lock others out for long."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

import media
from daemon import Daemon, free_port
from subtitle import Client
from subtitled.config import schema
from subtitled.config.load import to_toml
from subtitled.runtime.processes import MAX_DESCRIPTORS

_TESTS = Path(__file__).parents[1]
SERVER = """
import resource, select, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
from subtitled.api import server
server.raise_descriptor_limit = lambda: limit  # as for a user who may not raise it
from api_harness import ApiHarness
with ApiHarness(Path(sys.argv[2])) as api:
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        api.turn()
        until = time.monotonic() + 0.005
        while time.monotonic() < until:
            pass  # a busy loop, which holds the interpreter
"""
BURST_S = 2.0
MAX_LINES = 12
"""Lines about the limit in a burst of two minutes."""


@pytest.mark.parametrize("limit", [256, 1024])
def test_burst_of_local_connections_is_refused_before_the_descriptors_run_out(
    tmp_path: Path, limit: int
) -> None:
    """Libzmq 4.3.5 aborts where it cannot accept a connection to a Unix socket for lack of descriptors."""
    path = tmp_path / "clients.sock"
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(limit), str(tmp_path), str(_TESTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    held: list[socket.socket] = []
    refused = 0
    until = time.monotonic() + BURST_S
    while time.monotonic() < until and len(held) < 5000:
        one = socket.socket(socket.AF_UNIX)
        one.setblocking(False)
        try:
            one.connect(str(path))
        except OSError:
            refused += 1
            one.close()
            threading.Event().wait(0.0005)
        else:
            held.append(one)
            if len(held) > 600:
                held.pop(0).close()
    assert refused, "the burst was too small"
    assert process.poll() is None
    for one in held:
        one.close()
    with closing(Client(f"ipc://{path}")) as client:
        assert client.list() == ()
    process.communicate("stop", timeout=60)
    assert process.returncode == 0


@pytest.mark.long
@pytest.mark.parametrize("limit", [256, 1024])
def test_daemon_survives_a_burst_of_tcp_connections(tmp_path: Path, limit: int) -> None:
    """Its workers run on, and clients of both sockets are answered when the burst is over."""
    address = ("127.0.0.1", free_port())
    with Daemon(
        tmp_path,
        pool=schema.PoolConfig(devices=("cpu",), prepare_workers=1),
        prefix=("/bin/sh", "-c", f'ulimit -n {limit} && exec "$0" "$@"'),
    ) as daemon:
        listen = replace(daemon.config.listen, clients=(daemon.endpoint, f"tcp://{address[0]}:{address[1]}"))
        daemon.config = replace(daemon.config, listen=listen)
        daemon.config_file.write_text(to_toml(daemon.config), "utf-8")
        daemon.start()
        assert f"Max open files            {limit} " in Path(f"/proc/{daemon.pid}/limits").read_text()
        held: list[socket.socket] = []
        opened = 0
        until = time.monotonic() + 2 * BURST_S
        while opened < 4 * limit or time.monotonic() < until:
            one = socket.socket()
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(address)
            held.append(one)
            opened += 1
            if len(held) > 2 * limit:
                held.pop(0).close()
        for one in held:
            one.close()
        with Client(f"tcp://{address[0]}:{address[1]}", timeout_s=60) as client:
            assert client.list() == ()
        source = daemon.drop(media.clip(), "talk.flac")
        assert daemon.wait_for(source).state == "done"
        assert not daemon.log("worker.lost")
        assert 1 <= len(daemon.log("client.disconnected")) <= MAX_LINES
        daemon.stop()


def test_limit_is_raised_at_the_start() -> None:
    program = (
        "import resource; from subtitled.runtime.processes import raise_descriptor_limit;"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard));"
        "print(raise_descriptor_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    reported, found = map(int, done.stdout.split())
    assert reported == found
    assert found > 256
    assert found <= MAX_DESCRIPTORS
