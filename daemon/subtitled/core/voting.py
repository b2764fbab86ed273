"""The vote on each file's language: which answers count, when it is settled, what it turns down."""

from __future__ import annotations

from subtitled.core import events as ev
from subtitled.core.leasing import Leasing
from subtitled.core.ledger import Ledger
from subtitled.core.records import Job, Segment
from subtitled.core.states import SegmentEvent, SegmentState


class Voting:
    """Takes results, and has those decoded again whose language loses."""

    def __init__(self, ledger: Ledger, leasing: Leasing) -> None:
        self._ledger = ledger
        self._leasing = leasing

    def count(self, segment: Segment, outcome: ev.Outcome, worker: str) -> None:
        """Store a result; it votes, unless its segment is silent or the language was given."""
        job = self._ledger.jobs[segment.key.job]
        is_voter = outcome.is_speech and job.options.language == "auto"
        is_outvoted = is_voter and job.language is not None and outcome.language != job.language
        # While the vote is open the segment may have to be decoded again: its PCM stays.
        done = self._ledger.move_segment(
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
            self._ledger.ballots[job.id].add(outcome.language, outcome.language_probability)

    def settle(self, job: Job, *, is_complete: bool) -> Job:
        """Settle a job's language if enough have voted, or all have; return the job."""
        if job.options.language == "auto" and job.language is None:
            ballot = self._ledger.ballots[job.id]
            if (verdict := ballot.verdict()) is not None and (is_complete or ballot.is_enough):
                return self._settle(job, *verdict)
        return job

    def _settle(self, job: Job, language: str, probability: float) -> Job:
        job = self._ledger.change_job(job, language=language, language_probability=probability)
        for segment in list(self._ledger.segments[job.id].values()):
            if segment.state is SegmentState.DONE:
                if segment.language == language:
                    self._ledger.take_pcm(segment)
                else:
                    self._outvote(job, segment)
        return job

    def _outvote(self, job: Job, segment: Segment) -> None:
        cause = f"decoded as {segment.language}, the file is in {job.language}"
        again = self._ledger.move_segment(segment, SegmentEvent.OUTVOTED, cause=cause)
        if again.has_pcm:
            self._leasing.make_ready(again)
