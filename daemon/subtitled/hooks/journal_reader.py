"""A thread that reads the journal and passes each job's end on, in order and at least once.

Nothing is queued in memory: what is not passed on yet is in the journal, and a small file says how far it was read. A
daemon that is killed between an end's delivery and the note of it delivers that end again after its next start.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from subtitled import log
from subtitled.core.plan import SAMPLES_PER_MS
from subtitled.core.protocol import Media
from subtitled.errors import SpoolError
from subtitled.storage.queries import SELECT_JOB
from subtitled.storage.rows import JobRow, job_row

ENTRIES = 100
CLOSING_S = 60.0
"""Longest wait for a failed job's partial files; on a full disk they may take for ever."""
LOOK_S = 0.5
REPAIR_S = 5.0
STOP_S = 2.0

_log = log.get()


class HookStop:
    """Says to whoever delivers that the daemon ends; waits that are cut short by it."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """End all waits, now and later."""
        self._event.set()

    @property
    def is_set(self) -> bool:
        """The daemon ends."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait; return whether the daemon ends."""
        return self._event.wait(seconds)


class JournalReader:
    """Follows the journal of `database` from where the file `mark` says; begins with what is new if there is none.

    `deliver` is called on the follower's own thread, one end at a time. It returns False where it gave up because the
    daemon ends: that end is delivered again after the next start. It must not raise.
    """

    def __init__(
        self, name: str, database: Path, mark: Path, deliver: Callable[[JobEnded, HookStop], bool]
    ) -> None:
        self._database = database
        self._mark = mark
        self._deliver = deliver
        self._first_seq = 0
        self._stopping = HookStop()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, last_seq: int) -> None:
        """Begin; without a mark, with what comes after `last_seq`, the newest entry of the journal."""
        self._first_seq = last_seq
        self._thread.start()

    def wake(self) -> None:
        """Say that the journal has grown; may be called from any thread."""
        self._news.set()

    def stop(self) -> None:
        """End, and wait a little; what is not delivered then is delivered after the next start."""
        self._stopping.set()
        self._news.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping.is_set:
            try:
                if not self._mark.exists():
                    self._note(self._first_seq)
                with contextlib.closing(self._open()) as db:
                    self._follow(db, self._read())
            except (sqlite3.Error, OSError, SpoolError) as error:
                # A full disk or a busy database passes; nothing is lost meanwhile.
                _log.warning(log.HOOK_RETRYING, cause=str(error), mark=str(self._mark))
                self._stopping.wait(REPAIR_S)

    def _follow(self, db: sqlite3.Connection, seq: int) -> None:
        while not self._stopping.is_set:
            self._news.clear()
            rows = db.execute(
                "SELECT seq, job, after FROM journal WHERE seq > ? AND subject = 'job' AND after IN (?, ?)"
                " AND before <> after ORDER BY seq LIMIT ?",
                (seq, *EVENTS, ENTRIES),
            ).fetchall()
            for number, job, state in rows:
                ended = self._closed(db, number, job, state)
                if self._stopping.is_set or (ended is not None and not self._deliver(ended, self._stopping)):
                    return
                seq = number
                self._note(seq)
            if not rows:
                self._news.wait()

    def _closed(self, db: sqlite3.Connection, seq: int, job: str, state: str) -> JobEnded | None:
        """Return the facts of an end once its files are in place; None where it is none any more."""
        deadline = time.monotonic() + CLOSING_S
        while (found := read(db, seq, job, state)) is not None:
            ended, is_closed = found
            if is_closed or time.monotonic() > deadline or self._stopping.wait(LOOK_S):
                return ended
        return None

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._database.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5
        )

    def _read(self) -> int:
        text = self._mark.read_text("ascii", "replace")
        if not text.isdecimal():
            raise SpoolError(
                f"{self._mark} holds {text[:20]!r}, no number; remove it: what ends from then on is told"
            )
        return int(text)

    def _note(self, seq: int) -> None:
        # One name for what is not whole yet, so that a kill leaves nothing behind.
        unfinished = self._mark.with_suffix(".new")
        with unfinished.open("w", encoding="ascii") as file:
            file.write(str(seq))
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self._mark)


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
