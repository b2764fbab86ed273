"""One SQLite file: opened, brought up to date, changed in transactions, its refusals told."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from subtitled.errors import NoSpaceError, StoreError, SubtitledError

AUTOCHECKPOINT_PAGES = 10_000
"""So long may the log become (40 MB) before a commit has to move its pages itself, where nobody else did."""


def open_database(path: str, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open or make the database at `path`; raises StoreError when it is unusable or newer than this code."""
    try:
        database = sqlite3.connect(path, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(f"database {path}: {error}; check the folder's permissions") from error
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # see WriteAheadLog
        database.execute(f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}")
        database.execute("PRAGMA foreign_keys = ON")
        _migrate(database, path, migrations)
    except StoreError:
        database.close()
        raise
    except sqlite3.Error as error:
        database.close()
        raise StoreError(f"database {path}: {error}; check the folder's permissions and space") from error
    return database


class WriteAheadLog:
    """The write-ahead log of an open database, for any thread: with `synchronous = NORMAL` commits write to it and do not wait.

    What is committed survives any end of the process at once, and a power cut once the log is on the disk. (The log's file has
    no locks that a second descriptor's end could take from SQLite; those are on its other two files.)
    """

    def __init__(self, path: str) -> None:
        """`path`: the database's; raises StoreError."""
        self._path = path
        with _on_the_disk(path):
            self._file = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            folder = os.open(Path(path).parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)  # the log's name is as new as the log
            finally:
                os.close(folder)

    def sync(self) -> None:
        """Bring the log to the disk. Blocks; raises StoreError."""
        with _on_the_disk(self._path):
            os.fsync(self._file)

    def checkpoint(self) -> None:
        """Bring the log to the disk, and its pages into the database, as far as nobody reads older ones."""
        self.sync()
        # Where the disk is full the pages stay in the log; commits tell of it.
        with suppress(NoSpaceError), reported(), closing(sqlite3.connect(self._path)) as database:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Let go of the file; may be repeated."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done inside, or nothing of it; raises NoSpaceError for a full disk, else StoreError."""
    with reported():
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            # SQLite has rolled back by itself after some errors, a full disk among them.
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


@contextmanager
def reported() -> Iterator[None]:
    """Turn what SQLite refuses into a StoreError, a full disk into a NoSpaceError."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise NoSpaceError(
                f"database: {error}; free some space on the file system of state.dir"
            ) from error
        raise StoreError(f"database: {error}") from error


@contextmanager
def _on_the_disk(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"database {path}: its log cannot be brought to the disk: {error}") from error


def _migrate(database: sqlite3.Connection, path: str, migrations: Sequence[str]) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StoreError(
            f"database {path} has version {version}, this release knows up to {len(migrations)}: "
            "install the newer release again, or start with another state.dir"
        )
    for number, script in enumerate(migrations[version:], version + 1):
        database.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")


def take_folder(state: Path) -> int:
    """Take the state folder for this process; return the descriptor that holds it.

    Raises SubtitledError when another daemon has it.
    """
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SubtitledError(
            f'state.dir = "{state}": another daemon uses it; stop that one, or give this one a folder of its own'
        ) from None
    return lock
