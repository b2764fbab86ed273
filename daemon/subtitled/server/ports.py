"""The interfaces of the poll loop to sockets, processes, files and clients, as small Protocols.

`build` gives the loop the real ones; the simulation gives it fakes and drives the same loop under virtual time.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable, Sequence
from typing import Protocol

import zmq

from subtitled.config.schema import Config
from subtitled.core.actions import CheckFile
from subtitled.core.records import Job
from subtitled.storage.rows import JournalEntry


class Poller(Protocol):
    """Waits for sockets and file descriptors."""

    def wait(
        self, sockets: Iterable[zmq.Socket[bytes]], descriptors: Iterable[int], timeout_s: float
    ) -> set[int]:
        """Wait until one of them is readable, `timeout_s` at most; return the readable file descriptors."""


class SignalSource(Protocol):
    """The signals that the process has received."""

    def fileno(self) -> int:
        """Return a file descriptor that is readable after a signal."""

    @property
    def is_pending(self) -> bool:
        """A signal was received that `take` has not returned yet."""

    def take(self) -> list[signal.Signals]:
        """Return the signals received since the last call, in order."""


class ClientApi(Protocol):
    """The client-facing API."""

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """The sockets that the loop waits for."""

    @property
    def poll_timeout_s(self) -> float:
        """Seconds until `receive` must be called even when no message arrives."""

    def start(self) -> None:
        """Resume unfinished uploads; called after the broker has restored its jobs."""

    def receive(self) -> None:
        """Answer the requests that have arrived."""

    def send_to_watchers(self, entries: list[JournalEntry]) -> None:
        """Send new journal entries to the clients that watch."""

    def job_changed(self, job: Job) -> None:
        """Release what the API holds for a job once it is no longer needed; called after each stored transition."""

    def state_changed(self, fault: str) -> None:
        """Refuse new work as long as `fault` says that the state is lost."""

    def reconfigure(self, config: Config) -> None:
        """Apply another configuration."""


class ReadServer(Protocol):
    """The part of the API that works while the loop waits for disk space."""

    @property
    def sockets(self) -> list[zmq.Socket[bytes]]:
        """The sockets of clients."""

    @property
    def result_descriptor(self) -> int:
        """A file descriptor that is readable while a result is available."""

    def serve_reads(self) -> None:
        """Answer requests that change nothing."""


class OutputWriter(Protocol):
    """Writes the files of jobs that have ended; results come back as events."""

    @property
    def waiting(self) -> Sequence[object]:
        """One entry for each write that found no space, or whose end cannot be stored."""

    @property
    def is_idle(self) -> bool:
        """No file is being written."""

    @property
    def hung_s(self) -> dict[str, float]:
        """Seconds for which a folder has not answered, by its path, of those that do not answer."""

    def sweep(self, folders: Iterable[str]) -> None:
        """Remove the temporary files that an earlier daemon left in `folders`."""

    def finish(self, job: Job, *, is_failure: bool) -> None:
        """Write a job's files; ends in OutputsWritten, FailureWritten or WriteFailed."""

    def plan_translations(self, job: Job, number: int) -> None:
        """Read the sentences of a job that have no stored translation; ends in TranslationsPlanned."""

    def write_translations(self, job: Job, number: int) -> None:
        """Write a job's subtitles in other languages; ends in TranslationsWritten."""

    def remove_error_texts(self, job: Job) -> None:
        """Remove the error texts of earlier jobs of this source, which is processed again."""

    def retry_waiting(self) -> None:
        """Write the jobs that waited."""


class FileChecker(Protocol):
    """Finds out whether folders answer."""

    @property
    def hung_s(self) -> dict[str, float]:
        """Seconds for which a folder has not answered, by its path, of those that do not answer."""

    def check(self, action: CheckFile) -> None:
        """Check a file's folder; ends in FileChecked."""

    def stop(self, folder: bytes) -> None:
        """Stop the check of a folder: no FileChecked follows."""


class JobHooks(Protocol):
    """Runs commands and webhooks after jobs."""

    def start(self) -> None:
        """Start with the jobs whose hooks an earlier daemon did not run."""

    def wake(self) -> None:
        """Notify that the journal has grown."""

    def reconfigure(self, config: Config) -> None:
        """Apply another configuration."""


class DiskSpace(Protocol):
    """Whether the results of further files fit on the disk."""

    @property
    def is_enough(self) -> bool:
        """Every folder has more than the reserve."""

    @property
    def cause(self) -> str:
        """The folder that has too little, in words; empty when none has."""

    def check(self, now: float) -> bool:
        """Measure again when it is time; return whether `is_enough` changed."""

    def reconfigure(self, folders: Iterable[str], reserve_bytes: int) -> None:
        """Watch other folders against another reserve."""


class StateGuard(Protocol):
    """Whether what is stored survives a restart."""

    @property
    def fault(self) -> str:
        """Why it does not; "" if it does."""

    def check(self, now: float) -> bool:
        """Check again when it is time; return whether `fault` changed."""


class ServiceNotifier(Protocol):
    """The service manager, which is informed about start, reload and stop."""

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often to call `watchdog`; None where the service manager does not watch."""

    def ready(self) -> None:
        """Report that start-up or a reload is finished."""

    def stopping(self) -> None:
        """Report that the daemon is stopping."""

    def reloading(self) -> None:
        """Report that the configuration is being read again."""

    def watchdog(self) -> None:
        """Report that the loop is running."""


class RemoteWorkerStarter(Protocol):
    """Starts workers on a cluster."""

    def reconfigure(self, config: Config) -> None:
        """Run, restart or stop, as configured."""


class StatusLine(Protocol):
    """The one line that `systemctl status` shows."""

    def update(self, now: float) -> None:
        """Send the line when it is time."""


class ZmqPoller:
    """The real poller."""

    def wait(
        self, sockets: Iterable[zmq.Socket[bytes]], descriptors: Iterable[int], timeout_s: float
    ) -> set[int]:
        """Wait until one of them is readable, `timeout_s` at most; return the readable file descriptors."""
        poller = zmq.Poller()
        for waited in (*sockets, *descriptors):
            poller.register(waited, zmq.POLLIN)
        ready = poller.poll(max(0, int(timeout_s * 1000) + 1))
        return {found for found, _ in ready if isinstance(found, int)}
