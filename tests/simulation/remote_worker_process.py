"""A simulated worker on another host: its process outlives the daemon's runs, and reaches it over an unreliable network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from action_checks import Violation
from fake_sockets import Connection, Envelope, FakeFrame
from fault_plan import WINDOW_SAMPLES, Fault
from local_worker_process import HEARTBEAT_S
from msgspec import Struct
from simulated_models import DIGEST, SimulatedResidentModels
from worker_roles import TranscribeRole

from subtitled.core.protocol import (
    PROTOCOL,
    AbandonLease,
    Drain,
    Echo,
    EngineSettings,
    ExitReason,
    FreeModel,
    FromWorker,
    JoinSession,
    KeepModel,
    LeaseReceived,
    Probe,
    SessionAccepted,
    SessionRefused,
    SessionUnknown,
    ToWorker,
    Transcribe,
    Translate,
    WorkerLeaving,
    WorkerReady,
)
from subtitled.errors import ExitCode
from subtitled.version import VERSION

if TYPE_CHECKING:
    from history import History

JOIN_S = 2.0
"""Between two JoinSessions."""
REFUSED_S, AGAIN_S = 5.0, 1.0
"""Wait before another session."""
SILENCE_CHECK_S = 5.0
LEAVE_TIMEOUT_S = 60.0
"""A host that leaves is gone after this, whatever its worker does."""
MAX_LEASES = 100


class NetworkCut(Struct, frozen=True):
    """A time in which the network to a host is cut."""

    start: float
    end: float
    is_up: bool
    """Messages to the daemon do not arrive."""
    is_down: bool
    """Messages of the daemon do not arrive."""


class RemoteWorkerProcess:
    """A slot of another host: one process after the other, each with one session after the other."""

    def __init__(self, history: History, slot: str) -> None:
        self.history = history
        self.slot = slot
        self.host, _, self.place = slot.partition("/")
        self.session: RemoteWorkerSession | None = None
        self.models: SimulatedResidentModels | None = None
        """The models of its process, once they are loaded."""
        self.is_leaving = False
        self.previous = ""
        """Identity of its process's last session."""
        self.cuts: list[NetworkCut] = []

    @property
    def is_alive(self) -> bool:
        """There is a process."""
        return self.session is not None

    def start(self) -> None:
        """Start a process, if there is none."""
        if self.session is None:
            self.models = None
            self.is_leaving = False
            self.previous = ""
            self.begin_session()

    def begin_session(self) -> None:
        """Join, again or for the first time; what the last session had in progress is forgotten."""
        if self.session is not None:
            self.session.close()
        self.session = RemoteWorkerSession(self)

    def end(self) -> None:
        """End the process; its host starts another, or not."""
        history = self.history
        if self.session is None:
            return
        self.session.close()
        self.session = None
        if not history.fault_plan.strikes(Fault.VANISH):
            delay_s = history.fault_plan.between(1, 90 if self.is_leaving else 10)
            history.at(history.now + delay_s, self.start)

    def leave(self) -> None:
        """Tell the process that its host is needed elsewhere."""
        session = self.session
        if session is None or self.is_leaving:
            return
        self.is_leaving = True
        if session.identity:
            session.send(WorkerLeaving(cause="preemption"))
            self.history.at(self.history.now + LEAVE_TIMEOUT_S, lambda: self._end_at_timeout(session))
        else:
            self.end()

    def _end_at_timeout(self, session: RemoteWorkerSession) -> None:
        if self.is_leaving and self.session is session:
            self.end()

    def cut_off(self, seconds: float) -> None:
        """Cut the network to the host for a while."""
        now = self.history.now
        is_up, is_down = self.history.fault_plan.random.choice(((True, True), (True, False), (False, True)))
        self.cuts.append(NetworkCut(now, now + seconds, is_up, is_down))

    def arrives_at(self, when: float, *, is_up: bool) -> float | None:
        """Return when what would arrive at a time does arrive; None: never."""
        for cut in self.cuts:
            if cut.start <= when < cut.end and (cut.is_up if is_up else cut.is_down):
                # TCP holds it and sends it again; or gives up, and it is lost with the connection.
                return cut.end if self.history.fault_plan.random.random() < 0.5 else None
        return None if self.history.fault_plan.strikes(Fault.LOST) else when

    @property
    def is_cut(self) -> bool:
        """The network to the host is cut at present."""
        return any(cut.start <= self.history.now < cut.end for cut in self.cuts)


