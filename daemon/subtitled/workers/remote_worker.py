"""A transcribe worker on another host than the daemon: it joins, works, and joins again for as long as it lives.

One session follows the other, each on a connection of its own; the model is loaded once and stays. What a session has not begun
is forgotten with it, and what it has begun is told in no other: the daemon has given it to somebody else.
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
from subtitled.core import protocol as be
from subtitled.errors import ExitCode, ModelError
from subtitled.runtime.mailbox import Mailbox
from subtitled.runtime.signals import Signals
from subtitled.systemd.notify import SystemdNotifier
from subtitled.workers.model_loader import Load, LoadedModel, ModelLoadError, load_model
from subtitled.workers.remote_connection import RemoteConnection, SessionEndedError, WorkerPlace
from subtitled.workers.transcribe import TranscribeRole

AGAIN_S = 0.5
"""Seconds from the end of a session to the next one."""
REFUSED_S = 5.0
"""The same where the daemon did not want the worker, or its key."""
TELL_S = 60.0
"""Seconds between two lines that tell of the same vain wait; the first comes after `PATIENCE_S`."""
PATIENCE_S = 3.0
NO_CONNECTION = (
    "there is no connection; is the daemon up, its port open, and `server` of the key file its public key"
)
MAX_WAIT_S = 0.25
"""Longest wait: a lost connection, and systemd's watchdog, are looked after in between."""
_log = log.get()


class RemoteWorkerSettings(Struct, frozen=True, kw_only=True):
    """What `subtitled worker` was told."""

    endpoint: str
    key: Key
    place: WorkerPlace
    device: str
    """"cpu" or "cuda" (the one GPU that CUDA_VISIBLE_DEVICES lets this process see)."""
    model: str
    """In the place of the daemon's `model.name`; "" for that."""
    cpu_threads: int
    stop_timeout_s: float


class _Port:
    """Through which the threads of one session's work speak to the loop."""

    def __init__(self, session: int, outbox: Mailbox[_Posted]) -> None:
        self._session = session
        self._outbox = outbox

    def post(self, message: be.FromWorker, blobs: Sequence[Any] = ()) -> None:
        """Send a message soon, if the session is not over by then."""
        self._outbox.put(_Posted(self._session, message, blobs))

    def stop(self, code: ExitCode) -> None:
        """End the session, drained, or the process with its fault."""
        self._outbox.put(_Posted(self._session, code))


class _Posted(Struct, frozen=True):
    """What a thread has to say: a message, the end of its work, or a model that was loaded."""

    session: int
    item: be.FromWorker | ExitCode | LoadedModel | ModelLoadError
    blobs: Sequence[Any] = ()


