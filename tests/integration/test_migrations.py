"""A database is migrated to the current schema, each step in one transaction, or is left unchanged."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pytest

import media
from daemon import DEADLINE_S, Daemon
from subtitled.config import schema
from subtitled.errors import ExitCode, StoreError
from subtitled.storage.schema import MIGRATIONS
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

UPGRADE = Path(__file__).with_name("upgrade")
RELEASED = sorted(UPGRADE.glob("schema_*.sql"))
"""A database of each released schema version: its migration's script, and rows. A release adds its own; none ever changes."""

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
    """Return a database with the first schema."""
    path = tmp_path / "subtitled.sqlite"
    Store(str(path), MIGRATIONS[:1]).close()
    return path


def test_released_migrations_never_change() -> None:
    """An installed database has run the script as it was: a change would reach new databases only."""
    for script, file in zip(MIGRATIONS, RELEASED, strict=False):
        released = file.read_text("utf-8").partition("\n\n")[2].partition("\n-- Rows\n")[0]
        assert dedent(script).strip() == released.strip(), (
            "released: append a migration to MIGRATIONS instead"
        )
    assert RELEASED
    assert len(MIGRATIONS) - len(RELEASED) in {0, 1}, "one release adds at most one migration"


def test_jobs_of_the_first_release_are_read_after_an_upgrade(tmp_path: Path) -> None:
    state = schema.StateConfig(dir=str(tmp_path / "state"), keep_jobs_days=0)
    (tmp_path / "state").mkdir()
    path = tmp_path / "state" / "subtitled.sqlite"
    database = sqlite3.connect(path)
    database.executescript(f"{RELEASED[0].read_text('utf-8')}; PRAGMA user_version = 1;")
    database.close()
    with Daemon(tmp_path, state=state) as daemon:
        daemon.start()
        jobs = {Path(job.source).name: job for job in daemon.client.list()}
        assert {name: job.state for name, job in jobs.items()} == {
            "talk.flac": "done",
            "notes.mp4": "failed",
            "upload.flac": "done",
        }
        assert jobs["upload.flac"].tag == "monday"
        for name in ("talk.flac", "upload.flac"):
            facts, body = daemon.client.subtitles(jobs[name].id, "srt")
            assert facts.language == "en"
            assert b"Good morning and welcome." in body
            assert daemon.client.waveform(jobs[name].id)[1]
        history = daemon.client.status(jobs["talk.flac"].id).history
        assert [step.after for step in history if step.subject == "job"][-1] == "done"
        # It accepts new work.
        again = daemon.client.submit(media.write_sound(tmp_path / "later.flac", media.speech(4)))
        assert again.wait(DEADLINE_S).state == "done"
        daemon.stop()
    assert version(path) == len(MIGRATIONS)


def test_new_database_has_the_newest_schema(tmp_path: Path) -> None:
    path = tmp_path / "subtitled.sqlite"
    Store(str(path)).close()
    assert version(path) == len(MIGRATIONS)


def test_database_with_the_newest_schema_is_opened_unchanged(path: Path) -> None:
    before = query(path, "SELECT type, name, sql FROM sqlite_schema ORDER BY name")
    for _ in range(2):
        Store(str(path), MIGRATIONS[:1]).close()
    assert query(path, "SELECT type, name, sql FROM sqlite_schema ORDER BY name") == before


def test_only_missing_migrations_are_run(path: Path) -> None:
    store = Store(str(path), (MIGRATIONS[0], SECOND))
    store.close()
    assert version(path) == 2
    assert query(path, "SELECT value FROM later") == [(7,)]
    Store(str(path), (MIGRATIONS[0], SECOND)).close()
    assert query(path, "SELECT value FROM later") == [(7,)]


def test_failed_migration_leaves_the_previous_version(path: Path) -> None:
    before = tables(path)
    with pytest.raises(StoreError, match="nowhere"):
        Store(str(path), (MIGRATIONS[0], FAULTY))
    assert version(path) == 1
    assert tables(path) == before
    # Nothing is locked: the previous release opens it at once.
    Store(str(path), MIGRATIONS[:1]).close()


def test_migrations_before_a_failed_one_are_kept(path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        Store(str(path), (MIGRATIONS[0], SECOND, FAULTY))
    assert version(path) == 2
    assert "later" in tables(path)
    assert "half" not in tables(path)


def test_newer_database_is_refused_and_left_unchanged(path: Path) -> None:
    Store(str(path), (MIGRATIONS[0], SECOND)).close()
    before = path.read_bytes()
    with pytest.raises(StoreError) as refused:
        Store(str(path), MIGRATIONS[:1])
    assert str(path) in str(refused.value)
    assert "schema version 2; this release supports up to 1" in str(refused.value)
    assert "install the newer release again" in str(refused.value)
    assert path.read_bytes() == before


def test_daemon_refuses_a_newer_database_and_names_the_remedy(tmp_path: Path) -> None:
    with Daemon(tmp_path) as daemon:
        (tmp_path / "state").mkdir()
        database = sqlite3.connect(tmp_path / "state" / "subtitled.sqlite")
        database.execute("PRAGMA user_version = 1000")
        database.close()
        daemon.spawn()
        assert daemon.wait_for_exit() == ExitCode.FAILED
        assert "has schema version 1000; this release supports up to" in daemon.tail()
        assert "install the newer release again, or use another state.dir" in daemon.tail()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"Dear diary, today nothing happened.\n" * 200),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["text", "folder"],
)
def test_file_that_is_not_a_database_is_refused_with_its_path(
    path: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(path)
    with pytest.raises(StoreError, match=str(path)):
        Store(str(path))
