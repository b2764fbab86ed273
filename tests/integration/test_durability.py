"""Callbacks run only after their commits are on the disk: the real database, and an `fsync` that can be blocked."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from subtitled.core.actions import SaveNewJob
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState
from subtitled.errors import StoreError
from subtitled.runtime.mailbox import Mailbox
from subtitled.storage import durability
from subtitled.storage.durability import DurabilityQueue
from subtitled.storage.store import Store

WAIT_S = 60.0


def new_job(order: int) -> SaveNewJob:
    job = Job(
        id=f"a{order}",
        state=JobState.QUEUED,
        source=b"/in/%d" % order,
        location=b"/in/%d" % order,
        size=7,
        mtime_ns=1,
        options=Options(),
        order=order,
    )
    return SaveNewJob(job)


class Disk:
    """Replaces `os.fsync`: counts calls and blocks while `gate` is closed."""

    def __init__(self) -> None:
        self._fsync = os.fsync
        self.gate = threading.Event()
        self.begun = threading.Semaphore(0)
        self.count = 0
        self.error: OSError | None = None

    def fsync(self, file: int) -> None:
        """Sync a file once the gate is open."""
        self.begun.release()
        assert self.gate.wait(WAIT_S)
        if self.error:
            raise self.error
        self._fsync(file)
        self.count += 1


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(str(tmp_path / "db.sqlite"))
    yield store
    store.close()


@pytest.fixture
def mailbox() -> Mailbox[Callable[[], None]]:
    return Mailbox()


@pytest.fixture
def durable(store: Store, mailbox: Mailbox[Callable[[], None]]) -> Iterator[DurabilityQueue]:
    durable = DurabilityQueue(store, mailbox.put)
    yield durable
    durable.close()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch, store: Store) -> Iterator[Disk]:
    assert store.commits == 0  # the syncs of opening are done
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    yield disk
    disk.gate.set()


def turn(mailbox: Mailbox[Callable[[], None]], is_done: Callable[[], object]) -> None:
    """Run the loop's mailbox until `is_done`."""
    waited = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        for item in mailbox.drain():
            item()
        if is_done():
            return
        waited.wait(0.01)
    raise AssertionError("nothing came back")


def test_callbacks_run_after_the_sync_and_waiting_ones_share_one_sync(
    store: Store, durable: DurabilityQueue, mailbox: Mailbox[Callable[[], None]], disk: Disk
) -> None:
    called: list[int] = []
    for number in range(50):
        store.apply([new_job(number + 1)])
        durable.when_durable(lambda number=number: called.append(number))  # type: ignore[misc]
    assert disk.begun.acquire(timeout=WAIT_S)
    assert [item() for item in mailbox.drain()] == []
    assert called == []
    disk.gate.set()
    turn(mailbox, lambda: len(called) == 50)
    assert called == list(range(50))
    assert disk.count == 2  # one for the first callback, one for all that waited meanwhile


def test_failed_sync_ends_the_daemon(
    durable: DurabilityQueue, mailbox: Mailbox[Callable[[], None]], disk: Disk
) -> None:
    called: list[str] = []
    disk.error = OSError(5, "Input/output error")
    disk.gate.set()
    durable.when_durable(lambda: called.append("never"))
    with pytest.raises(StoreError, match="Input/output error"):
        turn(mailbox, lambda: False)
    assert called == []


def test_checkpoint_runs_outside_the_loop(
    store: Store,
    durable: DurabilityQueue,
    mailbox: Mailbox[Callable[[], None]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(durability, "CHECKPOINT_COMMITS", 20)
    durable._checkpoint_at = 20
    for number in range(25):
        store.apply([new_job(number + 1)])
        durable.checkpoint_if_due()
    turn(mailbox, lambda: durable._background.is_idle)
    # A copy of the main file alone has the rows.
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes((tmp_path / "db.sqlite").read_bytes())
    with sqlite3.connect(copy) as database:
        database.execute("PRAGMA journal_mode = DELETE")
        assert database.execute("SELECT count(*) FROM jobs").fetchone()[0] >= 20
    database.close()
