"""What the database's rows hold."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from subtitled.core.plan import Plan
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState, SegmentState


class JournalEntry(Struct, frozen=True, kw_only=True):
    """One transition as it was committed."""

    seq: int
    at_ms: int
    subject: str
    """"job", "segment" or "worker"."""
    job: str
    """The job's id; empty for a worker."""
    name: str
    """A segment's index, a worker's identity."""
    before: str
    event: str
    after: str
    cause: str


class JobRow(Struct, frozen=True, kw_only=True):
    """A job as the store keeps it."""

    job: Job
    media: bytes | None
    created_ms: int
    started_ms: int | None
    ended_ms: int | None


class ResultRow(Struct, frozen=True, kw_only=True):
    """A segment as the store keeps it, with its result."""

    index: int
    state: SegmentState
    plan: Plan
    losses: int
    cause: str
    worker: str
    result: bytes | None


SELECT_JOB = (
    "SELECT id, ord, state, source, location, size, mtime_ns, options, losses, recipe, is_planned, media, language,"
    " language_probability, cause, is_closed, created_ms, started_ms, ended_ms, owner, tag, sha256, repetition FROM jobs"
)
# What follows a source's last slash is its name. Only the newest jobs are searched by it: that none of 100,000 has it takes
# 0.15 s to find out, in which nothing else is done.
CHOOSE_JOBS = (
    "(? IS NULL OR owner = ?) AND (? IS NULL OR tag = ?) AND (? = '' OR ord < (SELECT ord FROM jobs WHERE id = ?))"
    " AND (? = '' OR (ord > (SELECT max(ord) FROM jobs) - 20000 AND instr(lower(replace(CAST(source AS TEXT),"
    " rtrim(CAST(source AS TEXT), replace(CAST(source AS TEXT), '/', '')), '')), lower(?)))) ORDER BY ord DESC LIMIT ?"
)
INSERT_JOB = """INSERT INTO jobs (id, ord, state, source, location, size, mtime_ns, options, losses, recipe, is_planned,
        language, language_probability, cause, is_closed, created_ms, owner, tag, sha256, repetition)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SELECT_JOURNAL = "SELECT seq, at_ms, subject, job, name, before, event, after, cause FROM journal"
_plan_decoder = msgspec.msgpack.Decoder(Plan)
_options_decoder = msgspec.msgpack.Decoder(Options)


def read_plan(data: bytes) -> Plan:
    """Return the plan that a segment's row holds."""
    return _plan_decoder.decode(data)


def new_row(job: Job, now_ms: int) -> tuple[Any, ...]:
    """Return what `INSERT_JOB` takes."""
    return (
        job.id,
        job.order,
        job.state.value,
        job.source,
        job.location,
        job.size,
        job.mtime_ns,
        msgspec.msgpack.encode(job.options),
        job.losses,
        job.recipe,
        job.is_planned,
        job.language,
        job.language_probability,
        job.cause,
        job.is_closed,
        now_ms,
        job.owner,
        job.tag,
        job.sha256,
        job.repetition,
    )


def job_row(row: tuple[Any, ...]) -> JobRow:
    """Return the job that a row of `SELECT_JOB` holds."""
    job = Job(
        id=row[0],
        order=row[1],
        state=JobState(row[2]),
        source=row[3],
        location=row[4],
        size=row[5],
        mtime_ns=row[6],
        options=_options_decoder.decode(row[7]),
        losses=row[8],
        recipe=row[9],
        is_planned=bool(row[10]),
        language=row[12],
        language_probability=row[13],
        cause=row[14],
        is_closed=bool(row[15]),
        owner=row[19],
        tag=row[20],
        sha256=row[21],
        repetition=row[22],
    )
    return JobRow(job=job, media=row[11], created_ms=row[16], started_ms=row[17], ended_ms=row[18])


def journal_entry(row: tuple[Any, ...]) -> JournalEntry:
    """Return the entry that a row of `SELECT_JOURNAL` holds."""
    return JournalEntry(**dict(zip(JournalEntry.__struct_fields__, row, strict=True)))
