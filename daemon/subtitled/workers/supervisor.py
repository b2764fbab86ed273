"""Worker processes: started in their slots, watched by pidfd, killed.

The broker decides when. Everything here belongs to the thread of the server's loop: the kernel kills a worker when the
thread that started it ends.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from subtitled import log
from subtitled.core.protocol import WorkerSettings
from subtitled.errors import ExitCode
from subtitled.runtime.processes import describe_status, module_command
from subtitled.workers.shared_pcm import DescriptorSenders

_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SSL_CERT_FILE")
"""Environment variables passed to workers, with those that start with one of `_KEPT_PREFIXES`."""
_KEPT_PREFIXES = (
    "HF_",
    "XDG_",
    "CT2_",
    "OMP_",
    "GOMP_",
    "MKL_",
    "OPENBLAS_",
    "NVIDIA_",
    "CUDA_",
    "http_",
    "https_",
    "HTTP_",
    "HTTPS_",
)

KILL_S = 5.0
WORKER_COMMAND = module_command("subtitled.workers.process")


class ProcessExit(Struct, frozen=True, kw_only=True):
    """The end of a process."""

    worker: str
    is_ok: bool
    """It exited with status 0."""
    is_fatal: bool
    """It reported that a restart cannot help."""
    cause: str


class _Process(Struct):
    identity: str
    popen: subprocess.Popen[bytes]
    pidfd: int
    end_by: float = float("inf")
    """When a killed process must have ended."""


class Supervisor:
    """The running worker processes."""

    def __init__(self, environ: Mapping[str, str], command: Sequence[str] = WORKER_COMMAND) -> None:
        """`command`, with the settings after it, starts a worker."""
        self._command = command
        self._environ = {
            name: value for name, value in environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)
        }
        self._by_pidfd: dict[int, _Process] = {}
        self._exit_reasons: dict[str, str] = {}
        self._failed_starts: list[ProcessExit] = []
        self.descriptors = DescriptorSenders()

    def spawn(self, settings: WorkerSettings, *, visible_devices: str) -> None:
        """Start a worker; its pidfd becomes readable when it has ended.

        If the system has no process or descriptor left, the start counts as a worker that has ended: see
        `take_failed_starts`.
        """
        log_variables, log_descriptors = log.for_children()
        environ = {
            # Its threads would spin between NumPy's small products, on cores that decode.
            "OPENBLAS_NUM_THREADS": "1",
            **self._environ,
            **log_variables,
            "CUDA_VISIBLE_DEVICES": visible_devices,
            "PYTHONUNBUFFERED": "1",
        }
        try:
            with self.descriptors.open(settings.identity) as theirs:
                settings = replace(settings, descriptors=theirs.fileno())
                popen = subprocess.Popen(
                    [*self._command, msgspec.json.encode(settings).decode()],
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(*log_descriptors, theirs.fileno()),
                )
            try:
                pidfd = os.pidfd_open(popen.pid)
            except OSError:
                popen.kill()
                popen.wait()
                raise
        except OSError as error:
            self.descriptors.close(settings.identity)
            cause = f"its process could not be started: {error.strerror}; raise the limit of processes (TasksMax=, ulimit -u) or of descriptors (LimitNOFILE=), or free memory"
            self._failed_starts.append(
                ProcessExit(worker=settings.identity, is_ok=False, is_fatal=False, cause=cause)
            )
        else:
            self._by_pidfd[pidfd] = _Process(settings.identity, popen, pidfd)

    def send_descriptors(self, worker: str, tag: int, descriptors: Sequence[int]) -> bool:
        """Send descriptors to a worker, to arrive before messages that are sent later; return False if that is not possible."""
        return self.descriptors.send(worker, tag, descriptors)

    @property
    def has_failed_starts(self) -> bool:
        """Whether `take_failed_starts` returns anything."""
        return bool(self._failed_starts)

    def take_failed_starts(self) -> list[ProcessExit]:
        """Return, once, the workers whose process could not be started."""
        failed, self._failed_starts = self._failed_starts, []
        return failed

    def record_exit_reason(self, worker: str, cause: str) -> None:
        """Store the reason that a worker gave for its exit, or that it is killed for."""
        self._exit_reasons[worker] = cause

    def is_exit_reason_missing(self, pidfd: int) -> bool:
        """Return whether an ended process failed without a signal, and its reason was not received."""
        process = self._by_pidfd[pidfd]
        status = process.popen.poll()
        return status is not None and status > 0 and process.identity not in self._exit_reasons

    def kill(self, worker: str) -> None:
        """SIGKILL a worker; does nothing if it is gone."""
        for process in self._by_pidfd.values():
            if process.identity == worker:
                process.popen.kill()
                process.end_by = min(process.end_by, time.monotonic() + KILL_S)

    def take_stuck(self) -> list[ProcessExit]:
        """Return, once, the killed workers that the kernel cannot end within `KILL_S`, for example on a mount that hangs.

        They count as ended: their slots get other processes. Their pidfds stay, until they end.
        """
        now = time.monotonic()
        stuck = [process for process in self._by_pidfd.values() if now >= process.end_by]
        for process in stuck:
            process.end_by = float("inf")
        cause = f"killed, but still running after {KILL_S:g} s: it waits for the file system"
        return [
            ProcessExit(worker=process.identity, is_ok=False, is_fatal=False, cause=cause)
            for process in stuck
        ]

    @property
    def pidfds(self) -> frozenset[int]:
        """The pidfds to poll."""
        return frozenset(self._by_pidfd)

    def reap(self, pidfd: int) -> ProcessExit:
        """Collect a process whose pidfd is readable, and close the pidfd."""
        process = self._by_pidfd.pop(pidfd)
        status = process.popen.wait()
        os.close(pidfd)
        self.descriptors.close(process.identity)
        reason = self._exit_reasons.pop(process.identity, "")
        return ProcessExit(
            worker=process.identity,
            is_ok=status == ExitCode.OK,
            is_fatal=status == ExitCode.FATAL,
            cause=reason or describe_status(status),
        )

    def kill_all(self) -> None:
        """SIGKILL and collect all running processes; waits at most `KILL_S` for the kernel to end them.

        A process that reads from a mount that hangs may not end before the mount answers.
        """
        for process in self._by_pidfd.values():
            process.popen.kill()
        deadline = time.monotonic() + KILL_S
        for pidfd in list(self._by_pidfd):
            if select.select([pidfd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                self.reap(pidfd)
