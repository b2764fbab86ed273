"""The poll loop: each turn does what is due, waits, then handles what has arrived.

One thread does all of it. The changes of each dispatch are committed in one transaction before any message leaves. Slow
file work (layout, writing with fsync, moving) runs in other threads and comes back as an event.
"""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack

from msgspec import Struct

from subtitled import log
from subtitled.config.schema import Config
from subtitled.core import events as ev
from subtitled.core.broker import Broker
from subtitled.core.config_mapping import written_folders
from subtitled.errors import ExitCode, InboxError, StoreError
from subtitled.inboxes.arrivals import FoundFile, InboxArrivals
from subtitled.inboxes.watch import RenamedFile
from subtitled.observability.monitor import Monitor, has_model
from subtitled.runtime.mailbox import Mailbox
from subtitled.server.dispatch import Dispatcher
from subtitled.server.hung_folders import HungFolders
from subtitled.server.ports import (
    ClientApi,
    DiskSpace,
    FileChecker,
    JobHooks,
    OutputWriter,
    Poller,
    ServiceNotifier,
    SignalSource,
    StateGuard,
    StatusLine,
)
from subtitled.server.reconfiguration import Reconfiguration
from subtitled.server.shutdown import DISK_FULL_RETRY_S, Shutdown
from subtitled.storage.database import describe
from subtitled.storage.store import Store
from subtitled.version import VERSION
from subtitled.workers.local_listener import WorkerListener
from subtitled.workers.model_download import ModelDownloads
from subtitled.workers.supervisor import ProcessExit, Supervisor

MAX_ARRIVALS_PER_TURN = 256
"""Files and callbacks taken in one turn, so that ten thousand at once do not hold up the rest."""
MAX_WAIT_S = 1.0
LATE_S = 3.0
"""A loop that was delayed by this long receives the workers' messages before it checks for silent workers."""
EXIT_REASON_WAIT_MS, EXIT_REASON_TRIES = 10, 5
"""Waits for the exit reason of a process that has ended: message and exit arrive by different ways."""
_log = log.get()


class ServerParts(Struct, frozen=True, kw_only=True):
    """The components of the loop; `build` creates the real ones."""

    clock: Callable[[], float]
    """The monotonic clock."""
    poller: Poller
    signals: SignalSource
    mailbox: Mailbox[FoundFile | Callable[[], None]]
    store: Store
    broker: Broker
    dispatcher: Dispatcher
    shutdown: Shutdown
    reconfiguration: Reconfiguration
    supervisor: Supervisor
    workers: WorkerListener
    model: ModelDownloads
    api: ClientApi
    writer: OutputWriter
    files: FileChecker
    hooks: JobHooks
    arrivals: InboxArrivals
    space: DiskSpace
    state_folder: StateGuard
    hung_folders: HungFolders
    notifier: ServiceNotifier
    monitor: Monitor
    status: StatusLine
    resources: ExitStack
    """Closes all of them, in the right order."""
    max_wait_s: float = MAX_WAIT_S


