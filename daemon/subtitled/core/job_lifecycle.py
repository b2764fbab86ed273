"""The lifecycle of a job: its results are counted, its language is settled, and it ends with its last segment.

A file has one language: its segments vote, and those decoded in another language are decoded again. A file whose language
is given, or is `multi`, has no vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from subtitled.core.actions import Action, WriteFailure, WriteOutputs
from subtitled.core.lease_dispatch import LeaseDispatch
from subtitled.core.live_jobs import LiveJobs
from subtitled.core.prepare_dispatch import PrepareDispatch
from subtitled.core.protocol import ItemResult, SegmentResult
from subtitled.core.records import Job, Segment
from subtitled.core.states import JobEvent, JobState, SegmentEvent, SegmentState
from subtitled.languages import ENGLISH

VOTES = 4
"""Segments with speech that settle a file's language; one would let a musical intro decide."""


def language_vote(segments: Iterable[Segment]) -> tuple[str, float] | None:
    """Return the language with the highest total probability, and its mean probability; None without votes.

    A tie goes to the language with more speech, then to the language code that sorts first.
    """
    probabilities: dict[str, list[float]] = {}
    speech: Counter[str] = Counter()
    for segment in segments:
        if segment.language is not None:
            probabilities.setdefault(segment.language, []).append(segment.language_probability)
            speech[segment.language] += sum(span.end - span.start for span in segment.plan.spans)
    if not probabilities:
        return None
    winner = min(probabilities, key=lambda code: (-sum(probabilities[code]), -speech[code], code))
    return winner, sum(probabilities[winner]) / len(probabilities[winner])


def _translated(transcript: bytes, item: ItemResult) -> ItemResult:
    """Return the result of a segment that one model has transcribed, and another one translated."""
    transcribed = msgspec.msgpack.decode(transcript, type=SegmentResult)
    translated = msgspec.msgpack.decode(item.result, type=SegmentResult)
    return ItemResult.of(item.key, replace(transcribed, translation=translated.phrases))


class JobLifecycle:
    """Advances jobs when the state of their segments has changed."""

    def __init__(
        self,
        live_jobs: LiveJobs,
        prepare_dispatch: PrepareDispatch,
        lease_dispatch: LeaseDispatch,
        out: list[Action],
    ) -> None:
        self._live_jobs = live_jobs
        self._prepare_dispatch = prepare_dispatch
        self._lease_dispatch = lease_dispatch
        self._out = out

    def add_result(self, segment: Segment, item: ItemResult, worker: str) -> None:
        """Store a segment's result; decode it again if it is not in the job's settled language.

        If another model translates, the result of the first one is kept until that has decoded the segment as well.
        """
        job = self._live_jobs.job(segment.key.job)
        if segment.transcript is not None:
            item = _translated(segment.transcript, item)
        is_vote = item.is_speech and job.options.language == "auto"
        is_other_language = is_vote and job.language is not None and item.language != job.language
        is_translated = segment.transcript is not None or item.language == ENGLISH
        if job.options.translation_model is not None and item.is_speech and not is_translated:
            transcribed = self._live_jobs.move_segment(
                segment,
                SegmentEvent.TRANSCRIBED,
                worker=worker,
                language=item.language,
                language_probability=item.language_probability,
                transcript=item.result,
                cause="",
            )
            self._lease_dispatch.make_ready(transcribed)
            return
        # While the vote is open the segment may have to be decoded again: its PCM stays.
        done = self._live_jobs.move_segment(
            segment,
            SegmentEvent.DONE if item.is_speech else SegmentEvent.SKIPPED,
            worker=worker,
            result=item.result,
            has_pcm=segment.has_pcm and is_vote and (job.language is None or is_other_language),
            language=item.language,
            language_probability=item.language_probability,
            transcript=None,
            cause="",
        )
        if is_other_language:
            self._decode_again(job, done)

    def advance_all(self, jobs: Iterable[str]) -> None:
        """Advance several jobs."""
        for job in sorted(jobs):
            self.advance(job)

    def advance(self, name: str) -> None:
        """Settle a job's language if possible, and end the job if all its segments are final."""
        live = self._live_jobs.jobs.get(name)
        if live is None or live.job.state not in {
            JobState.QUEUED,
            JobState.PREPARING,
            JobState.TRANSCRIBING,
        }:
            return
        self._settle_language(
            live.job, is_complete=live.job.state is JobState.TRANSCRIBING and not live.open_segments
        )
        job = live.job
        if job.state is not JobState.TRANSCRIBING:
            return
        if live.open_segments:
            if live.missing_pcm:
                self._prepare_dispatch.enqueue(job)
            return
        failed = len(self._live_jobs.segments_in(name, SegmentState.FAILED))
        if failed:
            cause = f"{failed} of {len(live.segments)} segments could not be transcribed"
            self.fail(job, JobEvent.SEGMENTS_FAILED, cause)
        else:
            # The file may still be read, though none of it is needed any more: no feed outlives its job.
            self._prepare_dispatch.abandon(name)
            self._out.append(WriteOutputs(self._live_jobs.move_job(job, JobEvent.ALL_DONE)))

    def fail(self, job: Job, event: JobEvent, cause: str) -> None:
        """End a job that cannot be finished; its results so far are written."""
        self._prepare_dispatch.abandon(job.id)
        self._lease_dispatch.remove_job(job.id)
        for segment in self._live_jobs.segments_in(job.id, SegmentState.LEASED):
            self._live_jobs.move_segment(segment, SegmentEvent.LOST, cause="its job failed")
        self._live_jobs.drop_job_pcm(job.id)
        self._out.append(WriteFailure(self._live_jobs.move_job(job, event, cause=cause)))

    def forget(self, name: str) -> None:
        """Drop a job that has ended from memory."""
        self._lease_dispatch.remove_job(name)
        self._live_jobs.forget_job(name)

    def _settle_language(self, job: Job, *, is_complete: bool) -> None:
        """Settle a job's language if enough segments have voted, or all have."""
        if job.options.language != "auto" or job.language is not None:
            return
        voters = self._live_jobs.segments_in(job.id, SegmentState.DONE)
        vote = language_vote(voters)
        if vote is None or not (is_complete or len(voters) >= VOTES):
            return
        language, probability = vote
        job = self._live_jobs.change_job(job, language=language, language_probability=probability)
        for segment in voters:
            if segment.language == language:
                self._live_jobs.drop_pcm(segment)
            else:
                self._decode_again(job, segment)

    def _decode_again(self, job: Job, segment: Segment) -> None:
        cause = f"decoded as {segment.language}, the file is in {job.language}"
        again = self._live_jobs.move_segment(segment, SegmentEvent.LANGUAGE_CHANGED, cause=cause)
        if again.has_pcm:
            self._lease_dispatch.make_ready(again)
