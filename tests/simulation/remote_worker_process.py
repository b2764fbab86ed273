"""Workers on other hosts: processes that outlive the daemon's lives, and come to it over a network that is none too good."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fault_plan import MIB, WINDOW_SAMPLES, Fault
from local_worker_process import BEAT_S, ToWorker
from msgspec import Struct
from worker_roles import TranscribeWork

from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.version import VERSION

if TYPE_CHECKING:
    from history import World

JOIN_S = 2.0
"""Between two tries to join."""
TURNED_AWAY_S = 7.0
LOOK_S = 5.0
PATIENCE_S = 60.0
"""A host that was told to go is gone after this, whatever its worker does."""


class Join(Struct, frozen=True):
    """The first word of a session."""

    slot: str
    previous: str


class Echo(Struct, frozen=True):
    """The answer to a Probe."""

    stamp_s: float
    bytes_per_s: float | None


class Welcome(Struct, frozen=True):
    """The answer to a Join."""

    identity: str


class TurnedAway(Struct, frozen=True):
    """The other answer to a Join."""


class Unknown(Struct, frozen=True):
    """The daemon knows no such session."""


class Probe(Struct, frozen=True):
    """A sign of the daemon's life."""

    stamp_s: float


ToHead = Join | Echo | tuple[ev.Event, ...]
ToFar = Welcome | TurnedAway | Unknown | Probe | ToWorker


class Cut(Struct, frozen=True):
    """A time in which the network to a host is cut."""

    start: float
    end: float
    is_up: bool
    """What the worker says does not come through."""
    is_down: bool
    """What it would hear does not."""


class FarWorker:
    """A slot of another host: one process after the other, each with one session after the other."""

    def __init__(self, world: World, slot: str) -> None:
        self.world = world
        self.slot = slot
        self.session: Session | None = None
        self.is_loaded = False
        self.is_leaving = False
        self.previous = ""
        """Identity of its process's last session."""
        self.cuts: list[Cut] = []

    @property
    def is_alive(self) -> bool:
        """There is a process."""
        return self.session is not None

    def start(self) -> None:
        """Start a process, if there is none."""
        if self.session is None:
            self.is_loaded = self.is_leaving = False
            self.previous = ""
            self.begin_session()

    def begin_session(self) -> None:
        """Join, again or for the first time; what the last session had under way is forgotten."""
        if self.session is not None:
            self.session.is_over = True
        self.session = Session(self)

    def end(self) -> None:
        """End the process; whoever runs the host starts another, or not."""
        world = self.world
        if self.session is None:
            return
        self.session.is_over = True
        self.session = None
        if not world.fate.strikes(Fault.VANISH):
            world.at(world.now + world.fate.within(1, 90 if self.is_leaving else 10), self.start)

    def leave(self) -> None:
        """Be told that the host is wanted elsewhere."""
        session = self.session
        if session is None or self.is_leaving:
            return
        self.is_leaving = True
        if session.identity:
            session.say(pr.WorkerLeaving(cause="preemption"))
            self.world.at(self.world.now + PATIENCE_S, lambda: self._lose_patience(session))
        else:
            self.end()

    def _lose_patience(self, session: Session) -> None:
        if self.is_leaving and self.session is session:
            self.end()

    def cut_off(self, seconds: float) -> None:
        """Cut the network to the host for a while."""
        now = self.world.now
        is_up, is_down = self.world.fate.random.choice(((True, True), (True, False), (False, True)))
        self.cuts.append(Cut(now, now + seconds, is_up, is_down))

    def arrives_at(self, when: float, *, is_up: bool) -> float | None:
        """Return when what would arrive at a time does arrive; None: never."""
        for cut in self.cuts:
            if cut.start <= when < cut.end and (cut.is_up if is_up else cut.is_down):
                # TCP holds it and sends it again; or gives up, and it is lost with the connection.
                return cut.end if self.world.fate.random.random() < 0.5 else None
        return None if self.world.fate.strikes(Fault.LOST) else when


