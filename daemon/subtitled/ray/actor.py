"""What runs on a node of the cluster, as an actor of Ray's: one worker process, and who holds its reins.

The worker is a process of its own, not this one: native code that crashes takes no actor with it, its exit status tells why,
and none of Ray's threads is beside it. It ends with its actor, whatever ends that: the GPU is free again when Ray says so.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future

from msgspec import Struct

MAX_NAME = 40
"""Characters of a host's name in that of its worker."""
MODULE = ("-m", "subtitled", "worker")


class ActorSettings(Struct, frozen=True, kw_only=True):
    """What a worker is started with. It holds a secret key, and goes to the actor itself, by no way that Ray keeps."""

    number: int
    endpoint: str
    """Of the daemon, tcp://HOST:PORT."""
    key: str
    """Content of the key file."""
    device: str
    """"cuda:0", the first of those that Ray lets the actor see; or "cpu"."""
    cpu_threads: int
    stop_timeout_s: float
    log_level: str

    def __repr__(self) -> str:
        """Keep the key out of logs and tracebacks."""
        return f"ActorSettings(number={self.number}, endpoint={self.endpoint!r})"


class ActorStarted(Struct, frozen=True, kw_only=True):
    """Where a worker was started."""

    place: str
    """What the daemon calls it, after the name of its key."""
    hostname: str
    node: str = ""
    """Ray's id of the node."""


class ActorEnded(Struct, frozen=True, kw_only=True):
    """A worker process has ended."""

    status: int
    """As `Popen` has it."""
    cause: str
    """What it said last of why."""


class WorkerActor:
    """One worker process at most. Its methods may be called from any thread; `wait` blocks until the process ends."""

    def __init__(self, command: Sequence[str] = (sys.executable, *MODULE)) -> None:
        """`command`, with its options after it, starts a worker."""
        self._command = command
        self._process: Future[subprocess.Popen[str]] = Future()
        self._cause = ""

    def begin(self, orders: ActorSettings) -> ActorStarted:
        """Start the worker, and return where; raises OSError."""
        hostname = socket.gethostname()
        place = f"{_as_name(hostname)}-{orders.number}"
        key = _in_memory(orders.key)
        options = {
            "--connect": orders.endpoint,
            "--key": f"/proc/self/fd/{key}",
            "--device": orders.device,
            "--cpu-threads": orders.cpu_threads,
            "--place": place,
            "--stop-timeout": orders.stop_timeout_s,
            "--log-level": orders.log_level,
            "--log-format": "json",
            "--parent": os.getpid(),
        }
        try:
            process = subprocess.Popen(
                [*self._command, *(str(word) for option in options.items() for word in option)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(key,),
                text=True,
                errors="replace",
            )
        finally:
            os.close(key)
        self._process.set_result(process)
        return ActorStarted(place=place, hostname=hostname)

    def wait(self) -> ActorEnded:
        """Pass the worker's log on to this process's, until the worker has ended."""
        process = self._process.result()
        with process:
            for line in process.stderr or ():
                sys.stderr.write(line)
                self._cause = _cause_in(line) or self._cause
        return ActorEnded(status=process.returncode, cause=self._cause)

    def leave(self) -> None:
        """Have the worker finish what it holds, and go; nothing happens if it is gone."""
        if self._process.done():
            self._process.result().terminate()


def _in_memory(text: str) -> int:
    """Return the descriptor of a file that is on no disk, and that its owner alone may read."""
    file = os.memfd_create("key", os.MFD_CLOEXEC)
    os.fchmod(file, 0o600)
    os.write(file, text.encode())
    return file


def _as_name(hostname: str) -> str:
    """Return a host's name as part of a worker's: letters, digits, hyphens."""
    short = re.sub(r"[^A-Za-z0-9]+", "-", hostname.partition(".")[0]).strip("-")
    return short[:MAX_NAME] or "node"


def _cause_in(line: str) -> str:
    """Return the cause that a line of the worker's log has; of what is no such line (Python's own, a library's), all of it."""
    try:
        found = json.loads(line)
    except ValueError:
        return line.strip()
    return str(found.get("cause", "")) if isinstance(found, dict) else ""
