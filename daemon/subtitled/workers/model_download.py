"""The step before the transcribe workers: their model is on this machine, or a process of its own brings it here."""

from __future__ import annotations

from collections.abc import Callable

from subtitled import log
from subtitled.asr.hub import may_need_fetching
from subtitled.core.policy import backoff
from subtitled.workers.supervisor import ProcessExit

SLOT = "model"
_log = log.get()


class ModelDownload:
    """Starts the process, once or as often as it takes; belongs to the thread of the server's loop."""

    def __init__(self, name: str, spawn: Callable[[str], None]) -> None:
        """Take the configured model; `spawn` starts the process of an identity."""
        self._name = name
        self._spawn = spawn
        self._tries: tuple[float, ...] = ()
        """When those that failed ended."""
        self._try_at: float | None = 0.0
        """When to start the process; None while it runs, and when it need not."""
        self.is_done = not may_need_fetching(name)
        """The workers may be started."""
        self.is_hopeless = False
        """There is no such model; trying again cannot help."""
        if self.is_done:
            self._try_at = None

    def tick(self, now: float) -> None:
        """Start the process if it is time to."""
        if self._try_at is not None and now >= self._try_at:
            self._try_at = None
            _log.info(log.MODEL_DOWNLOADING, model=self._name, attempt=len(self._tries) + 1)
            self._spawn(f"{SLOT}.{len(self._tries) + 1}")

    def take(self, end: ProcessExit, now: float) -> bool:
        """Note the end of a process; False when it was not this step's."""
        if end.worker.rpartition(".")[0] != SLOT:
            return False
        self.is_done = end.is_ok
        self.is_hopeless = end.is_fatal
        if end.is_fatal:
            _log.error(log.MODEL_MISSING, model=self._name, cause=end.cause)
        elif not end.is_ok:
            self._tries = (*self._tries, now)
            wait_s = backoff(self._tries, SLOT)
            self._try_at = now + wait_s
            _log.warning(log.MODEL_MISSING, model=self._name, cause=end.cause, again_s=round(wait_s, 1))
        return True
