"""The end of a worker: what it held comes back, and who is blamed for it."""

from __future__ import annotations

from msgspec.structs import replace

from subtitled.core.actions import Action, Kill
from subtitled.core.job_lifecycle import JobLifecycle
from subtitled.core.lease_dispatch import LeaseDispatch
from subtitled.core.live_jobs import LiveJobs
from subtitled.core.prepare_dispatch import PrepareDispatch
from subtitled.core.records import Job, SegmentKey, Worker
from subtitled.core.states import JobEvent, JobState, SegmentEvent, SegmentState, WorkerEvent, WorkerState
from subtitled.core.worker_table import NEVER, WorkerTable

AGAIN = "joined again"


class WorkerLoss:
    """Takes from workers that are lost, or let go, what others are to do."""

    def __init__(
        self,
        lifecycle: JobLifecycle,
        live_jobs: LiveJobs,
        worker_table: WorkerTable,
        prepare_dispatch: PrepareDispatch,
        lease_dispatch: LeaseDispatch,
        out: list[Action],
    ) -> None:
        self._lifecycle = lifecycle
        self._live_jobs = live_jobs
        self._worker_table = worker_table
        self._prepare_dispatch = prepare_dispatch
        self._lease_dispatch = lease_dispatch
        self._out = out

    def give_up(self, worker: Worker, cause: str, now: float) -> None:
        """Have a worker killed that is of no use any more."""
        is_unheard = worker.is_remote and now >= worker.heard_at + self._worker_table.policy.silence_s
        blamed = self.release(worker, cause)
        bare = self._worker_table.workers[worker.slot]
        lost = self._worker_table.move(
            bare, WorkerEvent.OVERDUE, cause=cause, due_at=NEVER, blamed=blamed if is_unheard else None
        )
        self._out.append(Kill(worker=lost.identity, cause=cause))

    def exited(self, worker: Worker, *, is_fatal: bool, cause: str, now: float) -> Worker:
        """Note the end of a worker's process, or of its session; return what has become of its slot."""
        blamed = self.release(worker, cause)
        bare = self._worker_table.workers[worker.slot]
        if worker.is_remote and worker.state not in {WorkerState.LOST, WorkerState.DRAINING}:
            bare = replace(bare, blamed=blamed)
        return self._worker_table.exited(bare, is_fatal=is_fatal, cause=cause, now=now)

    def make_way(self, worker: Worker, *, is_alive: bool, now: float) -> Worker:
        """Empty a slot whose worker on another host joins again: its last session is over, whatever it was doing.

        If its process `is_alive`, only the connection was lost, and nothing that it held is to blame. Else that has ended,
        as any process may. Returns what has become of the slot.
        """
        if is_alive and worker.blamed is not None:
            self._forgive(worker)
        worker = self._worker_table.workers[worker.slot]
        if worker.state in {WorkerState.STOPPED, WorkerState.BROKEN}:
            return worker
        if worker.state is not WorkerState.LOST:
            self._out.append(Kill(worker=worker.identity, cause=AGAIN))
        if not is_alive:
            return self.exited(worker, is_fatal=False, cause=AGAIN, now=now)
        self.release(worker, AGAIN, is_blamed=False)
        bare = self._worker_table.workers[worker.slot]
        return self._worker_table.move(bare, WorkerEvent.REPLACED, cause=AGAIN, due_at=NEVER)

    def release(self, worker: Worker, cause: str, *, is_blamed: bool = True) -> tuple[SegmentKey, ...]:
        """Take everything from a worker that is lost; only what it was working on is blamed for it, and returned."""
        is_blamed = is_blamed and worker.state is not WorkerState.DRAINING
        jobs: set[str] = set()
        blamed: tuple[SegmentKey, ...] = ()
        for lease, is_current in self._lease_dispatch.release(worker):
            jobs |= self._lease_dispatch.give_back(lease, cause, is_blamed=is_current and is_blamed)
            blamed += lease.keys if is_current and is_blamed else ()
        feed = self._prepare_dispatch.release(self._worker_table.workers[worker.slot])
        if feed is not None:
            self.lose_feed(self._live_jobs.jobs[feed.job], cause, is_blamed=is_blamed)
        self._lifecycle.advance_all(jobs)
        return blamed

    def _forgive(self, worker: Worker) -> None:
        """Take back what was blamed on segments that still wait for another try, and on the worker."""
        for key in worker.blamed or ():
            segment = self._live_jobs.find(key)
            if segment is not None and segment.state is SegmentState.PENDING and segment.losses:
                self._live_jobs.move_segment(segment, SegmentEvent.KICKED, losses=segment.losses - 1)
        if worker.state is WorkerState.STOPPED:
            self._worker_table.put(replace(worker, failures=max(0, worker.failures - 1)))

    def lose_feed(self, job: Job, cause: str, *, is_blamed: bool) -> None:
        """Put a job back in line whose file is not read on; fail it when it has taken too many workers down."""
        for segment in list(self._live_jobs.segments[job.id].values()):
            if segment.state is SegmentState.DONE:
                # Kept for an open vote only. Jobs in line must not hold memory that a job with a decoder waits for.
                self._live_jobs.take_pcm(segment)
        job = replace(job, losses=job.losses + is_blamed)
        if is_blamed and job.losses >= self._worker_table.policy.prepare_attempts:
            why = f"its decoder was lost {job.losses} times, the last time with: {cause}"
            self._lifecycle.fail(job, JobEvent.EXHAUSTED, why)
        elif job.state is JobState.PREPARING:
            self._prepare_dispatch.want(self._live_jobs.move_job(job, JobEvent.LOST))
        else:
            self._prepare_dispatch.want(self._live_jobs.change_job(job))

    def drain(self, worker: Worker, now: float, cause: str) -> None:
        """Let a worker go: what it reads is put back, what it transcribes may finish."""
        if worker.feed is not None:
            self._prepare_dispatch.abandon(worker.feed.job)
            self.lose_feed(self._live_jobs.jobs[worker.feed.job], "", is_blamed=False)
        self._worker_table.drain(self._worker_table.workers[worker.slot], now, cause)
