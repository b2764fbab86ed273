"""Read jobs, results and the journal from a connection of one thread."""

from __future__ import annotations

import heapq
import math
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from subtitle.messages import CueVersion
from subtitled.core.actions import StoredTranslation
from subtitled.core.events import SegmentRow
from subtitled.core.records import Job, Options, SegmentKey
from subtitled.core.states import JOB_LIVE, JobState
from subtitled.errors import StateLostError
from subtitled.storage import queries as sql
from subtitled.storage.database import store_errors
from subtitled.storage.rows import (
    EditRow,
    JobRow,
    JournalEntry,
    ResultRow,
    edit_row,
    file_name,
    job_row,
    journal_entry,
    read_counts,
    read_media,
    read_options,
    read_plan,
    result_row,
    unpack_results,
)

MAX_CANDIDATES = 2000
"""Jobs that one search by name examines; the next page continues after them."""
MAX_SHORT_CANDIDATES = 5000
"""Newest jobs that are searched for one or two characters, which have no trigram."""
MAX_TRIGRAMS = 24
MAX_FILTERED = 20_000
"""Newest jobs that are searched for a property without an index, or sorted."""
_NEWEST = 2**62
"""Greater than the order of any job."""


class JobFilter(Struct, frozen=True, kw_only=True):
    """Which jobs a list has; the defaults match all."""

    states: frozenset[JobState] = frozenset()
    owner: str | None = None
    tag: str | None = None
    name: str = ""
    language: str = ""
    model: str | None = None
    """Its name in the options of jobs."""
    inbox: bytes = b""
    is_damaged: bool = False
    is_unheard: bool = False

    @property
    def is_special(self) -> bool:
        """Whether no index serves it."""
        return bool(
            self.language or self.model is not None or self.inbox or self.is_damaged or self.is_unheard
        )

    def matches(self, row: JobRow) -> bool:
        """Return whether a job is in the list."""
        return self.matches_job(row.job) and (not self.is_damaged or bool(row.media_facts.damaged_s))

    def matches_job(self, job: Job) -> bool:
        """Return whether a job is in the list, as far as that is known without its media facts."""
        name = file_name(job.source) if self.name else ""
        return self.matches_facts(job.state, job.owner, job.tag, name, job.language, job.unheard, job.options)

    def matches_facts(
        self,
        state: JobState,
        owner: str,
        tag: str,
        name: str,
        language: str | None,
        unheard: int,
        options: Options,
    ) -> bool:
        """Return whether a job with these fields is in the list, as `matches_job`."""
        return (
            (not self.states or state in self.states)
            and self.owner in {None, owner}
            and self.tag in {None, tag}
            and (not self.name or self.name.lower() in name.lower())
            and (not self.language or self.language == (language or options.language))
            and (self.model is None or self.model in options.models)
            and (not self.inbox or self.inbox == options.inbox)
            and (not self.is_unheard or unheard > 0)
        )


def _sort_key(sort: str, order: int, name: str, media: bytes | None) -> tuple[Any, int]:
    """Return the key by which a list is sorted by name or length; no two jobs have the same."""
    return name.casefold() if sort == "name" else -read_media(media).decoded_samples, -order


