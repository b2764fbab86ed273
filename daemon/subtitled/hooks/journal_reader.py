"""Read the journal in a thread and deliver each job's end, in order and at least once.

Nothing is queued in memory: undelivered ends are in the journal, and the mark, the number of the last delivered entry, is in the
same database. A daemon that is killed between a delivery and the update of the mark delivers that end again after its next
start.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from subtitled import log
from subtitled.core.plan import SAMPLES_PER_MS
from subtitled.errors import StoreError
from subtitled.languages import named_language
from subtitled.storage.queries import JOB_BY_ID, JOB_ENDS, OUTPUTS_OF_JOB
from subtitled.storage.rows import JobRow, job_row

ENTRIES = 100
CLOSING_S = 60.0
"""Longest wait for a failed job's partial files, which a full disk can delay without limit."""
POLL_S = 0.5
RETRY_S = 5.0
STOP_S = 2.0

_log = log.get()


class JournalReader:
    """Reads the journal of `database` in a thread and calls `deliver` in it, one end at a time.

    `deliver` returns False when it stopped because the daemon stops: that end is delivered again after the next start. It must
    not raise. `sync` makes all commits durable before an end is delivered: a power cut must not undo an end that was reported.
    `handled` receives the number of each entry that is delivered.
    """

    def __init__(
        self,
        name: str,
        database: Path,
        deliver: Callable[[JobEnded, threading.Event], bool],
        *,
        sync: Callable[[], None],
        handled: Callable[[int], None],
    ) -> None:
        self._database = database
        self._deliver = deliver
        self._sync = sync
        self._handled = handled
        self.seq = 0
        """The last entry that is delivered."""
        self._stopping = threading.Event()
        self._has_news = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self, after_seq: int) -> None:
        """Start with the entries after `after_seq`."""
        self.seq = after_seq
        self._thread.start()

    def wake(self) -> None:
        """Report new entries; thread-safe."""
        self._has_news.set()

    def stop(self) -> None:
        """Stop, and wait up to STOP_S; undelivered ends are delivered after the next start."""
        self._stopping.set()
        self._has_news.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with contextlib.closing(self._open()) as db:
                    self._deliver_all(db)
            except (sqlite3.Error, StoreError) as error:
                # A full disk or a busy database is temporary; nothing is lost meanwhile.
                _log.warning(log.HOOK_RETRYING, cause=str(error))
                self._stopping.wait(RETRY_S)

    def _deliver_all(self, db: sqlite3.Connection) -> None:
        while not self._stopping.is_set():
            self._has_news.clear()
            rows = db.execute(JOB_ENDS, (self.seq, ENTRIES)).fetchall()
            if rows:
                self._sync()
            for seq, job, state in rows:
                ended = self._closed(db, seq, job, state)
                if self._stopping.is_set() or (
                    ended is not None and not self._deliver(ended, self._stopping)
                ):
                    return
                self.seq = seq
                self._handled(seq)
            if not rows:
                self._has_news.wait()

    def _closed(self, db: sqlite3.Connection, seq: int, job: str, state: str) -> JobEnded | None:
        """Return an end once its files are in place; None when the job was retried since."""
        deadline = time.monotonic() + CLOSING_S
        while (found := read(db, seq, job, state)) is not None:
            ended, is_closed = found
            if is_closed or time.monotonic() > deadline or self._stopping.wait(POLL_S):
                return ended
        return None

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self._database.as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=5
        )


class JobEnded(Struct, frozen=True, kw_only=True):
    """A job's end; times are milliseconds of the Unix epoch, paths have U+FFFD for bytes that are not UTF-8."""

    delivery: str
    """Identifies the end: equal for repeated deliveries, new when the job is retried and ends again."""
    event: str
    """"job.done" or "job.failed"."""
    job: str
    source: str
    """Path at which the media file was found."""
    location: str
    """Its present path."""
    inbox: str
    outputs: tuple[str, ...]
    """The written files."""
    language: str | None
    """Whisper's language code; None when unknown or more than one."""
    task: str
    cause: str
    """Why the job failed or wrote nothing."""
    audio_ms: int
    created_ms: int
    started_ms: int | None
    ended_ms: int | None


EVENTS = {"done": "job.done", "failed": "job.failed"}
"""Final state -> event."""


def read(db: sqlite3.Connection, seq: int, job: str, state: str) -> tuple[JobEnded, bool] | None:
    """Return the end of a journal entry and whether its files are in place; None when the job was retried since."""
    row = db.execute(JOB_BY_ID, (job,)).fetchone()
    found = job_row(row) if row else None
    if found is None or found.job.state.value != state:
        return None
    outputs = db.execute(OUTPUTS_OF_JOB, (job,)).fetchall()
    facts = _job_ended(f"{job}-{seq}", EVENTS[state], found, [path for (path,) in outputs])
    return facts, found.job.is_closed


def _job_ended(delivery: str, event: str, row: JobRow, outputs: Sequence[bytes]) -> JobEnded:
    job, options = row.job, row.job.options
    return JobEnded(
        delivery=delivery,
        event=event,
        job=job.id,
        source=_text(job.source),
        location=_text(job.location),
        inbox=_text(options.inbox),
        outputs=tuple(map(_text, outputs)),
        language=job.language or named_language(options.language),
        task=options.task,
        cause=os.fsencode(job.cause).decode("utf-8", "replace"),
        audio_ms=row.media_facts.decoded_samples // SAMPLES_PER_MS,
        created_ms=row.created_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
    )


def _text(path: bytes) -> str:
    return path.decode("utf-8", "replace")
