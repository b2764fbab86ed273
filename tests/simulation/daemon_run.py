"""One run of the daemon, from its start to its end: the real loop on fake ports."""

from __future__ import annotations

import errno
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from action_checks import ActionChecks, Violation
from fake_arenas import FakeArena, check_arenas
from fake_ports import (
    METRICS,
    FakeApi,
    FakeDiskSpace,
    FakeFileChecks,
    FakeHooks,
    FakeMailbox,
    FakeMonitor,
    FakeNotifier,
    FakePoller,
    FakeSignals,
    FakeStateFolder,
    FakeSupervisor,
    FakeWatcher,
    FakeWriter,
)
from fake_sockets import FakeAuthenticator, FakeContext, FakeRouter
from fault_plan import Fault
from invariants import check
from local_worker_process import HEARTBEAT_S, LocalWorkerProcess
from model_checks import ModelChecks
from msgspec.structs import replace
from simulated_models import DEFAULT_SOURCE
from slot_checks import SlotChecks

from subtitled.config.model_choice import configured_models
from subtitled.config.model_files import DEMO
from subtitled.config.schema import Config
from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.broker import Broker
from subtitled.core.config_mapping import model_specs, plan_settings_of, policy_of
from subtitled.core.plan import PlanSettings
from subtitled.core.policy import Policy, time_to_arrive
from subtitled.core.states import WorkerState
from subtitled.errors import ExitCode, NoSpaceError, StoreError
from subtitled.inboxes.arrivals import InboxArrivals
from subtitled.observability.transition_log import TransitionLog
from subtitled.server.dispatch import Dispatcher
from subtitled.server.hung_folders import HungFolders
from subtitled.server.loop import Server, ServerParts
from subtitled.server.reconfiguration import Reconfiguration
from subtitled.server.shutdown import Shutdown
from subtitled.storage.durability import Transactions
from subtitled.workers.local_listener import WorkerListener, is_remote
from subtitled.workers.model_download import ModelDownloads
from subtitled.workers.pcm_store import PcmStore

if TYPE_CHECKING:
    from history import History

FINISHED = (
    pr.Translated,
    pr.Transcribed,
    pr.PlanComplete,
    pr.PrepareRefused,
    pr.FileUnavailable,
    pr.AlreadySubtitled,
)
SERVING = (WorkerState.IDLE, WorkerState.BUSY, WorkerState.DRAINING)


class DaemonKilled(BaseException):
    """The daemon ends here and now, whatever it was doing."""


class InjectedStoreError(StoreError):
    """A commit that fails by plan; any other StoreError is a fault of the daemon."""


class ObservedBroker(Broker):
    """The real broker; what it is given and what it decides is shown to the checks."""

    def __init__(self, run: DaemonRun, policy: Policy, plan_settings: PlanSettings) -> None:
        self._run = run
        super().__init__(run.complete(policy), plan_settings=plan_settings, models=run.specs)

    def set_policy(self, policy: Policy) -> None:
        """Apply other limits."""
        super().set_policy(self._run.complete(policy))

    def handle(self, events: Iterable[ev.Event], now: float) -> list[ac.Action]:
        """Return the actions that events call for."""
        events = list(events)
        self._run.happened(events)
        return self._run.decided(super().handle(events, now))

    def tick(self, now: float) -> tuple[list[ac.Action], float]:
        """Return the actions that the passing of time calls for."""
        actions, deadline = super().tick(now)
        return self._run.decided(actions), deadline

    def restore(self, jobs: Any, now: float, *, is_paused: bool = False) -> list[ac.Action]:
        """Take up the jobs of the store."""
        return self._run.decided(super().restore(jobs, now, is_paused=is_paused))


