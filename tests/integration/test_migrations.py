"""The database comes up to the present version, step by step and each step whole, or is left alone."""

from __future__ import annotations

import sqlite3
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import pytest

from daemon import Daemon
from subtitled.errors import ExitCode, StoreError
from subtitled.storage.schema import MIGRATIONS
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHIPPED = (
    "5817be56963b68820c9ad9a25bd3ce239b96e7aa7319546586569589b2cdf79a",
    "2d4c81d2afaa8fd0db3667325ca32d2cdbe49a5eec74056ee6d88fcb3e935588",
    "4b50b5ee86cfaef4639d506e368dfa2e76dc146e7382bd36c82e2e3e96d788de",
    "d82a56b5e17460365b1d63d5343e62265b19b6570edd1ebeee458b42400bd8d2",
)
"""SHA-256 of each migration that has shipped. Add one for a new migration; none of these ever changes."""

SECOND = "CREATE TABLE later (value INTEGER) STRICT; INSERT INTO later VALUES (7)"
FAULTY = "CREATE TABLE half (value INTEGER) STRICT; INSERT INTO nowhere VALUES (1)"


def query(path: Path, sql: str) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(path)
    try:
        return database.execute(sql).fetchall()
    finally:
        database.close()


def version(path: Path) -> int:
    return int(query(path, "PRAGMA user_version")[0][0])


def tables(path: Path) -> set[str]:
    return {name for (name,) in query(path, "SELECT name FROM sqlite_schema WHERE type = 'table'")}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a database as the first release leaves it."""
    path = tmp_path / "subtitled.sqlite"
    Store(str(path), MIGRATIONS[:1]).close()
    return path


def test_shipped_migrations_never_change() -> None:
    """A database out there went through the script as it was: a change would reach new ones only."""
    assert tuple(sha256(script.encode()).hexdigest() for script in MIGRATIONS) == SHIPPED


def test_new_database_has_the_newest_version(tmp_path: Path) -> None:
    path = tmp_path / "subtitled.sqlite"
    Store(str(path)).close()
    assert version(path) == len(MIGRATIONS)


def test_present_database_is_opened_as_it_is(path: Path) -> None:
    before = query(path, "SELECT type, name, sql FROM sqlite_schema ORDER BY name")
    for _ in range(2):
        Store(str(path), MIGRATIONS[:1]).close()
    assert query(path, "SELECT type, name, sql FROM sqlite_schema ORDER BY name") == before


def test_only_what_is_missing_is_migrated(path: Path) -> None:
    store = Store(str(path), (MIGRATIONS[0], SECOND))
    store.close()
    assert version(path) == 2
    assert query(path, "SELECT value FROM later") == [(7,)]
    Store(str(path), (MIGRATIONS[0], SECOND)).close()
    assert query(path, "SELECT value FROM later") == [(7,)]


def test_migration_that_fails_leaves_the_version_before_it(path: Path) -> None:
    before = tables(path)
    with pytest.raises(StoreError, match="nowhere"):
        Store(str(path), (MIGRATIONS[0], FAULTY))
    assert version(path) == 1
    assert tables(path) == before
    # Nothing is locked: the release before opens it at once.
    Store(str(path), MIGRATIONS[:1]).close()


def test_migrations_before_the_one_that_fails_stay(path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        Store(str(path), (MIGRATIONS[0], SECOND, FAULTY))
    assert version(path) == 2
    assert "later" in tables(path)
    assert "half" not in tables(path)


def test_newer_database_is_refused_and_left_alone(path: Path) -> None:
    Store(str(path), (MIGRATIONS[0], SECOND)).close()
    before = path.read_bytes()
    with pytest.raises(StoreError) as refused:
        Store(str(path), MIGRATIONS[:1])
    assert str(path) in str(refused.value)
    assert "version 2, this release knows up to 1" in str(refused.value)
    assert "install the newer release again" in str(refused.value)
    assert path.read_bytes() == before


def test_daemon_refuses_a_newer_database_and_says_what_to_do(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        (tmp_path / "state").mkdir()
        database = sqlite3.connect(tmp_path / "state" / "subtitled.sqlite")
        database.execute("PRAGMA user_version = 1000")
        database.close()
        daemon.spawn()
        assert daemon.wait_for_exit() == ExitCode.FAILED
        assert "has version 1000, this release knows up to" in daemon.tail()
        assert "install the newer release again, or start with another state.dir" in daemon.tail()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"Dear diary, today nothing happened.\n" * 200),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["text", "folder"],
)
def test_what_is_no_database_is_refused_with_its_path(path: Path, spoil: Callable[[Path], object]) -> None:
    spoil(path)
    with pytest.raises(StoreError, match=str(path)):
        Store(str(path))
