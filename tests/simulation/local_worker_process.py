"""A simulated worker process: its start, its wire, its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fault_plan import WINDOW_SAMPLES, Fate, Fault, Media

from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.policy import Policy
from subtitled.core.records import Role
from subtitled.version import VERSION

BEAT_S = 11.0
"""Between two heartbeats; below half of the policy's silence_s, as in the real configuration."""

ToWorker = pr.Prepare | pr.FeedCredit | pr.Abandon | pr.Transcribe | pr.Drain


class Surroundings(Protocol):
    """What a worker has around it, on whatever host."""

    fate: Fate
    policy: Policy

    def media(self, job: str) -> Media:
        """Return a job's media file."""


class Host(Surroundings, Protocol):
    """What a process of the daemon's has around it: a clock, a wire to its daemon, and its fate."""

    @property
    def now(self) -> float:
        """The time."""

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at a time; not at all when this life of the daemon is over by then."""

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call later; not at all when this life of the daemon is over by then."""

    def arrive(self, events: tuple[ev.Event, ...]) -> None:
        """Hand what a worker said to the daemon."""

    def ended(self, process: Process, *, is_fatal: bool, cause: str) -> None:
        """Tell that a process is gone."""

    def readings(self, job: str) -> int:
        """Count a reading of a job's file; return how many there were before."""


class Body(Protocol):
    """What does a role's work, and speaks for it."""

    @property
    def identity(self) -> str:
        """Its name on the wire."""

    @property
    def host(self) -> Surroundings:
        """What is around it."""

    @property
    def is_bad(self) -> bool:
        """Its device is bad at present."""

    def say(self, *messages: pr.FromWorker) -> None:
        """Send messages that arrive together."""

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Go on later, if it still lives."""

    def die(self, cause: str, *, is_fatal: bool = False) -> None:
        """End."""


class Work(Protocol):
    """What a role does with the messages that come."""

    credit: int
    streams: int

    def receive(self, message: ToWorker) -> None:
        """Take a message."""

    def heartbeat(self) -> pr.FromWorker:
        """Return the message that is sent at regular times."""


class Process:
    """A worker process: its start, its wire, its end. What it says and hears stays in order."""

    def __init__(self, host: Host, identity: str, role: Role, make_work: Callable[[Process], Work]) -> None:
        self.host = host
        self.identity = identity
        self.role = role
        self.is_alive = True
        self._is_deaf = False
        self._is_stopped = False
        self._said_until = self._heard_until = 0.0
        self.work = make_work(self)
        self._start()

    # -- the wire --------------------------------------------------------------------------------------------

    def say(self, *messages: pr.FromWorker) -> None:
        """Send a message; it arrives later, even when the process is gone by then, and after those before it."""
        if not self._is_deaf:
            self._said_until = max(self._said_until, self.host.now + self._delay())
            events = tuple(ev.MessageReceived(self.identity, message) for message in messages)
            self.host.at(self._said_until, lambda: self.host.arrive(events))

    def hear(self, message: ToWorker) -> None:
        """Take a message of the daemon; it arrives later, after those before it."""
        self._heard_until = max(self._heard_until, self.host.now + self._delay())
        self.host.at(self._heard_until, lambda: self._receive(message))

    def _receive(self, message: ToWorker) -> None:
        if self.is_alive and not self._is_stopped:
            self.work.receive(message)

    def _delay(self) -> float:
        fate = self.host.fate
        return fate.within(5, 40) if fate.strikes(Fault.LATE) else fate.within(0, 0.2)

    # -- life and death --------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL; nothing happens to a process that is gone."""
        self.die("killed by SIGKILL")

    def die(self, cause: str, *, is_fatal: bool = False) -> None:
        """End; the daemon notices a little later."""
        if self.is_alive:
            self.is_alive = False
            self.host.after(
                self.host.fate.within(0, 0.5),
                lambda: self.host.ended(self, is_fatal=is_fatal, cause=cause),
            )

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Go on later, if still alive and not stopped."""
        self.host.after(delay_s, lambda: call() if self.is_alive and not self._is_stopped else None)

    @property
    def is_bad(self) -> bool:
        """Its device is bad at present."""
        return self.host.fate.is_bad(self.identity.rpartition(".")[0])

    def stop(self) -> None:
        """SIGSTOP: nothing more is heard of the process, and only SIGKILL ends it."""
        self._is_stopped = True

    def _start(self) -> None:
        fate = self.host.fate
        if fate.strikes(Fault.START_HANG):
            return
        if fate.strikes(Fault.START_CRASH):
            self.later(fate.within(0, 5), lambda: self.die("crashed while starting"))
        elif self.is_bad and fate.random.random() < 0.3:
            self.later(fate.within(0, 5), lambda: self.die("no device"))
        elif fate.strikes(Fault.START_FATAL):
            self.later(fate.within(0, 5), lambda: self.die("no such model", is_fatal=True))
        else:
            self.later(fate.within(0, 3), self._become_ready)

    def _become_ready(self) -> None:
        is_transcriber = self.role is Role.TRANSCRIBE
        self.say(
            pr.WorkerReady(
                version=VERSION,
                credit=self.work.credit,
                streams=self.work.streams,
                window_samples=WINDOW_SAMPLES if is_transcriber else None,
            )
        )
        self.later(self.host.fate.within(0, BEAT_S), self._beat)

    def _beat(self) -> None:
        if self.host.fate.strikes(Fault.IDLE_DEATH):
            self.die("killed by SIGSEGV")
            return
        if self.host.fate.strikes(Fault.DEAF):
            self._is_deaf = True
        self.say(self.work.heartbeat())
        self.later(BEAT_S, self._beat)
