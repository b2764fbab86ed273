"""Worker processes: started in their slots, watched by pidfd, killed.

When to start and when to kill is the broker's decision. Everything here belongs to the thread of the server's loop: the
kernel kills a worker when the thread that started it ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from subtitled.core.protocol import WorkerSettings
from subtitled.errors import ExitCode
from subtitled.runtime.processes import describe_status

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SSL_CERT_FILE")
"""Variables that a worker gets from the daemon, with those that start with one of `_KEPT_PREFIXES`."""
_KEPT_PREFIXES = (
    "HF_",
    "XDG_",
    "CT2_",
    "OMP_",
    "MKL_",
    "OPENBLAS_",
    "NVIDIA_",
    "CUDA_",
    "http_",
    "https_",
    "HTTP_",
    "HTTPS_",
)

WORKER_COMMAND = (sys.executable, "-m", "subtitled.workers.process")


class ProcessExit(Struct, frozen=True, kw_only=True):
    """The end of a process."""

    worker: str
    is_ok: bool
    """It did what it was started for."""
    is_fatal: bool
    """It said itself that starting again cannot help."""
    cause: str


class _Process(Struct):
    identity: str
    popen: subprocess.Popen[bytes]
    pidfd: int


class Supervisor:
    """The processes that are running, by slot."""

    def __init__(self, environ: Mapping[str, str], command: Sequence[str] = WORKER_COMMAND) -> None:
        """Make one that has no processes yet; `command`, with the settings after it, starts a worker."""
        self._command = command
        self._environ = {
            name: value for name, value in environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)
        }
        self._by_pidfd: dict[int, _Process] = {}
        self._last_words: dict[str, str] = {}

    def spawn(self, settings: WorkerSettings, *, visible_devices: str) -> int:
        """Start a worker and return its pidfd, which becomes readable when the process has ended."""
        environ = {**self._environ, "CUDA_VISIBLE_DEVICES": visible_devices, "PYTHONUNBUFFERED": "1"}
        popen = subprocess.Popen(
            [*self._command, msgspec.json.encode(settings).decode()],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        pidfd = os.pidfd_open(popen.pid)
        self._by_pidfd[pidfd] = _Process(settings.identity, popen, pidfd)
        return pidfd

    def note_last_words(self, worker: str, cause: str) -> None:
        """Keep what a worker said about its own end."""
        self._last_words[worker] = cause

    def owes_words(self, pidfd: int) -> bool:
        """Say whether a process that has ended by itself, with a fault, was not heard on why."""
        process = self._by_pidfd[pidfd]
        status = process.popen.poll()
        return status is not None and status > 0 and process.identity not in self._last_words

    def kill(self, worker: str) -> None:
        """SIGKILL a worker; nothing happens if it is gone already."""
        for process in self._by_pidfd.values():
            if process.identity == worker:
                process.popen.kill()

    def pids(self) -> dict[str, int]:
        """Return the process id of each running worker by identity."""
        return {process.identity: process.popen.pid for process in self._by_pidfd.values()}

    @property
    def pidfds(self) -> frozenset[int]:
        """The pidfds to be polled."""
        return frozenset(self._by_pidfd)

    def reap(self, pidfd: int) -> ProcessExit:
        """Collect a process whose pidfd is readable; the pidfd is closed."""
        process = self._by_pidfd.pop(pidfd)
        status = process.popen.wait()
        os.close(pidfd)
        said = self._last_words.pop(process.identity, "")
        return ProcessExit(
            worker=process.identity,
            is_ok=status == ExitCode.OK,
            is_fatal=status == ExitCode.FATAL,
            cause=said or describe_status(status),
        )

    def kill_all(self) -> None:
        """SIGKILL and collect whatever is still running; blocks for as long as the kernel takes."""
        for process in self._by_pidfd.values():
            process.popen.kill()
        for pidfd in list(self._by_pidfd):
            self.reap(pidfd)
