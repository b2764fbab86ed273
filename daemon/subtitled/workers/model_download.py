"""The download of the model before the transcribe workers start: a process of its own, restarted until it succeeds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct, structs

from subtitled import log
from subtitled.asr.hub import fetch, may_need_fetching
from subtitled.asr.model import HubUnreachableError
from subtitled.core.model_placement import ModelSpec
from subtitled.core.policy import backoff
from subtitled.core.protocol import DownloadProgress, ExitReason, Heartbeat, ToWorker, WorkerSettings
from subtitled.errors import ExitCode, ModelError
from subtitled.workers.channel import Channel, MessagePort, start_thread
from subtitled.workers.supervisor import ProcessExit

SLOT = "model"
LOG_EVERY_S = 5.0
_log = log.get()


class DownloadState(Struct, frozen=True, kw_only=True):
    """Whether a model is on this host, and how much of it."""

    is_done: bool = True
    done_bytes: int = 0
    total_bytes: int = 0
    """Size of its files; 0 if unknown."""
    cause: str = ""
    """Why the last attempt failed."""


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
        self.state = DownloadState(is_done=not may_need_fetching(name))
        self.is_impossible = False
        """There is no such model; another attempt cannot help."""
        self._start_at: float | None = None if self.is_done else 0.0
        """When to start the process; None while it runs, and when it is not needed."""

    @property
    def is_done(self) -> bool:
        """The model is on this host; workers may start."""
        return self.state.is_done

    def tick(self, now: float) -> None:
        """Start the process if it is due."""
        if self._start_at is not None and now >= self._start_at:
            self._start_at = None
            _log.info(log.MODEL_DOWNLOADING, model=self._name, attempt=len(self._failed_at) + 1)
            self._spawn(f"{self._slot}.{len(self._failed_at) + 1}", self._name)

    def progressed(self, worker: str, progress: DownloadProgress) -> None:
        """Record what a process has received, if it is this download's."""
        if worker.rpartition(".")[0] == self._slot and not self.is_done:
            self.state = DownloadState(
                is_done=False, done_bytes=progress.done_bytes, total_bytes=progress.total_bytes
            )

    def exited(self, end: ProcessExit, now: float) -> bool:
        """Record the end of a process; False if it was not a download."""
        if end.worker.rpartition(".")[0] != self._slot:
            return False
        self.state = structs.replace(self.state, is_done=end.is_ok, cause="" if end.is_ok else end.cause)
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
        self._last_slot = 0
        self._specs: tuple[ModelSpec, ...] = ()
        self.configure(specs)

    def configure(self, specs: Iterable[ModelSpec]) -> None:
        """Apply other models: one that could not be downloaded is tried again.

        A download that runs for a removed model is completed, but not repeated if it fails.
        """
        self._specs = tuple(specs)
        self._others = {key: download for key, download in self._others.items() if not download.fault}
        for spec in self._specs:
            if (key := _key_of(spec)) is not None and key not in self._others:
                self._last_slot += 1
                slot = f"{SLOT}-{spec.name}-{self._last_slot}"
                self._others[key] = ModelDownload(key[1], self._spawn, slot)

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

    def state_of(self, model: str) -> DownloadState:
        """Return the state of a model, by its name in the options of a job."""
        spec = next((spec for spec in self._specs if spec.name == model), ModelSpec())
        if spec.endpoint_slot:
            return DownloadState()
        key = _key_of(spec)
        return (self._default if key is None else self._others[key]).state

    def progressed(self, worker: str, progress: DownloadProgress) -> None:
        """Record what a process has received."""
        for download in (self._default, *self._others.values()):
            download.progressed(worker, progress)

    def tick(self, now: float) -> None:
        """Start the processes that are due."""
        self._default.tick(now)
        for spec in self._specs:
            if (key := _key_of(spec)) is not None:
                self._others[key].tick(now)

    def exited(self, end: ProcessExit, now: float) -> bool:
        """Record the end of a process; False if it was not a download."""
        if self._default.exited(end, now):
            return True
        before = self.specs
        if not any(download.exited(end, now) for download in self._others.values()):
            return False
        if self.specs != before:
            self._on_change(self.specs)
        return True

    def _with_state(self, spec: ModelSpec) -> ModelSpec:
        key = _key_of(spec)
        if key is None:
            return spec
        download = self._others[key]
        return structs.replace(spec, is_present=download.is_done, fault=download.fault)


def _key_of(spec: ModelSpec) -> tuple[str, str] | None:
    """Return name and source of a model besides the default one that workers load; None for another."""
    return None if spec.engine is None or spec.endpoint_slot else (spec.name, spec.engine.model)


class DownloadLog:
    """Logs the progress of a download every `LOG_EVERY_S`; an OnProgress."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._started = time.monotonic()
        self._logged_at = -LOG_EVERY_S

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start, with one decimal."""
        return round(time.monotonic() - self._started, 1)

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        """Log the progress, unless it was logged a moment ago."""
        if self.elapsed_s - self._logged_at < LOG_EVERY_S:
            return
        self._logged_at = self.elapsed_s
        sizes = {"done_mb": done_bytes, **({"total_mb": total_bytes} if total_bytes else {})}
        megabytes = {name: round(size / 1e6, 1) for name, size in sizes.items()}
        _log.info(log.MODEL_DOWNLOADING, model=self._model, **megabytes, elapsed_s=self.elapsed_s)


class _Download:
    """Downloads the model in a separate thread; a RoleHandler."""

    def __init__(self, port: MessagePort, model: str) -> None:
        self._port = port
        self._model = model
        start_thread(port, "download", self._run)

    def receive(self, message: ToWorker, _blobs: Sequence[memoryview]) -> None:
        """Raise TypeError: the daemon sends nothing to this process."""
        raise TypeError(f"a download received {type(message).__name__}")

    def heartbeat(self) -> Heartbeat:
        """Return a heartbeat."""
        return Heartbeat()

    def _run(self) -> None:
        progress = DownloadLog(self._model)

        def report(done_bytes: int, total_bytes: int) -> None:
            progress(done_bytes, total_bytes)
            self._port.post(DownloadProgress(done_bytes=done_bytes, total_bytes=total_bytes))

        try:
            folder = fetch(self._model, report)
        except ModelError as error:
            self._port.post(ExitReason(cause=str(error)))
            is_temporary = isinstance(error, HubUnreachableError)
            self._port.stop(ExitCode.FAILED if is_temporary else ExitCode.FATAL)
            return
        _log.info(log.MODEL_DOWNLOADED, model=self._model, folder=str(folder), elapsed_s=progress.elapsed_s)
        self._port.stop(ExitCode.OK)


def run(channel: Channel, settings: WorkerSettings) -> ExitCode:
    """Download the model in a worker process; the exit status distinguishes success, a retryable and a permanent failure."""
    return channel.serve(_Download(channel, settings.engine.model))