class Server:
    """The daemon's loop. `run` blocks until the daemon stops; to be used in one thread only."""

    def __init__(self, parts: ServerParts) -> None:
        """Use the parts; `run` closes them."""
        self._parts = parts
        self._clock = parts.clock
        self._broker = parts.broker
        self._dispatcher = parts.dispatcher
        self._shutdown = parts.shutdown
        self._reconfiguration = parts.reconfiguration
        self._supervisor = parts.supervisor
        self._workers = parts.workers
        self._model = parts.model
        self._api = parts.api
        self._writer = parts.writer
        self._arrivals = parts.arrivals
        self._space = parts.space
        self._notifier = parts.notifier
        self._write_waiting_at = 0.0
        self._woke_at = self._clock()
        self._is_ready = False
        self._may_start = True
        """There is space for the results of further files, and a database for them."""

    def run(self) -> ExitCode:
        """Serve until a signal, or a fault that only a restart can repair; return the exit status."""
        try:
            self.start()
            while self._shutdown.exit_code is None:
                self.turn()
        except (StoreError, InboxError, sqlite3.Error) as error:
            cause = f"database: {describe(error)}" if isinstance(error, sqlite3.Error) else str(error)
            _log.critical(log.DAEMON_STOPPED, cause=cause)
            self._shutdown.exit_code = ExitCode.FAILED
        finally:
            self._parts.resources.close()
        code = self._shutdown.exit_code
        _log.info(log.DAEMON_STOPPED, status=int(code))
        return code

    def start(self) -> None:
        """Restore the jobs of the store and open the slots; before the first turn."""
        self._writer.sweep(written_folders(self._reconfiguration.config))
        store = self._parts.store
        is_paused = store.is_queue_paused()
        self._dispatcher.perform(self._broker.restore(store.unfinished(), self._clock(), is_paused=is_paused))
        if is_paused:
            _log.info(log.QUEUE_PAUSED, by="an admin, before the restart")
        self._api.start()
        self._reconfiguration.start()
        self._parts.hooks.start()
        self._arrivals.start()
        if not self._reconfiguration.devices:
            self._announce_ready()  # workers of other hosts may join at any time

    def turn(self) -> None:
        """Do what is due, wait for the next thing, and handle it."""
        if self._clock() - self._woke_at > LATE_S:
            # Held up by a full disk or a suspended machine: the workers' messages wait in the socket.
            self._receive_from_workers()
        self._tick()
        ready = self._wait()
        self._woke_at = self._clock()
        self._handle_signals()
        for pidfd in self._supervisor.pidfds & ready:
            self._handle_exit(pidfd)
        for end in (*self._supervisor.take_failed_starts(), *self._supervisor.take_stuck()):
            self._record_exit(end)
        self._receive_from_workers()
        self._drain_mailbox()
        self._api.receive()
        is_done = self._broker.is_idle and self._writer.is_idle
        if self._shutdown.is_stopping and (is_done or self._shutdown.is_overdue):
            self._shutdown.finish()

    # -- what is due -----------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._arrivals.check()
        self._check_space()
        actions, self._deadline = self._broker.tick(self._clock())
        self._dispatcher.perform(actions)
        if not self._shutdown.is_stopping:
            self._model.tick(self._clock())
        self._parts.hung_folders.update(
            {**self._arrivals.hung_s, **self._writer.hung_s, **self._parts.files.hung_s}
        )
        self._notifier.watchdog()
        self._parts.monitor.update(
            self._broker, is_stopping=self._shutdown.is_stopping, state_fault=self._parts.state_folder.fault
        )
        self._parts.status.update(self._clock())

    def _check_space(self) -> None:
        now, state, space = self._clock(), self._parts.state_folder, self._space
        if state.check(now):
            if state.fault:
                _log.critical(log.STATE_LOST, cause=state.fault)
            else:
                _log.info(log.STATE_RECOVERED)
            self._api.state_changed(state.fault)
        if space.check(now):
            if space.is_enough:
                _log.info(log.DISK_OK)
            else:
                _log.warning(log.DISK_FULL, cause=space.cause)
        may_start = space.is_enough and not state.fault
        if may_start is not self._may_start:
            self._may_start = may_start
            if may_start:
                self._arrivals.release()
            self._dispatcher.dispatch(ev.DiskSpaceChanged(may_start))
        if self._writer.waiting and now >= self._write_waiting_at:
            if may_start:
                self._writer.retry_waiting()
            self._write_waiting_at = now + DISK_FULL_RETRY_S

    def _wait(self) -> set[int]:
        """Wait until something arrives or is due; return the pidfds and other descriptors that are readable."""
        now = self._clock()
        timeout_s = min(
            self._deadline - now,
            self._parts.max_wait_s,
            self._notifier.watchdog_interval_s or self._parts.max_wait_s,
            self._api.poll_timeout_s,
            self._workers.poll_timeout_s,
        )
        if self._supervisor.has_failed_starts:
            timeout_s = 0.0
        if self._shutdown.deadline is not None:
            timeout_s = min(timeout_s, self._shutdown.deadline - now, 0.1)
        return self._parts.poller.wait(
            [*self._workers.sockets, *self._api.sockets],
            (self._parts.mailbox.fileno(), self._parts.signals.fileno(), *self._supervisor.pidfds),
            max(0.0, timeout_s),
        )

    # -- what has arrived ------------------------------------------------------------------------------------

    def _handle_exit(self, pidfd: int) -> None:
        self._receive_from_workers()  # messages sent before the exit count
        for _ in range(EXIT_REASON_TRIES):
            if self._supervisor.is_exit_reason_missing(pidfd) and self._workers.poll(EXIT_REASON_WAIT_MS):
                self._receive_from_workers()
        self._record_exit(self._supervisor.reap(pidfd))

    def _record_exit(self, end: ProcessExit) -> None:
        self._workers.exited(end.worker)
        if not self._model.exited(end, self._clock()):
            self._dispatcher.dispatch(
                ev.WorkerExited(worker=end.worker, is_fatal=end.is_fatal, cause=end.cause)
            )
        if self._shutdown.is_stopping:
            return
        is_useless = self._workers.is_permanently_broken or self._model.is_impossible
        if is_useless and not (self._is_ready or self._reconfiguration.config.remote.listen):
            self._shutdown.finish(ExitCode.FATAL)
        else:
            self._reconfiguration.fill_slots()  # a slot may be back in the configuration since its worker drained

    def _receive_from_workers(self) -> None:
        events, stored = self._workers.receive()
        if not events:
            return
        self._dispatcher.dispatch(*events)
        self._workers.handled(stored)
        if not self._is_ready and has_model(self._broker):
            self._announce_ready()

    def _drain_mailbox(self) -> None:
        events: dict[str, ev.Event] = {}

        def dispatch() -> None:
            if events:
                self._dispatcher.dispatch(*events.values())
                events.clear()

        for item in self._parts.mailbox.drain(MAX_ARRIVALS_PER_TURN):
            if not isinstance(item, FoundFile):
                dispatch()
                item()
            elif not self._shutdown.is_stopping:
                if item.file.path in events or isinstance(item.file, RenamedFile):
                    dispatch()  # the second report finds the job of the first
                event = self._arrivals.take(item, is_space=self._may_start)
                if event is not None:
                    events[item.file.path] = event
        dispatch()

    def _handle_signals(self) -> None:
        for number in self._parts.signals.take():
            match number:
                case signal.SIGHUP:
                    self._notifier.reloading()
                    self._reconfiguration.reload()
                    if self._is_ready:
                        self._notifier.ready()
                case signal.SIGUSR1:
                    log.set_level("info" if log.level() == "debug" else "debug", by=number.name)
                case _:
                    self._stop(number.name)

    def _stop(self, cause: str) -> None:
        if self._shutdown.is_stopping:
            _log.warning(log.DAEMON_STOPPING, cause=f"{cause} again: at once")
            self._shutdown.begin(0)
            return
        timeout_s = self._reconfiguration.config.recovery.stop_timeout_s
        _log.info(log.DAEMON_STOPPING, cause=cause, timeout_s=timeout_s)
        self._notifier.stopping()
        self._shutdown.begin(timeout_s)
        self._dispatcher.dispatch(ev.DrainRequested())

    def _announce_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._notifier.ready()
            config = self._reconfiguration.config
            _log.info(
                log.DAEMON_READY,
                version=VERSION,
                devices=",".join(device.slot for device in self._reconfiguration.devices),
                inboxes=[inbox.path for inbox in config.inbox],
                clients=list(config.listen.clients),
                **_first_steps(config),
            )


def _first_steps(config: Config) -> dict[str, str]:
    """Return the page's address, if the daemon serves it, and how to give it work."""
    host, _, port = config.http.listen.rpartition(":")
    if host.strip("[]") in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not listened on
        host = "localhost"  # in a container, the name of the host is not known
    page = {"page": f"http://{host}:{port}/"} if config.http.listen and config.http.with_daemon else {}
    folders = ", ".join(inbox.path for inbox in config.inbox)
    return {**page, "next": f"drop files into {folders}" if folders else "subtitle submit FILE"}
