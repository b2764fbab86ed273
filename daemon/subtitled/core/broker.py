"""The machine itself: events come in, the actions that they call for go out.

    media ─► SendPrepare ─► Prepared… ─► [ready] ─► SendTranscribe ─► Transcribed ─► WriteOutputs ─► Written

The broker reads no clock and touches no socket, file or thread: `handle(events, now)` returns actions, `tick(now)` returns
the actions of time and when it wants to be called next. What must survive is among the actions as `Save…`; the server
commits those before it does the others (write, then speak).

Invariants kept here, with `feeding`, `leasing`, `course` and `departures`:
- a segment that is not final is in line, or in exactly one lease, or waits for its PCM;
- a result counts only if its lease is current and the segment is still in it;
- a lease is held by a live worker within its credit, on another host within the bytes that may be in flight, and comes
  back by reply, refusal, death, deadline, or a new session of its worker;
- an identity is given once, so that whatever a lost worker still says is recognised;
- a live job that does nothing waits for a worker of the right role, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from subtitled.core import events as ev
from subtitled.core.actions import Action, WriteFailure, WriteOutputs
from subtitled.core.job_lifecycle import Course
from subtitled.core.lease_dispatch import Leasing
from subtitled.core.live_jobs import Ledger
from subtitled.core.policy import Policy
from subtitled.core.prepare_dispatch import Feeding
from subtitled.core.records import Job, SegmentKey
from subtitled.core.states import JobEvent, JobState, SegmentEvent, SegmentState, WorkerEvent, WorkerState
from subtitled.core.worker_loss import Departures
from subtitled.core.worker_table import NEVER, Roster

ENDED = (WorkerState.BROKEN, WorkerState.STOPPED)
CHANGED = "the file changed while it was being processed; drop it again"


class Broker:
    """Jobs, segments, workers and leases, and what is to be done about them."""

    def __init__(self, policy: Policy, *, recipe: bytes = b"") -> None:
        self.recipe = recipe
        """The present settings for planning, opaque; a job keeps those of its first plan."""
        self.is_draining = False
        self.is_paused = False
        """No further file is started: there is no space for its results."""
        self.window_samples: int | None = None
        """What the model sees at once; known when the first transcribe worker is ready."""
        self._out: list[Action] = []
        self.ledger = Ledger(self._out)
        self.roster = Roster(policy, self._out)
        self.feeding = Feeding(policy, self.ledger, self.roster, self._out)
        self.leasing = Leasing(policy, self.ledger, self.roster, self._out)
        self.course = Course(self.ledger, self.feeding, self.leasing, self._out)
        self.departures = Departures(
            self.course, self.ledger, self.roster, self.feeding, self.leasing, self._out
        )

    def handle(self, events: Iterable[ev.Event], now: float) -> list[Action]:
        """Return the actions that some events call for, in the order of what happened.

        Work is given out once, after the last: what has come together can go out together.
        """
        for event in events:
            self._on(event, now)
        return self._assign(now)

    def tick(self, now: float) -> tuple[list[Action], float]:
        """Return the actions that the passing of time calls for, and when to call again at the latest."""
        for worker, cause in self.roster.overdue(now):
            self.departures.give_up(worker, cause, now)
        self.roster.forget_gone(now)
        if not self.is_draining:
            self.roster.restart_due(now)
        return self._assign(now), self.roster.next_deadline()

    def restore(self, jobs: Iterable[tuple[Job, tuple[ev.SegmentRow, ...]]], now: float) -> list[Action]:
        """Take up the jobs that the store holds after a restart; no worker is alive, no PCM is in memory."""
        for job, rows in jobs:
            self.ledger.load_job(job, rows)
            for segment in list(self.ledger.segments[job.id].values()):
                if segment.state is SegmentState.LEASED:
                    self.ledger.move_segment(segment, SegmentEvent.LOST, cause="the daemon was restarted")
            match job.state:
                case JobState.PREPARING:
                    self.feeding.want(self.ledger.move_job(job, JobEvent.LOST))
                case JobState.QUEUED:
                    self.feeding.want(job)
                case JobState.TRANSCRIBING:
                    self.course.advance(job.id)
                case JobState.WRITING:
                    self._out.append(WriteOutputs(job))
                case JobState.FAILED:
                    self._out.append(WriteFailure(job))
                case JobState.RECEIVING | JobState.DONE | JobState.CANCELLED:
                    pass
        return self._assign(now)

    def set_policy(self, policy: Policy) -> None:
        """Put other limits into force, for everything that begins from now on."""
        self.roster.policy = self.feeding.policy = policy
        self.leasing.policy = self.leasing.sizing.policy = policy

    @property
    def is_at_rest(self) -> bool:
        """Every worker is gone; a draining daemon may end."""
        return all(worker.state is WorkerState.STOPPED for worker in self.roster.workers.values())

    def _assign(self, now: float) -> list[Action]:
        """Give work to whoever may have it, and hand over the actions."""
        if not self.is_draining:
            if self.window_samples is not None and not self.is_paused:
                complete = self.feeding.assign(
                    window_samples=self.window_samples, recipe=self.recipe, now=now
                )
                for job in complete:
                    self.course.advance(job)
                while (
                    displaced := self.feeding.swap(
                        window_samples=self.window_samples, recipe=self.recipe, now=now
                    )
                ) is not None:
                    self.departures.lose_feed(displaced, "", is_blamed=False)
            self.leasing.assign(now)
            self.feeding.grant_credit()
        out = list(self._out)
        self._out.clear()
        return out

    # -- what happened ---------------------------------------------------------------------------------------

    def _on(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.JobArrived(job=job):
                self.ledger.add_job(job)
                if job.state is JobState.QUEUED:
                    self.feeding.want(job)
            case ev.Uploaded(job=name, size=size, mtime_ns=mtime_ns, sha256=sha256, options=asked):
                job = self.ledger.jobs[name]
                changes = {
                    "size": size,
                    "mtime_ns": mtime_ns,
                    "sha256": sha256,
                    "options": asked or job.options,
                }
                self.feeding.want(self.ledger.move_job(job, JobEvent.UPLOADED, read=None, **changes))
            case ev.Expired(job=name, cause=cause):
                self.ledger.move_job(self.ledger.jobs[name], JobEvent.EXPIRED, cause=cause)
                self.course.forget(name)
            case ev.SlotAdded(slot=slot, role=role):
                if not self.is_draining:
                    self.roster.add(slot, role, now)
            case ev.SlotRemoved(slot=slot):
                self.departures.drain(self.roster.workers[slot], now, "its slot is wanted no more")
            case ev.SlotReset(slot=slot):
                self.roster.reset(self.roster.workers[slot], now)
            case ev.WorkerJoined():
                self._on_joined(event, now)
            case ev.WorkerLeaving(worker=identity, cause=cause):
                if worker := self.roster.current(identity):
                    self.departures.drain(worker, now, cause)
            case ev.Measured(worker=identity, round_trip_s=round_trip_s, bytes_per_s=bytes_per_s):
                if worker := self.roster.current(identity):
                    self.roster.measured(worker, round_trip_s=round_trip_s, bytes_per_s=bytes_per_s)
            case ev.LeaseReceived(worker=identity, lease=lease):
                self.leasing.received(identity, lease, now)
            case ev.WorkerReady():
                self._on_ready(event, now)
            case ev.ModelUnloaded(worker=identity):
                self.leasing.unloaded(identity)
            case ev.WorkerHeard(worker=identity):
                if worker := self.roster.current(identity):
                    self.roster.hear(worker, now)
            case ev.WorkerExited():
                self._on_exited(event, now)
            case ev.Progressed():
                if (found := self.feeding.feeder(event.worker, event.feed)) is not None:
                    self.feeding.progressed(
                        found[0],
                        decoded_samples=event.decoded_samples,
                        is_waiting=event.is_waiting,
                        now=now,
                    )
            case ev.Prepared():
                self._on_prepared(event, now)
            case ev.PlanComplete():
                self._on_plan_complete(event)
            case ev.PrepareRefused():
                if (found := self.feeding.feeder(event.worker, event.feed)) is not None:
                    worker, feed = found
                    self.feeding.finish(worker)
                    self.roster.succeeded(event.worker)
                    self.course.fail(self.ledger.jobs[feed.job], JobEvent.REJECTED, event.cause)
            case ev.Needless():
                self._on_needless(event)
            case ev.Transcribed():
                self._on_transcribed(event, now)
            case ev.LeaseRefused():
                self._on_lease_refused(event, now)
            case ev.Written(job=name, location=location):
                job = self.ledger.jobs[name]
                self.ledger.move_job(job, JobEvent.WRITTEN, location=location, is_closed=True)
                self.course.forget(name)
            case ev.WriteFailed(job=name, cause=cause):
                self.course.fail(self.ledger.jobs[name], JobEvent.WRITE_FAILED, cause)
            case ev.Closed(job=name, location=location):
                self.ledger.change_job(self.ledger.jobs[name], location=location, is_closed=True)
                self.course.forget(name)
            case ev.CancelRequested(job=name):
                self._on_cancel(name)
            case ev.RetryRequested():
                self._on_retry(event)
            case ev.SpaceChanged(is_enough=is_enough):
                self.is_paused = not is_enough
            case ev.DrainRequested():
                self.is_draining = True
                for worker in list(self.roster.workers.values()):
                    self.departures.drain(worker, now, "the daemon stops")
            case _:
                assert_never(event)

    def _on_joined(self, event: ev.WorkerJoined, now: float) -> None:
        known = self.roster.workers.get(event.slot)
        if self.is_draining:
            return
        if known is not None:
            known = self.departures.make_way(known, is_alive=event.previous == known.identity, now=now)
        if known is None or known.state is not WorkerState.BROKEN:
            self.roster.join(event.slot, now)

    def _on_ready(self, event: ev.WorkerReady, now: float) -> None:
        worker = self.roster.current(event.worker)
        if worker is None or worker.state is not WorkerState.STARTING:
            return
        if event.window_samples is not None:
            self.window_samples = min(self.window_samples or event.window_samples, event.window_samples)
        self.roster.move(
            worker,
            WorkerEvent.READY,
            credit=event.credit,
            streams=event.streams,
            batch_size=event.batch_size,
            is_loaded=True,
            device=event.device,
            heard_at=now,
            due_at=NEVER,
        )

    def _on_exited(self, event: ev.WorkerExited, now: float) -> None:
        worker = self.roster.workers.get(event.worker.rpartition(".")[0])
        if worker is None or worker.identity != event.worker:
            return
        if worker.is_remote and worker.state in ENDED:  # as was seen when it joined again
            return
        gone = self.departures.exited(worker, is_fatal=event.is_fatal, cause=event.cause, now=now)
        if self.is_draining and gone.state is WorkerState.BROKEN:  # it was lost already when the drain began
            self.departures.drain(gone, now, "the daemon stops")

    def _on_prepared(self, event: ev.Prepared, now: float) -> None:
        found = self.feeding.feeder(event.worker, event.feed)
        if found is None:
            return
        worker, feed = found
        self.feeding.received(worker, event.pcm_bytes, now)
        job = self.ledger.jobs[feed.job]
        segment = self.ledger.find(SegmentKey(job.id, event.plan.index))
        if segment is None:
            self.leasing.make_ready(self.ledger.add_segment(job, event.plan))
        elif segment.plan != event.plan:
            self.feeding.abandon(job.id)
            self.course.fail(job, JobEvent.REJECTED, CHANGED)
        elif segment.state is SegmentState.PENDING and not segment.has_pcm:
            self.leasing.make_ready(self.ledger.give_pcm(segment))

    def _on_plan_complete(self, event: ev.PlanComplete) -> None:
        found = self.feeding.feeder(event.worker, event.feed)
        if found is None:
            return
        worker, feed = found
        self.feeding.finish(worker)
        self.roster.succeeded(event.worker)
        job = self.ledger.jobs[feed.job]
        if job.state is JobState.PREPARING:
            is_silent = not self.ledger.segments[job.id]
            happened = JobEvent.NO_SPEECH if is_silent else JobEvent.PLANNED
            job = self.ledger.move_job(job, happened, read=event, is_planned=True)
            if is_silent:
                self._out.append(WriteOutputs(job))
        elif feed.wanted is not None and feed.wanted & self.ledger.starved[job.id]:
            self.course.fail(job, JobEvent.REJECTED, CHANGED)
            return
        self.course.advance(job.id)

    def _on_needless(self, event: ev.Needless) -> None:
        found = self.feeding.feeder(event.worker, event.feed)
        if found is None:
            return
        worker, feed = found
        self.feeding.finish(worker)
        self.roster.succeeded(event.worker)
        self.leasing.withdraw(feed.job)
        self.ledger.give_up(feed.job)  # segments of a reading before a restart
        job = self.ledger.move_job(self.ledger.jobs[feed.job], JobEvent.NEEDLESS, cause=event.cause)
        self._out.append(WriteOutputs(job))

    def _on_transcribed(self, event: ev.Transcribed, now: float) -> None:
        lease = self.leasing.settle(event.worker, event.lease, now, is_done=True)
        if lease is None:
            return
        self.roster.succeeded(event.worker)
        answered = set()
        for outcome in event.outcomes:
            segment = self.leasing.claim(lease, outcome.key)
            if segment is not None:
                answered.add(outcome.key.job)
                self.course.election.count(segment, outcome, event.worker)
        left_out = self.leasing.give_back(lease, "the worker's reply left it out", is_blamed=True)
        self.course.advance_all(answered | left_out)

    def _on_lease_refused(self, event: ev.LeaseRefused, now: float) -> None:
        lease = self.leasing.settle(event.worker, event.lease, now, is_done=False)
        if lease is None:
            return
        self.course.advance_all(self.leasing.give_back(lease, event.cause, is_blamed=True))
        if (worker := self.roster.refused(event.worker)) is not None:
            self.departures.give_up(worker, f"refused a lease: {event.cause}", now)

    def _on_cancel(self, name: str) -> None:
        job = self.ledger.jobs[name]
        self.ledger.move_job(job, JobEvent.CANCEL)
        self.feeding.abandon(name)
        self.leasing.withdraw(name)
        self.ledger.give_up(name)
        self.course.forget(name)

    def _on_retry(self, event: ev.RetryRequested) -> None:
        self.ledger.load_job(event.job, event.segments)
        for segment in list(self.ledger.segments[event.job.id].values()):
            is_suspect = segment.state is SegmentState.PENDING and segment.losses > 0
            if segment.state is SegmentState.BURIED or is_suspect:
                self.ledger.move_segment(segment, SegmentEvent.KICKED, losses=0, cause="")
        job = self.ledger.move_job(event.job, JobEvent.RETRY, losses=0, cause="", is_closed=False)
        self.feeding.want(job)
