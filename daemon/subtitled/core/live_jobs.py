"""The live jobs with their segments: every change is checked against the state tables, counted and saved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import Enum
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field
from msgspec.structs import replace

from subtitled.core import actions as ac
from subtitled.core.events import SegmentRow
from subtitled.core.plan import Plan
from subtitled.core.protocol import PlanComplete
from subtitled.core.queue_order import Entry, QueueOrder, queue_entry
from subtitled.core.records import FIRST_TEXT, Job, Segment, SegmentKey, TextPlan
from subtitled.core.states import (
    JOB,
    SEGMENT,
    SEGMENT_FINAL,
    JobEvent,
    JobState,
    SegmentEvent,
    SegmentState,
    step,
)

BYTES_PER_SAMPLE = 2
_UNREAD = frozenset({JobState.QUEUED, JobState.PREPARING})


class TextStage(Enum):
    """The step of its translations for which a job waits."""

    WAITING = "sentences of other jobs are translated"
    PLANNING = "its sentences are read"
    LEASING = "its text segments are translated"
    WRITING = "its files are written"


class LiveJob(Struct):
    """A job in memory, its segments, and counts over them; changed by LiveJobs only."""

    job: Job
    segments: dict[int, Segment]
    """By index in the plan; in the state TRANSLATING, its text segments."""
    open_segments: int = 0
    """Segments that are not final."""
    missing_pcm: set[int] = set()
    """Indices of pending segments whose PCM is not in memory."""
    pcm_bytes: int = 0
    """PCM in memory."""
    text_plan: int = 0
    """Number of the last PlanTranslations of the job."""
    text_stage: TextStage = TextStage.PLANNING
    is_text_outdated: bool = False
    """Its sentences or languages have changed and have to be planned again."""
    open_sentences: Counter[str] = field(default_factory=Counter)
    """Sentences that wait for a translation, by language."""


def started_entry(job: Job) -> Entry:
    """Return the place in the order of jobs in progress."""
    return (0, job.order, job.order, job.id)


def untranslated(segment: Segment) -> tuple[ac.StoredTranslation, ...]:
    """Return the results of a text segment that was given up: its sentences, with its cause as the problem of each."""
    text = segment.text
    if text is None:
        raise ValueError(f"segment {segment.key} is audio")
    return tuple(
        ac.StoredTranslation(
            target=text.request.target,
            key=key,
            source=sentence,
            text=sentence,
            problem=segment.cause,
            model=text.model,
            terms=terms,
        )
        for key, terms, sentence in zip(text.keys, text.terms, text.request.sentences, strict=True)
    )


class LiveJobs:
    """Jobs and segments in memory; changes are appended to `out` as `Save…` and `DropPcm` actions."""

    def __init__(self, out: list[ac.Action]) -> None:
        self.out = out
        self.jobs: dict[str, LiveJob] = {}
        self.queued_bytes = 0
        """PCM of all jobs in memory."""
        self.open_samples = 0
        """Audio of the segments of all jobs that are not final."""
        self.open_sentences = 0
        """Sentences of all jobs that are planned and not translated."""
        self.unread_files = self.unread_bytes = 0
        """Files that are queued or read and have no plan yet, and their size."""
        self.count_by_model: Counter[str] = Counter()
        """Jobs that name a model."""
        self.waiting = QueueOrder()
        """The queued jobs in the order in which they are started."""
        self.started = QueueOrder()
        """All other jobs in memory, oldest first."""

    # -- jobs ------------------------------------------------------------------------------------------------

    def add_job(self, job: Job) -> None:
        """Add a job that the store does not have yet."""
        self.out.append(ac.SaveNewJob(job))
        self.load_job(job, ())

    def load_job(self, job: Job, rows: Iterable[SegmentRow]) -> None:
        """Add a stored job with its segments; no PCM is in memory."""
        live = self.jobs[job.id] = LiveJob(job, {})
        self._count_job(job, 1)
        for row in rows:
            segment = Segment(
                key=row.key,
                state=SegmentState(row.state),
                plan=row.plan,
                losses=row.losses,
                cause=row.cause,
                language=row.language,
                language_probability=row.language_probability,
            )
            live.segments[row.key.index] = segment
            self._count(live, segment, 1)

    def job(self, name: str) -> Job:
        """Return a live job; raises KeyError."""
        return self.jobs[name].job

    def move_job(
        self, job: Job, event: JobEvent, *, read: PlanComplete | None = None, **changes: object
    ) -> Job:
        """Apply a transition of the table and changes to other fields; `read` is stored with the job."""
        moved = replace(job, state=step(JOB, job.state, event), **changes)
        self._put_job(moved)
        facts: dict[str, Any] = {}
        if read is not None:
            facts = {"media": read.media, "waveform": read.waveform, "cues": read.cues}
        self.out.append(ac.SaveJob(job=moved, before=job.state, event=event, **facts))
        return moved

    def change_job(self, job: Job, **changes: object) -> Job:
        """Change fields of a job other than its state."""
        changed = replace(job, **changes)
        self._put_job(changed)
        self.out.append(ac.SaveJob(job=changed, before=job.state, event=None))
        return changed

    def rename_source(self, job: Job, source: bytes) -> None:
        """Record that a job's file is at `source` now."""
        renamed = replace(job, source=source, location=source)
        self._put_job(renamed)
        self.out.append(ac.SaveSource(renamed))

    def forget_job(self, name: str) -> None:
        """Drop a job, its segments and its PCM from memory; the store keeps it."""
        if name in self.jobs:
            self.drop_job_pcm(name)
            live = self.jobs.pop(name)
            self._count_job(live.job, -1)
            for segment in live.segments.values():
                self._count(live, segment, -1)

    # -- segments --------------------------------------------------------------------------------------------

    def find(self, key: SegmentKey) -> Segment | None:
        """Return a live job's segment, or None."""
        live = self.jobs.get(key.job)
        return live.segments.get(key.index) if live is not None else None

    def segment(self, key: SegmentKey) -> Segment:
        """Return a live job's segment; raises KeyError."""
        return self.jobs[key.job].segments[key.index]

    def segments_in(self, name: str, *states: SegmentState) -> list[Segment]:
        """Return a live job's segments that are in one of these states."""
        return [segment for segment in self.jobs[name].segments.values() if segment.state in states]

    def add_segment(self, job: Job, plan: Plan) -> Segment:
        """Add a newly planned segment whose PCM is in memory."""
        segment = Segment(
            key=SegmentKey(job.id, plan.index), state=SegmentState.PENDING, plan=plan, has_pcm=True
        )
        self.out.append(ac.SaveNewSegment(segment))
        live = self.jobs[job.id]
        live.segments[plan.index] = segment
        self._count(live, segment, 1)
        return segment

    def start_texts(self, job: Job) -> LiveJob:
        """Drop the audio segments of a job whose translation begins from memory; the store keeps them."""
        live = self.jobs[job.id]
        for segment in live.segments.values():
            self._count(live, segment, -1)
        live.segments = {}
        live.text_stage = TextStage.WAITING
        return live

    def add_text(self, job: Job, text: TextPlan) -> Segment:
        """Add a text segment."""
        live = self.jobs[job.id]
        key = SegmentKey(job.id, FIRST_TEXT + len(live.segments))  # text segments are removed together
        segment = live.segments[key.index] = Segment(key=key, state=SegmentState.PENDING, text=text)
        self._count(live, segment, 1)
        return segment

    def move_text(
        self,
        segment: Segment,
        event: SegmentEvent,
        translations: tuple[ac.StoredTranslation, ...],
        **changes: object,
    ) -> Segment:
        """Apply a transition of the table to a text segment, and store the translations that it has now."""
        moved = replace(segment, state=step(SEGMENT, segment.state, event), **changes)
        if moved.state is SegmentState.FAILED:
            translations = untranslated(moved)
        self._put(segment, moved)
        self.out.append(
            ac.SaveText(segment=moved, before=segment.state, event=event, translations=translations)
        )
        return moved

    def drop_translations(self, job: Job, target: str = "", keys: tuple[str, ...] = ()) -> None:
        """Delete stored sentences of a job, as DropTranslations says."""
        self.out.append(ac.DropTranslations(job=job.id, target=target, keys=keys))

    def move_segment(
        self,
        segment: Segment,
        event: SegmentEvent,
        *,
        worker: str = "",
        result: bytes | None = None,
        has_pcm: bool | UnsetType = UNSET,
        **changes: object,
    ) -> Segment:
        """Apply a transition of the table and changes to other fields."""
        if segment.text is not None:
            return self.move_text(segment, event, (), **changes)
        moved = replace(segment, state=step(SEGMENT, segment.state, event), **changes)
        if has_pcm is not UNSET and has_pcm != segment.has_pcm:
            moved = replace(moved, has_pcm=has_pcm)
            self.out.append(ac.DropPcm(segment.key))
        self._put(segment, moved)
        self.out.append(
            ac.SaveSegment(segment=moved, before=segment.state, event=event, worker=worker, result=result)
        )
        return moved

    def drop_segments(self, name: str) -> None:
        """Drop the segments of a job that have no result, and all of its PCM."""
        unfinished = (SegmentState.PENDING, SegmentState.LEASED, SegmentState.FAILED)
        for segment in self.segments_in(name, *unfinished):
            self.move_segment(segment, SegmentEvent.DROPPED, has_pcm=False)
        self.drop_job_pcm(name)

    def add_pcm(self, segment: Segment) -> Segment:
        """Record that a segment's PCM is in memory again."""
        after = replace(segment, has_pcm=True)
        self._put(segment, after)
        return after

    def drop_job_pcm(self, name: str) -> None:
        """Drop the PCM of all segments of a job."""
        for segment in list(self.jobs[name].segments.values()):
            self.drop_pcm(segment)

    def drop_pcm(self, segment: Segment) -> Segment:
        """Drop one segment's PCM, if it is in memory."""
        if not segment.has_pcm:
            return segment
        after = replace(segment, has_pcm=False)
        self._put(segment, after)
        self.out.append(ac.DropPcm(segment.key))
        return after

    def _put_job(self, job: Job) -> None:
        live = self.jobs[job.id]
        self._count_job(live.job, -1)
        live.job = job
        self._count_job(job, 1)

    def _count_job(self, job: Job, sign: int) -> None:
        """Update the counts and the orders, as `_count`."""
        is_waiting = job.state is JobState.QUEUED
        order, entry = (self.waiting, queue_entry(job)) if is_waiting else (self.started, started_entry(job))
        if sign > 0:
            order.add(entry)
        else:
            order.discard(entry)
        if job.state in _UNREAD and not job.is_planned:
            self.unread_files += sign
            self.unread_bytes += sign * job.size
        model = job.options.model
        self.count_by_model[model] += sign
        if not self.count_by_model[model]:
            del self.count_by_model[model]

    def _put(self, before: Segment, after: Segment) -> None:
        live = self.jobs[after.key.job]
        self._count(live, before, -1)
        live.segments[after.key.index] = after
        self._count(live, after, 1)

    def _count(self, live: LiveJob, segment: Segment, sign: int) -> None:
        """Update the counts: -1 for a record that is removed, +1 for one that is added."""
        if segment.state not in SEGMENT_FINAL:
            live.open_segments += sign
            if segment.text is None:
                self.open_samples += sign * segment.samples
            else:
                self.open_sentences += sign * len(segment.text.keys)
                live.open_sentences[segment.text.request.target] += sign * len(segment.text.keys)
        if segment.text is not None:
            return
        if segment.has_pcm:
            count = sign * segment.samples * BYTES_PER_SAMPLE
            live.pcm_bytes += count
            self.queued_bytes += count
        elif segment.state is SegmentState.PENDING:
            if sign > 0:
                live.missing_pcm.add(segment.key.index)
            else:
                live.missing_pcm.discard(segment.key.index)