class Reader:
    """Reads the database through one connection, which belongs to one thread."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._db = database

    # -- jobs ------------------------------------------------------------------------------------------------

    def unfinished(self) -> list[tuple[Job, tuple[SegmentRow, ...]]]:
        """Return the jobs that a restarted daemon resumes, oldest first, with their segments."""
        to_close = (job_row(row).job for row in self._db.execute(sql.JOBS_TO_CLOSE))
        jobs = sorted((*self.live_jobs(), *to_close), key=lambda job: job.order)
        return [(job, self.segment_rows(job.id)) for job in jobs]

    def live_jobs(self) -> list[Job]:
        """Return the jobs that have not ended."""
        rows = (row for state in JOB_LIVE for row in self._db.execute(sql.LIVE_JOBS, (state.value,)))
        return [job_row(row).job for row in rows]

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
        """Return the newest `limit` jobs that match: `before` is a job's id, `name` a part of the file's name.

        A search by name examines MAX_CANDIDATES jobs that contain its trigrams, or the newest MAX_SHORT_CANDIDATES for one
        or two characters, so that its cost is bounded.
        """
        below = _NEWEST
        if before:
            found = self._db.execute(sql.JOB_ORDER, (before,)).fetchone()
            if found is None:
                return []
            below = found[0]
        wanted = frozenset(state.value for state in states)
        if name:
            orders = self._search(name, wanted, owner, tag, below, limit)
        else:
            orders = self._newest_orders(wanted, owner, tag, below, limit)
        rows = (self._db.execute(sql.JOB_BY_ORDER, (order,)).fetchone() for order in orders)
        return [job_row(row) for row in rows if row is not None]  # one may have been deleted meanwhile

    def find_jobs(self, job_filter: JobFilter, *, sort: str, limit: int, before: str = "") -> list[JobRow]:
        """Return `limit` jobs of a filter in another order, after the job `before`.

        By time, the MAX_FILTERED jobs after `before` are searched until the list is complete; by name or length, the newest
        MAX_FILTERED jobs are sorted.
        """
        last = self.find_job(before) if before else None
        if before and last is None:
            return []
        match sort:
            case "newest":
                found = self._filtered(job_filter, sql.NEWEST_FILTERED, last.job.order if last else _NEWEST)
                orders = [order for order, *_ in islice(found, limit)]
            case "oldest":
                found = self._filtered(job_filter, sql.OLDEST_FILTERED, last.job.order if last else 0)
                orders = [order for order, *_ in islice(found, limit)]
            case _:
                found = self._filtered(job_filter, sql.NEWEST_FILTERED, _NEWEST)
                keys = (_sort_key(sort, *facts) for facts in found)
                if last is not None:
                    end = _sort_key(sort, last.job.order, file_name(last.job.source), last.media)
                    keys = (key for key in keys if key > end)
                orders = [-order for _, order in heapq.nsmallest(limit, keys)]
        rows = (self._db.execute(sql.JOB_BY_ORDER, (order,)).fetchone() for order in orders)
        return [job_row(row) for row in rows if row is not None]

    def _filtered(
        self, job_filter: JobFilter, statement: str, start: int
    ) -> Iterator[tuple[int, str, bytes | None]]:
        """Return order, name and media facts of the jobs of a filter among MAX_FILTERED ones, as they are needed."""
        options: dict[int, Options] = {}
        with closing(self._db.execute(statement, (start, MAX_FILTERED))) as found:
            for order, state, owner, tag, name, language, unheard, number, media in found:
                if number not in options:
                    options[number] = read_options(self._db.execute(sql.SETTINGS, (number,)).fetchone()[0])
                facts = (JobState(state), owner, tag, name, language, unheard, options[number])
                if job_filter.matches_facts(*facts) and not (
                    job_filter.is_damaged and not read_media(media).damaged_s
                ):
                    yield order, name, media

    def jobs_in_order(self, jobs: Iterable[str], job_filter: JobFilter, limit: int) -> list[JobRow]:
        """Return the first `limit` of these jobs that match, in their order."""
        found = (row for row in map(self.find_job, jobs) if row is not None and job_filter.matches(row))
        return list(islice(found, limit))

    def _newest_orders(
        self, states: frozenset[str], owner: str | None, tag: str | None, below: int, limit: int
    ) -> list[int]:
        match owner, tag:
            case None, None:
                if not states:
                    return [order for (order,) in self._db.execute(sql.NEWEST_NAMES, (below, limit))]
                statement, values = sql.LIST_JOBS, list[str | None]()
            case str(), None:
                statement, values = sql.LIST_JOBS_OF_OWNER, [owner]
            case None, str():
                statement, values = sql.LIST_JOBS_OF_TAG, [tag]
            case _:
                statement, values = sql.LIST_JOBS_OF_OWNER_AND_TAG, [owner, tag]
        every = states or {state.value for state in JobState}
        each = [self._db.execute(statement, (*values, state, below, limit)) for state in every]
        merged = heapq.merge(*([-order for (order,) in rows] for rows in each))
        return [-order for order, _ in zip(merged, range(limit), strict=False)]

    def _search(
        self, name: str, states: frozenset[str], owner: str | None, tag: str | None, below: int, limit: int
    ) -> list[int]:
        needle = name.lower()
        found: list[int] = []
        for order in self._candidates(name, below):
            row = self._db.execute(sql.JOB_FILTERS, (order,)).fetchone()
            if row is None:
                continue
            state, its_owner, its_tag, its_name = row
            if (
                (not states or state in states)
                and owner in {None, its_owner}
                and tag in {None, its_tag}
                and needle in its_name.lower()
            ):
                found.append(order)
                if len(found) == limit:
                    break
        return found

    def _candidates(self, name: str, below: int) -> Iterator[int]:
        if len(name) < 3:
            rows = self._db.execute(sql.NEWEST_NAMES, (below, MAX_SHORT_CANDIDATES))
        else:
            trigrams = dict.fromkeys(name[at : at + 3] for at in range(len(name) - 2))
            quoted = ('"{}"'.format(part.replace('"', '""')) for part in list(trigrams)[:MAX_TRIGRAMS])
            values = (" AND ".join(quoted), below, MAX_CANDIDATES)
            rows = self._db.execute(sql.SEARCH_NAMES, values)
        return (order for (order,) in rows)

    def count_jobs(self, *, owner: str | None = None) -> dict[str, int]:
        """Return the number of jobs by state, of all owners or of one."""
        if owner is None:
            return dict(self._db.execute(sql.COUNT_JOBS))
        return dict(self._db.execute(sql.COUNT_JOBS_OF_OWNER, (owner,)))

    def find_source(self, source: bytes, size: int, mtime_ns: int, options: Options) -> JobRow | None:
        """Return the newest job of this file (path, size and time) with these options, or None."""
        values = (source, size, mtime_ns)
        return self._newest(sql.JOB_OF_SOURCE, sql.JOBS_OF_SOURCE, values, options)

    def find_live(self, source: bytes) -> list[Job]:
        """Return the jobs of a source that have not ended."""
        rows = map(job_row, self._db.execute(sql.JOBS_AT_SOURCE, (source,)))
        return [row.job for row in rows if row.job.state in JOB_LIVE]

    def find_archived(self, source: bytes, location: bytes) -> JobRow | None:
        """Return the newest job whose file was found at `source` and is at `location` now, or None."""
        rows = map(job_row, self._db.execute(sql.ARCHIVED_JOBS, (source, location)))
        return max(rows, key=lambda row: row.job.order, default=None)

    def find_upload(self, owner: str, sha256: str, options: Options, tag: str) -> JobRow | None:
        """Return the newest job, not cancelled, of a file with this content from this owner, or None."""
        if not sha256:
            return None
        return self._newest(sql.JOB_OF_UPLOAD, sql.JOBS_OF_UPLOAD, (sha256, owner, tag), options)

    def _newest(
        self, exact: str, similar: str, values: tuple[object, ...], options: Options
    ) -> JobRow | None:
        """Return the newest job with these options, compared decoded: an older release may have stored fewer fields."""
        row = self._db.execute(exact, (*values, msgspec.msgpack.encode(options))).fetchone()
        if row is not None:
            return job_row(row)
        found = [
            one for one in map(job_row, self._db.execute(similar, values)) if one.job.options.is_same(options)
        ]
        return max(found, key=lambda one: one.job.order, default=None)

    def is_processed(self, source: bytes, size: int, mtime_ns: int) -> bool:
        """Return whether a deleted job processed this file (path, size and time)."""
        return self._db.execute(sql.IS_PROCESSED, (source, size, mtime_ns)).fetchone() is not None

    def uploaded_jobs(
        self, stored: Iterable[str], *, done_since_ms: int, failed_since_ms: int
    ) -> list[JobRow]:
        """Return the jobs of uploaded files that are live, or were done or failed since then; oldest end first.

        `stored`: the ids of the jobs whose files are on the disk; a million other jobs are not read.
        """
        rows = [job_row(row) for state in JOB_LIVE for row in self._db.execute(sql.LIVE_JOBS, (state.value,))]
        since = {JobState.DONE: done_since_ms, JobState.FAILED: failed_since_ms}
        found = filter(None, map(self.find_job, stored))
        ended = [row for row in found if (row.ended_ms or 0) > since.get(row.job.state, math.inf)]
        rows += sorted(ended, key=lambda row: row.ended_ms or 0)
        return [row for row in rows if row.job.sha256 or row.job.state is JobState.RECEIVING]

    def is_queue_paused(self) -> bool:
        """Return whether an admin has paused the queue."""
        return bool(self._one(sql.IS_QUEUE_PAUSED))

    def job_owner(self, job: str) -> str | None:
        """Return the owner of a job; None for an unknown job."""
        row = self._db.execute(sql.JOB_OWNER, (job,)).fetchone()
        return row[0] if row else None

    # -- segments --------------------------------------------------------------------------------------------

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
        """Return a job's segments with their results, in order; raises StoreError for damaged data."""
        # The rows first: they are deleted only after the packed results are stored.
        rows = self._db.execute(sql.RESULTS, (job,)).fetchall()
        packed = self._db.execute(sql.PACKED_RESULTS, (job,)).fetchone()
        return unpack_results(packed[0]) if packed is not None else [result_row(row) for row in rows]

    def results_of(self, job: str, indices: Iterable[int]) -> list[ResultRow]:
        """Return the segments with these indices, in order; unknown ones are left out. Raises StoreError for damaged data."""
        wanted = sorted(set(indices))
        found = (self._db.execute(sql.RESULT, (job, index)).fetchone() for index in wanted)
        rows = [result_row(row) for row in found if row is not None]
        if len(rows) < len(wanted) and (packed := self._db.execute(sql.PACKED_RESULTS, (job,)).fetchone()):
            return [row for row in unpack_results(packed[0]) if row.index in set(wanted)]
        return rows

    def count_segments(self, jobs: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return the number of segments by state of each job that has segments."""
        counts: dict[str, dict[str, int]] = {}
        for job in jobs:
            rows = self._db.execute(
                sql.COUNT_SEGMENTS, (job,)
            ).fetchall()  # before the packed ones, as in `results`
            packed = self._db.execute(sql.PACKED_COUNTS, (job,)).fetchone()
            if found := read_counts(packed[0]) if packed else dict(rows):
                counts[job] = found
        return counts

    # -- edits -----------------------------------------------------------------------------------------------

    def edit(self, job: str, task: str, version: int | None = None) -> EditRow | None:
        """Return a saved version of a job's cues, the newest without `version`; None if there is none."""
        if version is None:
            row = self._db.execute(sql.NEWEST_EDIT, (job, task)).fetchone()
        else:
            row = self._db.execute(sql.EDIT, (job, task, version)).fetchone()
        return edit_row(row) if row else None

    def edit_versions(self, job: str, task: str) -> tuple[CueVersion, ...]:
        """Return the saved versions of a job's cues, newest first."""
        return tuple(
            CueVersion(version=version, saved_ms=saved_ms, author=author, cues=cues, restored=restored)
            for version, saved_ms, author, cues, restored, _ in self._db.execute(
                sql.EDIT_VERSIONS, (job, task)
            )
        )

    def edits_to_write(self) -> list[str]:
        """Return the jobs with a version that their output files may not contain yet."""
        return [job for (job,) in self._db.execute(sql.EDITS_TO_WRITE)]

    # -- translations ----------------------------------------------------------------------------------------

    def translations(self, job: str, target: str) -> dict[str, StoredTranslation]:
        """Return the stored sentences of a job in one language, by their keys."""
        names = StoredTranslation.__struct_fields__
        rows = (
            StoredTranslation(**dict(zip(names, row, strict=True)))
            for row in self._db.execute(sql.TRANSLATIONS, (job, target))
        )
        return {row.key: row for row in rows}

    def count_translations(self, job: str) -> dict[str, tuple[int, int]]:
        """Return by language how many sentences of a job are stored, and how many of them could not be translated."""
        rows = self._db.execute(sql.COUNT_TRANSLATIONS, (job,))
        return {target: (count, problems) for target, count, problems in rows}

    # -- journal and outputs ---------------------------------------------------------------------------------

    def journal(
        self, after_seq: int, *, job: str | None = None, owner: str | None = None, limit: int = 1000
    ) -> list[JournalEntry]:
        """Return `limit` journal entries after one: all, those of one job, or those of one owner's jobs."""
        if job is not None:
            if owner is not None and self.job_owner(job) != owner:
                return []
            rows = self._db.execute(sql.JOURNAL_OF_JOB, (job, after_seq, limit))
        elif owner is not None:
            rows = self._db.execute(sql.JOURNAL_OF_OWNER, (owner, after_seq, limit))
        else:
            rows = self._db.execute(sql.JOURNAL, (after_seq, limit))
        return [journal_entry(row) for row in rows]

    def history(self, job: str, *, limit: int = 100) -> list[JournalEntry]:
        """Return the newest `limit` transitions of a job and losses of its segments, oldest first."""
        return [journal_entry(row) for row in self._db.execute(sql.JOB_HISTORY, (job, limit))][::-1]

    def last_seq(self) -> int:
        """Return the number of the newest journal entry, also after it was trimmed; 0 before the first."""
        return int(self._one(sql.LAST_SEQ))

    def source_of_output(self, path: bytes) -> bytes | None:
        """Return the source that an output file was written for; None for a file of another program."""
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


class ReaderPool:
    """A read-only Reader for each thread that asks; thread-safe."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute()
        self._identity = _identity(self._path)
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: list[sqlite3.Connection] = []

    @property
    def is_lost(self) -> bool:
        """Whether the database was deleted or replaced since this pool was created."""
        return _identity(self._path) != self._identity

    def get(self) -> Reader:
        """Return this thread's Reader; raises StoreError, and StateLostError if the database is not the opened one."""
        if self.is_lost:
            raise StateLostError(f"database {self._path} was deleted or replaced while the daemon runs")
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is None:
            with store_errors():
                database = sqlite3.connect(
                    f"{self._path.as_uri()}?mode=ro",
                    uri=True,
                    isolation_level=None,
                    timeout=5,
                    check_same_thread=False,  # `close` is called by another thread
                )
            with self._lock:
                self._open.append(database)
            reader = self._local.reader = Reader(database)
        return reader

    def close(self) -> None:
        """Close all connections; no thread may read any more."""
        with self._lock, suppress(sqlite3.Error):
            while self._open:
                self._open.pop().close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode; None if nothing is there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