class Session:
    """From a Join until it is over: its wires keep what they carry in order, other sessions' may overtake them."""

    def __init__(self, worker: FarWorker) -> None:
        self._worker = worker
        self._world = worker.world
        self.host = worker.world
        self.identity = ""
        """As the daemon gave it."""
        self.is_over = False
        self._is_ready = False
        self._said_until = self._heard_until = 0.0
        self._heard_at = self._world.now
        self._work: TranscribeWork | None = None
        self._join()
        self._watch()

    # -- the wire --------------------------------------------------------------------------------------------

    def say(self, *messages: pr.FromWorker) -> None:
        """Send a message to the daemon."""
        self._up(tuple(ev.MessageReceived(self.identity, message) for message in messages))

    def hear(self, message: ToFar) -> None:
        """Take a message of the daemon; it arrives later, after those before it."""
        fate = self._world.fate
        delay_s = self._delay()
        if isinstance(message, pr.Transcribe):
            delay_s += fate.within(5, 60) if fate.strikes(Fault.SLOW_LINK) else fate.within(0, 2)
        self._heard_until = max(self._heard_until, self._world.now + delay_s)
        arrives_at = self._worker.arrives_at(self._heard_until, is_up=False)
        if arrives_at is not None:
            self._heard_until = arrives_at
            self._world.at(arrives_at, lambda: self._receive(message))

    def _up(self, said: ToHead) -> None:
        if self.is_over:
            return
        world = self._world
        self._said_until = max(self._said_until, world.now + self._delay())
        arrives_at = self._worker.arrives_at(self._said_until, is_up=True)
        if arrives_at is None:
            return
        self._said_until = arrives_at
        for _ in range(2 if world.fate.strikes(Fault.TWICE) else 1):
            world.at(arrives_at, lambda: world.life.door.came(self, said))

    def _delay(self) -> float:
        fate = self._world.fate
        return fate.within(5, 40) if fate.strikes(Fault.LATE) else fate.within(0, 0.3)

    # -- what it does ----------------------------------------------------------------------------------------

    @property
    def is_bad(self) -> bool:
        """Its device is bad at present."""
        return self._world.fate.is_bad(self._worker.slot)

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Go on later, if this session is not over by then."""
        self._world.at(self._world.now + delay_s, lambda: None if self.is_over else call())

    def die(self, cause: str, *, is_fatal: bool = False) -> None:
        """End the process; the daemon is not told."""
        del is_fatal
        self._world.note(f"{self._worker.slot} dies: {cause}")
        self._worker.end()

    def _join(self) -> None:
        if not self.identity:
            self._up(Join(self._worker.slot, self._worker.previous))
            self.later(JOIN_S, self._join)

    def _watch(self) -> None:
        """Begin anew when nothing was heard of the daemon for long."""
        if self._world.now >= self._heard_at + self._world.policy.silence_s:
            self._worker.begin_session()
        else:
            self.later(LOOK_S, self._watch)

    def _receive(self, message: ToFar) -> None:
        if self.is_over:
            return
        self._heard_at = self._world.now
        match message:
            case Welcome(identity=identity):
                if not self.identity:
                    self.identity = self._worker.previous = identity
                    self._load()
            case Unknown():
                self._worker.begin_session()
            case TurnedAway():
                pass
            case Probe(stamp_s=stamp_s):
                bytes_per_s = self._world.fate.random.choice((None, 0.03 * MIB, 0.5 * MIB, 100.0 * MIB))
                self._up(Echo(stamp_s, bytes_per_s))
            case pr.Drain():
                if self._worker.is_leaving:
                    self._worker.end()
                else:
                    self._worker.begin_session()
            case pr.Transcribe(lease=lease):
                if self._work is not None:
                    self.say(pr.LeaseReceived(lease=lease))
                    self._work.receive(message)
            case _:
                raise AssertionError(f"a worker on another host was sent {message}")

    def _load(self) -> None:
        fate = self._world.fate
        if self._worker.is_loaded:
            self._become_ready()
        elif fate.strikes(Fault.START_CRASH):
            self.later(fate.within(0, 5), lambda: self.die("crashed while starting"))
        elif not fate.strikes(Fault.START_HANG):
            self.later(fate.within(0, 5), self._become_ready)

    def _become_ready(self) -> None:
        self._worker.is_loaded = True
        self._work = TranscribeWork(self, most=100)
        self.say(
            pr.WorkerReady(
                version=VERSION,
                credit=self._work.credit,
                streams=self._work.streams,
                window_samples=WINDOW_SAMPLES,
            )
        )
        self.later(self._world.fate.within(0, BEAT_S), self._beat)

    def _beat(self) -> None:
        if self._world.fate.strikes(Fault.IDLE_DEATH):
            self.die("killed by SIGSEGV")
        elif self._work is not None:
            self.say(self._work.heartbeat())
            self.later(BEAT_S, self._beat)
