"""A transcribe worker on another host: it joins the daemon, works, and joins again after every lost connection.

Each session has its own connection; the model stays loaded. Leases of an ended session are dropped, and their results are
not sent in another one: the daemon has leased the segments to other workers.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import zmq
from msgspec import Struct
from msgspec.structs import replace

from subtitle.errors import UnreachableError
from subtitle.keys import Key
from subtitled import log
from subtitled.asr.hub import fetch, may_need_fetching
from subtitled.asr.model import HubUnreachableError, load
from subtitled.core import protocol as pr
from subtitled.errors import ExitCode, ModelError
from subtitled.runtime.mailbox import Mailbox
from subtitled.runtime.signals import Signals
from subtitled.systemd.notify import SystemdNotifier
from subtitled.workers.model_download import DownloadLog
from subtitled.workers.model_loader import Load, LoadedModel, ModelLoadError, load_model
from subtitled.workers.remote_connection import RemoteConnection, SessionEndedError, WorkerPlace
from subtitled.workers.resident_models import ResidentModels
from subtitled.workers.transcribe import TranscribeRole

RECONNECT_S = 0.5
"""Seconds between a session and the next one."""
REFUSED_S = 5.0
"""The same after a refusal."""
LOG_WAITING_S = 60.0
"""Seconds between two log lines with the same reason for waiting; the first is logged after LOG_WAITING_AFTER_S."""
LOG_WAITING_AFTER_S = 3.0
NO_CONNECTION = "there is no connection; check that the daemon runs, its port is open, and `server` in the key file is its public key"
MAX_WAIT_S = 0.25
"""Longest wait: lost connections are detected and systemd's watchdog is notified in between."""
_log = log.get()


class RemoteWorkerSettings(Struct, frozen=True, kw_only=True):
    """The options of `subtitled worker`."""

    endpoint: str
    key: Key
    place: WorkerPlace
    device: str
    """"cpu" or "cuda" (the one GPU that CUDA_VISIBLE_DEVICES lets this process see)."""
    model: str
    """Overrides the daemon's `model.name`; "": not overridden."""
    cpu_threads: int
    stop_timeout_s: float


class _Port:
    """The MessagePort of one session: its threads send through the loop."""

    def __init__(self, session: int, outbox: Mailbox[_Posted]) -> None:
        self._session = session
        self._outbox = outbox

    def post(self, message: pr.FromWorker, blobs: Sequence[Any] = ()) -> None:
        """Queue a message; it is dropped if the session ends first."""
        self._outbox.put(_Posted(self._session, message, blobs))

    def stop(self, code: ExitCode) -> None:
        """End the session if it is drained, or the process after a fault."""
        self._outbox.put(_Posted(self._session, code))


class _Posted(Struct, frozen=True):
    """A message from a thread, the end of its work, or the result of loading the model."""

    session: int
    item: pr.FromWorker | ExitCode | LoadedModel | ModelLoadError
    blobs: Sequence[Any] = ()


