"""One language for each file: its segments vote, and those decoded in a losing language are decoded again."""

from __future__ import annotations

from subtitled.core.lease_dispatch import LeaseDispatch
from subtitled.core.live_jobs import LiveJobs
from subtitled.core.protocol import ItemResult
from subtitled.core.records import Job, Segment
from subtitled.core.states import SegmentEvent, SegmentState


class LanguageVote:
    """Counts results, and the votes in them; a file whose language is named or `multi` has no vote."""

    def __init__(self, live_jobs: LiveJobs, lease_dispatch: LeaseDispatch) -> None:
        self._live_jobs = live_jobs
        self._lease_dispatch = lease_dispatch

    def count(self, segment: Segment, outcome: ItemResult, worker: str) -> None:
        """Take a segment's result, and its vote while the vote is open."""
        job = self._live_jobs.jobs[segment.key.job]
        is_voter = outcome.is_speech and job.options.language == "auto"
        is_outvoted = is_voter and job.language is not None and outcome.language != job.language
        # While the vote is open the segment may have to be decoded again: its PCM stays.
        done = self._live_jobs.move_segment(
            segment,
            SegmentEvent.DONE if outcome.is_speech else SegmentEvent.SKIPPED,
            worker=worker,
            result=outcome.result,
            has_pcm=segment.has_pcm and is_voter and (job.language is None or is_outvoted),
            language=outcome.language,
            language_probability=outcome.language_probability,
            cause="",
        )
        if is_outvoted:
            self._outvote(job, done)
        elif is_voter and job.language is None:
            self._live_jobs.ballots[job.id].add(outcome.language, outcome.language_probability)

    def settle(self, job: Job, *, is_complete: bool) -> Job:
        """Settle a job's language if enough have voted, or all there are; return the job as it is then."""
        if job.options.language != "auto" or job.language is not None:
            return job
        ballot = self._live_jobs.ballots[job.id]
        verdict = ballot.verdict()
        if verdict is None or not (is_complete or ballot.is_enough):
            return job
        language, probability = verdict
        job = self._live_jobs.change_job(job, language=language, language_probability=probability)
        for segment in list(self._live_jobs.segments[job.id].values()):
            if segment.state is SegmentState.DONE:
                if segment.language == language:
                    self._live_jobs.take_pcm(segment)
                else:
                    self._outvote(job, segment)
        return job

    def _outvote(self, job: Job, segment: Segment) -> None:
        cause = f"decoded as {segment.language}, the file is in {job.language}"
        again = self._live_jobs.move_segment(segment, SegmentEvent.OUTVOTED, cause=cause)
        if again.has_pcm:
            self._lease_dispatch.make_ready(again)
