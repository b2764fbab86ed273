"""The real store on a database in memory, compared after each commit with a plain table of the same guards."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec.structs import replace

from subtitled.core.actions import (
    DropTranslations,
    Save,
    SaveJob,
    SaveNewJob,
    SaveNewSegment,
    SavePause,
    SaveSegment,
    SaveSource,
    SaveText,
    SaveWorker,
    StoredTranslation,
)
from subtitled.core.events import SegmentRow
from subtitled.core.records import Job, Segment, SegmentKey
from subtitled.core.states import JobState, SegmentState
from subtitled.storage.rows import JournalEntry
from subtitled.storage.store import Store


class Disagreement(Exception):
    """A save that the table refuses: memory and store no longer agree."""


class StoreTable:
    """Jobs and segments that outlive the daemon; applies saves as the real store must."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.segments: dict[str, dict[int, Segment]] = {}
        self.results: dict[SegmentKey, bytes] = {}
        """The newest result of each segment that has one."""
        self.translations: dict[tuple[str, str], dict[str, StoredTranslation]] = {}
        """The stored sentences of each job and language, by their keys."""
        self.incarnations: dict[str, int] = {}
        """The newest incarnation of each worker slot that is in the journal."""

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
                case SaveSource(job=job):
                    self.jobs[job.id] = replace(self.jobs[job.id], source=job.source, location=job.location)
                case SaveNewSegment(segment=segment):
                    rows = self.segments[segment.key.job]
                    if segment.key.index in rows:
                        raise Disagreement(f"segment {segment.key} is inserted twice")
                    rows[segment.key.index] = segment
                case SaveSegment():
                    self._update_segment(save)
                case SaveText(segment=segment):
                    stored = self.translations.setdefault((segment.key.job, save.target), {})
                    for row in save.translations:  # one without a translation keeps the earlier one
                        if not row.problem or row.key not in stored or stored[row.key].problem:
                            stored[row.key] = row
                case DropTranslations(job=job_id, target=target, keys=keys):
                    for (name, language), stored in self.translations.items():
                        if name == job_id and language == (target or language):
                            for key in list(stored):
                                if key not in keys if target else stored[key].problem:
                                    del stored[key]
                case SavePause():
                    pass  # the database has it
                case SaveWorker(slot=slot, incarnation=incarnation):
                    self.incarnations[slot] = incarnation

    def rows(self, job: str) -> tuple[SegmentRow, ...]:
        """Return a job's segments as the real store must."""
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
        """Say whether a live job in memory is what is stored; its PCM and its transcript for a translation are not."""
        stored = self.segments.get(job.id, {})
        if job.state is JobState.TRANSLATING:
            return self.jobs.get(job.id) == job and all(
                text.state is not SegmentState.DONE  # a retry deletes the sentences of failed ones
                or self.translations[job.id, text.text.request.target].keys() >= set(text.text.keys)
                for text in segments.values()
                if text.text is not None
            )
        return (
            self.jobs.get(job.id) == job
            and stored.keys() == segments.keys()
            and all(
                segment is (kept := stored[index])
                or replace(segment, has_pcm=kept.has_pcm, transcript=kept.transcript) == kept
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
                return "" if is_given_up else f"job {job.id} is already subtitled and has segments to do"
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


class SimulatedStore(Store):
    """The database of one history: real SQLite, beside a `StoreTable` of what it must hold."""

    def __init__(self) -> None:
        """Open one in memory, for one history after the other: to open it takes as long as a history."""
        self._folder = tempfile.TemporaryDirectory(prefix="simulation-", dir=_memory_folder())
        self.folder = Path(self._folder.name)
        super().__init__(str(self.folder / "subtitled.sqlite"))
        self._db.execute("PRAGMA synchronous = OFF")
        self._tables = [
            name
            for (name,) in self._db.execute(
                "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%STRICT%'"
                " ORDER BY name = 'job_counts'"  # triggers change it when jobs are deleted
            )
        ]
        self.table = StoreTable()
        self.before_commit: Callable[[list[Save]], None] = _nothing
        """Called before each commit; what it raises is raised in the daemon, which has not committed then."""
        self.after_commit: Callable[[list[Save]], None] = _nothing

    def clear(self) -> None:
        """Forget everything."""
        self._db.execute("BEGIN")
        self._db.execute("PRAGMA defer_foreign_keys = ON")
        for table in self._tables:
            self._db.execute(f"DELETE FROM {table}")  # noqa: S608 - names of the schema
        self._db.execute("COMMIT")
        self.table = StoreTable()
        self.before_commit = self.after_commit = _nothing
        self.restart()

    def restart(self) -> None:
        """Do what opening the database again does."""
        self._last_order = max((job.order for job in self.table.jobs.values()), default=0)

    @property
    def jobs(self) -> dict[str, Job]:
        """The jobs that are stored, by id; not to be changed."""
        return self.table.jobs

    def apply(self, saves: Iterable[Save]) -> list[JournalEntry]:
        """Commit, in the database and in the table."""
        saves = list(saves)
        if not saves:
            return []
        self.before_commit(saves)
        entries = super().apply(saves)
        self.table.apply(saves)
        self.after_commit(saves)
        return entries

    def faults_at_the_end(self) -> list[str]:
        """Return what is wrong with each job once nothing can happen any more; empty when all have ended well."""
        faults = self.table.faults_at_the_end()
        for row in self.list_jobs(limit=len(self.jobs) + 1):
            if row.job != self.jobs.get(row.job.id):
                faults.append(f"job {row.job.id} is stored as {row.job}, not as {self.jobs.get(row.job.id)}")
            for target in row.job.translate_to:
                expected = self.table.translations.get((row.job.id, target), {})
                if self.translations(row.job.id, target) != expected:
                    faults.append(f"the translations of job {row.job.id} are not stored as they were saved")
            if self.segment_rows(row.job.id) != self.table.rows(row.job.id):
                faults.append(f"the segments of job {row.job.id} are not stored as they were saved")
        if self._one("SELECT count(*) FROM jobs") != len(self.jobs):
            faults.append("the database has other jobs than were saved")
        return faults


def _nothing(_saves: list[Save]) -> None:
    pass


def _memory_folder() -> str | None:
    folder = Path("/dev/shm")  # noqa: S108 - a fresh folder is made in it
    return str(folder) if folder.is_dir() else None