class RemoteWorker:
    """`run` blocks until the worker is told to go, or fails; belongs to the main thread."""

    def __init__(
        self, settings: RemoteWorkerSettings, environ: Mapping[str, str], *, load: Load = load
    ) -> None:
        """Connect to nobody yet. `load` is `model.load` or does as it does."""
        self._settings = settings
        self._load = load
        self._environ = environ
        """As this process got it."""
        self._notifier = SystemdNotifier(environ)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._outbox: Mailbox[_Posted] = Mailbox()
        self._session = 0
        """Number of the present session, or of the last one."""
        self._line: RemoteConnection | None = None
        self._work: TranscribeRole | None = None
        self._loading: be.EngineSettings | None = None
        """What is being loaded, or is."""
        self._loaded: LoadedModel | None = None
        self._was_told = False
        """The daemon was told of the model that was loaded, and of how long that took."""
        self._previous = ""
        self._dial_at = 0.0
        self._told: tuple[str, float] = ("", 0.0)
        """The last reason for waiting that the log has, and when it got it."""
        self._waits_since = time.monotonic()
        self._leave_by: float | None = None
        """It was told to go, and has until then."""
        self._exit: ExitCode | None = None

    def run(self) -> ExitCode:
        """Work until SIGTERM (twice: at once), a fault, or a final refusal; return the exit status."""
        self._signals = Signals()
        while (code := self._exit) is None:
            self._turn()
        if self._line is not None:
            self._line.close()
        self._context.term()
        _log.info(log.WORKER_STOPPED, status=int(code))
        return code

    def _turn(self) -> None:
        now = time.monotonic()
        self._notifier.watchdog()
        try:
            if self._line is None and now >= self._dial_at:
                self._dial()
            due = self._line.tick(now) if self._line else self._dial_at
            self._wait(min(due, now + MAX_WAIT_S))
            if self._line is not None:
                self._line.check_silence(time.monotonic())  # a process that was stopped hears of it here
            self._on_signals()
            self._on_posted()
            self._on_daemon()
        except SessionEndedError as error:
            self._end_session(str(error), AGAIN_S)
        except UnreachableError as error:
            self._end_session(str(error), REFUSED_S)
        now = time.monotonic()
        if self._leave_by is not None and (self._line is None or now >= self._leave_by):
            self._exit = ExitCode.OK if self._exit is None else self._exit
        if self._exit is None:
            self._tell_of_waiting(now)

    def _wait(self, until: float) -> None:
        poller = zmq.Poller()
        for waited in (
            self._outbox.fileno(),
            self._signals.fileno(),
            *([self._line.socket] if self._line else []),
        ):
            poller.register(waited, zmq.POLLIN)
        poller.poll(max(0, int((until - time.monotonic()) * 1000) + 1))

    # -- sessions --------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        self._session += 1
        settings = self._settings
        self._line = RemoteConnection(
            self._context, settings.endpoint, settings.key, place=settings.place, previous=self._previous
        )

    def _end_session(self, cause: str, again_s: float) -> None:
        line, self._line = self._line, None
        if self._work is not None:
            self._work.abandon()
            self._work = None
        if line is not None:
            if line.welcome is not None:
                self._previous = line.welcome.identity
                self._waits_since = time.monotonic()
                _log.warning(log.SESSION_ENDED, worker=self._previous, cause=cause)
            else:
                self._tell(cause, time.monotonic())
            line.close()
        self._dial_at = time.monotonic() + again_s

    def _tell_of_waiting(self, now: float) -> None:
        if self._line is not None and self._line.welcome is not None:
            self._told = ("", 0.0)
            return
        if now - self._waits_since > PATIENCE_S:
            is_up = self._line is not None and self._line.is_up
            self._tell("the daemon does not answer" if is_up else NO_CONNECTION, now, is_vague=True)

    def _tell(self, cause: str, now: float, *, is_vague: bool = False) -> None:
        """Log why there is no session: at once if that is news, else once a minute."""
        before, at = self._told
        if (cause == before or (is_vague and before)) and now - at < TELL_S:
            return
        self._told = (cause, now)
        _log.warning(log.SESSION_WAITING, daemon=self._settings.endpoint, cause=cause)
        self._notifier.status(f"waits for {self._settings.endpoint}: {cause}")

    # -- what comes in ---------------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGUSR1:
                log.set_level("info" if log.level() == "debug" else "debug", by=number.name)
            elif number != signal.SIGHUP:
                self._leave(number.name)

    def _leave(self, cause: str) -> None:
        if self._leave_by is not None:
            self._exit = ExitCode.OK
            return
        timeout_s = self._settings.stop_timeout_s
        _log.info(log.WORKER_LEAVING, cause=cause, timeout_s=timeout_s)
        self._notifier.stopping()
        self._leave_by = time.monotonic() + timeout_s
        if self._line is None or self._line.welcome is None or self._work is None:
            self._exit = ExitCode.OK
            self._say_goodbye(cause)
        else:
            self._line.send(be.WorkerLeaving(cause=cause))

    def _say_goodbye(self, cause: str) -> None:
        if self._line is not None and self._line.welcome is not None:
            self._line.send(be.ExitReason(cause=cause))

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
                    self._begin_work()
                case ModelLoadError() as error:
                    _log.error(log.MODEL_MISSING, cause=str(error))
                    self._exit = error.code
                    self._say_goodbye(str(error))
                case ExitCode() as code:
                    self._on_stop(posted.session, code)
                case message if posted.session == self._session and self._line is not None:
                    self._line.send(message, posted.blobs)
                case _:
                    pass  # of a session that is over

    def _on_stop(self, session: int, code: ExitCode) -> None:
        if code is not ExitCode.OK:
            self._exit = code  # its last words were posted before
        elif session == self._session and self._line is not None:
            is_leaving = self._leave_by is not None
            cause = "as it was told" if is_leaving else "the daemon has sent it away"
            self._exit = ExitCode.OK if is_leaving else None
            self._say_goodbye(cause)
            if not is_leaving:
                self._end_session(cause, REFUSED_S)

    def _on_daemon(self) -> None:
        while self._line is not None and self._exit is None and (heard := self._line.receive()):
            message, blobs = heard
            match message:
                case be.SessionAccepted():
                    self._on_welcome(message)
                case be.SessionRefused(cause=cause, is_final=is_final):
                    if is_final:
                        _log.error(log.SESSION_REFUSED, daemon=self._settings.endpoint, cause=cause)
                        self._exit = ExitCode.FATAL
                    else:
                        self._end_session(cause, REFUSED_S)
                case be.SessionUnknown():
                    self._end_session("the daemon does not know it any more", AGAIN_S)
                case be.Transcribe() | be.Drain() if self._work is not None:
                    self._work.receive(message, blobs)
                case be.Drain():
                    self._on_stop(self._session, ExitCode.OK)
                case _:
                    raise SessionEndedError(f"it was sent {type(message).__name__}, which is not for it")

    # -- the model -------------------------------------------------------------------------------------------

    def _on_welcome(self, welcome: be.SessionAccepted) -> None:
        _log.info(log.SESSION_OPENED, worker=welcome.identity, daemon=self._settings.endpoint)
        self._notifier.status(f"is {welcome.identity} of {self._settings.endpoint}")
        wanted = welcome.engine
        wanted = replace(
            wanted,
            model=self._settings.model or wanted.model,
            streams=1 if self._settings.device == "cpu" else wanted.streams,
        )
        if self._loading is None:
            self._loading = wanted
            threading.Thread(target=self._bring, args=(wanted,), name="model", daemon=True).start()
        elif self._loading != wanted:
            self._start_anew("the daemon wants another model, or other settings of it")
        else:
            self._begin_work()

    def _start_anew(self, cause: str) -> None:
        """Become a clean process: what memory a model leaves behind is not got back for sure."""
        self._say_goodbye(cause)
        self._end_session(cause, 0.0)
        self._context.term()
        command = [sys.executable, "-m", "subtitled", *sys.argv[1:]]
        os.execve(sys.executable, command, dict(self._environ))  # noqa: S606 - this program itself

    def _bring(self, wanted: be.EngineSettings) -> None:
        """Have the model on this host, and load it; in a thread of its own."""
        settings = self._settings
        result: LoadedModel | ModelLoadError
        try:
            if may_need_fetching(wanted.model):
                fetch(wanted.model, lambda got: _log.info(log.MODEL_DOWNLOADING, done_mb=round(got / 1e6, 1)))
            result = load_model(
                wanted,
                device=settings.device,
                cpu_threads=settings.cpu_threads,
                wants_digest=True,
                load=self._load,
            )
        except ModelLoadError as error:
            result = error
        except ModelError as error:
            code = ExitCode.FAILED if isinstance(error, HubUnreachableError) else ExitCode.FATAL
            result = ModelLoadError(str(error), code)
        except Exception as error:  # noqa: BLE001 - the boundary of the thread
            result = ModelLoadError(f"{type(error).__name__}: {error}", ExitCode.FAILED)
        self._outbox.put(_Posted(0, result))

    def _begin_work(self) -> None:
        """Tell the daemon that the model is here, if both are."""
        if self._loaded is None or self._line is None or self._line.welcome is None:
            return
        self._work = TranscribeRole(_Port(self._session, self._outbox), self._loaded)
        self._line.send(self._loaded.ready(self._settings.place.device, is_loaded_before=self._was_told))
        self._was_told = True
        self._notifier.ready()
