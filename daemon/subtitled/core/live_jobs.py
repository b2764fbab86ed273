"""The live jobs with their segments: each change is checked against the tables, counted and asked to be saved."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from subtitled.core.actions import Action, DropPcm, SaveJob, SaveNewJob, SaveNewSegment, SaveSegment
from subtitled.core.ballot import Ballot
from subtitled.core.events import SegmentRow
from subtitled.core.plan import Plan
from subtitled.core.protocol import PlanComplete
from subtitled.core.records import Job, Segment, SegmentKey
from subtitled.core.states import JOB, SEGMENT, SEGMENT_FINAL, JobEvent, SegmentEvent, SegmentState, step

BYTES_PER_SAMPLE = 2


class LiveJobs:
    """Jobs and segments in memory; what changes is appended to `out` as `Save…` and `DropPcm` actions."""

    def __init__(self, out: list[Action]) -> None:
        self.out = out
        self.jobs: dict[str, Job] = {}
        self.segments: dict[str, dict[int, Segment]] = {}
        self.ballots: dict[str, Ballot] = {}
        self.open: dict[str, int] = {}
        """Segments of each job that are not final."""
        self.starved: dict[str, set[int]] = {}
        """Pending segments of each job whose PCM is not in memory."""
        self.pcm_bytes: dict[str, int] = {}
        """PCM of each job in memory."""
        self.queued_bytes = 0
        """PCM of all jobs in memory."""
        self.open_samples = 0
        """Audio of the segments of all jobs that are not final."""

    # -- jobs ------------------------------------------------------------------------------------------------

    def add_job(self, job: Job) -> None:
        """Take in a job that is new to the store."""
        self.out.append(SaveNewJob(job))
        self.load_job(job, ())

    def load_job(self, job: Job, rows: Iterable[SegmentRow]) -> None:
        """Take in a job that the store has already, with its segments; no PCM is in memory."""
        self.jobs[job.id] = job
        self.segments[job.id] = {}
        self.open[job.id] = 0
        self.starved[job.id] = set()
        self.pcm_bytes[job.id] = 0
        self.ballots[job.id] = Ballot()
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
            self.segments[job.id][row.key.index] = segment
            self._count(segment, 1)
            if segment.state is SegmentState.DONE and segment.language is not None:
                self.ballots[job.id].add(segment.language, segment.language_probability)

    def move_job(
        self, job: Job, event: JobEvent, *, read: PlanComplete | None = None, **changes: object
    ) -> Job:
        """Take a job through a transition of the table, with changes to its other fields, and what reading its file has shown."""
        moved = replace(job, state=step(JOB, job.state, event), **changes)
        self.jobs[job.id] = moved
        media, waveform = (read.media, read.waveform) if read is not None else (None, None)
        self.out.append(SaveJob(job=moved, before=job.state, event=event, media=media, waveform=waveform))
        return moved

    def change_job(self, job: Job, **changes: object) -> Job:
        """Change other fields of a job than its state."""
        changed = replace(job, **changes)
        self.jobs[job.id] = changed
        self.out.append(SaveJob(job=changed, before=job.state, event=None))
        return changed

    def forget_job(self, job: str) -> None:
        """Drop a job, its segments and its PCM from memory; the store keeps it."""
        self.drop_pcm(job)
        for segment in self.segments.get(job, {}).values():
            self._count(segment, -1)
        for table in (self.jobs, self.segments, self.open, self.starved, self.pcm_bytes, self.ballots):
            table.pop(job, None)

    # -- segments --------------------------------------------------------------------------------------------

    def find(self, key: SegmentKey) -> Segment | None:
        """Return a live job's segment, or None."""
        return self.segments.get(key.job, {}).get(key.index)

    def add_segment(self, job: Job, plan: Plan) -> Segment:
        """Take in a newly planned segment whose PCM is in memory."""
        segment = Segment(
            key=SegmentKey(job.id, plan.index), state=SegmentState.PENDING, plan=plan, has_pcm=True
        )
        self.out.append(SaveNewSegment(segment))
        self.segments[job.id][plan.index] = segment
        self._count(segment, 1)
        return segment

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
        """Take a segment through a transition of the table, with changes to its other fields."""
        moved = replace(segment, state=step(SEGMENT, segment.state, event), **changes)
        if has_pcm is not UNSET and has_pcm != segment.has_pcm:
            moved = replace(moved, has_pcm=has_pcm)
            self.out.append(DropPcm(segment.key))
        self._put(segment, moved)
        self.out.append(
            SaveSegment(segment=moved, before=segment.state, event=event, worker=worker, result=result)
        )
        return moved

    def give_up(self, job: str) -> None:
        """Drop what is still to be decoded of a job, and all of its PCM."""
        for segment in list(self.segments[job].values()):
            if segment.state in {SegmentState.PENDING, SegmentState.LEASED, SegmentState.BURIED}:
                self.move_segment(segment, SegmentEvent.DROPPED, has_pcm=False)
        self.drop_pcm(job)

    def give_pcm(self, segment: Segment) -> Segment:
        """Note that a segment's PCM is in memory again."""
        fed = replace(segment, has_pcm=True)
        self._put(segment, fed)
        return fed

    def drop_pcm(self, job: str) -> None:
        """Forget the PCM of all segments of a job."""
        for segment in list(self.segments.get(job, {}).values()):
            self.take_pcm(segment)

    def take_pcm(self, segment: Segment) -> Segment:
        """Forget one segment's PCM, if it is in memory."""
        if not segment.has_pcm:
            return segment
        bare = replace(segment, has_pcm=False)
        self._put(segment, bare)
        self.out.append(DropPcm(segment.key))
        return bare

    def _put(self, before: Segment, after: Segment) -> None:
        self._count(before, -1)
        self.segments[after.key.job][after.key.index] = after
        self._count(after, 1)

    def _count(self, segment: Segment, sign: int) -> None:
        """Keep the sums over segments; called with -1 for the record that goes and +1 for the one that comes."""
        job, index = segment.key.job, segment.key.index
        if segment.state not in SEGMENT_FINAL:
            self.open[job] += sign
            self.open_samples += sign * segment.samples
        if segment.has_pcm:
            count = sign * segment.samples * BYTES_PER_SAMPLE
            self.pcm_bytes[job] += count
            self.queued_bytes += count
        elif segment.state is SegmentState.PENDING:
            if sign > 0:
                self.starved[job].add(index)
            else:
                self.starved[job].discard(index)