class RemoteWorker:
    """`run` blocks until the worker is stopped or fails; belongs to the main thread."""

    def __init__(
        self, settings: RemoteWorkerSettings, environ: Mapping[str, str], *, load: Load = load
    ) -> None:
        """`load`: see `model_loader.Load`."""
        self._settings = settings
        self._load = load
        self._environ = environ
        """Environment of this process, for a restart."""
        self._notifier = SystemdNotifier(environ)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._outbox: Mailbox[_Posted] = Mailbox()
        self._session = 0
        """Number of the present or last session."""
        self._connection: RemoteConnection | None = None
        self._role: TranscribeRole | None = None
        self._loading: pr.EngineSettings | None = None
        """Settings of the model that is loaded or being loaded."""
        self._loaded: LoadedModel | None = None
        self._models: ResidentModels | None = None
        self._is_reported = False
        """A WorkerReady has reported the time of loading."""
        self._previous = ""
        self._connect_at = 0.0
        self._last_logged: tuple[str, float] = ("", 0.0)
        """The last logged reason for waiting, and when it was logged."""
        self._waiting_since = time.monotonic()
        self._stop_by: float | None = None
        """Deadline of a graceful stop; None while it is not stopping."""
        self._exit: ExitCode | None = None

    def run(self) -> ExitCode:
        """Work until SIGTERM (twice: immediately), a fault, or a final refusal; return the exit status."""
        self._signals = Signals()
        while (code := self._exit) is None:
            self._turn()
        if self._connection is not None:
            self._connection.close()
        self._context.term()
        _log.info(log.WORKER_STOPPED, status=int(code))
        return code

    def _turn(self) -> None:
        now = time.monotonic()
        self._notifier.watchdog()
        try:
            if self._connection is None and now >= self._connect_at:
                self._connect()
            due = self._connection.tick(now) if self._connection else self._connect_at
            self._wait(min(due, now + MAX_WAIT_S))
            if self._connection is not None:
                self._connection.check_silence(time.monotonic())  # detects a suspended process
            self._on_signals()
            self._on_posted()
            self._on_daemon()
        except SessionEndedError as error:
            self._end_session(str(error), RECONNECT_S)
        except UnreachableError as error:
            self._end_session(str(error), REFUSED_S)
        now = time.monotonic()
        if self._stop_by is not None and (self._connection is None or now >= self._stop_by):
            self._exit = ExitCode.OK if self._exit is None else self._exit
        if self._exit is None:
            self._log_waiting(now)

    def _wait(self, until: float) -> None:
        poller = zmq.Poller()
        for waited in (
            self._outbox.fileno(),
            self._signals.fileno(),
            *([self._connection.socket] if self._connection else []),
        ):
            poller.register(waited, zmq.POLLIN)
        poller.poll(max(0, int((until - time.monotonic()) * 1000) + 1))

    # -- sessions --------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._session += 1
        settings = self._settings
        self._connection = RemoteConnection(
            self._context, settings.endpoint, settings.key, place=settings.place, previous=self._previous
        )

    def _end_session(self, cause: str, delay_s: float) -> None:
        connection, self._connection = self._connection, None
        if self._role is not None:
            self._role.abandon()
            self._role = None
        if connection is not None:
            if connection.accepted is not None:
                self._previous = connection.accepted.identity
                self._waiting_since = time.monotonic()
                _log.warning(log.SESSION_ENDED, worker=self._previous, cause=cause)
            else:
                self._log_reason(cause, time.monotonic())
            connection.close()
        self._connect_at = time.monotonic() + delay_s

    def _log_waiting(self, now: float) -> None:
        if self._connection is not None and self._connection.accepted is not None:
            self._last_logged = ("", 0.0)
            return
        if now - self._waiting_since > LOG_WAITING_AFTER_S:
            is_connected = self._connection is not None and self._connection.is_connected
            self._log_reason(
                "the daemon does not answer" if is_connected else NO_CONNECTION, now, is_general=True
            )

    def _log_reason(self, cause: str, now: float, *, is_general: bool = False) -> None:
        """Log why there is no session: immediately if the reason is new, else once a minute."""
        before, at = self._last_logged
        if (cause == before or (is_general and before)) and now - at < LOG_WAITING_S:
            return
        self._last_logged = (cause, now)
        _log.warning(log.SESSION_WAITING, daemon=self._settings.endpoint, cause=cause)
        self._notifier.status(f"waiting for {self._settings.endpoint}: {cause}")

    # -- signals and messages --------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGUSR1:
                log.set_level("info" if log.level() == "debug" else "debug", by=number.name)
            elif number != signal.SIGHUP:
                self._stop(number.name)

    def _stop(self, cause: str) -> None:
        if self._stop_by is not None:
            self._exit = ExitCode.OK
            return
        timeout_s = self._settings.stop_timeout_s
        _log.info(log.WORKER_LEAVING, cause=cause, timeout_s=timeout_s)
        self._notifier.stopping()
        self._stop_by = time.monotonic() + timeout_s
        if self._connection is None or self._connection.accepted is None or self._role is None:
            self._exit = ExitCode.OK
            self._send_exit_reason(cause)
        else:
            self._connection.send(pr.WorkerLeaving(cause=cause))

    def _send_exit_reason(self, cause: str) -> None:
        if self._connection is not None and self._connection.accepted is not None:
            self._connection.send(pr.ExitReason(cause=cause))

    def _on_posted(self) -> None:
        for posted in self._outbox.drain():
            match posted.item:
                case LoadedModel():
                    self._loaded = posted.item
                    _log.info(
                        log.MODEL_LOADED,
                        model=posted.item.settings.model,
                        load_s=round(posted.item.load_s, 2),
                        digest=posted.item.digest,
                        compute_type=posted.item.compute_type,
                    )
                    self._start_role()
                case ModelLoadError() as error:
                    _log.error(log.MODEL_MISSING, cause=str(error))
                    self._exit = error.code
                    self._send_exit_reason(str(error))
                case ExitCode() as code:
                    self._on_stop(posted.session, code)
                case message if posted.session == self._session and self._connection is not None:
                    self._connection.send(message, posted.blobs)
                case _:
                    pass  # of an ended session

    def _on_stop(self, session: int, code: ExitCode) -> None:
        if code is not ExitCode.OK:
            self._exit = code  # its ExitReason was posted before
        elif session == self._session and self._connection is not None:
            is_stopping = self._stop_by is not None
            cause = "stopped on request" if is_stopping else "the daemon ended its session"
            self._exit = ExitCode.OK if is_stopping else None
            self._send_exit_reason(cause)
            if not is_stopping:
                self._end_session(cause, REFUSED_S)

    def _on_daemon(self) -> None:
        while (
            self._connection is not None and self._exit is None and (received := self._connection.receive())
        ):
            message, blobs = received
            match message:
                case pr.SessionAccepted():
                    self._on_accepted(message)
                case pr.SessionRefused(cause=cause, is_final=is_final):
                    if is_final:
                        _log.error(log.SESSION_REFUSED, daemon=self._settings.endpoint, cause=cause)
                        self._exit = ExitCode.FATAL
                    else:
                        self._end_session(cause, REFUSED_S)
                case pr.SessionUnknown():
                    self._end_session("the daemon has ended this session", RECONNECT_S)
                case pr.Transcribe() | pr.AbandonLease() | pr.FreeModel() | pr.KeepModel() | pr.Drain() if (
                    self._role is not None
                ):
                    self._role.receive(message, blobs)
                case pr.AbandonLease() | pr.FreeModel() | pr.KeepModel():
                    pass  # sent to an ended role
                case pr.Drain():
                    self._on_stop(self._session, ExitCode.OK)
                case _:
                    raise SessionEndedError(f"unexpected message {type(message).__name__}")

    # -- the model -------------------------------------------------------------------------------------------

    def _on_accepted(self, accepted: pr.SessionAccepted) -> None:
        _log.info(log.SESSION_OPENED, worker=accepted.identity, daemon=self._settings.endpoint)
        self._notifier.status(f"joined {self._settings.endpoint} as {accepted.identity}")
        settings = replace(
            accepted.engine,
            model=self._settings.model or accepted.engine.model,
        )
        if self._loading is None:
            self._loading = settings
            threading.Thread(target=self._load_model, args=(settings,), name="model", daemon=True).start()
        elif self._loading != settings:
            self._restart("the daemon requires another model or other settings")
        else:
            self._start_role()

    def _restart(self, cause: str) -> None:
        """Replace this process by a new one: memory of an unloaded model is not always returned."""
        self._send_exit_reason(cause)
        self._end_session(cause, 0.0)
        self._context.term()
        command = [sys.executable, "-m", "subtitled", *sys.argv[1:]]
        os.execve(sys.executable, command, dict(self._environ))  # noqa: S606 - this program itself

    def _load_model(self, engine: pr.EngineSettings) -> None:
        """Download the model if necessary, and load it; runs in its own thread."""
        result: LoadedModel | ModelLoadError
        try:
            result = self._load_one(engine)
        except ModelLoadError as error:
            result = error
        except Exception as error:  # noqa: BLE001 - the boundary of the thread
            result = ModelLoadError(f"{type(error).__name__}: {error}", ExitCode.FAILED)
        self._outbox.put(_Posted(0, result))

    def _load_one(self, engine: pr.EngineSettings) -> LoadedModel:
        """Return a model, downloaded before if necessary; blocks. Raises ModelLoadError."""
        settings = self._settings
        try:
            if may_need_fetching(engine.model):
                fetch(engine.model, DownloadLog(engine.model))
        except ModelError as error:
            code = ExitCode.FAILED if isinstance(error, HubUnreachableError) else ExitCode.FATAL
            raise ModelLoadError(str(error), code) from error
        return load_model(
            engine,
            device=settings.device,
            cpu_threads=settings.cpu_threads,
            wants_digest=True,
            load=self._load,
            max_streams=None if self._loaded is None else self._loaded.streams,
        )

    def _start_role(self) -> None:
        """Start the role and send WorkerReady, once there are a session and a loaded model."""
        if self._loaded is None or self._connection is None or self._connection.accepted is None:
            return
        if self._models is None:
            self._models = ResidentModels(self._loaded, self._load_one)
        self._role = TranscribeRole(_Port(self._session, self._outbox), self._loaded, self._models)
        self._connection.send(
            self._loaded.ready(
                self._settings.place.device, is_loaded_before=self._is_reported, held=self._models.names
            )
        )
        self._is_reported = True
        self._notifier.ready()
