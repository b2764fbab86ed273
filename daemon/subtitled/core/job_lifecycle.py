"""The way of a job: its language is settled, and it ends when all of its segments have."""

from __future__ import annotations

from collections.abc import Iterable

from subtitled.core.actions import Action, WriteFailure, WriteOutputs
from subtitled.core.language_vote import LanguageVote
from subtitled.core.lease_dispatch import LeaseDispatch
from subtitled.core.live_jobs import LiveJobs
from subtitled.core.prepare_dispatch import PrepareDispatch
from subtitled.core.records import Job
from subtitled.core.states import JobEvent, JobState, SegmentEvent, SegmentState


class JobLifecycle:
    """Takes jobs on when something has become of their segments, and to their ends."""

    def __init__(
        self,
        live_jobs: LiveJobs,
        prepare_dispatch: PrepareDispatch,
        lease_dispatch: LeaseDispatch,
        out: list[Action],
    ) -> None:
        self.election = LanguageVote(live_jobs, lease_dispatch)
        self._live_jobs = live_jobs
        self._prepare_dispatch = prepare_dispatch
        self._lease_dispatch = lease_dispatch
        self._out = out

    def advance_all(self, jobs: Iterable[str]) -> None:
        """Take several jobs on."""
        for job in sorted(jobs):
            self.advance(job)

    def advance(self, name: str) -> None:
        """Settle a job's language if that can be done, and end the job if all its segments have ended."""
        job = self._live_jobs.jobs.get(name)
        if job is None or job.state not in {JobState.QUEUED, JobState.PREPARING, JobState.TRANSCRIBING}:
            return
        is_complete = job.state is JobState.TRANSCRIBING and not self._live_jobs.open[name]
        job = self.election.settle(job, is_complete=is_complete)
        if job.state is not JobState.TRANSCRIBING:
            return
        if self._live_jobs.open[name]:
            if self._live_jobs.starved[name]:
                self._prepare_dispatch.want(job)
            return
        segments = self._live_jobs.segments[name].values()
        buried = sum(segment.state is SegmentState.BURIED for segment in segments)
        if buried:
            self.fail(job, JobEvent.BURIED, f"{buried} of {len(segments)} segments could not be transcribed")
        else:
            # Its file may still be read though nothing of it is wanted any more: no feed outlives its job.
            self._prepare_dispatch.abandon(name)
            self._out.append(WriteOutputs(self._live_jobs.move_job(job, JobEvent.ALL_DONE)))

    def fail(self, job: Job, event: JobEvent, cause: str) -> None:
        """End a job that cannot be finished; what is done of it is written."""
        self._prepare_dispatch.abandon(job.id)
        self._lease_dispatch.withdraw(job.id)
        for segment in list(self._live_jobs.segments[job.id].values()):
            if segment.state is SegmentState.LEASED:
                self._live_jobs.move_segment(segment, SegmentEvent.LOST, cause="its job failed")
        self._live_jobs.drop_pcm(job.id)
        self._out.append(WriteFailure(self._live_jobs.move_job(job, event, cause=cause)))

    def forget(self, name: str) -> None:
        """Drop a job that has ended from memory."""
        self._lease_dispatch.withdraw(name)
        self._live_jobs.forget_job(name)
