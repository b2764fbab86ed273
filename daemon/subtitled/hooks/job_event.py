"""A job that has ended, as others are told of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from subtitled.core.protocol import Media
from subtitled.output.transcript_builder import SAMPLES_PER_MS
from subtitled.storage.rows import SELECT_JOB, JobRow, job_row


class JobEnded(Struct, frozen=True, kw_only=True):
    """The facts of one job's end; times in milliseconds of the Unix epoch, paths with U+FFFD for what is no UTF-8."""

    delivery: str
    """Names this end: the same again when it is told again, another when the job is retried and ends once more."""
    event: str
    """"job.done" or "job.failed"."""
    job: str
    source: str
    """Where the media file was found."""
    location: str
    """Where it is now."""
    inbox: str
    outputs: tuple[str, ...]
    """The files that were written."""
    language: str | None
    """Whisper's code; None where it is not known, or more than one."""
    task: str
    cause: str
    """Why it failed, or why nothing was written."""
    audio_ms: int
    created_ms: int
    started_ms: int | None
    ended_ms: int | None


EVENTS = {"done": "job.done", "failed": "job.failed"}
"""The states in which a job has ended and somebody may want to know."""


def read(db: sqlite3.Connection, seq: int, job: str, state: str) -> tuple[JobEnded, bool] | None:
    """Return the facts of the end that a journal entry tells of, and whether all its files are in place.

    None where the job has gone on since: it was retried, and ends once more.
    """
    row = db.execute(f"{SELECT_JOB} WHERE id = ?", (job,)).fetchone()
    found = job_row(row) if row else None
    if found is None or found.job.state.value != state:
        return None
    outputs = db.execute("SELECT path FROM outputs WHERE job = ? ORDER BY path", (job,)).fetchall()
    facts = _facts(f"{job}-{seq}", EVENTS[state], found, [path for (path,) in outputs])
    return facts, found.job.is_closed


def _facts(delivery: str, event: str, row: JobRow, outputs: Sequence[bytes]) -> JobEnded:
    job, options = row.job, row.job.options
    media = msgspec.msgpack.decode(row.media, type=Media) if row.media else Media()
    return JobEnded(
        delivery=delivery,
        event=event,
        job=job.id,
        source=_shown(job.source),
        location=_shown(job.location),
        inbox=_shown(options.inbox),
        outputs=tuple(map(_shown, outputs)),
        language=job.language or (None if options.language in {"auto", "multi"} else options.language),
        task=options.task,
        cause=os.fsencode(job.cause).decode("utf-8", "replace"),
        audio_ms=media.decoded_samples // SAMPLES_PER_MS,
        created_ms=row.created_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
    )


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "replace")
