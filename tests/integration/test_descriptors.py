"""A burst of connections under a low limit of open files does not end the process, and does not lock others out for long."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from subtitle import Client
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