class RemoteWorkerSession:
    """From a JoinSession until it is over, on one connection: each direction keeps its order, other sessions may overtake it."""

    def __init__(self, process: RemoteWorkerProcess) -> None:
        self._process = process
        self.history = process.history
        self._fault_plan = process.history.fault_plan
        self.identity = ""
        """As the daemon gave it."""
        self.is_over = False
        self._sent_until = self._received_until = 0.0
        self._received_at = self.history.now
        self._role: TranscribeRole | None = None
        self._connection = Connection(
            self._receive_later, route=self.history.next_route(), key=self.history.key_of(process.host)
        )
        self._join()
        self._watch()

    # -- messages --------------------------------------------------------------------------------------------

    def send(self, message: FromWorker, blobs: Sequence[FakeFrame] = ()) -> None:
        """Send a message to the daemon."""
        if self.is_over:
            return
        history = self.history
        self._sent_until = max(self._sent_until, history.now + self._delay())
        arrives_at = self._process.arrives_at(self._sent_until, is_up=True)
        if arrives_at is None:
            return
        self._sent_until = arrives_at
        envelope = self._connection.envelope(message, blobs)
        for _ in range(2 if self._fault_plan.strikes(Fault.TWICE) else 1):
            history.at(arrives_at, lambda: self._arrive(envelope))

    def _arrive(self, envelope: Envelope) -> None:
        router = self.history.run_of_daemon.remote_router
        if not self.is_over:
            router.connect(self._connection)
        router.queue.append(envelope)

    def _receive_later(self, message: ToWorker, blobs: Sequence[FakeFrame]) -> None:
        delay_s = self._delay()
        if isinstance(message, Transcribe):
            is_slow = self._fault_plan.strikes(Fault.SLOW_LINK)
            delay_s += self._fault_plan.between(5, 60) if is_slow else self._fault_plan.between(0, 2)
        self._received_until = max(self._received_until, self.history.now + delay_s)
        arrives_at = self._process.arrives_at(self._received_until, is_up=False)
        if arrives_at is not None:
            self._received_until = arrives_at
            self.history.at(arrives_at, lambda: self._receive(message, blobs))

    def _delay(self) -> float:
        late = self._fault_plan.strikes(Fault.LATE)
        return self._fault_plan.between(5, 40) if late else self._fault_plan.between(0, 0.3)

    # -- what the worker does --------------------------------------------------------------------------------

    @property
    def is_bad(self) -> bool:
        """Its device is bad at present."""
        return self._fault_plan.is_bad(self._process.slot)

    def close(self) -> None:
        """End the session; the daemon notices that the connection is closed, unless the network is cut."""
        self.is_over = True
        if self._role is not None:
            self._role.abandon()
        if not self._process.is_cut:
            delay_s = self._fault_plan.between(0, 40)
            self.history.at(self.history.now + delay_s, self._disconnect)

    def _disconnect(self) -> None:
        self.history.run_of_daemon.remote_router.disconnect(self._connection)

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Go on later, if this session is not over by then."""
        self.history.at(self.history.now + delay_s, lambda: None if self.is_over else call())

    def die(self, cause: str, code: ExitCode = ExitCode.FAILED, *, is_reported: bool = False) -> None:
        """End the process; with `is_reported` an ExitReason is sent before."""
        self.history.note(f"{self._process.slot} ends: {cause}")
        is_reported = is_reported or code is ExitCode.OK
        if is_reported:
            self.send(ExitReason(cause=cause))
        if code is ExitCode.OK and not self._process.is_leaving:
            self._join_again(REFUSED_S)
        else:
            self._process.end()

    def _join_again(self, delay_s: float) -> None:
        """End this session and begin another one later."""
        process = self._process
        self.close()
        self.history.at(
            self.history.now + delay_s, lambda: process.begin_session() if process.session is self else None
        )

    def _join(self) -> None:
        if not self.identity:
            self.send(
                JoinSession(
                    version=VERSION,
                    protocol=PROTOCOL,
                    place=self._process.place,
                    previous=self._process.previous,
                )
            )
            self.later(JOIN_S, self._join)

    def _watch(self) -> None:
        """Begin a new session when nothing was received from the daemon for long."""
        if self.history.now >= self._received_at + self.history.policy.silence_s:
            self._process.begin_session()
        else:
            self.later(SILENCE_CHECK_S, self._watch)

    def _receive(self, message: ToWorker, blobs: Sequence[FakeFrame]) -> None:
        if self.is_over:
            return
        self._received_at = self.history.now
        match message:
            case SessionAccepted(identity=identity, engine=engine):
                if not self.identity:
                    self.identity = self._process.previous = identity
                    self._load(engine)
            case SessionUnknown():
                self._join_again(AGAIN_S)
            case SessionRefused(is_final=is_final):
                if is_final:
                    raise Violation(f"{self._process.slot} is refused permanently: {message.cause}")
                self._join_again(REFUSED_S)
            case Probe(stamp_s=stamp_s):
                if stamp_s:
                    self.send(Echo(stamp_s=stamp_s, clock_s=self.history.now))
            case Drain():
                if self._role is not None:
                    self._role.receive(message, blobs)
                else:
                    self.die("drained", ExitCode.OK)
            case Transcribe(lease=lease) | Translate(lease=lease):
                if self._role is not None:
                    self.send(LeaseReceived(lease=lease))
                    self._role.receive(message, blobs)
            case AbandonLease() | FreeModel() | KeepModel():
                if self._role is not None:
                    self._role.receive(message, blobs)
            case _:
                raise Violation(f"a worker on another host was sent {message}")

    def _load(self, engine: EngineSettings) -> None:
        plan = self._fault_plan
        if self._process.models is not None:
            self._become_ready(self._process.models)
        elif plan.strikes(Fault.START_CRASH):
            self.later(plan.between(0, 5), lambda: self.die("crashed while starting"))
        elif not plan.strikes(Fault.START_HANG):
            self.later(plan.between(0, 5), lambda: self._loaded(engine))

    def _loaded(self, engine: EngineSettings) -> None:
        self._process.models = SimulatedResidentModels(self.history, engine)
        self._become_ready(self._process.models)

    def _become_ready(self, models: SimulatedResidentModels) -> None:
        role = self._role = TranscribeRole(self, models, max_leases=MAX_LEASES)
        self.send(
            WorkerReady(
                version=VERSION,
                credit=role.credit,
                streams=role.streams,
                window_samples=WINDOW_SAMPLES,
                model_digest=DIGEST,
                free_bytes=role.free_bytes,
                has_default="" in models.names,
                stale_models=tuple(name for name in models.names if name),
            )
        )
        self.later(self._fault_plan.between(0, HEARTBEAT_S), self._beat)

    def _beat(self) -> None:
        if self._fault_plan.strikes(Fault.IDLE_DEATH):
            self.die("killed by SIGSEGV")
        elif self._role is not None:
            self._role.unload_if_idle()
            self.send(self._role.heartbeat())
            self.later(HEARTBEAT_S, self._beat)
