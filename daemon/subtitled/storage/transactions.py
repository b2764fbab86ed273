"""Transitions committed before anything is said of them, however long the disk is full."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from subtitled import log
from subtitled.core.actions import Save
from subtitled.errors import NoSpaceError
from subtitled.storage.rows import JournalEntry
from subtitled.storage.store import Store

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
