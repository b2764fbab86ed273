"""The lifecycle of a job: its results are counted, its language is settled, and it ends with its last segment.

A file has one language: its segments vote, and those decoded in another language are decoded again. A file whose language
is given, or is `multi`, has no vote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec.structs import replace

from subtitled.core import actions as ac
from subtitled.core.events import TranslationRequested, TranslationsPlanned
from subtitled.core.lease_dispatch import LeaseDispatch
from subtitled.core.live_jobs import LiveJob, LiveJobs, TextStage
from subtitled.core.prepare_dispatch import PrepareDispatch
from subtitled.core.protocol import ItemResult, SegmentResult, TextResult
from subtitled.core.queue_order import QueueOrder, queue_entry
from subtitled.core.records import Job, Segment
from subtitled.core.states import JobEvent, JobState, SegmentEvent, SegmentState
from subtitled.languages import ENGLISH

MAX_PLANNING = 4
"""Jobs whose sentences are read at once."""
MAX_OPEN_SENTENCES = 100_000
"""While more sentences are in memory, further jobs are not planned, unless their priority is higher; some 350 bytes each."""
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
        out: list[ac.Action],
    ) -> None:
        self._live_jobs = live_jobs
        self._prepare_dispatch = prepare_dispatch
        self._lease_dispatch = lease_dispatch
        self._out = out
        self._last_text_plan = 0
        self._unplanned = QueueOrder()
        """Jobs to be translated whose sentences are not read yet."""
        self._planning: set[str] = set()
        """Ids of jobs whose sentences are being read."""
        self._with_texts: dict[str, LiveJob] = {}
        """Jobs whose text segments are in memory."""

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
        if live is not None and live.job.state is JobState.TRANSLATING:
            self._advance_texts(live)
            return
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
            self._out.append(ac.WriteOutputs(self._live_jobs.move_job(job, JobEvent.ALL_DONE)))

    def written(self, name: str, location: bytes, unheard: int = 0) -> None:
        """End a job whose transcript is written, or go on with its translations."""
        job = self._live_jobs.job(name)
        is_translated = bool(job.translate_to) and not job.is_already_subtitled
        event = JobEvent.TRANSLATE if is_translated else JobEvent.WRITTEN
        job = self._live_jobs.move_job(job, event, location=location, is_closed=True, unheard=unheard)
        if is_translated:
            self.plan_texts(job)
        else:
            self.forget(name)

    # -- translations ----------------------------------------------------------------------------------------

    def plan_texts(self, job: Job) -> None:
        """Have the sentences of a job read that have no stored translation, as soon as there is room for them."""
        live = self._live_jobs.start_texts(job)
        self._last_text_plan += 1
        live.text_plan = self._last_text_plan
        self._forget_texts(job.id)
        self._unplanned.add(queue_entry(job))
        self._plan_next()

    def move(self, before: Job, job: Job) -> None:
        """Apply a job's changed priority and place."""
        if self._unplanned.discard(queue_entry(before)):
            self._unplanned.add(queue_entry(job))

    def _plan_next(self) -> None:
        """Plan jobs in the order of the queue, while there is room."""
        while self._unplanned and len(self._planning) < MAX_PLANNING:
            live = self._live_jobs.jobs[self._unplanned.first[3]]
            job = live.job
            before = (other for other in self._with_texts.values() if other.job.priority >= job.priority)
            if sum(other.open_sentences.total() for other in before) >= MAX_OPEN_SENTENCES:
                return
            self._unplanned.pop_first()
            self._planning.add(job.id)
            live.text_stage = TextStage.PLANNING
            live.is_text_outdated = False
            self._out.append(ac.PlanTranslations(job=job, number=live.text_plan))

    def _forget_texts(self, name: str) -> None:
        if (live := self._live_jobs.jobs.get(name)) is not None:
            self._unplanned.discard(queue_entry(live.job))
        self._planning.discard(name)
        self._with_texts.pop(name, None)

    def translate(self, event: TranslationRequested) -> None:
        """Add languages to a job, or translate what has changed; one that is failed or cancelled is not translated."""
        live = self._live_jobs.jobs.get(event.job.id)
        job = live.job if live is not None else event.job
        if job.state in {JobState.FAILED, JobState.CANCELLED} or job.is_already_subtitled:
            return
        if event.is_edit and not job.active_languages:
            return
        requested = () if event.is_edit else event.languages or job.translate_to
        added: dict[str, Any] = {
            "added_languages": tuple(dict.fromkeys((*job.added_languages, *event.languages))),
            "cancelled_languages": tuple(tag for tag in job.cancelled_languages if tag not in requested),
        }
        if event.model:
            models = {**dict(job.added_models), **dict.fromkeys(requested, event.model)}
            added["added_models"] = tuple(models.items())
        if live is None:
            self._live_jobs.load_job(job, ())
            job = self._live_jobs.move_job(job, JobEvent.TRANSLATE, translation_cause="", **added)
        else:
            job = self._live_jobs.change_job(job, **added)
        if event.is_retry:
            self._live_jobs.drop_translations(job)
        if live is None:
            self.plan_texts(job)
        elif job.state is JobState.TRANSLATING:
            live.is_text_outdated = True

    def cancel_texts(self, job: Job) -> Job:
        """End the translation of a job: its languages with sentences that are not translated yet count as cancelled."""
        live = self._live_jobs.jobs[job.id]
        is_planned = live.text_stage in {TextStage.LEASING, TextStage.WRITING} and not live.is_text_outdated
        open_languages = +live.open_sentences if is_planned else job.translate_to
        cancelled = tuple(dict.fromkeys((*job.cancelled_languages, *open_languages)))
        return self._live_jobs.move_job(job, JobEvent.CANCEL, cancelled_languages=cancelled)

    def texts_planned(self, event: TranslationsPlanned) -> None:
        """Queue the text segments of a job."""
        live = self._planned(event.job, event.number)
        if live is None or live.text_stage is not TextStage.PLANNING:
            return
        if event.cause and live.is_text_outdated:
            self.plan_texts(live.job)
            return
        if event.cause:  # stored translations stay, and so do the files
            self._live_jobs.move_job(live.job, JobEvent.TRANSLATED, translation_cause=event.cause[:400])
            self.forget(event.job)
            return
        live.text_stage = TextStage.LEASING
        self._planning.remove(event.job)
        self._with_texts[event.job] = live
        for target, keys in event.keys:
            self._live_jobs.drop_translations(live.job, target, keys)
        for text in event.texts:
            segment = self._live_jobs.add_text(live.job, text)
            if text.problem:
                self._live_jobs.move_text(segment, SegmentEvent.EXHAUSTED, (), cause=text.problem)
            else:
                self._lease_dispatch.make_ready(segment)
        self._advance_texts(live)
        self._plan_next()

    def add_translations(self, segment: Segment, result: TextResult) -> None:
        """Store the result of a text segment, which has one for each sentence."""
        text = segment.text
        if text is None:
            raise ValueError(f"segment {segment.key} is audio")
        rows = tuple(
            ac.StoredTranslation(
                target=text.request.target,
                key=key,
                source=sentence,
                text=found.text,
                problem=found.problem,
                model=text.model,
                engine=result.engine,
                version=result.version,
                warning=found.warning,
                terms=terms,
            )
            for key, terms, sentence, found in zip(
                text.keys, text.terms, text.request.sentences, result.sentences, strict=True
            )
        )
        self._live_jobs.move_text(segment, SegmentEvent.DONE, rows, cause="")
        self._plan_next()

    def fail_texts(self, name: str, model: str, cause: str) -> None:
        """Leave the sentences of a job untranslated that wait for a model which cannot be used."""
        self._lease_dispatch.ready.remove_job(name)
        for segment in self._live_jobs.segments_in(name, SegmentState.PENDING):
            if segment.text is not None and segment.text.model == model:
                self._live_jobs.move_text(segment, SegmentEvent.EXHAUSTED, (), cause=cause)
            else:
                self._lease_dispatch.make_ready(segment)
        self.advance(name)

    def translations_written(self, name: str, number: int) -> None:
        """End a job whose translations are written, unless they have to be made again."""
        live = self._planned(name, number)
        if live is None or live.text_stage is not TextStage.WRITING:
            return
        if live.is_text_outdated:
            self.plan_texts(live.job)
            return
        self._live_jobs.move_job(live.job, JobEvent.TRANSLATED)
        self.forget(name)

    def _planned(self, name: str, number: int) -> LiveJob | None:
        """Return a job that is translated by the plan of this number."""
        live = self._live_jobs.jobs.get(name)
        if live is None or live.job.state is not JobState.TRANSLATING or live.text_plan != number:
            return None
        return live

    def _advance_texts(self, live: LiveJob) -> None:
        """Write the translations of a job, or plan them again, once its text segments are final."""
        if live.text_stage is not TextStage.LEASING or live.open_segments:
            return
        if live.is_text_outdated:
            self.plan_texts(live.job)
        else:
            live.text_stage = TextStage.WRITING
            self._out.append(ac.WriteTranslations(job=live.job, number=live.text_plan))

    def fail(self, job: Job, event: JobEvent, cause: str) -> None:
        """End a job that cannot be finished; its results so far are written."""
        self._prepare_dispatch.abandon(job.id)
        self._lease_dispatch.remove_job(job.id)
        for segment in self._live_jobs.segments_in(job.id, SegmentState.LEASED):
            self._live_jobs.move_segment(segment, SegmentEvent.LOST, cause="its job failed")
        self._live_jobs.drop_job_pcm(job.id)
        self._out.append(ac.WriteFailure(self._live_jobs.move_job(job, event, cause=cause)))

    def forget(self, name: str) -> None:
        """Drop a job that has ended from memory."""
        self._lease_dispatch.remove_job(name)
        self._forget_texts(name)
        self._live_jobs.forget_job(name)
        self._plan_next()

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
