"""Keep the database small: delete old jobs, pack the results of done jobs, trim the journal, return free pages.

All of it is done in steps of a few hundred rows between the turns of the loop, so that no step holds the loop for long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from subtitled import log
from subtitled.core.records import Job
from subtitled.errors import NoSpaceError
from subtitled.runtime.background import BackgroundPool, CallInLoop
from subtitled.storage.rows import pack_results
from subtitled.storage.store import Store

PACK_AFTER_MS = 60_000
"""Age at which the results of a done job are packed."""
KEEP_SEGMENT_ENTRIES_MS = 86_400_000
"""Age of a done job at which the journal entries of its segments are deleted; a watcher that was away can read them until then."""
KEEP_WORKER_ENTRIES_MS = 7 * 86_400_000
"""Age at which journal entries of workers and deleted jobs are deleted."""
DAY_MS = 86_400_000
STEP_ROWS = 200
STEP_JOBS = 5
STEP_PAGES = 50
BUDGET_S = 0.005
"""Time of one turn of the loop that the steps may take."""
BUSY_S = 0.02
"""Pause between two turns while there is work."""
IDLE_S = 5.0
"""Pause when there is none, and after an error for lack of space."""
_log = log.get()


class Retention:
    """Belongs to the thread of the server's loop; results are packed in a separate thread."""

    def __init__(
        self, store: Store, call_in_loop: CallInLoop, *, keep_days: int, on_deleted: Callable[[Job], None]
    ) -> None:
        """`keep_days`: age at which ended jobs are deleted (0: never); `on_deleted` releases a deleted job's upload."""
        self.keep_days = keep_days
        self._store = store
        self._on_deleted = on_deleted
        self._background = BackgroundPool("pack", call_in_loop)
        self._packed = ""
        """The job whose rows are being deleted after it was packed."""
        self._trimmed = (0, 0)
        """End and order of the last done job whose segment entries are deleted."""
        self._next_at = 0.0

    @property
    def next_at(self) -> float:
        """When `tick` is due (monotonic clock)."""
        return self._next_at

    def tick(self, now: float, now_ms: int) -> None:
        """Do a few steps if they are due."""
        if now < self._next_at:
            return
        until = time.monotonic() + BUDGET_S
        try:
            for is_done in self._steps(now_ms):
                if not is_done:
                    self._next_at = now + BUSY_S
                    return
                if time.monotonic() >= until:
                    break
        except NoSpaceError:
            pass  # logged by the commits of the loop; tried again
        self._next_at = now + IDLE_S

    def close(self) -> None:
        """Wait for the thread."""
        self._background.close()

    def _steps(self, now_ms: int) -> Iterator[bool]:
        """Do one step of each kind; yield whether that kind has nothing left to do."""
        yield self._store.delete_remains(STEP_ROWS)
        yield self._delete_expired(now_ms)
        yield self._pack(now_ms)
        yield self._trim_segments(now_ms)
        yield self._store.trim_journal(now_ms - KEEP_WORKER_ENTRIES_MS, STEP_ROWS)
        yield self._store.vacuum(STEP_PAGES)

    def _delete_expired(self, now_ms: int) -> bool:
        if not self.keep_days:
            return True
        rows = self._store.expired_jobs(now_ms - self.keep_days * DAY_MS, STEP_JOBS)
        for row in rows:
            self._store.delete_job(row, is_noted=False)
            self._on_deleted(row.job)
        return not rows

    def _pack(self, now_ms: int) -> bool:
        if self._packed:
            if self._store.compact(self._packed, STEP_ROWS):
                self._packed = ""
            return False
        job = self._store.job_to_pack(now_ms - PACK_AFTER_MS)
        if job is None or not self._background.is_idle or self._store.is_lost:
            return True
        self._background.run(
            lambda: pack_results(self._store.readers.get().results(job)),
            partial(self._store_packed, job),
            partial(self._skip, job),
            Exception,
        )
        return True

    def _trim_segments(self, now_ms: int) -> bool:
        jobs = self._store.done_jobs(self._trimmed, now_ms - KEEP_SEGMENT_ENTRIES_MS, STEP_JOBS)
        for job, *end in jobs:
            if not self._store.trim_segments(job, STEP_ROWS):
                return False
            self._trimmed = (end[0], end[1])
        return len(jobs) < STEP_JOBS

    def _store_packed(self, job: str, packed: tuple[bytes, bytes]) -> None:
        try:
            self._store.pack(job, *packed)
        except NoSpaceError:
            return
        self._packed = job
        self._next_at = 0.0

    def _skip(self, job: str, error: Exception) -> None:
        """Leave a job as it is whose results cannot be read."""
        _log.error(log.RESULTS_DAMAGED, job=job, cause=str(error))
        self._store.skip_packing(job)
