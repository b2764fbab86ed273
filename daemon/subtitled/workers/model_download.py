"""The download of the model before the transcribe workers start: a process of its own, restarted until it succeeds."""

from __future__ import annotations

import time
from collections.abc import Callable

from subtitled import log
from subtitled.asr.hub import fetch, may_need_fetching
from subtitled.asr.model import HubUnreachableError
from subtitled.core.policy import backoff
from subtitled.core.protocol import ExitReason, WorkerSettings
from subtitled.errors import ExitCode, ModelError
from subtitled.workers.channel import Channel
from subtitled.workers.supervisor import ProcessExit

SLOT = "model"
_log = log.get()


class ModelDownload:
    """Starts the process as often as necessary; belongs to the thread of the server's loop."""

    def __init__(self, name: str, spawn: Callable[[str], None]) -> None:
        """`name`: the configured model; `spawn` starts the process with an identity."""
        self._name = name
        self._spawn = spawn
        self._failed_at: tuple[float, ...] = ()
        self.is_done = not may_need_fetching(name)
        """The model is on this host; workers may start."""
        self.is_impossible = False
        """There is no such model; another attempt cannot help."""
        self._start_at: float | None = None if self.is_done else 0.0
        """When to start the process; None while it runs, and when it is not needed."""

    def tick(self, now: float) -> None:
        """Start the process if it is due."""
        if self._start_at is not None and now >= self._start_at:
            self._start_at = None
            _log.info(log.MODEL_DOWNLOADING, model=self._name, attempt=len(self._failed_at) + 1)
            self._spawn(f"{SLOT}.{len(self._failed_at) + 1}")

    def exited(self, end: ProcessExit, now: float) -> bool:
        """Record the end of a process; False if it was not a download."""
        if end.worker.rpartition(".")[0] != SLOT:
            return False
        self.is_done = end.is_ok
        self.is_impossible = end.is_fatal
        if end.is_fatal:
            _log.error(log.MODEL_MISSING, model=self._name, cause=end.cause)
        elif not end.is_ok:
            self._failed_at = (*self._failed_at, now)
            wait_s = backoff(self._failed_at, SLOT)
            self._start_at = now + wait_s
            _log.warning(log.MODEL_MISSING, model=self._name, cause=end.cause, again_s=round(wait_s, 1))
        return True


def run(channel: Channel, settings: WorkerSettings) -> ExitCode:
    """Download the model in a worker process; the exit status distinguishes success, a retryable and a permanent failure."""
    model = settings.engine.model
    started = time.monotonic()

    def log_progress(done_bytes: int) -> None:
        elapsed_s = round(time.monotonic() - started, 1)
        _log.info(log.MODEL_DOWNLOADING, model=model, done_mb=round(done_bytes / 1e6, 1), elapsed_s=elapsed_s)

    try:
        folder = fetch(model, log_progress)
    except ModelError as error:
        channel.post(ExitReason(cause=str(error)))
        return ExitCode.FAILED if isinstance(error, HubUnreachableError) else ExitCode.FATAL
    elapsed_s = round(time.monotonic() - started, 1)
    _log.info(log.MODEL_DOWNLOADED, model=model, folder=str(folder), elapsed_s=elapsed_s)
    return ExitCode.OK
