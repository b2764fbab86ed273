"""One SQLite file: opened, brought up to date, changed in transactions, its refusals told."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from subtitled.errors import NoSpaceError, StoreError


def open_database(path: str, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open or make the database at `path`; raises StoreError when it is unusable or newer than this code."""
    try:
        database = sqlite3.connect(path, isolation_level=None)
    except sqlite3.Error as error:
        raise StoreError(f"database {path}: {error}; check the folder's permissions") from error
    try:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA foreign_keys = ON")
        _migrate(database, path, migrations)
    except StoreError:
        database.close()
        raise
    except sqlite3.Error as error:
        database.close()
        raise StoreError(f"database {path}: {error}; check the folder's permissions and space") from error
    return database


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


def _migrate(database: sqlite3.Connection, path: str, migrations: Sequence[str]) -> None:
    version = database.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise StoreError(
            f"database {path} has version {version}, this release knows up to {len(migrations)}: "
            "install the newer release again, or start with another state.dir"
        )
    for number, script in enumerate(migrations[version:], version + 1):
        database.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
