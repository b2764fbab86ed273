"""Write jobs, segments and the journal of their transitions to SQLite.

The connection belongs to the thread of the server's loop. Each update names the state that it leaves: an update that changes
no row raises StoreError, because memory and database would no longer agree.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from subtitled.core import actions as ac
from subtitled.core.records import FIRST_TEXT, Job
from subtitled.core.states import JOB_LIVE, JobEvent
from subtitled.errors import StoreError
from subtitled.storage import queries as sql
from subtitled.storage.database import WriteAheadLog, open_database, store_errors, transaction
from subtitled.storage.reader import Reader, ReaderPool
from subtitled.storage.rows import JobRow, JournalEntry, file_name, job_row, journal_entry, pack_cues
from subtitled.storage.schema import MIGRATIONS

DRAFT_MS = 300_000
"""Drafts of one editing session that were begun within this time are one version, the last of them."""
MAX_EDITS = 50
"""Versions kept of a job's subtitles; the oldest are removed."""
MAX_EDIT_BYTES = 16 * 2**20
"""Maximum size of all versions of a job, compressed; the newest is always kept."""
EDITED = "edited"
"""The journal's event of a saved version."""
DELETED = "deleted"
"""The journal's event and state of a deleted job."""
_STARTS = frozenset({JobEvent.LEASED, JobEvent.RESUME})


