"""The end of a worker: its work is queued again, and the loss is blamed on what it was working on."""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from subtitled.core.actions import Action, KillWorker
from subtitled.core.events import FileChecked
from subtitled.core.job_lifecycle import JobLifecycle
from subtitled.core.lease_dispatch import LeaseDispatch
from subtitled.core.live_jobs import LiveJobs
from subtitled.core.prepare_dispatch import PrepareDispatch
from subtitled.core.records import Job, SegmentKey, Worker
from subtitled.core.states import JobEvent, JobState, SegmentEvent, SegmentState, WorkerEvent, WorkerState
from subtitled.core.worker_table import NEVER, WorkerTable

REJOINED = "joined again"


class WorkerLoss:
    """Releases the work of workers that are lost, replaced or drained."""

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

    def kill(self, worker: Worker, cause: str, now: float, *, is_blamed: bool = True) -> None:
        """Release a worker's work, and kill the worker.

        Where leases are overdue in a worker that sends heartbeats, only they are blamed; nothing is if it did not stop an
        abandoned one. A file without progress is blamed only if its folder answers.
        """
        policy = self._worker_table.policy
        if self._worker_table.is_stalled(worker, now) and worker.feed is not None:
            self._prepare_dispatch.hold_folder(self._live_jobs.job(worker.feed.job), cause)
        is_silent = worker.is_remote and now >= worker.seen_at + policy.silence_s
        overdue = self._lease_dispatch.overdue(worker, now)
        abandoned = [lease for lease in overdue if lease.is_abandoned]
        suspects = {lease.id for lease in overdue if not lease.is_abandoned}
        is_late = bool(abandoned) and not suspects and not is_silent
        if is_late:
            late_s = max(lease.limit_s or policy.abandon_s for lease in abandoned)
            cause = f"did not stop an abandoned lease within {late_s:g} s"
        # Any lease may have stopped a process that sends nothing.
        is_alive = now < worker.seen_at + policy.silence_s / 2
        blamed = self.release(
            worker,
            cause,
            now,
            is_blamed=is_blamed and not is_late,
            only=suspects if suspects and is_alive else None,
        )
        worker = self._worker_table.workers[worker.slot]
        lost = self._worker_table.move(
            worker, WorkerEvent.OVERDUE, cause=cause, due_at=NEVER, blamed=blamed if is_silent else None
        )
        self._out.append(KillWorker(worker=lost.identity, cause=cause))

    def exited(
        self, worker: Worker, *, is_fatal: bool, cause: str, now: float, is_blamed: bool = True
    ) -> Worker:
        """Record the end of a worker's process or session; return the slot's new record."""
        blamed = self.release(worker, cause, now, is_blamed=is_blamed)
        after = self._worker_table.workers[worker.slot]
        if worker.is_remote and worker.state not in {WorkerState.LOST, WorkerState.DRAINING}:
            after = replace(after, blamed=blamed)
        return self._worker_table.exited(after, is_fatal=is_fatal, cause=cause, now=now)

    def rejoined(self, worker: Worker, *, is_alive: bool, now: float) -> Worker:
        """Empty the slot of a worker on another host that joins again: its last session is over in any state.

        If its process `is_alive`, only the connection was lost, and nothing is blamed. Else its process has ended.
        Returns the slot's new record.
        """
        if is_alive and worker.blamed is not None:
            self._undo_blame(worker)
        worker = self._worker_table.workers[worker.slot]
        if worker.state in {WorkerState.STOPPED, WorkerState.BROKEN}:
            return worker
        if worker.state is not WorkerState.LOST:
            self._out.append(KillWorker(worker=worker.identity, cause=REJOINED))
        if not is_alive:
            return self.exited(worker, is_fatal=False, cause=REJOINED, now=now)
        self.release(worker, REJOINED, now, is_blamed=False)
        after = self._worker_table.workers[worker.slot]
        return self._worker_table.move(after, WorkerEvent.REPLACED, cause=REJOINED, due_at=NEVER)

    def release(
        self,
        worker: Worker,
        cause: str,
        now: float,
        *,
        is_blamed: bool = True,
        only: Collection[int] | None = None,
    ) -> tuple[SegmentKey, ...]:
        """Take everything from a worker; blame only what it was working on, and return that.

        `only`: the leases that may be blamed, by id.
        """
        is_blamed = is_blamed and worker.state is not WorkerState.DRAINING
        jobs: set[str] = set()
        blamed: tuple[SegmentKey, ...] = ()
        for lease, is_current in self._lease_dispatch.release(worker):
            is_loading = lease.is_load and not lease.steps
            if is_loading and is_current and is_blamed:
                self._lease_dispatch.placement.lost(worker.slot, lease.model, cause, now)
            may_be_cause = only is None or lease.id in only
            is_suspect = is_current and is_blamed and may_be_cause and not is_loading
            jobs |= self._lease_dispatch.requeue(lease, cause, is_blamed=is_suspect)
            blamed += lease.keys if is_suspect else ()
        feed = self._prepare_dispatch.release(self._worker_table.workers[worker.slot])
        if feed is not None:
            job = self._live_jobs.job(feed.job)
            is_folder_held = self._prepare_dispatch.is_folder_held(job)
            self.requeue_file(job, cause, is_blamed=is_blamed and not is_folder_held)
        self._lifecycle.advance_all(jobs)
        return blamed

    def requeue_file(self, job: Job, cause: str, *, is_blamed: bool) -> None:
        """Queue a job again whose file is not read any further; fail it if it has lost too many workers."""
        for segment in self._live_jobs.segments_in(job.id, SegmentState.DONE):
            # Kept for an open vote only. Queued jobs must not hold memory that a job being read waits for.
            self._live_jobs.drop_pcm(segment)
        job = replace(job, losses=job.losses + is_blamed)
        if is_blamed and job.losses >= self._worker_table.policy.prepare_attempts:
            why = f"reading it failed {job.losses} times, the last time with: {cause}"
            self._lifecycle.fail(job, JobEvent.EXHAUSTED, why)
        elif job.state is JobState.PREPARING:
            self._prepare_dispatch.enqueue(self._live_jobs.move_job(job, JobEvent.LOST))
        else:
            self._prepare_dispatch.enqueue(self._live_jobs.change_job(job))

    def file_unavailable(self, worker: Worker, job: Job, cause: str, *, is_missing: bool = False) -> None:
        """Let a file wait that its file system cannot read now; if its folder answers, it loses an attempt.

        A missing file fails then.
        """
        self._prepare_dispatch.finish(worker)
        self._worker_table.succeeded(worker.identity)
        self._prepare_dispatch.hold_folder(job, cause, is_missing=is_missing)
        self.requeue_file(job, cause, is_blamed=False)

    def file_checked(self, job: Job | None, event: FileChecked) -> None:
        """Read the files of a folder that answers; blame `job` first if its own file could not be read."""
        if job is not None and event.blame and job.state in {JobState.QUEUED, JobState.TRANSCRIBING}:
            if event.is_missing:
                self._lifecycle.fail(job, JobEvent.REJECTED, event.blame)
            else:
                self.requeue_file(job, event.blame, is_blamed=True)
        self._prepare_dispatch.release_folder(event.folder)

    def leave(self, worker: Worker, now: float, cause: str) -> None:
        """Drain a worker that leaves; a prepare worker does so when it cannot read its file's folder."""
        if worker.feed is not None and not worker.feed.is_abandoned:
            self._prepare_dispatch.hold_folder(self._live_jobs.job(worker.feed.job))
        self.drain(worker, now, cause)

    def drain(self, worker: Worker, now: float, cause: str) -> None:
        """Drain a worker: its file is queued again, its leases may finish."""
        if worker.feed is not None and not worker.feed.is_abandoned:
            self._prepare_dispatch.abandon(worker.feed.job)
            self.requeue_file(self._live_jobs.job(worker.feed.job), "", is_blamed=False)
        self._worker_table.drain(self._worker_table.workers[worker.slot], now, cause)

    def _undo_blame(self, worker: Worker) -> None:
        """Take the blame off the segments that still wait for another attempt, and off the worker."""
        for key in worker.blamed or ():
            segment = self._live_jobs.find(key)
            if segment is not None and segment.state is SegmentState.PENDING and segment.losses:
                self._live_jobs.move_segment(segment, SegmentEvent.RETRIED, losses=segment.losses - 1)
        if worker.state is WorkerState.STOPPED:
            self._worker_table.put(replace(worker, failures=max(0, worker.failures - 1)))
