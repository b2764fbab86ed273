"""Jobs, segments and the journal of their transitions, in SQLite.

The connection belongs to the thread of the server's loop. Each update names the state that it leaves: an update that changes
no row raises StoreError, because memory and database would no longer agree.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from subtitled.core.actions import Save, SaveJob, SaveNewJob, SaveNewSegment, SaveSegment, SaveWorker
from subtitled.core.events import SegmentRow
from subtitled.core.records import Job, Options, SegmentKey
from subtitled.core.states import JOB_LIVE, JobEvent, JobState, SegmentState
from subtitled.errors import StoreError
from subtitled.storage import queries as sql
from subtitled.storage.database import WriteAheadLog, open_database, transaction
from subtitled.storage.rows import (
    JobRow,
    JournalEntry,
    ResultRow,
    job_row,
    journal_entry,
    new_row,
    read_plan,
)
from subtitled.storage.schema import MIGRATIONS

_STARTS = frozenset({JobEvent.LEASED, JobEvent.RESUME})


class Store:
    """The database of one daemon."""

    def __init__(self, path: str, migrations: Sequence[str] = MIGRATIONS) -> None:
        """Open or create the database at `path`; raises StoreError when it is unusable or newer than this release."""
        self._db = open_database(path, migrations)
        self._log = WriteAheadLog(path)
        self.commits = 0
        """Transactions since the start that changed something."""
        self._last_order = self._one(sql.LAST_ORDER)

    def close(self) -> None:
        """Close the database; may be repeated."""
        self._db.close()
        self._log.close()

    def sync(self) -> None:
        """Write all commits so far to the disk; thread-safe. Blocks; raises StoreError."""
        self._log.sync()

    def checkpoint(self) -> None:
        """Sync, then move the log's pages into the database; thread-safe. Blocks; raises StoreError."""
        self._log.checkpoint()

    # -- writing ---------------------------------------------------------------------------------------------

    def next_order(self) -> int:
        """Return the order of the next new job."""
        self._last_order += 1
        return int(self._last_order)

    def apply(self, saves: Iterable[Save]) -> list[JournalEntry]:
        """Commit all of `saves` in one transaction, or none; return the new journal entries.

        A commit survives a crash of the daemon at once, and a power cut after `sync`; work whose commit was lost is repeated.
        """
        saves = list(saves)
        if not saves:
            return []
        now_ms = time.time_ns() // 1_000_000
        with transaction(self._db):
            entries = [entry for save in saves if (entry := self._save(save, now_ms)) is not None]
        self.commits += 1
        return entries

    def claim_outputs(self, job: Job, paths: Iterable[bytes]) -> None:
        """Record that these files are written for this job's source; may be repeated. Raises NoSpaceError."""
        with transaction(self._db):
            self._db.executemany(sql.CLAIM_OUTPUT, [(path, job.source, job.id) for path in paths])

    def release_outputs(self, job: Job, paths: Iterable[bytes]) -> None:
        """Record that these files of this job are removed; may be repeated. Raises NoSpaceError."""
        with transaction(self._db):
            self._db.executemany(sql.RELEASE_OUTPUT, [(path, job.id) for path in paths])

    def note(self, job: str, state: str, event: str, cause: str) -> JournalEntry:
        """Append an event to the journal that leaves the job's state unchanged; raises NoSpaceError."""
        with transaction(self._db):
            return self._record(time.time_ns() // 1_000_000, "job", job, "", state, event, state, cause)

    def _save(self, save: Save, now_ms: int) -> JournalEntry | None:
        match save:
            case SaveNewJob(job=job):
                self._db.execute(sql.INSERT_JOB, new_row(job, now_ms))
                return self._record(now_ms, "job", job.id, "", "", "accepted", job.state.value, "")
            case SaveJob(job=job, before=before, event=event):
                self._update_job(save, now_ms)
                if event is None:
                    return None
                step = (before.value, event.value, job.state.value, job.cause)
                return self._record(now_ms, "job", job.id, "", *step)
            case SaveNewSegment(segment=segment):
                plan = msgspec.msgpack.encode(segment.plan)
                row = (segment.key.job, segment.key.index, segment.state.value, plan)
                self._db.execute(sql.INSERT_SEGMENT, row)
                return None
            case SaveSegment(segment=segment, before=before, event=event):
                self._update_segment(save)
                step = (before.value, event.value, segment.state.value, segment.cause)
                return self._record(now_ms, "segment", segment.key.job, str(segment.key.index), *step)
            case SaveWorker():
                name = f"{save.slot}.{save.incarnation}"
                step = (save.before.value, save.event.value, save.after.value, save.cause)
                return self._record(now_ms, "worker", "", name, *step)

    def _update_job(self, save: SaveJob, now_ms: int) -> None:
        job = save.job
        self._update(
            sql.UPDATE_JOB,
            (
                job.state.value,
                job.location,
                job.size,
                job.mtime_ns,
                job.sha256,
                msgspec.msgpack.encode(job.options),
                job.losses,
                msgspec.msgpack.encode(job.plan_settings),
                job.is_planned,
                save.media,
                job.language,
                job.language_probability,
                job.cause,
                job.is_closed,
                save.event in _STARTS,
                now_ms,
                job.state in JOB_LIVE,
                save.event is not None,
                now_ms,
                job.id,
                save.before.value,
            ),
            f"job {job.id} is not {save.before.value}",
        )
        if save.waveform is not None:
            self._db.execute(sql.PUT_WAVEFORM, (job.id, save.waveform))

    def _update_segment(self, save: SaveSegment) -> None:
        segment = save.segment
        self._update(
            sql.UPDATE_SEGMENT,
            (
                segment.state.value,
                segment.losses,
                segment.cause,
                segment.language,
                segment.language_probability,
                save.worker,
                save.worker,
                save.result,
                segment.key.job,
                segment.key.index,
                save.before.value,
            ),
            f"segment {segment.key.index} of job {segment.key.job} is not {save.before.value}",
        )

    def _record(self, at_ms: int, *row: str) -> JournalEntry:
        cursor = self._db.execute(sql.INSERT_JOURNAL, (at_ms, *row))
        return journal_entry((cursor.lastrowid or 0, at_ms, *row))

    def _update(self, statement: str, values: tuple[Any, ...], fault: str) -> None:
        if self._db.execute(statement, values).rowcount != 1:
            raise StoreError(f"database: {fault}; memory and database disagree")

    # -- reading ---------------------------------------------------------------------------------------------

    def unfinished(self) -> list[tuple[Job, tuple[SegmentRow, ...]]]:
        """Return the jobs that a restarted daemon resumes, oldest first, with their segments."""
        live = sorted(state.value for state in JOB_LIVE)
        rows = self._db.execute(sql.UNFINISHED_JOBS.format(states=_marks(live)), live).fetchall()
        return [(job := job_row(row).job, self.segment_rows(job.id)) for row in rows]

    def find_job(self, job: str) -> JobRow | None:
        """Return a job by its id, or None."""
        row = self._db.execute(sql.JOB_BY_ID, (job,)).fetchone()
        return job_row(row) if row else None

    def waveform(self, job: str) -> bytes | None:
        """Return a job's stored waveform (MessagePack of `Waveform`), or None."""
        row = self._db.execute(sql.WAVEFORM, (job,)).fetchone()
        return row[0] if row else None

    def list_jobs(
        self,
        states: Iterable[JobState] = (),
        *,
        owner: str | None = None,
        tag: str | None = None,
        before: str = "",
        name: str = "",
        limit: int = 100,
    ) -> list[JobRow]:
        """Return the newest `limit` jobs that match: `before` is a job's id, `name` a part of the file's name."""
        wanted = sorted(state.value for state in states) or [state.value for state in JobState]
        values = (*wanted, owner, owner, tag, tag, before, before, name, name, limit)
        return [job_row(row) for row in self._db.execute(sql.LIST_JOBS.format(states=_marks(wanted)), values)]

    def count_jobs(self, *, owner: str | None = None) -> dict[str, int]:
        """Return the number of jobs by state, of all owners or of one."""
        return dict(self._db.execute(sql.COUNT_JOBS, (owner, owner)))

    def find_source(self, source: bytes, size: int, mtime_ns: int, options: Options) -> JobRow | None:
        """Return the newest job of this file (path, size and time) with these options, or None."""
        return self._newest(sql.JOBS_OF_SOURCE, (source, size, mtime_ns), options)

    def find_upload(self, owner: str, sha256: str, options: Options, tag: str) -> JobRow | None:
        """Return the newest job, not cancelled, of a file with this content from this owner, or None."""
        return self._newest(sql.JOBS_OF_UPLOAD, (sha256, owner, tag), options) if sha256 else None

    def _newest(self, statement: str, values: tuple[Any, ...], options: Options) -> JobRow | None:
        """Return the newest job with these options, compared decoded: an older release may have stored fewer fields."""
        rows = map(job_row, self._db.execute(statement, values))
        return next((found for found in rows if found.job.options == options), None)

    def uploaded_jobs(self, *, done_since_ms: int) -> list[JobRow]:
        """Return the jobs of uploaded files that still need their file or were done since then; oldest end first."""
        return [job_row(row) for row in self._db.execute(sql.UPLOADED_JOBS, (done_since_ms,))]

    def segment_rows(self, job: str) -> tuple[SegmentRow, ...]:
        """Return a job's segments as the broker restores them."""
        return tuple(
            SegmentRow(
                key=SegmentKey(job, index),
                state=state,
                plan=read_plan(plan),
                losses=losses,
                cause=cause,
                language=language,
                language_probability=probability,
            )
            for index, state, plan, losses, cause, language, probability in self._db.execute(
                sql.SEGMENTS, (job,)
            )
        )

    def results(self, job: str) -> list[ResultRow]:
        """Return a job's segments with their results, in order."""
        return [
            ResultRow(
                index=index,
                state=SegmentState(state),
                plan=read_plan(plan),
                losses=losses,
                cause=cause,
                worker=worker,
                result=result,
            )
            for index, state, plan, losses, cause, worker, result in self._db.execute(sql.RESULTS, (job,))
        ]

    def count_segments(self, jobs: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return the number of segments by state of each job that has segments."""
        counts: dict[str, dict[str, int]] = {}
        statement = sql.COUNT_SEGMENTS.format(jobs=_marks(jobs))
        for job, state, count in self._db.execute(statement, tuple(jobs)):
            counts.setdefault(job, {})[state] = count
        return counts

    def journal(
        self, after_seq: int, *, job: str | None = None, owner: str | None = None, limit: int = 1000
    ) -> list[JournalEntry]:
        """Return `limit` journal entries after one: all, those of one job, or those of one owner's jobs."""
        values = (after_seq, job, job, owner, owner, limit)
        return [journal_entry(row) for row in self._db.execute(sql.JOURNAL, values)]

    def history(self, job: str, *, limit: int = 100) -> list[JournalEntry]:
        """Return the newest `limit` transitions of a job and losses of its segments, oldest first."""
        return [journal_entry(row) for row in self._db.execute(sql.JOB_HISTORY, (job, limit))][::-1]

    def last_seq(self) -> int:
        """Return the number of the newest journal entry; 0 for an empty journal."""
        return int(self._one(sql.LAST_SEQ))

    def job_owner(self, job: str) -> str | None:
        """Return the owner of a job; None for an unknown job."""
        row = self._db.execute(sql.JOB_OWNER, (job,)).fetchone()
        return row[0] if row else None

    def source_of_output(self, path: bytes) -> bytes | None:
        """Return the source that an output file was written for; None for a file of somebody else."""
        row = self._db.execute(sql.SOURCE_OF_OUTPUT, (path,)).fetchone()
        return row[0] if row else None

    def outputs_of_source(self, source: bytes) -> tuple[bytes, ...]:
        """Return the files that any job wrote for a source."""
        return tuple(path for (path,) in self._db.execute(sql.OUTPUTS_OF_SOURCE, (source,)))

    def outputs_of(self, job: str) -> list[str]:
        """Return the files that a job wrote."""
        return [os.fsdecode(path) for (path,) in self._db.execute(sql.OUTPUTS_OF_JOB, (job,))]

    def _one(self, statement: str) -> Any:
        return self._db.execute(statement).fetchone()[0]


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
