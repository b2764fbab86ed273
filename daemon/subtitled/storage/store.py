"""Jobs, segments and the journal of their transitions, in SQLite.

The connection belongs to the thread of the server's loop. Every update is guarded by the state that it comes from: an
update that changes no row is an error, since memory and database would no longer agree.
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
from subtitled.storage.database import WriteAheadLog, open_database, transaction
from subtitled.storage.rows import (
    CHOOSE_JOBS,
    INSERT_JOB,
    SELECT_JOB,
    SELECT_JOURNAL,
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
        """Open or make the database at `path`; raises StoreError when it is unusable or newer than this code."""
        self._db = open_database(path, migrations)
        self._log = WriteAheadLog(path)
        self.commits = 0
        """Transactions that changed something, since the start."""
        self._last_order = self._one("SELECT coalesce(max(ord), 0) FROM jobs")

    def close(self) -> None:
        """Close the database; may be repeated."""
        self._db.close()
        self._log.close()

    def sync(self) -> None:
        """Bring what was committed before to the disk; for any thread. Blocks; raises StoreError."""
        self._log.sync()

    def checkpoint(self) -> None:
        """Do as `sync`, and move what the log has into the database."""
        self._log.checkpoint()

    # -- writing ---------------------------------------------------------------------------------------------

    def next_order(self) -> int:
        """Return the order of the next new job."""
        self._last_order += 1
        return int(self._last_order)

    def apply(self, saves: Iterable[Save]) -> list[JournalEntry]:
        """Commit all of `saves` in one transaction, or none; return what was added to the journal.

        A crash of the daemon takes none of it back. A power cut may, until `sync`: what nobody was told of is then done again.
        """
        saves = list(saves)
        if not saves:
            return []
        entries: list[JournalEntry] = []
        now_ms = time.time_ns() // 1_000_000
        with transaction(self._db):
            for save in saves:
                entry = self._save(save, now_ms)
                if entry is not None:
                    entries.append(entry)
        self.commits += 1
        return entries

    def claim_outputs(self, job: Job, paths: Iterable[bytes]) -> None:
        """Note that these files are written for this job's source; raises NoSpaceError, and may be repeated then."""
        with transaction(self._db):
            self._db.executemany(
                "INSERT OR REPLACE INTO outputs (path, source, job) VALUES (?, ?, ?)",
                [(path, job.source, job.id) for path in paths],
            )

    def disclaim_outputs(self, job: Job, paths: Iterable[bytes]) -> None:
        """Note that these files of this job are gone; raises NoSpaceError, and may be repeated then."""
        with transaction(self._db):
            self._db.executemany(
                "DELETE FROM outputs WHERE path = ? AND job = ?", [(path, job.id) for path in paths]
            )

    def note(self, job: str, state: str, event: str, cause: str) -> JournalEntry:
        """Add to the journal what followed a job's end, which leaves its state; raises NoSpaceError."""
        with transaction(self._db):
            return self._record(time.time_ns() // 1_000_000, "job", job, "", state, event, state, cause)

    def _save(self, save: Save, now_ms: int) -> JournalEntry | None:
        match save:
            case SaveNewJob(job=job):
                self._insert_job(job, now_ms)
                return self._record(now_ms, "job", job.id, "", "", "accepted", job.state.value, "")
            case SaveJob(job=job, before=before, event=event):
                self._update_job(save, now_ms)
                if event is None:
                    return None
                return self._record(
                    now_ms, "job", job.id, "", before.value, event.value, job.state.value, job.cause
                )
            case SaveNewSegment(segment=segment):
                self._db.execute(
                    "INSERT INTO segments VALUES (?, ?, ?, ?, 0, '', '', NULL, 0, NULL)",
                    (
                        segment.key.job,
                        segment.key.index,
                        segment.state.value,
                        msgspec.msgpack.encode(segment.plan),
                    ),
                )
                return None
            case SaveSegment(segment=segment, before=before, event=event):
                self._update_segment(save)
                step = (before.value, event.value, segment.state.value, segment.cause)
                return self._record(now_ms, "segment", segment.key.job, str(segment.key.index), *step)
            case SaveWorker():
                name = f"{save.slot}.{save.incarnation}"
                step = (save.before.value, save.event.value, save.after.value, save.cause)
                return self._record(now_ms, "worker", "", name, *step)

    def _insert_job(self, job: Job, now_ms: int) -> None:
        self._db.execute(INSERT_JOB, new_row(job, now_ms))

    def _update_job(self, save: SaveJob, now_ms: int) -> None:
        job = save.job
        self._guarded(
            """UPDATE jobs SET state = ?, location = ?, size = ?, mtime_ns = ?, sha256 = ?, options = ?, losses = ?, recipe = ?,
                   is_planned = ?, media = coalesce(?, media), language = ?, language_probability = ?, cause = ?, is_closed = ?,
                   started_ms = CASE WHEN ? THEN coalesce(started_ms, ?) ELSE started_ms END,
                   ended_ms = CASE WHEN ? THEN NULL WHEN ? THEN ? ELSE ended_ms END
               WHERE id = ? AND state = ?""",
            (
                job.state.value,
                job.location,
                job.size,
                job.mtime_ns,
                job.sha256,
                msgspec.msgpack.encode(job.options),
                job.losses,
                job.recipe,
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
            self._db.execute("INSERT OR REPLACE INTO waveforms VALUES (?, ?)", (job.id, save.waveform))

    def _update_segment(self, save: SaveSegment) -> None:
        segment = save.segment
        self._guarded(
            """UPDATE segments SET state = ?, losses = ?, cause = ?, language = ?, language_probability = ?,
                   worker = CASE ? WHEN '' THEN worker ELSE ? END, result = coalesce(?, result)
               WHERE job = ? AND idx = ? AND state = ?""",
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
        cursor = self._db.execute(
            "INSERT INTO journal (at_ms, subject, job, name, before, event, after, cause)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (at_ms, *row),
        )
        subject, job, name, before, event, after, cause = row
        return JournalEntry(
            seq=cursor.lastrowid or 0,
            at_ms=at_ms,
            subject=subject,
            job=job,
            name=name,
            before=before,
            event=event,
            after=after,
            cause=cause,
        )

    def _guarded(self, sql: str, values: tuple[Any, ...], fault: str) -> None:
        if self._db.execute(sql, values).rowcount != 1:
            raise StoreError(f"database: {fault}; memory and database disagree")

    # -- reading ---------------------------------------------------------------------------------------------

    def unfinished(self) -> list[tuple[Job, tuple[SegmentRow, ...]]]:
        """Return the jobs that a restarted daemon takes up, oldest first, with their segments."""
        live = sorted(state.value for state in JOB_LIVE)
        marks = ", ".join("?" * len(live))
        rows = self._db.execute(
            f"{SELECT_JOB} WHERE state IN ({marks}) OR (state = ? AND NOT is_closed) ORDER BY ord",
            (*live, JobState.FAILED.value),
        ).fetchall()
        return [(job := job_row(row).job, self.segment_rows(job.id)) for row in rows]

    def find_job(self, job: str) -> JobRow | None:
        """Return a job, or None."""
        row = self._db.execute(f"{SELECT_JOB} WHERE id = ?", (job,)).fetchone()
        return job_row(row) if row else None

    def waveform(self, job: str) -> bytes | None:
        """Return how loud a job's audio is, as the prepare worker has told it, or None."""
        row = self._db.execute("SELECT waveform FROM waveforms WHERE job = ?", (job,)).fetchone()
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
        """Return the newest `limit` jobs: of some states, one owner or tag, before a job, with `name` in their file's name."""
        wanted = sorted(state.value for state in states) or [state.value for state in JobState]
        marks = ", ".join("?" * len(wanted))
        rows = self._db.execute(
            f"{SELECT_JOB} WHERE state IN ({marks}) AND {CHOOSE_JOBS}",
            (*wanted, owner, owner, tag, tag, before, before, name, name, limit),
        )
        return [job_row(row) for row in rows]

    def count_jobs(self, *, owner: str | None = None) -> dict[str, int]:
        """Return how many jobs are in each state, of all owners or one."""
        return dict(
            self._db.execute(
                "SELECT state, count(*) FROM jobs WHERE ? IS NULL OR owner = ? GROUP BY state", (owner, owner)
            )
        )

    def find_source(self, source: bytes, size: int, mtime_ns: int, options: Options) -> JobRow | None:
        """Return the newest job that this very file was accepted as before, with these options, or None."""
        return self._newest("source = ? AND size = ? AND mtime_ns = ?", (source, size, mtime_ns), options)

    def find_upload(self, owner: str, sha256: str, options: Options, tag: str) -> JobRow | None:
        """Return the newest job, not cancelled, of a file with this content that this owner sent, or None."""
        where = "sha256 = ? AND owner = ? AND tag = ? AND state <> 'cancelled'"
        return self._newest(where, (sha256, owner, tag), options) if sha256 else None

    def _newest(self, where: str, values: tuple[Any, ...], options: Options) -> JobRow | None:
        """Return the newest job with these options; decoded, since a later release may write more of them."""
        rows = self._db.execute(f"{SELECT_JOB} WHERE {where} ORDER BY ord DESC", values)
        return next((found for found in map(job_row, rows) if found.job.options == options), None)

    def sent_jobs(self, *, done_since_ms: int) -> list[JobRow]:
        """Return the jobs whose file a client sent, or is sending, and that may still need it, or were done since; oldest end first."""
        rows = self._db.execute(
            f"{SELECT_JOB} WHERE (state NOT IN ('done', 'cancelled') OR (state = 'done' AND ended_ms > ?))"
            " AND (sha256 <> '' OR state = 'receiving') ORDER BY ended_ms",
            (done_since_ms,),
        )
        return [job_row(row) for row in rows]

    def segment_rows(self, job: str) -> tuple[SegmentRow, ...]:
        """Return a job's segments as the broker takes them up."""
        rows = self._db.execute(
            "SELECT idx, state, plan, losses, cause, language, language_probability FROM segments"
            " WHERE job = ? ORDER BY idx",
            (job,),
        )
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
            for index, state, plan, losses, cause, language, probability in rows
        )

    def results(self, job: str) -> list[ResultRow]:
        """Return a job's segments with their results, in order."""
        rows = self._db.execute(
            "SELECT idx, state, plan, losses, cause, worker, result FROM segments WHERE job = ? ORDER BY idx",
            (job,),
        )
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
            for index, state, plan, losses, cause, worker, result in rows
        ]

    def count_segments(self, jobs: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return how many of each job's segments are in each state; jobs without segments are left out."""
        marks = ", ".join("?" * len(jobs))
        counts: dict[str, dict[str, int]] = {}
        for job, state, count in self._db.execute(
            f"SELECT job, state, count(*) FROM segments WHERE job IN ({marks}) GROUP BY job, state",  # noqa: S608 - only "?"
            tuple(jobs),
        ):
            counts.setdefault(job, {})[state] = count
        return counts

    def journal(
        self, after_seq: int, *, job: str | None = None, owner: str | None = None, limit: int = 1000
    ) -> list[JournalEntry]:
        """Return the journal after an entry: all, or of one job, or of one owner's jobs."""
        rows = self._db.execute(
            f"{SELECT_JOURNAL} WHERE seq > ? AND (? IS NULL OR job = ?)"  # noqa: S608 - constants
            " AND (? IS NULL OR job IN (SELECT id FROM jobs WHERE owner = ?)) ORDER BY seq LIMIT ?",
            (after_seq, job, job, owner, owner, limit),
        )
        return [journal_entry(row) for row in rows]

    def history(self, job: str, *, limit: int = 100) -> list[JournalEntry]:
        """Return the newest `limit` entries of a job's own transitions and of its segments' losses, oldest first."""
        rows = self._db.execute(
            f"{SELECT_JOURNAL} WHERE job = ? AND (subject = 'job' OR cause <> '') ORDER BY seq DESC LIMIT ?",
            (job, limit),
        )
        return [journal_entry(row) for row in rows][::-1]

    def last_seq(self) -> int:
        """Return the number of the newest journal entry; 0 when there is none."""
        return int(self._one("SELECT coalesce(max(seq), 0) FROM journal"))

    def job_owner(self, job: str) -> str | None:
        """Return the owner of a job, or None where there is no such job."""
        row = self._db.execute("SELECT owner FROM jobs WHERE id = ?", (job,)).fetchone()
        return row[0] if row else None

    def owner_of(self, path: bytes) -> bytes | None:
        """Return the source that an output file was written for; None when it is not ours."""
        row = self._db.execute("SELECT source FROM outputs WHERE path = ?", (path,)).fetchone()
        return row[0] if row else None

    def outputs_for(self, source: bytes) -> tuple[bytes, ...]:
        """Return the files that were written for a source, by any of its jobs."""
        rows = self._db.execute("SELECT path FROM outputs WHERE source = ?", (source,))
        return tuple(path for (path,) in rows)

    def outputs_of(self, job: str) -> list[str]:
        """Return the files that were written for a job."""
        rows = self._db.execute("SELECT path FROM outputs WHERE job = ? ORDER BY path", (job,))
        return [os.fsdecode(path) for (path,) in rows]

    # -- the connection --------------------------------------------------------------------------------------

    def _one(self, sql: str) -> Any:
        return self._db.execute(sql).fetchone()[0]
