"""A Ray actor on a node of the cluster that runs one worker process.

The worker is a separate process: a crash in native code does not end the actor, its exit status gives the cause, and it has
none of Ray's threads. It always ends with its actor, so the GPU is free when Ray reports it free.
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
"""Characters of the host name in the name of its worker."""
MODULE = ("-m", "subtitled", "worker")


class ActorSettings(Struct, frozen=True, kw_only=True):
    """Settings of a worker. They have a secret key and are an argument of a call, which Ray does not store."""

    number: int
    endpoint: str
    """The daemon's, tcp://HOST:PORT."""
    key: str
    """Content of the key file."""
    device: str
    """"cuda:0", the first device that Ray assigns to the actor; or "cpu"."""
    cpu_threads: int
    stop_timeout_s: float
    log_level: str

    def __repr__(self) -> str:
        """Keep the key out of logs and tracebacks."""
        return f"ActorSettings(number={self.number}, endpoint={self.endpoint!r})"


class ActorStarted(Struct, frozen=True, kw_only=True):
    """Where a worker was started."""

    place: str
    """Its place in the daemon, after the name of its key."""
    hostname: str
    node: str = ""
    """Ray's id of the node."""


class ActorEnded(Struct, frozen=True, kw_only=True):
    """A worker process has ended."""

    status: int
    """As in `Popen.returncode`."""
    cause: str
    """The last cause in its log."""


class WorkerActor:
    """One worker process at most. Its methods may be called from any thread; `wait` blocks until the process ends."""

    def __init__(self, command: Sequence[str] = (sys.executable, *MODULE)) -> None:
        """`command`, with the options after it, starts a worker."""
        self._command = command
        self._process: Future[subprocess.Popen[str]] = Future()
        self._cause = ""

    def start(self, settings: ActorSettings) -> ActorStarted:
        """Start the worker, and return its place; raises OSError."""
        hostname = socket.gethostname()
        place = f"{_as_name(hostname)}-{settings.number}"
        key = _in_memory(settings.key)
        options = {
            "--connect": settings.endpoint,
            "--key": f"/proc/self/fd/{key}",
            "--device": settings.device,
            "--cpu-threads": settings.cpu_threads,
            "--place": place,
            "--stop-timeout": settings.stop_timeout_s,
            "--log-level": settings.log_level,
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
        """Copy the worker's log to this process's until the worker has ended."""
        process = self._process.result()
        with process:
            for line in process.stderr or ():
                sys.stderr.write(line)
                self._cause = _cause_in(line) or self._cause
        return ActorEnded(status=process.returncode, cause=self._cause)

    def stop(self) -> None:
        """Let the worker finish its leases and exit; does nothing if it is gone."""
        if self._process.done():
            self._process.result().terminate()


def _in_memory(text: str) -> int:
    """Return the descriptor of a file in memory that only its owner may read."""
    file = os.memfd_create("key", os.MFD_CLOEXEC)
    os.fchmod(file, 0o600)
    os.write(file, text.encode())
    return file


def _as_name(hostname: str) -> str:
    """Return a host name as part of a worker's name: letters, digits, hyphens."""
    short = re.sub(r"[^A-Za-z0-9]+", "-", hostname.partition(".")[0]).strip("-")
    return short[:MAX_NAME] or "node"


def _cause_in(line: str) -> str:
    """Return the cause in a line of the worker's log; a line that is not JSON (of Python or a library) is returned whole."""
    try:
        found = json.loads(line)
    except ValueError:
        return line.strip()
    return str(found.get("cause", "")) if isinstance(found, dict) else ""
