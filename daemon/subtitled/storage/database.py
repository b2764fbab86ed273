"""Open, migrate and sync one SQLite database; report its errors; lock the state folder."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from subtitled.errors import NoSpaceError, StoreError, SubtitledError

AUTOCHECKPOINT_PAGES = 10_000
"""Size of the write-ahead log (40 MB) at which a commit moves its pages into the database itself."""


def open_database(path: str, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open or create the database at `path`; raises StoreError when it is unusable or newer than this release."""
    try:
        database = sqlite3.connect(path, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(f"database {path}: {error}; check the folder's permissions") from error
    try:
        if not database.execute("PRAGMA user_version").fetchone()[0]:
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
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
        cause = describe(error)
        remedy = "" if cause != str(error) else "; check the folder's permissions and space"
        raise StoreError(f"database {path}: {cause}{remedy}") from error
    return database


class WriteAheadLog:
    """The write-ahead log of an open database; thread-safe.

    With `synchronous = NORMAL` a commit writes to the log and does not wait for the disk. A commit survives the end of the
    process at once, and a power cut after `sync`. SQLite holds no POSIX lock on the log's file, so closing this second
    descriptor releases none.
    """

    def __init__(self, path: str) -> None:
        """Open the log of the database at `path`; raises StoreError."""
        self._path = path
        with _sync_errors(path):
            self._file = os.open(f"{path}-wal", os.O_RDONLY | os.O_CLOEXEC)
            folder = os.open(Path(path).parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)  # the file's name must be durable too
            finally:
                os.close(folder)

    def sync(self) -> None:
        """Write the log to the disk. Blocks; raises StoreError."""
        with _sync_errors(self._path):
            os.fsync(self._file)

    def checkpoint(self) -> None:
        """Sync the log, then move its pages into the database as far as no reader needs older ones."""
        self.sync()
        # On a full disk the pages stay in the log, and the next commit reports it.
        with suppress(NoSpaceError), store_errors(), closing(sqlite3.connect(self._path)) as database:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def close(self) -> None:
        """Close the file; may be repeated."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Commit the body as one transaction, or roll it back; raises NoSpaceError on a full disk, else StoreError."""
    with store_errors():
        database.execute("BEGIN IMMEDIATE")
        try:
            yield
            database.execute("COMMIT")
        except BaseException:
            # SQLite rolls back automatically after some errors, such as a full disk.
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


@contextmanager
def store_errors() -> Iterator[None]:
    """Turn SQLite's errors into StoreError, a full disk into NoSpaceError."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise NoSpaceError(
                f"database: {error}; free some space on the file system of state.dir"
            ) from error
        raise StoreError(f"database: {describe(error)}") from error


def describe(error: sqlite3.Error) -> str:
    """Return the reason of an SQLite error, with the remedy for a damaged file."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return f"the file is damaged ({error}); stop the daemon and restore the backup of state.dir"
    return str(error)


@contextmanager
def _sync_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"database {path}: its log cannot be synced: {error}") from error


def _migrate(database: sqlite3.Connection, path: str, migrations: Sequence[str]) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StoreError(
            f"database {path} has schema version {version}; this release supports up to {len(migrations)}: "
            "install the newer release again, or use another state.dir"
        )
    for number, script in enumerate(migrations[version:], version + 1):
        database.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")


def lock_state_folder(state: Path) -> int:
    """Lock the state folder for this process; return the descriptor that holds the lock.

    Raises SubtitledError when another daemon holds it.
    """
    lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise SubtitledError(
            f'state.dir = "{state}": another daemon uses this folder; stop it, or set another state.dir'
        ) from None
    return lock
