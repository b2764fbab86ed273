"""A damaged database fails one job, or stops the daemon with the remedy; it never ends in a traceback."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import msgspec
import pytest

import media
from daemon import Daemon, InboxFolder
from subtitled.storage.rows import unpack_results

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.long


def update(daemon: Daemon, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(daemon.folder / "state" / "subtitled.sqlite")) as database, database:
        database.execute(statement, values)


def unpack(daemon: Daemon) -> None:
    """Store the segments of finished jobs as those of unfinished ones, if they were packed meanwhile."""
    for job, packed in daemon.query("SELECT job, data FROM results"):
        for row in unpack_results(packed):
            plan = msgspec.msgpack.encode(row.plan)
            values = (job, row.index, row.state.value, plan, row.losses, row.cause, row.worker, row.result)
            update(daemon, "INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, 'en', 0.9, ?)", *values)
    update(daemon, "DELETE FROM results")


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """Return a stopped daemon with a finished job of several segments."""
    daemon = Daemon(tmp_path, inboxes=(InboxFolder(options={"settle_s": 0.1, "after": "keep"}),))
    daemon.drop(media.write_sound(tmp_path / "talk.flac", media.recording()[: 30 * 16_000]), "talk.flac")
    daemon.start()
    daemon.wait_for_jobs(1)
    daemon.stop()
    return daemon


def test_damaged_result_fails_its_job_alone(daemon: Daemon) -> None:
    with daemon:
        unpack(daemon)
        ((job, result),) = daemon.query("SELECT job, result FROM segments WHERE idx = 1")
        update(daemon, "UPDATE segments SET result = ? WHERE job = ? AND idx = 1", b"\xc1" + result[1:], job)
        update(daemon, "UPDATE jobs SET state = 'writing', is_packed = 0, ended_ms = NULL WHERE id = ?", job)
        daemon.start()
        (failed,) = daemon.wait_for_jobs(1)
        assert failed.state == "failed"
        assert "the stored result of segment 1 is damaged" in failed.cause
        assert "restore the backup" in failed.cause
        text = (daemon.outbox / "talk.flac.error.txt").read_text("utf-8")
        assert "segment 1 is damaged" in text
        assert (daemon.outbox / "talk.en.partial.srt").read_text("utf-8")
        other = daemon.drop(media.write_sound(daemon.folder / "b.flac", media.recording()[:80_000]), "b.flac")
        assert daemon.wait_for(other).state == "done"


@pytest.mark.parametrize(
    "where", ["first page", pytest.param("every page but the first", marks=pytest.mark.long)]
)
def test_damaged_page_stops_the_daemon_with_the_remedy(daemon: Daemon, where: str) -> None:
    with daemon:
        path = daemon.folder / "state" / "subtitled.sqlite"
        data = bytearray(path.read_bytes())
        start, end = (0, 4096) if where == "first page" else (4096, len(data))
        data[start:end] = b"\x5a" * (end - start)
        path.write_bytes(data)
        daemon.spawn()
        assert daemon.wait_for_exit() != 0
        log = daemon.log_file.read_text("utf-8")
        assert "restore the backup of state.dir" in log
        assert "Traceback" not in log
        assert "traceback" not in log


def test_damaged_options_stop_the_daemon_with_the_remedy(daemon: Daemon) -> None:
    with daemon:
        update(daemon, "UPDATE settings SET data = ? WHERE id = (SELECT options FROM jobs)", b"\xc1")
        update(daemon, "UPDATE jobs SET state = 'queued', ended_ms = NULL")
        daemon.spawn()
        assert daemon.wait_for_exit() != 0
        log = daemon.log_file.read_text("utf-8")
        assert "the options of a job" in log
        assert "restore the backup of state.dir" in log
