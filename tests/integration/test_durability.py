"""Callbacks run only after their commits are on the disk: the real database, and an `fsync` that can be blocked."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from api_harness import ApiHarness
from subtitled.core.actions import SaveJob, SaveNewJob
from subtitled.core.events import Event, FailureWritten, OutputsWritten
from subtitled.core.protocol import Media
from subtitled.core.records import Job, Options
from subtitled.core.states import JobEvent, JobState
from subtitled.errors import StoreError
from subtitled.observability.metrics import Metrics
from subtitled.observability.transition_log import TransitionLog
from subtitled.output.job_writer import JobWriter
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


class DiskImages:
    """Replaces `os.fsync` and copies database and log at each sync of the log, as a power cut would leave them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fsync = os.fsync
        self.image = folder / "image"

    def fsync(self, file: int) -> None:
        """Sync a file, and take an image if it is the log."""
        self._fsync(file)
        if Path(f"/proc/self/fd/{file}").readlink().name.endswith("-wal"):
            self.take()

    def take(self) -> None:
        """Copy what is durable."""
        shutil.rmtree(self.image, ignore_errors=True)
        self.image.mkdir()
        for name in ("db.sqlite", "db.sqlite-wal"):
            shutil.copy(self._folder / name, self.image)

    def after_power_cut(self, job: str) -> Job:
        """Return a job as the last image has it."""
        store = Store(str(self.image / "db.sqlite"))
        row = store.find_job(job)
        store.close()
        assert row is not None
        return row.job


@pytest.fixture
def images(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> DiskImages:
    assert store.commits == 0
    images = DiskImages(tmp_path)
    images.take()
    monkeypatch.setattr(os, "fsync", images.fsync)
    return images


@pytest.mark.parametrize("is_failure", [False, True])
def test_power_cut_after_the_source_is_archived_finds_the_job_ready_to_be_written(
    store: Store,
    mailbox: Mailbox[Callable[[], None]],
    images: DiskImages,
    tmp_path: Path,
    is_failure: bool,
) -> None:
    """Its file is moved only when its results are on the disk: it is written again, and does not fail for a missing file."""
    source = tmp_path / "in" / "talk.wav"
    source.parent.mkdir()
    source.write_bytes(b"media")
    options = Options(inbox=os.fsencode(source.parent), after="move", output=b"beside")
    save = new_job(1)
    path = os.fsencode(source)
    found = source.stat()
    job = structs.replace(
        save.job,
        source=path,
        location=path,
        options=options,
        size=found.st_size,
        mtime_ns=found.st_mtime_ns,
    )
    store.apply([SaveNewJob(job)])
    steps = [(JobEvent.LEASED, JobState.PREPARING)]
    steps += (
        [(JobEvent.REJECTED, JobState.FAILED)] if is_failure else [(JobEvent.NO_SPEECH, JobState.WRITING)]
    )
    for event, state in steps:
        before, job = job.state, structs.replace(job, state=state, cause="why" if is_failure else "")
        media = msgspec.msgpack.encode(Media(decoded_samples=16_000))
        store.apply([SaveJob(job=job, before=before, event=event, media=media)])
    ended: list[Event] = []
    writer = JobWriter(
        store, TransitionLog(Metrics()), dispatch=ended.append, call_in_loop=mailbox.put, model="base"
    )
    writer.finish(job, is_failure=is_failure)
    turn(mailbox, lambda: ended)
    assert isinstance(ended[0], OutputsWritten | FailureWritten), ended
    writer.close()
    assert not source.exists()
    assert images.after_power_cut(job.id).state is job.state


def test_watchers_learn_of_an_end_once_it_is_on_the_disk_and_in_order(tmp_path: Path) -> None:
    with ApiHarness(tmp_path) as api:
        client, sender = api.connect(), api.connect()
        client.send_message("Watch", request=1, after_seq=-1)
        api.turn()
        job = sender.submit(b"1234")["job"]
        assert client.receive()["after"] == "receiving"
        release = threading.Event()
        api.server._durability._background.pool.submit(release.wait)
        sender.request("Cancel", job=job)
        late = api.connect()
        late.send_message("Watch", request=1, after_seq=0)
        other = api.connect().submit(b"5678")["job"]
        for _ in range(5):
            api.turn()
        assert not client.socket.poll(0)
        assert late.receive()["after"] == "receiving"
        assert not late.socket.poll(0)
        release.set()
        for one in (client, late):
            seen = [one.receive() for _ in range(2)]
            assert [(entry["job"], entry["after"]) for entry in seen] == [
                (job, "cancelled"),
                (other, "receiving"),
            ]


def test_drafts_and_repeated_saves_of_cues_are_answered_while_an_end_waits_for_the_disk(
    tmp_path: Path,
) -> None:
    """Neither has an entry in the journal: a draft replaces the one before, a repeated save changes nothing."""
    release = threading.Event()
    with ApiHarness(tmp_path) as api, ExitStack() as stack:
        job, client = api.ended_job().id, api.connect()

        def save(version: int, text: str) -> None:
            cues = msgspec.json.encode([{"start_ms": 0, "end_ms": 900, "lines": [text]}])
            client.send_message(
                "SaveCues", cues, request=version, job=job, version=version, draft_session="one"
            )

        save(0, "first")
        assert client.receive()["type"] == "CueVersions"
        upload = api.connect().submit(b"1234")["job"]
        stack.callback(release.set)
        api.server._durability._background.pool.submit(release.wait)
        assert client.request("Cancel", job=upload)["type"] == "JobInfo"
        waiting = api.server._durability._callbacks
        for version, text in ((1, "second"), (2, "third"), (2, "third")):
            count = len(waiting)
            save(version, text)
            api.turn_until(lambda count=count: len(waiting) > count, "the answer waits for the disk")  # type: ignore[misc]
        release.set()
        assert [client.receive()["type"] for _ in range(3)] == ["CueVersions"] * 3
        assert [one.version for one in api.store.edit_versions(job, "transcribe")] == [3]


def test_draft_that_is_saved_unchanged_is_not_replaced_by_the_next_draft(tmp_path: Path) -> None:
    with ApiHarness(tmp_path) as api:
        job = api.ended_job()
        for base, data, session in ((0, b"a", "one"), (1, b"a", ""), (1, b"b", "one")):
            api.store.save_edit(
                job, "transcribe", base=base, data=data, cues=1, author="", draft_session=session
            )
        assert [one.version for one in api.store.edit_versions(job.id, "transcribe")] == [2, 1]