class Store(Reader):
    """The database of one daemon."""

    def __init__(self, path: str, migrations: Sequence[str] = MIGRATIONS) -> None:
        """Open or create the database at `path`; raises StoreError when it is unusable or newer than this release."""
        super().__init__(open_database(path, migrations))
        self.readers = ReaderPool(path)
        """Readers for other threads."""
        self._log = WriteAheadLog(path)
        self.commits = 0
        """Transactions since the start that changed something."""
        with store_errors():
            self._last_order = self._one(sql.LAST_ORDER)

    @property
    def is_lost(self) -> bool:
        """Whether the database was deleted or replaced: what is stored now is lost at the next start."""
        return self.readers.is_lost

    def close(self) -> None:
        """Close the database; may be repeated."""
        self.readers.close()
        self._db.close()
        self._log.close()

    def sync(self) -> None:
        """Write all commits so far to the disk; thread-safe. Blocks; raises StoreError."""
        self._log.sync()

    def checkpoint(self) -> None:
        """Sync, then move the log's pages into the database; thread-safe. Blocks; raises StoreError."""
        if self.is_lost:  # a connection to its path would create a database, or change another
            self.sync()
        else:
            self._log.checkpoint()

    # -- transitions -----------------------------------------------------------------------------------------

    def next_order(self) -> int:
        """Return the order of the next new job."""
        self._last_order += 1
        return int(self._last_order)

    def apply(self, saves: Iterable[ac.Save]) -> list[JournalEntry]:
        """Commit all of `saves` in one transaction, or none; return the new journal entries.

        A commit survives a crash of the daemon at once, and a power cut after `sync`; work whose commit was lost is repeated.
        """
        saves = list(saves)
        if not saves:
            return []
        now_ms = _now_ms()
        with transaction(self._db):
            entries = [entry for save in saves if (entry := self._save(save, now_ms)) is not None]
        self.commits += 1
        return entries

    def claim_outputs(self, job: Job, paths: Iterable[bytes]) -> None:
        """Record that these files are written for this job's source; may be repeated. Raises NoSpaceError."""
        with transaction(self._db):
            self._db.executemany(sql.CLAIM_OUTPUT, [(path, job.id) for path in paths])

    def release_outputs(self, job: Job, paths: Iterable[bytes]) -> None:
        """Record that these files of this job are removed; may be repeated. Raises NoSpaceError."""
        with transaction(self._db):
            self._db.executemany(sql.RELEASE_OUTPUT, [(path, job.id) for path in paths])

    def append_event(self, job: str, state: str, event: str, cause: str) -> JournalEntry:
        """Append an event to the journal that leaves the job's state unchanged; raises NoSpaceError."""
        with transaction(self._db):
            owner = self.job_owner(job) or ""
            return self._record(_now_ms(), "job", job, owner, "", state, event, state, cause)

    def save_edit(
        self,
        job: Job,
        task: str,
        *,
        base: int,
        data: bytes | None,
        cues: int,
        author: str,
        draft_session: str = "",
        restored: int | None = None,
    ) -> list[JournalEntry] | None:
        """Store a version of a job's cues that was made from version `base`; return the new journal entries.

        None, and no change, if `base` is not the newest version; but a version equal to the newest one is stored already, so
        that a save may be repeated; a draft that a person saves unchanged is no longer a draft. Raises NoSpaceError.
        """
        now_ms = _now_ms()
        newest = self.edit(job.id, task)
        current = newest.version if newest else 0
        if newest is not None and (newest.data, newest.restored) == (data, restored):
            if newest.draft_session and not draft_session:
                with transaction(self._db):
                    self._db.execute(sql.KEEP_DRAFT, (job.id, task, newest.version))
            return []
        if base != current:
            return None
        is_replaced = (
            newest is not None
            and draft_session
            and newest.draft_session == draft_session
            and 0 <= now_ms - newest.begun_ms < DRAFT_MS
        )
        with transaction(self._db):
            begun_ms = now_ms
            if newest is not None and is_replaced:
                begun_ms = newest.begun_ms
                self._db.execute(sql.DELETE_EDIT, (job.id, task, newest.version))
            version = (job.id, task, current + 1)
            self._db.execute(
                sql.INSERT_EDIT, (*version, now_ms, begun_ms, author, draft_session, restored, cues, data)
            )
            size = 0
            rows = self._db.execute(sql.EDIT_VERSIONS, (job.id, task)).fetchall()
            for number, (old, *_, length) in enumerate(rows):
                size += length or 0
                if number and (number >= MAX_EDITS or size > MAX_EDIT_BYTES):
                    self._db.execute(sql.DELETE_EDIT, (job.id, task, old))
            if is_replaced:
                return []
            state = job.state.value
            return [self._record(now_ms, "job", job.id, job.owner, "", state, EDITED, state, "")]

    def keep_old_drafts(self) -> tuple[list[str], int | None]:
        """Make a version of its own of each draft that is DRAFT_MS old; raises NoSpaceError.

        Returns the jobs whose newest version it is, and the time in ms until the next draft is so old, None without any.
        """
        now_ms = _now_ms()
        drafts = self._db.execute(sql.DRAFTS).fetchall()
        ages_ms = {draft[:3]: now_ms - draft[3] for draft in drafts}
        old = [draft for draft, age_ms in ages_ms.items() if not 0 <= age_ms < DRAFT_MS]
        next_ms = min(
            (DRAFT_MS - age_ms for age_ms in ages_ms.values() if 0 <= age_ms < DRAFT_MS), default=None
        )
        if not old:
            return [], next_ms
        with transaction(self._db):
            self._db.executemany(sql.KEEP_DRAFT, old)
        return [job for job, task, version in old if self._is_newest(job, task, version)], next_ms

    def _is_newest(self, job: str, task: str, version: int) -> bool:
        newest = self.edit(job, task)
        return newest is not None and newest.version == version

    def mark_edits_written(self, job: str, versions: Mapping[str, int]) -> None:
        """Record that the output files contain these versions, by task; raises NoSpaceError."""
        with transaction(self._db):
            self._db.executemany(
                sql.MARK_EDITS_WRITTEN, [(job, task, version) for task, version in versions.items()]
            )

    def hook_position(self, name: str) -> int | None:
        """Return the last journal entry that a kind of hook has handled, or None."""
        row = self._db.execute(sql.HOOK_POSITION, (name,)).fetchone()
        return row[0] if row else None

    def save_hook_position(self, name: str, seq: int | None) -> None:
        """Record the last journal entry that a kind of hook has handled; None removes it. Raises NoSpaceError."""
        with transaction(self._db):
            if seq is None:
                self._db.execute(sql.DELETE_HOOK_POSITION, (name,))
            else:
                self._db.execute(sql.PUT_HOOK_POSITION, (name, seq))

    def _save(self, save: ac.Save, now_ms: int) -> JournalEntry | None:
        match save:
            case ac.SaveNewJob(job=job):
                self._db.execute(sql.INSERT_JOB, self._job_values(job, now_ms))
                return self._record(now_ms, "job", job.id, job.owner, "", "", "accepted", job.state.value, "")
            case ac.SaveJob(job=job, before=before, event=event):
                self._update_job(save, now_ms)
                if event is None:
                    return None
                step = (before.value, event.value, job.state.value, job.cause or job.translation_cause)
                return self._record(now_ms, "job", job.id, job.owner, "", *step)
            case ac.SaveSource(job=job):
                self._db.execute(sql.FORGET_NAME, (job.id,))
                place = (job.source, file_name(job.source), job.location, job.id)
                self._change(sql.RENAME_SOURCE, place, f"job {job.id} does not exist")
                self._db.execute(sql.ADD_NAME, (job.id,))
                return None
            case ac.SaveNewSegment(segment=segment):
                key, plan = segment.key, msgspec.msgpack.encode(segment.plan)
                values = (key.job, key.index, segment.state.value, plan, key.job)
                self._change(sql.INSERT_SEGMENT, values, f"job {key.job} does not exist")
                return None
            case ac.SaveSegment(segment=segment, before=before, event=event):
                self._update_segment(save)
                step = (before.value, event.value, segment.state.value, segment.cause)
                job_id = segment.key.job
                owner = self.job_owner(job_id) or ""
                return self._record(now_ms, "segment", job_id, owner, str(segment.key.index), *step)
            case ac.SaveText(segment=segment, before=before, event=event):
                job_id = segment.key.job
                self._put_translations(job_id, save.translations)
                if not segment.cause:
                    return None
                name = f"{save.target} {segment.key.index - FIRST_TEXT}"
                step = (before.value, event.value, segment.state.value, segment.cause)
                return self._record(now_ms, "segment", job_id, self.job_owner(job_id) or "", name, *step)
            case ac.DropTranslations(job=job_id, target=target, keys=keys):
                if target:
                    kept = msgspec.json.encode(keys).decode()
                    self._db.execute(sql.DELETE_OTHER_TRANSLATIONS, (job_id, target, kept))
                else:
                    self._db.execute(sql.DELETE_UNTRANSLATED, (job_id,))
                return None
            case ac.SavePause(is_paused=is_paused):
                self._db.execute(sql.PAUSE_QUEUE if is_paused else sql.RESUME_QUEUE)
                return None
            case ac.SaveWorker():
                name = f"{save.slot}.{save.incarnation}"
                step = (save.before.value, save.event.value, save.after.value, save.cause)
                return self._record(now_ms, "worker", "", "", name, *step)

    def _put_translations(self, job: str, rows: Iterable[ac.StoredTranslation]) -> None:
        """Store sentences; one that could not be translated keeps its earlier translation, with a warning."""
        for row in rows:
            if row.problem:
                kept = (f"an earlier translation is kept: {row.problem}", job, row.target, row.key)
                if self._db.execute(sql.KEEP_TRANSLATION, kept).rowcount:
                    continue
            self._db.execute(sql.PUT_TRANSLATION, (job, *msgspec.structs.astuple(row)))

    def _update_job(self, save: ac.SaveJob, now_ms: int) -> None:
        job = save.job
        values = self._job_values(job, now_ms) | {
            "before": save.before.value,
            "media": save.media,
            "is_start": save.event in _STARTS,
            "is_live": job.state in JOB_LIVE,
            "is_transition": save.event is not None,
        }
        self._change(sql.UPDATE_JOB, values, f"job {job.id} is not {save.before.value}")
        if save.cues is not None:
            version = (job.id, job.options.task, 1)
            data = pack_cues(save.cues)
            self._db.execute(sql.INSERT_EDIT, (*version, now_ms, now_ms, "", "", None, len(save.cues), data))
            self._db.execute(sql.MARK_EDITS_WRITTEN, version)
        if save.waveform is not None:
            self._db.execute(sql.PUT_WAVEFORM, (job.id, save.waveform))

    def _job_values(self, job: Job, now_ms: int) -> dict[str, object]:
        """Return a job as the values of `INSERT_JOB` and `UPDATE_JOB`, by name."""
        options, settings = self._settings(job)
        return {
            **msgspec.structs.asdict(job),
            "now_ms": now_ms,
            "state": job.state.value,
            "name": file_name(job.source),
            "options": options,
            "plan_settings": settings,
            "added_languages": " ".join(job.added_languages),
            "added_models": msgspec.msgpack.encode(job.added_models) if job.added_models else None,
            "cancelled_languages": " ".join(job.cancelled_languages),
        }

    def _settings(self, job: Job) -> tuple[bytes, bytes]:
        """Store a job's options and plan settings if they are new; return them encoded."""
        both = (msgspec.msgpack.encode(job.options), msgspec.msgpack.encode(job.plan_settings))
        self._db.executemany(sql.ADD_SETTINGS, [(data,) for data in both])
        return both

    def _update_segment(self, save: ac.SaveSegment) -> None:
        segment = save.segment
        self._change(
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

    def _change(self, statement: str, values: tuple[Any, ...] | dict[str, object], fault: str) -> None:
        if self._db.execute(statement, values).rowcount != 1:
            raise StoreError(f"database: {fault}; memory and database disagree")

    # -- retention -------------------------------------------------------------------------------------------

    def job_to_pack(self, done_before_ms: int) -> str | None:
        """Return a job that was done before and is not packed yet, or None."""
        row = self._db.execute(sql.JOB_TO_PACK, (done_before_ms,)).fetchone()
        return row[0] if row else None

    def pack(self, job: str, counts: bytes, data: bytes) -> None:
        """Store the packed results of a done job; raises NoSpaceError. `compact` then deletes its rows."""
        with transaction(self._db):
            self._db.execute(sql.PUT_RESULTS, (job, counts, data))

    def compact(self, job: str, limit: int) -> bool:
        """Delete up to `limit` segment rows of a packed job; return whether none is left."""
        with transaction(self._db):
            if self._db.execute(sql.DELETE_SEGMENTS, (job, limit)).rowcount:
                return False
            self._db.execute(sql.MARK_PACKED, (job,))
        return True

    def skip_packing(self, job: str) -> None:
        """Mark a done job so that it is not packed; raises NoSpaceError."""
        with transaction(self._db):
            self._db.execute(sql.MARK_PACKED, (job,))

    def done_jobs(self, after: tuple[int, int], before_ms: int, limit: int) -> list[tuple[str, int, int]]:
        """Return id, end and order of jobs that were done before, by these; `after` is end and order of the last one."""
        rows: list[tuple[str, int, int]] = self._db.execute(
            sql.DONE_JOBS, (*after, before_ms, limit)
        ).fetchall()
        return rows

    def trim_segments(self, job: str, limit: int) -> bool:
        """Delete up to `limit` journal entries of a done job's segments, except errors; return whether none is left."""
        with transaction(self._db):
            return self._db.execute(sql.TRIM_JOURNAL, (job, limit)).rowcount < limit

    def expired_jobs(self, ended_before_ms: int, limit: int) -> list[JobRow]:
        """Return the jobs that ended before, oldest first, without those whose files are not closed yet."""
        rows = [job_row(row) for row in self._db.execute(sql.EXPIRED_JOBS, (ended_before_ms, limit))]
        return [row for row in rows if is_deletable(row)]

    def delete_job(self, row: JobRow, *, is_noted: bool) -> list[JournalEntry]:
        """Delete an ended job with its results; `delete_remains` then deletes its segments and journal.

        The new entry for watchers is returned, if `is_noted`. A file of an inbox is recorded as processed, so that it is not
        accepted again. Raises NoSpaceError.
        """
        job = row.job
        with transaction(self._db):
            for statement in (
                sql.MARK_DELETED,
                sql.RELEASE_OUTPUTS,
                sql.DELETE_RESULTS,
                sql.DELETE_WAVEFORM,
                sql.DELETE_EDITS,
                sql.DELETE_TRANSLATION_COUNTS,  # first: then the triggers have nothing to count
                sql.DELETE_TRANSLATIONS,
                sql.DELETE_JOB,
            ):
                self._db.execute(statement, (job.id,))
            if job.options.inbox:
                self._db.execute(sql.MARK_PROCESSED, (job.source, job.size, job.mtime_ns))
            if not is_noted:
                return []
            return [
                self._record(_now_ms(), "job", "", job.owner, job.id, job.state.value, DELETED, DELETED, "")
            ]

    def delete_remains(self, limit: int) -> bool:
        """Delete up to `limit` segments and journal entries of a deleted job; return whether none is left of any."""
        found = self._db.execute(sql.DELETED_JOB).fetchone()
        if found is None:
            return True
        with transaction(self._db):
            deleted = self._db.execute(sql.DELETE_SEGMENTS, (found[0], limit)).rowcount
            deleted += self._db.execute(sql.DELETE_JOURNAL, (found[0], limit)).rowcount
            if not deleted:
                self._db.execute(sql.UNMARK_DELETED, found)
        return False

    def trim_journal(self, before_ms: int, limit: int) -> bool:
        """Delete up to `limit` old entries of workers and deleted jobs; return whether none is left."""
        with transaction(self._db):
            return self._db.execute(sql.TRIM_OLD_JOURNAL, (limit, before_ms)).rowcount < limit

    def vacuum(self, pages: int) -> bool:
        """Return up to `pages` free pages to the file system; return whether none is left."""
        if self._one("PRAGMA freelist_count") < pages:
            return True
        with store_errors():
            self._db.execute(f"PRAGMA incremental_vacuum({pages:d})").fetchall()
        return False


def is_deletable(row: JobRow) -> bool:
    """Return whether a job has ended, with its files in place."""
    return row.job.state not in JOB_LIVE and (row.job.is_closed or row.job.state.value != "failed")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
