"""What is told only once it is on the disk, without the loop waiting for the disk.

SQLite's own way (`synchronous = FULL`) has each commit wait for the disk in the thread that commits: 200 uploads that end at
once held up everybody else for 200 such waits in a row. Here commits only write; a thread brings what is written to the disk,
all that has gathered with one wait, and then what hangs on it is told. That thread also moves the log's pages
into the database, which SQLite would do in the middle of some commit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from subtitled import log
from subtitled.core.actions import Save
from subtitled.errors import NoSpaceError, StoreError
from subtitled.runtime.background import BackgroundPool
from subtitled.storage.rows import JournalEntry
from subtitled.storage.store import Store

CHECKPOINT_COMMITS = 1000
"""After so many commits the log's pages are moved into the database."""


class DurabilityQueue:
    """Belongs to the thread of the server's loop."""

    def __init__(self, store: Store, call_back: Callable[[Callable[[], None]], None]) -> None:
        """Nothing is awaited yet; `call_back`, called in a thread, has a function called in the loop's."""
        self._store = store
        self._aside = BackgroundPool("sync", call_back)
        self._waiting: list[Callable[[], object]] = []
        self._checkpoint_at = store.commits + CHECKPOINT_COMMITS

    def then(self, tell: Callable[[], object]) -> None:
        """Call `tell` once all that has been committed by now is on the disk; a disk that refuses ends the daemon."""
        self._waiting.append(tell)
        if self._aside.is_at_rest:
            self._begin()

    def tend(self) -> None:
        """Have the log's pages moved when there are many; to be called after commits."""
        if self._store.commits >= self._checkpoint_at and self._aside.is_at_rest:
            self._begin()

    def close(self) -> None:
        """Wait for the disk; whoever waits to be told will ask again."""
        self._aside.close()

    def _begin(self) -> None:
        told, self._waiting = self._waiting, []
        work = self._store.sync
        if self._store.commits >= self._checkpoint_at:
            self._checkpoint_at = self._store.commits + CHECKPOINT_COMMITS
            work = self._store.checkpoint
        self._aside.run(work, lambda _: self._end(told), _give_up, StoreError)

    def _end(self, told: list[Callable[[], object]]) -> None:
        for tell in told:
            tell()
        if self._waiting:
            self._begin()


def _give_up(error: StoreError) -> None:
    raise error


_log = log.get()


class Transactions:
    """Belongs to the thread of the server's loop, which it holds up while the disk is full."""

    def __init__(self, store: Store, wait: Callable[[], bool]) -> None:
        """`wait` passes the time until the next try; False: there is to be none."""
        self._store = store
        self._wait = wait
        self._is_disk_full = False

    def apply(self, saves: Sequence[Save]) -> list[JournalEntry]:
        """Commit, and return what the journal got; raises NoSpaceError when there is to be no other try."""
        while True:
            try:
                entries = self._store.apply(saves)
            except NoSpaceError as error:
                if not self._is_disk_full:
                    _log.warning(log.DISK_FULL, cause=str(error))
                self._is_disk_full = True
                if not self._wait():
                    raise  # what is not written is done again after the next start
            else:
                if self._is_disk_full:
                    _log.info(log.DISK_OK)
                self._is_disk_full = False
                return entries