class DaemonRun:
    """What was in progress in a run ends with it."""

    def __init__(self, history: History) -> None:
        """Build the server as `server.build` does, on fakes."""
        self.history = history
        self.fault_plan = history.fault_plan
        self.store = history.store
        self.is_over = False
        self.watcher: FakeWatcher | None = None
        self.slot_checks = SlotChecks(history.policy)
        self._is_changed = True
        self._uncommitted = 0
        self._unperformed: set[str] = set()
        self._outputs_until_kill: int | None = None
        self._disk_full_until = 0.0
        self._progress: dict[str, pr.Heartbeat] = {}
        self._received_at: dict[str, float] = {}
        """When a worker on another host was received from last."""
        self._sent_at: dict[int, float] = {}
        """When each lease was sent to another host."""
        self.store.before_commit = self._before_commit
        self.store.after_commit = self._after_commit
        self.local_router = FakeRouter(self._before_send)
        self.remote_router = FakeRouter(self._before_send)
        self.signals = FakeSignals()
        self.mailbox = FakeMailbox()
        self.arenas: dict[int, FakeArena] = {}
        """Shared memory that is not closed, by its number, which is in the place of its descriptors."""
        self._arena_count = 0
        self.supervisor = FakeSupervisor(self, partial(LocalWorkerProcess, self))
        self.api = FakeApi(self)
        self.writer = FakeWriter(self)
        self.server = self._build()

    def _build(self) -> Server:
        config, devices = self.history.load()
        self.specs = model_specs(config)
        clock = self.history.clock
        self.broker = ObservedBroker(self, policy_of(config), plan_settings_of(config))
        self.checks = ActionChecks(self.history.policy, self.broker.live_jobs, self._source_of)
        self.model_checks = ModelChecks(self.broker, self.history.devices)
        poller, notifier, hooks, space = FakePoller(self), FakeNotifier(), FakeHooks(), FakeDiskSpace(self)
        monitor = FakeMonitor(METRICS, clock)
        shutdown = self.shutdown = Shutdown(self.signals, clock)
        context: Any = FakeContext(self.local_router, self.remote_router)
        authenticator: Any = FakeAuthenticator()
        mailbox: Any = self.mailbox
        workers = self.workers = WorkerListener(
            config,
            devices,
            context=context,
            authenticator=authenticator,
            call_back=mailbox.put,
            supervisor=self.supervisor,
            broker=self.broker,
            metrics=METRICS,
            store=self.store,
            monitor=monitor,
            clock=clock,
            pcm=PcmStore(self._create_arena),
        )
        model = ModelDownloads(DEMO, self.specs, spawn=workers.spawn_download, on_change=lambda _: None)
        transactions = Transactions(
            self.store, lambda: shutdown.wait_for_space(poller, notifier, monitor.health.record_turn)
        )
        dispatcher = self.dispatcher = Dispatcher(self.broker, transactions, TransitionLog(METRICS), clock)
        files = FakeFileChecks(self)
        dispatcher.connect(
            workers=workers,
            writer=self.writer,
            files=files,
            api=self.api,
            hooks=hooks,
            audio_samples=Counter(),
        )
        arrivals = InboxArrivals(
            config.inbox,
            self.store,
            mailbox.put,
            make_watcher=partial(FakeWatcher, self),
        )
        arrivals.models = configured_models(config)
        return Server(
            ServerParts(
                clock=clock,
                poller=poller,
                signals=self.signals,
                mailbox=mailbox,
                store=self.store,
                broker=self.broker,
                dispatcher=dispatcher,
                shutdown=shutdown,
                reconfiguration=Reconfiguration(
                    self._load_again,
                    config,
                    devices,
                    broker=self.broker,
                    dispatcher=dispatcher,
                    workers=workers,
                    model=model,
                    api=self.api,
                    hooks=hooks,
                    arrivals=arrivals,
                    space=space,
                    cluster=None,
                    configure_log=_nothing,
                ),
                supervisor=self.supervisor,
                workers=workers,
                model=model,
                api=self.api,
                writer=self.writer,
                files=files,
                hooks=hooks,
                arrivals=arrivals,
                space=space,
                state_folder=FakeStateFolder(),
                hung_folders=HungFolders(METRICS),
                notifier=notifier,
                monitor=monitor,
                status=notifier,
                resources=ExitStack(),
                max_wait_s=float("inf"),
            )
        )

    def _create_arena(self) -> Any:
        """Return shared memory for a file; every eleventh file finds that no descriptor is left."""
        self._arena_count += 1
        if self._arena_count % 11 == 0:
            raise OSError(errno.EMFILE, "too many open files")
        self.arenas[self._arena_count] = arena = FakeArena(self._arena_count, self.arenas)
        return arena

    def _source_of(self, model: str) -> str:
        """Return the source from which workers load a model at present."""
        engine = self.broker.placement.specs[model].engine
        return engine.model if engine is not None else DEFAULT_SOURCE

    def _load_again(self) -> tuple[Config, list[Any]]:
        """Load the configuration, and expect that every slot is tried again."""
        for slot in self.broker.worker_table.workers:
            self.slot_checks.reset(slot)
        return self.history.load()

    def complete(self, policy: Policy) -> Policy:
        """Return the broker's limits with those that no configuration has."""
        return replace(policy, forget_s=self.history.policy.forget_s)

    # -- the loop --------------------------------------------------------------------------------------------

    def start(self) -> ExitCode | None:
        """Do what `Server.run` does before its first turn; return the daemon's exit status if it ends."""
        return self._call(self.server.start)

    def turn(self) -> ExitCode | None:
        """Do a turn; return the daemon's exit status if it ends. Raises DaemonKilled."""
        return self._call(self.server.turn)

    def _call(self, call: Callable[[], None]) -> ExitCode | None:
        try:
            call()
        except (InjectedStoreError, NoSpaceError) as error:
            self.history.note(f"the daemon ends: {error}")
            return ExitCode.FAILED
        code = self.shutdown.exit_code
        if code is ExitCode.OK and not self.shutdown.is_overdue and not self.is_idle:
            raise Violation("the daemon ends while it still has something to do")
        return code

    @property
    def is_idle(self) -> bool:
        """A drained daemon may end."""
        return self.broker.is_idle and not self.writer.writing

    @property
    def is_stopping(self) -> bool:
        """SIGTERM was received, or is about to be."""
        return self.shutdown.is_stopping or signal.SIGTERM in self.signals.pending

    def request(self, call: Callable[[], None]) -> None:
        """Have a client ask for something."""
        self.api.queue.append(call)

    # -- virtual time ----------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The time."""
        return self.history.now

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at a time; not at all when this run is over by then."""
        self.history.at(when, lambda: None if self.is_over else call())

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call later; not at all when this run is over by then."""
        self.at(self.now + delay_s, call)

    # -- what the loop does ----------------------------------------------------------------------------------

    def happened(self, events: list[ev.Event]) -> None:
        """Note what the broker is given."""
        for event in events:
            if isinstance(event, ev.MessageReceived) and isinstance(event.message, pr.Heartbeat):
                if self._progress.get(event.worker) == event.message:
                    continue
                self._progress[event.worker] = event.message
            self._is_changed = True
            self.history.note(event)
            self.model_checks.happened(event, self.now)
            if isinstance(event, ev.SlotAdded):
                self.slot_checks.added(event.slot)
            if isinstance(event, ev.WorkerExited) and is_remote(event.worker):
                self.checks.exited(event.worker)
            if isinstance(event, ev.MessageReceived) and isinstance(event.message, FINISHED):
                self.slot_checks.finished(event.worker)

    def decided(self, actions: list[ac.Action]) -> list[ac.Action]:
        """Check what the broker decides, and expect that the loop performs it."""
        if not actions:
            return actions
        self._is_changed = True
        self.slot_checks.decided(actions, self.broker)
        for action in actions:
            self.checks.decided(action)
            self.model_checks.decided(action, self.now)
            self.slot_checks.performed(action, self.now)
            if isinstance(action, ac.Save):
                self._uncommitted += 1
                continue
            self.history.note(action)
            match action:
                case ac.SpawnWorker(slot=slot, incarnation=incarnation):
                    self._unperformed.add(f"spawn {slot}.{incarnation}")
                case ac.SendLease(lease=lease):
                    if not lease.is_received:
                        self._sent_at[lease.id] = self.now
                    if not is_remote(lease.worker):
                        self._unperformed.add(f"lease {lease.id}")
                case ac.KillWorker(worker=worker) if not is_remote(worker):
                    self._unperformed.add(f"kill {worker}")
                case ac.WriteOutputs(job=job) | ac.WriteFailure(job=job):
                    self._unperformed.add(f"write {job.id}")
                case ac.PlanTranslations(job=job):
                    self._unperformed.add(f"plan {job.id}")
                case ac.WriteTranslations(job=job):
                    self._unperformed.add(f"translate {job.id}")
                case ac.CheckFile(job=job):
                    self._unperformed.add(f"check {job.id}")
        return actions

    def before_output(self, what: str = "") -> None:
        """Check that everything is committed before something leaves the daemon; it may be killed right then."""
        if self._uncommitted:
            raise Violation(f"{what or 'a message'} leaves before {self._uncommitted} changes are committed")
        if self._outputs_until_kill is not None:
            if not self._outputs_until_kill:
                raise DaemonKilled("SIGKILL")
            self._outputs_until_kill -= 1
        self._unperformed.discard(what)

    def _before_send(self, route: bytes, message: pr.ToWorker) -> None:
        self.before_output(f"lease {message.lease}" if isinstance(message, pr.LeaseOrder) else "")
        if isinstance(message, pr.SessionAccepted):
            self.checks.joined(message.identity)
            self._received_at[message.identity] = self.now
        elif not isinstance(message, pr.Probe):
            self.history.note((route, message))

    def _before_commit(self, saves: list[ac.Save]) -> None:
        del saves
        if self.fault_plan.strikes(Fault.STORE_FAILED):
            raise InjectedStoreError("the commit failed")
        if self.fault_plan.strikes(Fault.DISK_FULL):
            self._disk_full_until = self.now + self.fault_plan.between(1, 50)
        if self.now < self._disk_full_until and not self.fault_plan.is_calm:
            raise NoSpaceError("database or disk is full")

    def _after_commit(self, saves: list[ac.Save]) -> None:
        self._uncommitted -= len(saves)
        if self.fault_plan.strikes(Fault.DAEMON_KILL):
            # Killed between the commit and any of what follows it.
            self._outputs_until_kill = self.fault_plan.random.randrange(6)

    # -- the checks ------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise Violation unless all invariants hold; called whenever the loop is about to wait."""
        if self._outputs_until_kill is not None:
            raise DaemonKilled("SIGKILL")
        self._check_received()
        if not self._is_changed:
            return
        self._is_changed = False
        if self._uncommitted or self._unperformed:
            raise Violation(f"{self._uncommitted} changes are not committed, not done: {self._unperformed}")
        running = {process.identity for process in self.supervisor.processes.values()}
        check_arenas(self.arenas, self.workers.pcm, self.broker.worker_table, running)
        check(self.broker, self.store.table, self.workers.pcm.sizes(), self.writer.jobs, self.now)
        self.checks.observe(self.broker)
        self.model_checks.observe(self.now)
        self.slot_checks.observe(self.broker.worker_table, self.now)
        self._check_remote_workers()

    def _check_received(self) -> None:
        """Check that each answer that was received has reached the broker."""
        leases, workers = self.broker.lease_dispatch.leases, self.broker.worker_table
        for router in (self.local_router, self.remote_router):
            for envelope in router.received:
                identity = self._identity(envelope.route)
                if identity is None:
                    continue
                self._received_at[identity] = self.now
                worker = workers.current(identity)
                match envelope.message:
                    case (
                        pr.Transcribed(lease=lease)
                        | pr.Translated(lease=lease)
                        | pr.LeaseRefused(lease=lease)
                    ):
                        is_kept = lease in leases and leases[lease].worker == identity
                    case (
                        pr.PlanComplete(feed=feed)
                        | pr.AlreadySubtitled(feed=feed)
                        | pr.PrepareRefused(feed=feed)
                        | pr.FileUnavailable(feed=feed)
                    ):
                        is_kept = worker is not None and worker.feed is not None and worker.feed.id == feed
                    case _:
                        is_kept = False
                if is_kept:
                    raise Violation(f"{envelope.message} of {identity} was received and then lost")
            router.received.clear()

    def _identity(self, route: bytes) -> str | None:
        if not route.startswith(b"\0"):
            return route.decode()
        remote = self.workers.remote
        session = remote._sessions.by_route.get(route) if remote else None
        return session.identity if session else None

    def _check_remote_workers(self) -> None:
        """Check that a worker that is cut off does not keep its leases, and that a slow link has its time."""
        policy = self.history.policy
        for worker in self.broker.worker_table.workers.values():
            received_at = self._received_at.get(worker.identity)
            if received_at is None or not worker.is_remote or worker.state not in SERVING:
                continue
            if worker.leases and self.now > received_at + policy.silence_s + HEARTBEAT_S:
                raise Violation(
                    f"{worker.identity} sent something at {received_at:.2f} s, and keeps its leases"
                )
        for lease in self.broker.lease_dispatch.leases.values():
            allowed_s = time_to_arrive(policy, lease.pcm_bytes)
            if not lease.is_received and lease.due_at < self._sent_at[lease.id] + allowed_s:
                raise Violation(f"{lease} has less than {allowed_s:g} s to arrive")


def _nothing(_config: Config) -> None:
    pass
