"""Commit transitions, retry while the disk is full, and sync commits without blocking the loop.

With `synchronous = FULL` each commit would wait for the disk in the thread that commits: 200 uploads that end at once would
hold up every other client for 200 waits in a row. Here a commit only writes. A thread syncs all commits so far with one
wait and then runs the callbacks that depend on them. That thread also runs the checkpoints, which SQLite would otherwise run
inside a commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from subtitled import log
from subtitled.core.actions import Save
from subtitled.errors import NoSpaceError, StoreError
from subtitled.runtime.background import BackgroundPool, CallInLoop
from subtitled.storage.rows import JournalEntry
from subtitled.storage.store import Store

CHECKPOINT_COMMITS = 1000
"""Commits between two checkpoints."""
_log = log.get()


class DurabilityQueue:
    """Callbacks that wait for a sync; belongs to the thread of the server's loop."""

    def __init__(self, store: Store, call_in_loop: CallInLoop) -> None:
        self._store = store
        self._background = BackgroundPool("sync", call_in_loop)
        self._callbacks: list[Callable[[], object]] = []
        self._checkpoint_at = store.commits + CHECKPOINT_COMMITS

    def when_durable(self, callback: Callable[[], object]) -> None:
        """Call `callback` once all commits so far are on the disk; a failed sync raises StoreError in the loop."""
        self._callbacks.append(callback)
        if self._background.is_idle:
            self._start()

    def checkpoint_if_due(self) -> None:
        """Start a checkpoint after CHECKPOINT_COMMITS commits; to be called after commits."""
        if self._store.commits >= self._checkpoint_at and self._background.is_idle:
            self._start()

    def close(self) -> None:
        """Wait for the sync in progress; the remaining callbacks are not called."""
        self._background.close()

    def _start(self) -> None:
        callbacks, self._callbacks = self._callbacks, []
        work = self._store.sync
        if self._store.commits >= self._checkpoint_at:
            self._checkpoint_at = self._store.commits + CHECKPOINT_COMMITS
            work = self._store.checkpoint
        self._background.run(work, lambda _: self._finish(callbacks), _raise, StoreError)

    def _finish(self, callbacks: list[Callable[[], object]]) -> None:
        for callback in callbacks:
            callback()
        if self._callbacks:
            self._start()


def _raise(error: StoreError) -> None:
    raise error


class Transactions:
    """Commits that are retried while the disk is full; belongs to the thread of the server's loop, which it then blocks."""

    def __init__(self, store: Store, wait: Callable[[], bool]) -> None:
        """`wait` blocks until the next attempt; it returns False when there must be none."""
        self._store = store
        self._wait = wait
        self._is_disk_full = False

    def apply(self, saves: Sequence[Save]) -> list[JournalEntry]:
        """Commit `saves` and return the new journal entries; raises NoSpaceError when `wait` returned False."""
        while True:
            try:
                entries = self._store.apply(saves)
            except NoSpaceError as error:
                if not self._is_disk_full:
                    _log.warning(log.DISK_FULL, cause=str(error))
                self._is_disk_full = True
                if not self._wait():
                    raise  # uncommitted work is repeated after the next start
            else:
                if self._is_disk_full:
                    _log.info(log.DISK_OK)
                self._is_disk_full = False
                return entries
