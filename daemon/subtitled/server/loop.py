"""The poll loop that joins sockets, timers, store and core.

One thread does all of it: `tick`, wait, handle. Each turn's transitions are committed in one transaction before any message
of that turn leaves. Slow file work (composing, writing with fsync, moving) goes to one small thread and comes back as an
event.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import zmq

from subtitled import log
from subtitled.api.server import ApiServer
from subtitled.asr.cuda import Device
from subtitled.asr.model import DEMO
from subtitled.config.schema import Config
from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as be
from subtitled.core.broker import Broker
from subtitled.core.config_mapping import merge, policy_of, recipe_of, space_of, written_folders
from subtitled.core.states import SegmentEvent, WorkerState
from subtitled.errors import ConfigError, ExitCode, InboxError, StoreError
from subtitled.files.filesystem import DiskSpaceMonitor
from subtitled.hooks.dispatcher import HookDispatcher
from subtitled.inboxes.arrivals import FoundFile, InboxArrivals
from subtitled.network.auth import Authenticator
from subtitled.observability.metrics import Metrics
from subtitled.observability.metrics_http import MetricsServer
from subtitled.observability.monitor import Monitor, has_model
from subtitled.observability.systemd_status import SystemdStatus
from subtitled.observability.transition_log import TransitionLog
from subtitled.output.job_writer import JobWriter
from subtitled.ray.process import RayProcess
from subtitled.runtime.mailbox import Mailbox
from subtitled.runtime.signals import Signals
from subtitled.storage.database import lock_state_folder
from subtitled.storage.durability import Transactions
from subtitled.storage.store import Store
from subtitled.systemd.notify import SystemdNotifier
from subtitled.version import VERSION
from subtitled.workers.local_listener import WorkerListener
from subtitled.workers.model_download import ModelDownload
from subtitled.workers.supervisor import Supervisor

MAX_PER_TURN = 256
"""InboxArrivals taken in one turn, so that ten thousand at once do not hold up the rest."""
MAX_WAIT_S = 1.0
FULL_WAIT_S = 2.0
"""Seconds between two tries to write to a full disk."""
LATE_S = 3.0
LAST_WORDS_MS, LAST_WORDS_LOOKS = 10, 5
"""Waits for the last words of a process that has ended: they and its end come by different ways."""
_log = log.get()
Load = Callable[[], tuple[Config, list[Device]]]


class Server:
    """The daemon. `run` blocks until it is stopped; nothing here is for another thread."""

    def __init__(self, load: Load, environ: Mapping[str, str], supervisor: Supervisor | None = None) -> None:
        """Take hold of everything that only one daemon may have; raises SubtitledError.

        `load` reads the configuration and finds the devices that it names; it is called again on SIGHUP.
        """
        config, devices = load()
        log.configure(config.log.level, config.log.format, sys.stderr)
        self._load = load
        self._config = config
        self._devices = devices
        self._notifier = SystemdNotifier(environ)
        state = Path(config.state.dir)
        state.mkdir(parents=True, exist_ok=True)
        self._lock = lock_state_folder(state)
        self._store = Store(str(state / "subtitled.sqlite"))
        self._metrics = Metrics()
        self._vitals = Monitor(self._metrics)
        self._probes = MetricsServer(config.listen.metrics, self._metrics, self._vitals.health)
        self._reporter = TransitionLog(self._metrics)
        self._broker = Broker(policy_of(config), recipe=recipe_of(config, None))
        self._supervisor = supervisor or Supervisor(environ)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._authenticator = Authenticator(self._context)
        self._mailbox: Mailbox[FoundFile | Callable[[], None]] = Mailbox()
        self._worker_link = WorkerListener(
            config,
            devices,
            context=self._context,
            authenticator=self._authenticator,
            call_back=self._mailbox.put,
            supervisor=self._supervisor,
            broker=self._broker,
            metrics=self._metrics,
            store=self._store,
            vitals=self._vitals,
        )
        gate = self._worker_link.gate
        self._ray = RayProcess(environ, gate.keys) if gate else None
        # Without a device here nobody here loads the model.
        self._model = ModelDownload(config.model.name if devices else DEMO, self._worker_link.spawn_fetch)
        self._reception = ApiServer(
            config,
            self._context,
            authenticator=self._authenticator,
            gate=self._worker_link.gate,
            store=self._store,
            broker=self._broker,
            happen=self._happen,
            call_back=self._mailbox.put,
            metrics=self._metrics,
            languages=lambda: self._worker_link.languages,
        )
        self._reception.census.busy_s = self._vitals.busy_s
        self._finisher = JobWriter(
            self._store,
            self._reporter,
            dispatch=self._happen,
            call_in_loop=self._mailbox.put,
            model=config.model.name,
        )
        self._aftermath = HookDispatcher(
            config, environ, self._store, put=self._mailbox.put, tell=self._reception.tell_watchers
        )
        self._arrivals = InboxArrivals(config.inbox, self._store, self._mailbox.put)
        self._space = DiskSpaceMonitor(*space_of(config))
        self._standing = SystemdStatus(
            self._notifier, self._broker, self._reception.census.audio_samples.total
        )
        self._commits = Transactions(self._store, self._wait_for_space)
        self._try_waiting_at = 0.0
        self._turned_at = time.monotonic()
        self._is_ready = False
        self._stop_at: float | None = None
        self._exit: ExitCode | None = None

    # -- the loop --------------------------------------------------------------------------------------------

    def run(self) -> ExitCode:
        """Serve until a signal, or a fault that only a restart can mend; return the exit status."""
        self._signals = Signals()
        try:
            self._start()
            while (code := self._exit) is None:
                self._turn()
        except (StoreError, InboxError) as error:
            _log.critical(log.DAEMON_STOPPED, cause=str(error))
            code = ExitCode.FAILED
        finally:
            self._close()
        _log.info(log.DAEMON_STOPPED, status=int(code))
        return code

    def _start(self) -> None:
        self._finisher.sweep(written_folders(self._config))
        self._perform(self._broker.restore(self._store.unfinished(), time.monotonic()))
        self._reception.start()
        self._fill_slots()
        self._want_ray_workers()
        self._aftermath.start()
        self._arrivals.start()
        if not self._devices:
            self._announce_ready()  # workers come when they come

    def _want_ray_workers(self) -> None:
        if self._ray is not None:
            self._ray.want(self._config)

    def _turn(self) -> None:
        if time.monotonic() - self._turned_at > LATE_S:
            # The loop was held up (a full disk, a suspended machine): hear the workers before judging them silent.
            self._on_workers()
        self._turned_at = time.monotonic()
        self._arrivals.check()
        self._check_space()
        actions, deadline = self._broker.tick(time.monotonic())
        self._perform(actions)
        if self._stop_at is None:
            self._model.tick(time.monotonic())
        self._notifier.watchdog()
        self._vitals.look(self._broker, is_stopping=self._stop_at is not None)
        self._standing.tell(time.monotonic())
        ready = self._wait(deadline)
        self._on_signals()
        for pidfd in self._supervisor.pidfds & ready:
            self._on_exit(pidfd)
        self._on_workers()
        self._on_mailbox()
        self._reception.receive()
        if self._stop_at is not None and (
            time.monotonic() >= self._stop_at or (self._broker.is_at_rest and self._finisher.is_idle)
        ):
            self._exit = self._exit if self._exit is not None else ExitCode.OK

    def _wait(self, deadline: float) -> set[int]:
        """Wait for something to happen, or to be due; return the pidfds that are ready."""
        poller = zmq.Poller()
        descriptors = (self._mailbox.fileno(), self._signals.fileno(), *self._supervisor.pidfds)
        for waited in (*self._worker_link.sockets, *self._reception.sockets, *descriptors):
            poller.register(waited, zmq.POLLIN)
        wait_s = min(
            deadline - time.monotonic(), MAX_WAIT_S, self._notifier.watchdog_interval_s or MAX_WAIT_S
        )
        wait_s = min(wait_s, self._reception.patience_s, self._worker_link.patience_s)
        if self._stop_at is not None:
            wait_s = min(wait_s, self._stop_at - time.monotonic(), 0.1)
        ready = poller.poll(max(0, int(wait_s * 1000) + 1))
        return {found for found, _ in ready if isinstance(found, int)}

    def _happen(self, *events: ev.Event) -> None:
        """Hand events to the broker, commit what comes of them in one transaction, then do it."""
        self._perform(self._broker.handle(events, time.monotonic()))

    def _perform(self, actions: list[ac.Action]) -> None:
        entries = self._commits.apply([action for action in actions if isinstance(action, ac.Save)])
        for action in actions:
            self._reporter.tell(action)
            self._do(action)
        if entries:
            self._reception.tell_watchers(entries)
            self._aftermath.wake()

    def _wait_for_space(self) -> bool:
        """Wait here while the disk is full: nothing may be said that is not written. False: the daemon is to stop."""
        if self._signals.caught or (self._stop_at is not None and time.monotonic() >= self._stop_at):
            return False
        self._notifier.watchdog()
        self._vitals.health.turned()
        select.select([self._signals.fileno()], [], [], FULL_WAIT_S)
        return True

    def _check_space(self) -> None:
        now = time.monotonic()
        if self._space.check(now):
            if self._space.is_enough:
                _log.info(log.DISK_OK)
                self._arrivals.release()
            else:
                _log.warning(log.DISK_FULL, cause=self._space.cause)
            self._happen(ev.SpaceChanged(self._space.is_enough))
        if self._finisher.waiting and now >= self._try_waiting_at:
            if self._space.is_enough:
                self._finisher.retry_waiting()
            self._try_waiting_at = now + FULL_WAIT_S

    def _do(self, action: ac.Action) -> None:
        match action:
            case ac.SendTranscribe():
                self._worker_link.send_lease(action)
            case ac.SendPrepare():
                self._worker_link.send_prepare(action)
            case ac.SendCredit(worker=worker, feed=feed, bytes=count):
                self._worker_link.send(worker, be.FeedCredit(feed=feed, bytes=count))
            case ac.SendAbandon(worker=worker, feed=feed):
                self._worker_link.send(worker, be.Abandon(feed=feed))
            case ac.SendDrain(worker=worker):
                self._worker_link.send(worker, be.Drain())
            case ac.DropPcm(key=key):
                self._worker_link.drop_pcm(key)
            case ac.Spawn(slot=slot, incarnation=incarnation):
                self._worker_link.spawn(slot, f"{slot}.{incarnation}")
            case ac.Kill(worker=worker, cause=cause):
                self._worker_link.kill(worker, cause)
            case ac.WriteOutputs(job=job):
                self._finisher.finish(job, is_failure=False)
            case ac.WriteFailure(job=job):
                self._finisher.finish(job, is_failure=True)
            case ac.SaveSegment(segment=segment, event=SegmentEvent.DONE):
                self._reception.census.audio_samples[action.worker.rpartition(".")[0]] += segment.samples
            case ac.SaveJob(job=job, event=event) if event is not None:
                self._reception.job_changed(job)
            case _:
                pass  # the other Save… are committed, the notes for the log are told

    # -- what comes in ---------------------------------------------------------------------------------------

    def _on_exit(self, pidfd: int) -> None:
        self._on_workers()  # what it said before it ended counts
        for _ in range(LAST_WORDS_LOOKS):
            if self._supervisor.owes_words(pidfd) and self._worker_link.poll(LAST_WORDS_MS):
                self._on_workers()
        end = self._supervisor.reap(pidfd)
        if not self._model.take(end, time.monotonic()):
            self._happen(ev.WorkerExited(worker=end.worker, is_fatal=end.is_fatal, cause=end.cause))
        is_hopeless = self._worker_link.is_hopeless or self._model.is_hopeless
        if is_hopeless and not (self._is_ready or self._config.remote.listen) and self._stop_at is None:
            self._exit = ExitCode.FATAL
        if self._stop_at is None and self._exit is None:
            self._fill_slots()  # a slot that came back into the configuration while its old worker drained

    def _on_workers(self) -> None:
        events, stored = self._worker_link.receive()
        if events:
            for event in events:
                if isinstance(event, ev.WorkerReady) and event.window_samples:
                    window = min(self._broker.window_samples or event.window_samples, event.window_samples)
                    self._broker.recipe = recipe_of(self._config, window)
            self._happen(*events)
            self._worker_link.handled(stored)
            if not self._is_ready and has_model(self._broker):
                self._announce_ready()

    def _on_mailbox(self) -> None:
        events: list[ev.Event] = []
        for item in self._mailbox.drain(MAX_PER_TURN):
            if not isinstance(item, FoundFile):
                item()
            elif self._stop_at is None:
                event = self._arrivals.take(item, is_space=self._space.is_enough)
                if event is not None:
                    events.append(event)
        if events:
            self._happen(*events)

    def _announce_ready(self) -> None:
        if not self._is_ready:
            self._is_ready = True
            self._notifier.ready()
            _log.info(
                log.DAEMON_READY,
                version=VERSION,
                devices=",".join(device.slot for device in self._devices),
                inboxes=[inbox.path for inbox in self._config.inbox],
                clients=list(self._config.listen.clients),
            )

    # -- configuration ---------------------------------------------------------------------------------------

    def _fill_slots(self) -> None:
        """Open the slots that the configuration asks for, let go of those that it does not."""
        wanted = dict(self._worker_link.slots(has_model=self._model.is_done))
        known = self._broker.worker_table.workers
        for slot in [slot for slot, worker in known.items() if slot not in wanted and not worker.is_remote]:
            self._happen(ev.SlotRemoved(slot))
        for slot, role in wanted.items():
            if slot not in known or known[slot].state is WorkerState.STOPPED:
                self._happen(ev.SlotAdded(slot, role))

    def _reload(self) -> None:
        """Read the configuration again; a faulty one is refused whole and the old one stays."""
        self._notifier.reloading()
        try:
            found, devices = self._load()
        except ConfigError as error:
            _log.error(log.CONFIG_REFUSED, faults=error.faults)
        else:
            (config, kept), old = merge(self._config, found), self._config
            self._config, self._devices = config, devices
            log.configure(config.log.level, config.log.format, sys.stderr)
            self._broker.set_policy(policy_of(config))
            self._broker.recipe = recipe_of(config, self._broker.window_samples)
            self._worker_link.reconfigure(config, devices)
            self._want_ray_workers()
            self._space.reconfigure(*space_of(config))
            self._reception.reconfigure(config)
            self._aftermath.reconfigure(config)
            if config.inbox != old.inbox:
                self._arrivals.stop()
                self._arrivals = InboxArrivals(config.inbox, self._store, self._mailbox.put)
                self._arrivals.start()
            for slot in list(self._broker.worker_table.workers):
                self._happen(ev.SlotReset(slot))
            self._fill_slots()
            _log.info(log.CONFIG_LOADED, needs_restart=kept)
        if self._is_ready:
            self._notifier.ready()

    # -- signals, start, end ---------------------------------------------------------------------------------

    def _on_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGHUP:
                self._reload()
                continue
            if number == signal.SIGUSR1:
                log.set_level("info" if log.level() == "debug" else "debug", by=number.name)
                continue
            name = number.name
            if self._stop_at is not None:
                _log.warning(log.DAEMON_STOPPING, cause=f"{name} again: at once")
                self._stop_at = time.monotonic()
                continue
            timeout_s = self._config.recovery.stop_timeout_s
            _log.info(log.DAEMON_STOPPING, cause=name, timeout_s=timeout_s)
            self._notifier.stopping()
            self._stop_at = time.monotonic() + timeout_s
            self._happen(ev.DrainRequested())

    def _close(self) -> None:
        self._arrivals.stop()
        self._supervisor.kill_all()
        self._finisher.close()
        self._aftermath.close()
        self._reception.close()
        self._worker_link.close()
        if self._ray is not None:
            self._ray.close()
        self._authenticator.stop()
        self._context.term()
        self._probes.close()
        self._store.close()
        self._signals.release()
        os.close(self._lock)
