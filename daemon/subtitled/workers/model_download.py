"""The download of the model before the transcribe workers start: a process of its own, restarted until it succeeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from msgspec import structs

from subtitled import log
from subtitled.asr.hub import fetch, may_need_fetching
from subtitled.asr.model import HubUnreachableError
from subtitled.core.model_placement import ModelSpec
from subtitled.core.policy import backoff
from subtitled.core.protocol import ExitReason, WorkerSettings
from subtitled.errors import ExitCode, ModelError
from subtitled.workers.channel import Channel
from subtitled.workers.supervisor import ProcessExit

SLOT = "model"
_log = log.get()


class ModelDownload:
    """Starts the process as often as necessary; belongs to the thread of the server's loop."""

    def __init__(self, name: str, spawn: Callable[[str, str], None], slot: str = SLOT) -> None:
        """`name`: the source of the model; `spawn` starts the process with an identity, for a source."""
        self._name = name
        self._slot = slot
        self.fault = ""
        """Why there is no such model."""
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
            self._spawn(f"{self._slot}.{len(self._failed_at) + 1}", self._name)

    def exited(self, end: ProcessExit, now: float) -> bool:
        """Record the end of a process; False if it was not a download."""
        if end.worker.rpartition(".")[0] != self._slot:
            return False
        self.is_done = end.is_ok
        self.is_impossible = end.is_fatal
        if end.is_fatal:
            self.fault = end.cause
            _log.error(log.MODEL_MISSING, model=self._name, cause=end.cause)
        elif not end.is_ok:
            self._failed_at = (*self._failed_at, now)
            wait_s = backoff(self._failed_at, self._slot)
            self._start_at = now + wait_s
            _log.warning(log.MODEL_MISSING, model=self._name, cause=end.cause, again_s=round(wait_s, 1))
        return True


class ModelDownloads:
    """The downloads of all configured models; belongs to the thread of the server's loop."""

    def __init__(
        self,
        default: str,
        specs: Iterable[ModelSpec],
        *,
        spawn: Callable[[str, str], None],
        on_change: Callable[[tuple[ModelSpec, ...]], None],
    ) -> None:
        """`default`: source of the default model; `on_change` receives all models when one was downloaded, or cannot be."""
        self._spawn = spawn
        self._on_change = on_change
        self._default = ModelDownload(default, spawn)
        self._others: dict[tuple[str, str], ModelDownload] = {}
        """By name and source."""
        self._specs: tuple[ModelSpec, ...] = ()
        self.configure(specs)

    def configure(self, specs: Iterable[ModelSpec]) -> None:
        """Apply other models; a download that runs for a removed one is completed."""
        self._specs = tuple(specs)
        for spec in self._specs:
            if spec.engine is not None and (key := (spec.name, spec.engine.model)) not in self._others:
                slot = f"{SLOT}-{spec.name}-{len(self._others)}"
                self._others[key] = ModelDownload(spec.engine.model, self._spawn, slot)

    @property
    def specs(self) -> tuple[ModelSpec, ...]:
        """All models, and whether they are on this host or cannot be used."""
        return tuple(map(self._with_state, self._specs))

    @property
    def is_done(self) -> bool:
        """The default model is on this host; workers may start."""
        return self._default.is_done

    @property
    def is_impossible(self) -> bool:
        """There is no such default model."""
        return self._default.is_impossible

    def tick(self, now: float) -> None:
        """Start the processes that are due."""
        for download in (self._default, *self._others.values()):
            download.tick(now)

    def exited(self, end: ProcessExit, now: float) -> bool:
        """Record the end of a process; False if it was not a download."""
        if self._default.exited(end, now):
            return True
        if any(download.exited(end, now) for download in self._others.values()):
            self._on_change(self.specs)
            return True
        return False

    def _with_state(self, spec: ModelSpec) -> ModelSpec:
        if spec.engine is None:
            return spec
        download = self._others[spec.name, spec.engine.model]
        return structs.replace(spec, is_present=download.is_done, fault=download.fault)


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
