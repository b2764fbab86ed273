"""A broker whose workers, files and clock are driven by the test."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.broker import Broker
from subtitled.core.model_placement import ModelSpec
from subtitled.core.plan import Plan, PlanPiece, PlanSettings, Span
from subtitled.core.policy import Policy
from subtitled.core.records import Job, Options, Role, Segment, SegmentKey, Worker
from subtitled.core.states import JobState
from subtitled.version import VERSION

WINDOW = 480_000
SECOND = 16_000
PLAN_SETTINGS = PlanSettings(threshold=0.3)
A = TypeVar("A")


def plan(index: int, samples: int = SECOND) -> Plan:
    """Return a segment's plan."""
    start = index * WINDOW
    return Plan(index, (PlanPiece(start, samples),), (Span(start, start + samples),))


class Bench:
    """A broker with its levers: workers, files and time, moved by hand; keeps what was asked for, and what was saved."""

    def __init__(self, models: Iterable[ModelSpec] = (ModelSpec(),), /, **policy: Any) -> None:
        self.policy = Policy(**policy)
        self.now = 0.0
        self.broker = Broker(self.policy, plan_settings=PLAN_SETTINGS, models=models)
        self.actions: list[ac.Action] = []
        self.jobs: dict[str, Job] = {}
        self.segments: dict[SegmentKey, Segment] = {}

    def handle(self, event: ev.Event) -> list[ac.Action]:
        """Pass an event to the broker; return its actions."""
        return self._keep(self.broker.handle([event], self.now))

    def wait(self, seconds: float) -> list[ac.Action]:
        """Let time pass; return what the broker asks for then."""
        self.now += seconds
        return self._keep(self.broker.tick(self.now)[0])

    def all(self, kind: type[A]) -> list[A]:
        """Return all that was asked for of one kind."""
        return [action for action in self.actions if isinstance(action, kind)]

    def last(self, kind: type[A]) -> A:
        """Return the newest of one kind."""
        return self.all(kind)[-1]

    def sent(self, kind: type) -> list[ac.SendMessage]:
        """Return all messages of one kind that were sent to workers, leases and files left out."""
        return [send for send in self.all(ac.SendMessage) if isinstance(send.message, kind)]

    def state(self, job: str) -> JobState:
        """Return a job's stored state."""
        return self.jobs[job].state

    def is_idle(self) -> bool:
        """Say whether a drained daemon may end."""
        return self.broker.is_idle

    def stored(self, index: int, job: str = "a") -> Segment:
        """Return a segment as it is stored."""
        return self.segments[SegmentKey(job, index)]

    def rows(self, job: str) -> tuple[ev.SegmentRow, ...]:
        """Return a job's stored segments."""
        return tuple(
            ev.SegmentRow(
                key=segment.key,
                state=segment.state.value,
                plan=segment.plan,
                losses=segment.losses,
                cause=segment.cause,
                language=segment.language,
                language_probability=segment.language_probability,
            )
            for key, segment in sorted(self.segments.items())
            if key.job == job
        )

    def restart(self) -> None:
        """Kill the daemon, and start one from what was saved."""
        self.broker = Broker(self.policy, plan_settings=PlanSettings(threshold=0.9))
        self.actions.clear()
        self._keep(self.broker.restore([(job, self.rows(job.id)) for job in self.jobs.values()], self.now))

    # -- workers ---------------------------------------------------------------------------------------------

    def worker(self, slot: str, *, credit: int = 1, **more: Any) -> str:
        """Open a slot and have its process ready; return its identity. Slots named p… are prepare workers."""
        is_prepare = slot.startswith("p")
        self.handle(ev.SlotAdded(slot, Role.PREPARE if is_prepare else Role.TRANSCRIBE))
        return self.ready(f"{slot}.1", credit=credit, **more)

    def join(self, slot: str, *, credit: int = 1, previous: str = "", **more: Any) -> str:
        """Have a worker on another host join and be ready; return its identity."""
        self.handle(ev.WorkerJoined(slot=slot, previous=previous))
        return self.ready(self.slot(slot).identity, credit=credit, **more)

    def receive(self, sent: ac.SendLease) -> list[ac.Action]:
        """Have a lease reach a worker on another host."""
        return self.handle(ev.MessageReceived(sent.lease.worker, pr.LeaseReceived(lease=sent.lease.id)))

    def ready(self, identity: str, *, credit: int = 1, **more: Any) -> str:
        """Have a process be ready."""
        window = None if identity.startswith("p") else WINDOW
        self.handle(
            ev.MessageReceived(
                identity, pr.WorkerReady(version=VERSION, credit=credit, window_samples=window, **more)
            )
        )
        return identity

    def die(
        self, worker: str, *, is_fatal: bool = False, cause: str = "killed by SIGSEGV"
    ) -> list[ac.Action]:
        """End a process."""
        return self.handle(ev.WorkerExited(worker=worker, is_fatal=is_fatal, cause=cause))

    def slot(self, slot: str) -> Worker:
        """Return a slot's record."""
        return self.broker.worker_table.workers[slot]

    # -- files -----------------------------------------------------------------------------------------------

    def submit(
        self, name: str = "a", *, size: int = 1, state: JobState = JobState.QUEUED, **options: Any
    ) -> None:
        """Have a file arrive, or begin to."""
        options.setdefault("language", "de")
        job = Job(
            id=name,
            state=state,
            source=name.encode(),
            location=name.encode(),
            size=size,
            mtime_ns=1,
            options=Options(**options),
            order=len(self.jobs) + 1,
        )
        self.handle(ev.JobArrived(job))

    def prepared(self, index: int, *, job: str = "a", samples: int = SECOND) -> list[ac.Action]:
        """Have the worker that reads a job's file send a segment."""
        order = self._order(job)
        made = plan(index, samples)
        return self.handle(ev.MessageReceived(order.worker, pr.Prepared(feed=order.message.feed, plan=made)))

    def read(self, *indices: int, job: str = "a", samples: int = SECOND) -> list[ac.Action]:
        """Have a job's file read to the end, with these segments in it."""
        for index in indices:
            self.prepared(index, job=job, samples=samples)
        order = self._order(job)
        return self.handle(
            ev.MessageReceived(order.worker, pr.PlanComplete(feed=order.message.feed, media=b"media"))
        )

    def refuse(self, cause: str, *, job: str = "a", is_missing: bool = False) -> None:
        """Have a job's file be unreadable."""
        order = self._order(job)
        message = pr.PrepareRefused(feed=order.message.feed, cause=cause, is_missing=is_missing)
        self.handle(ev.MessageReceived(order.worker, message))

    def already_subtitled(self, cause: str, *, job: str = "a") -> None:
        """Have a job's file have subtitles already."""
        order = self._order(job)
        self.handle(
            ev.MessageReceived(order.worker, pr.AlreadySubtitled(feed=order.message.feed, cause=cause))
        )

    def reply(
        self,
        lease: ac.SendLease,
        *,
        language: str = "de",
        probability: float = 0.9,
        is_speech: bool = True,
        without: tuple[int, ...] = (),
        **more: Any,
    ) -> list[ac.Action]:
        """Answer a lease."""
        outcomes = self.outcomes(
            lease, language=language, probability=probability, is_speech=is_speech, without=without
        )
        answer = pr.Transcribed(lease=lease.lease.id, items=outcomes, **more)
        return self.handle(ev.MessageReceived(lease.lease.worker, answer))

    def outcomes(
        self,
        lease: ac.SendLease,
        *,
        language: str = "de",
        probability: float = 0.9,
        is_speech: bool = True,
        without: tuple[int, ...] = (),
    ) -> tuple[pr.ItemResult, ...]:
        """Return the results of a lease."""
        return tuple(
            pr.ItemResult(
                key=item.key,
                is_speech=is_speech,
                language=language if item.language in {None, "multi"} else str(item.language),
                language_probability=probability,
                result=b"phrases",
            )
            for item in lease.audio
            if item.key.index not in without
        )

    def reply_to_all(self, **reply: Any) -> None:
        """Answer leases, and those that come of it, until none is left."""
        while leases := list(self.broker.lease_dispatch.leases):
            self.reply(self.lease(leases[0]), **reply)

    def lease(self, number: int) -> ac.SendLease:
        """Return a lease by its id."""
        return next(sent for sent in self.all(ac.SendLease) if sent.lease.id == number)

    def _order(self, job: str) -> ac.SendPrepare:
        return next(order for order in reversed(self.all(ac.SendPrepare)) if order.job.id == job)

    def _keep(self, actions: list[ac.Action]) -> list[ac.Action]:
        self.actions += actions
        for action in actions:
            match action:
                case ac.SaveNewJob(job=job) | ac.SaveJob(job=job):
                    self.jobs[job.id] = job
                case ac.SaveNewSegment(segment=segment) | ac.SaveSegment(segment=segment):
                    self.segments[segment.key] = segment
        return actions


def bench(*slots: str, credit: int = 1, **policy: Any) -> Bench:
    """Return a bench with these workers ready."""
    made = Bench(**policy)
    for slot in slots:
        made.worker(slot, credit=credit if not slot.startswith("p") else 1)
    return made


def indices(sent: ac.SendLease) -> list[int]:
    """Return the segments of a lease."""
    return [item.key.index for item in sent.message.items]
