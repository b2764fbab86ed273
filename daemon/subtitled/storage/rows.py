"""The database's rows as Structs."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from subtitled.core.plan import Plan, PlanSettings
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState, SegmentState


class JournalEntry(Struct, frozen=True, kw_only=True):
    """One committed transition."""

    seq: int
    at_ms: int
    subject: str
    """"job", "segment" or "worker"."""
    job: str
    """The job's id; empty for a worker."""
    name: str
    """A segment's index or a worker's identity; empty for a job."""
    before: str
    event: str
    after: str
    cause: str


class JobRow(Struct, frozen=True, kw_only=True):
    """A job with its times and its stored media facts."""

    job: Job
    media: bytes | None
    """MessagePack of `Media`; None until the file is read to its end."""
    created_ms: int
    started_ms: int | None
    ended_ms: int | None


class ResultRow(Struct, frozen=True, kw_only=True):
    """A segment with its stored result."""

    index: int
    state: SegmentState
    plan: Plan
    losses: int
    cause: str
    worker: str
    result: bytes | None


_plan_decoder = msgspec.msgpack.Decoder(Plan)
_plan_settings_decoder = msgspec.msgpack.Decoder(PlanSettings | None)
_options_decoder = msgspec.msgpack.Decoder(Options)


def read_plan(data: bytes) -> Plan:
    """Decode a segment's stored plan."""
    return _plan_decoder.decode(data)


def new_row(job: Job, now_ms: int) -> tuple[Any, ...]:
    """Return the values of `queries.INSERT_JOB`."""
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
        msgspec.msgpack.encode(job.plan_settings),
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
    """Return the job of a row of `queries.SELECT_JOB`."""
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
        plan_settings=_plan_settings_decoder.decode(row[9]),
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
    """Return the entry of a row of `queries.SELECT_JOURNAL`."""
    return JournalEntry(**dict(zip(JournalEntry.__struct_fields__, row, strict=True)))
