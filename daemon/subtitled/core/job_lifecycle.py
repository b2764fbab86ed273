"""The way of a job: its language is settled, and it ends when all of its segments have."""

from __future__ import annotations

from collections.abc import Iterable

from subtitled.core.actions import Action, WriteFailure, WriteOutputs
from subtitled.core.language_vote import Election
from subtitled.core.lease_dispatch import Leasing
from subtitled.core.live_jobs import Ledger
from subtitled.core.prepare_dispatch import Feeding
from subtitled.core.records import Job
from subtitled.core.states import JobEvent, JobState, SegmentEvent, SegmentState


class Course:
    """Takes jobs on when something has become of their segments, and to their ends."""

    def __init__(self, ledger: Ledger, feeding: Feeding, leasing: Leasing, out: list[Action]) -> None:
        self.election = Election(ledger, leasing)
        self._ledger = ledger
        self._feeding = feeding
        self._leasing = leasing
        self._out = out

    def advance_all(self, jobs: Iterable[str]) -> None:
        """Take several jobs on."""
        for job in sorted(jobs):
            self.advance(job)

    def advance(self, name: str) -> None:
        """Settle a job's language if that can be done, and end the job if all its segments have ended."""
        job = self._ledger.jobs.get(name)
        if job is None or job.state not in {JobState.QUEUED, JobState.PREPARING, JobState.TRANSCRIBING}:
            return
        is_complete = job.state is JobState.TRANSCRIBING and not self._ledger.open[name]
        job = self.election.settle(job, is_complete=is_complete)
        if job.state is not JobState.TRANSCRIBING:
            return
        if self._ledger.open[name]:
            if self._ledger.starved[name]:
                self._feeding.want(job)
            return
        segments = self._ledger.segments[name].values()
        buried = sum(segment.state is SegmentState.BURIED for segment in segments)
        if buried:
            self.fail(job, JobEvent.BURIED, f"{buried} of {len(segments)} segments could not be transcribed")
        else:
            # Its file may still be read though nothing of it is wanted any more: no feed outlives its job.
            self._feeding.abandon(name)
            self._out.append(WriteOutputs(self._ledger.move_job(job, JobEvent.ALL_DONE)))

    def fail(self, job: Job, event: JobEvent, cause: str) -> None:
        """End a job that cannot be finished; what is done of it is written."""
        self._feeding.abandon(job.id)
        self._leasing.withdraw(job.id)
        for segment in list(self._ledger.segments[job.id].values()):
            if segment.state is SegmentState.LEASED:
                self._ledger.move_segment(segment, SegmentEvent.LOST, cause="its job failed")
        self._ledger.drop_pcm(job.id)
        self._out.append(WriteFailure(self._ledger.move_job(job, event, cause=cause)))

    def forget(self, name: str) -> None:
        """Drop a job that has ended from memory."""
        self._leasing.withdraw(name)
        self._ledger.forget_job(name)
