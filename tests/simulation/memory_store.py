"""The database as a plain table: the same guards as the real store, none of its files."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from subtitled.core.actions import Save, SaveJob, SaveNewJob, SaveNewSegment, SaveSegment, SaveWorker
from subtitled.core.events import SegmentRow
from subtitled.core.records import Job, Segment, SegmentKey
from subtitled.core.states import JOB_LIVE, JobState, SegmentState


class Disagreement(Exception):
    """A save that the table refuses: memory and store no longer agree."""


class ModelStore:
    """Jobs and segments that outlive the daemon's lives; applies `Save…` actions as store.py does."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.segments: dict[str, dict[int, Segment]] = {}
        self.results: dict[SegmentKey, bytes] = {}
        """The newest result of each segment that has one."""
        self.last_order = 0

    def next_order(self) -> int:
        """Return the order of the next new job."""
        self.last_order += 1
        return self.last_order

    def apply(self, saves: Iterable[Save]) -> None:
        """Apply all of `saves`; raises Disagreement where a row is not what the save says it is."""
        for save in saves:
            match save:
                case SaveNewJob(job=job):
                    if job.id in self.jobs:
                        raise Disagreement(f"job {job.id} is inserted twice")
                    self.jobs[job.id] = job
                    self.segments[job.id] = {}
                case SaveJob():
                    self._update_job(save)
                case SaveNewSegment(segment=segment):
                    rows = self.segments[segment.key.job]
                    if segment.key.index in rows:
                        raise Disagreement(f"segment {segment.key} is inserted twice")
                    rows[segment.key.index] = segment
                case SaveSegment():
                    self._update_segment(save)
                case SaveWorker():
                    pass

    def unfinished(self) -> list[tuple[Job, tuple[SegmentRow, ...]]]:
        """Return the jobs that a restarted daemon takes up, oldest first, with their segments."""
        jobs = [
            job
            for job in self.jobs.values()
            if job.state in JOB_LIVE or (job.state is JobState.FAILED and not job.is_closed)
        ]
        return [(job, self.rows(job.id)) for job in sorted(jobs, key=lambda job: job.order)]

    def rows(self, job: str) -> tuple[SegmentRow, ...]:
        """Return a job's segments as the broker takes them up."""
        return tuple(
            SegmentRow(
                key=segment.key,
                state=segment.state.value,
                plan=segment.plan,
                losses=segment.losses,
                cause=segment.cause,
                language=segment.language,
                language_probability=segment.language_probability,
            )
            for _, segment in sorted(self.segments[job].items())
        )

    def _update_job(self, save: SaveJob) -> None:
        stored = self.jobs.get(save.job.id)
        if stored is None or stored.state is not save.before:
            raise Disagreement(f"job {save.job.id} is not {save.before.value} but {stored}")
        # What the UPDATE does not write must not have changed.
        kept: tuple[str, ...] = ("source", "options", "order", "owner", "tag", "repetition")
        if save.before is not JobState.RECEIVING:
            kept += ("size", "mtime_ns", "sha256")  # of what has arrived
        if any(getattr(stored, name) != getattr(save.job, name) for name in kept):
            raise Disagreement(f"job {save.job.id} changed in a field that is never updated")
        self.jobs[save.job.id] = save.job

    def _update_segment(self, save: SaveSegment) -> None:
        key = save.segment.key
        stored = self.segments.get(key.job, {}).get(key.index)
        if stored is None or stored.state is not save.before:
            raise Disagreement(f"segment {key} is not {save.before.value} but {stored}")
        if stored.plan != save.segment.plan:
            raise Disagreement(f"segment {key}: its plan changed, which is never updated")
        self.segments[key.job][key.index] = save.segment
        if save.result is not None:
            self.results[key] = save.result

    def agrees_with(self, job: Job, segments: dict[int, Segment]) -> bool:
        """Say whether a live job in memory is what is stored; where its PCM is, is not stored."""
        stored = self.segments.get(job.id, {})
        return (
            self.jobs.get(job.id) == job
            and stored.keys() == segments.keys()
            and all(
                segment is stored[index] or replace(segment, has_pcm=stored[index].has_pcm) == stored[index]
                for index, segment in segments.items()
            )
        )

    def faults_at_the_end(self) -> list[str]:
        """Return what is wrong with each job once nothing can happen any more; empty when all have ended well."""
        return [fault for job in self.jobs.values() if (fault := self._fault(job))]

    def _fault(self, job: Job) -> str:
        states = {segment.state for segment in self.segments[job.id].values()}
        match job.state:
            case JobState.DONE if job.is_already_subtitled:
                is_given_up = states <= {SegmentState.DONE, SegmentState.SKIPPED, SegmentState.DROPPED}
                return "" if is_given_up else f"job {job.id} is needless and has segments to do"
            case JobState.DONE:
                if not job.is_planned:
                    return f"job {job.id} is done without a plan"
                if not states <= {SegmentState.DONE, SegmentState.SKIPPED}:
                    return f"job {job.id} is done with segments {sorted(s.value for s in states)}"
                missing = [i for i in self.segments[job.id] if SegmentKey(job.id, i) not in self.results]
                return f"job {job.id} is done without results of {missing}" if missing else ""
            case JobState.FAILED:
                return "" if job.cause and job.is_closed else f"job {job.id} failed without cause or closure"
            case JobState.CANCELLED:
                return "" if SegmentState.LEASED not in states else f"job {job.id} is cancelled with a lease"
            case _:
                return f"job {job.id} never ended: it is {job.state.value}"
