"""Ended jobs are packed, deleted on request or at their age, and leave nothing; the loop is never held for long."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import replace

from api_harness import ApiHarness
from subtitled.core.actions import SaveJob, SaveNewJob, SaveNewSegment, SaveSegment, SaveWorker
from subtitled.core.plan import Plan, PlanPiece, PlanSettings, Span
from subtitled.core.protocol import Media
from subtitled.core.records import Job, Options, Segment, SegmentKey
from subtitled.core.states import (
    JobEvent,
    JobState,
    SegmentEvent,
    SegmentState,
    WorkerEvent,
    WorkerState,
)
from subtitled.inboxes.arrivals import new_job_id
from subtitled.storage.retention import DAY_MS, KEEP_SEGMENT_ENTRIES_MS, PACK_AFTER_MS, Retention
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JOB_BYTES = 4096
"""What a finished job of one minute may add to the database."""
RATE = 16_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(str(tmp_path / "subtitled.sqlite"))
    yield opened
    opened.close()


class Loop:
    """A Retention whose thread's callbacks run in `turn`."""

    def __init__(self, store: Store, keep_days: int = 90) -> None:
        self.calls: list[Callable[[], None]] = []
        self.deleted: list[Job] = []
        self.retention = Retention(
            store, self.calls.append, keep_days=keep_days, on_deleted=self.deleted.append
        )
        self._now = 0.0

    def turn(self, now_ms: int, turns: int = 200) -> None:
        """Tick often, at one wall-clock time."""
        for _ in range(turns):
            self._now += 10.0
            self.retention.tick(self._now, now_ms)
            self.retention._background.pool.submit(lambda: None).result(60)
            while self.calls:
                self.calls.pop(0)()


def done_job(store: Store, order: int, *, segments: int = 3, **more: object) -> Job:
    """Store the whole history of a job of one minute, as a daemon does."""
    source = f"/srv/media/incoming/2026/interview number {order}.mp4".encode()
    job = Job(
        id=new_job_id(order),
        state=JobState.QUEUED,
        source=source,
        location=source,
        size=10_000_000 + order,
        mtime_ns=1_700_000_000_000_000_000 + order,
        options=Options(inbox=b"/srv/media/incoming", formats=("srt", "json")),
        order=order,
    )
    job = replace(job, **more)
    store.apply([SaveNewJob(job)])

    def move(event: JobEvent, state: JobState, **changes: object) -> None:
        nonlocal job
        before = job.state
        media = changes.pop("media", None)
        waveform = changes.pop("waveform", None)
        job = replace(job, state=state, **changes)
        assert media is None or isinstance(media, bytes)
        assert waveform is None or isinstance(waveform, bytes)
        store.apply([SaveJob(job=job, before=before, event=event, media=media, waveform=waveform)])

    move(JobEvent.LEASED, JobState.PREPARING, plan_settings=PlanSettings())
    speech = tuple(Span(at * 80_000, at * 80_000 + 64_000) for at in range(4))
    rows = [
        Segment(
            key=SegmentKey(job.id, index),
            state=SegmentState.PENDING,
            plan=Plan(index, (PlanPiece(index * 320_000, 310_000),), speech),
        )
        for index in range(segments)
    ]
    store.apply([SaveNewSegment(row) for row in rows])
    media = msgspec.msgpack.encode(Media(decoded_samples=60 * RATE))
    waveform = bytes(range(200)) * 3
    move(JobEvent.PLANNED, JobState.TRANSCRIBING, media=media, waveform=waveform, is_planned=True)
    for row in rows:
        worker = SaveWorker(
            slot="gpu0",
            incarnation=1,
            before=WorkerState.IDLE,
            event=WorkerEvent.ASSIGNED,
            after=WorkerState.BUSY,
        )
        leased = replace(row, state=SegmentState.LEASED)
        store.apply(
            [
                worker,
                SaveSegment(
                    segment=leased, before=SegmentState.PENDING, event=SegmentEvent.LEASED, worker="gpu0.1"
                ),
            ]
        )
        words = " ".join(f"word{order * 31 + row.key.index * 7 + number}" for number in range(50))
        result = msgspec.msgpack.encode({"language": "en", "text": words, "device": "gpu0"})
        finished = replace(leased, state=SegmentState.DONE, language="en", language_probability=0.9)
        store.apply(
            [
                SaveSegment(
                    segment=finished, before=SegmentState.LEASED, event=SegmentEvent.DONE, result=result
                )
            ]
        )
    move(JobEvent.ALL_DONE, JobState.WRITING, language="en", language_probability=0.9)
    store.claim_outputs(job, [source[:-4] + b".en.srt", source[:-4] + b".en.json"])
    move(JobEvent.WRITTEN, JobState.DONE)
    return job


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def test_packed_results_are_read_as_they_were_stored(store: Store) -> None:
    job = done_job(store, 1)
    results, counts, history = (
        store.results(job.id),
        store.count_segments([job.id]),
        store.history(job.id),
    )
    Loop(store).turn(now_ms() + PACK_AFTER_MS + 1000)
    assert store._one("SELECT count(*) FROM segments") == 0
    assert store.results(job.id) == results
    assert store.readers.get().results(job.id) == results
    assert store.count_segments([job.id]) == counts == {job.id: {"done": 3}}
    assert store.history(job.id) == history


def test_segment_entries_of_a_done_job_are_read_for_a_day(store: Store) -> None:
    """A watcher that was away for an hour must not miss them; failures of segments are kept with the job."""
    jobs = [done_job(store, order) for order in range(1, 9)]
    entries = {job.id: store.journal(0, job=job.id) for job in jobs}
    loop = Loop(store)
    loop.turn(now_ms() + KEEP_SEGMENT_ENTRIES_MS - 60_000)
    assert store._one("SELECT count(*) FROM results") == len(jobs)
    assert {job.id: store.journal(0, job=job.id) for job in jobs} == entries
    later = done_job(store, 9)
    loop.turn(now_ms() + KEEP_SEGMENT_ENTRIES_MS + 1000)
    for job in (*jobs, later):
        assert [entry.subject for entry in store.journal(0, job=job.id)] == ["job"] * 5


def test_done_job_is_packed_after_a_minute_and_an_unfinished_one_never(store: Store) -> None:
    done_job(store, 1)
    open_job = done_job(store, 2, segments=0)
    store._db.execute("UPDATE jobs SET state = 'failed' WHERE id = ?", (open_job.id,))
    loop = Loop(store)
    loop.turn(now_ms())
    assert store._one("SELECT count(*) FROM results") == 0
    loop.turn(now_ms() + PACK_AFTER_MS + 1000)
    assert store._one("SELECT count(*) FROM results") == 1


def test_results_that_cannot_be_read_stay_and_do_not_stop_the_packing(store: Store) -> None:
    bad, good = done_job(store, 1), done_job(store, 2)
    store._db.execute("UPDATE segments SET plan = x'ff' WHERE job = ? AND idx = 1", (bad.id,))
    Loop(store).turn(now_ms() + PACK_AFTER_MS + 1000)
    assert store._one("SELECT count(*) FROM results") == 1
    assert len(store.results(good.id)) == 3
    assert store._one("SELECT count(*) FROM segments") == 3


def test_finished_job_of_one_minute_takes_at_most_four_kilobytes(store: Store) -> None:
    jobs = 200
    empty = store._one("PRAGMA page_count")
    for order in range(1, jobs + 1):
        done_job(store, order)
    Loop(store).turn(now_ms() + KEEP_SEGMENT_ENTRIES_MS + 1000, turns=4 * jobs)
    assert store._one("SELECT count(*) FROM results") == jobs
    while not store.vacuum(1):
        pass
    store.checkpoint()
    used = (store._one("PRAGMA page_count") - empty) * 4096
    assert used / jobs <= JOB_BYTES


def test_jobs_older_than_keep_days_are_deleted_with_everything_they_have(store: Store) -> None:
    old, new = done_job(store, 1), done_job(store, 2)
    store._db.execute("UPDATE jobs SET ended_ms = ended_ms - ? WHERE id = ?", (91 * DAY_MS, old.id))
    loop = Loop(store)
    loop.turn(now_ms())
    assert loop.deleted == [replace(old, state=JobState.DONE, language="en", language_probability=0.9)]
    assert store.find_job(old.id) is None
    assert store.find_job(new.id) is not None
    for table in ("segments", "journal", "outputs", "waveforms", "results"):
        statement = f"SELECT count(*) FROM {table} WHERE job = ?"  # noqa: S608 - the names above
        assert store._db.execute(statement, (old.id,)).fetchone() == (0,), table
    assert store.outputs_of(new.id) != []
    assert store.is_processed(old.source, old.size, old.mtime_ns), "its file may still lie in the inbox"
    assert not store.is_processed(new.source, new.size, new.mtime_ns)


def test_no_job_is_deleted_with_keep_days_zero_or_while_it_is_live(store: Store) -> None:
    old, live = done_job(store, 1), done_job(store, 2)
    store._db.execute("UPDATE jobs SET ended_ms = 1")
    store._db.execute("UPDATE jobs SET state = 'failed', is_closed = 0 WHERE id = ?", (live.id,))
    Loop(store, keep_days=0).turn(now_ms())
    assert store.find_job(old.id) is not None
    Loop(store, keep_days=1).turn(now_ms())
    assert store.find_job(old.id) is None
    assert store.find_job(live.id) is not None, "its files are not in place yet"


def test_deleted_rows_return_their_pages_to_the_file_system(store: Store) -> None:
    for order in range(1, 101):
        done_job(store, order)
    store._db.execute("UPDATE jobs SET ended_ms = 1")
    before = store._one("PRAGMA page_count")
    assert before > 150
    Loop(store).turn(now_ms() + 8 * DAY_MS, turns=500)
    assert store._one("SELECT count(*) FROM jobs") == 0
    assert store._one("SELECT count(*) FROM journal") == 0
    assert store._one("PRAGMA freelist_count") < 50
    assert store._one("PRAGMA page_count") < 100


def test_client_deletes_an_ended_job_and_watchers_are_reported(tmp_path: Path) -> None:
    with ApiHarness(tmp_path) as api:
        job = done_job(api.store, api.store.next_order())
        watcher, client = api.connect(), api.connect()
        watcher.send_message("Watch", request=1, after_seq=-1)
        api.turn()
        answer = client.request("Delete", job=job.id)
        assert (answer["type"], answer["job"]["id"], answer["job"]["state"]) == ("JobInfo", job.id, "done")
        event = watcher.receive()
        assert (event["type"], event["event"], event["name"]) == ("Event", "deleted", job.id)
        assert client.request("Status", job=job.id)["code"] == "NOT_FOUND"
        assert client.request("Delete", job=job.id)["code"] == "NOT_FOUND"


def test_live_job_cannot_be_deleted(tmp_path: Path) -> None:
    with ApiHarness(tmp_path) as api:
        client = api.connect()
        job = client.submit(b"1234")["job"]
        assert client.request("Delete", job=job)["code"] == "WRONG_STATE"
        client.request("Cancel", job=job)
        assert client.request("Delete", job=job)["type"] == "JobInfo"


def test_uploaded_file_goes_with_its_deleted_job(tmp_path: Path) -> None:
    with ApiHarness(tmp_path) as api:
        client = api.connect()
        job = client.submit(b"1234")["job"]
        folder = tmp_path / "uploads" / job
        api.turn_until(folder.exists, "the folder")
        client.request("Cancel", job=job)
        client.request("Delete", job=job)
        api.turn_until(lambda: not folder.exists(), "the folder is deleted")


def test_submit_whose_job_is_deleted_before_the_answer_is_refused(tmp_path: Path) -> None:
    with ApiHarness(tmp_path) as api:
        client, other = api.connect(), api.connect()
        job = client.submit(b"1234")["job"]
        client.send_message("Chunk", b"1234", request=1, job=job, offset=0)
        api.turn_until(lambda: api.facts(job).received_bytes == 4, "the bytes are received")
        release = threading.Event()
        api.server._durability._background.pool.submit(release.wait)
        client.send_message("Commit", request=2, job=job)
        api.turn_until(lambda: api.facts(job).state == "queued", "the file is complete")
        other.request("Cancel", job=job)
        assert other.request("Delete", job=job)["type"] == "JobInfo"
        release.set()
        answer = client.receive("UploadCredit")
        assert (answer["request"], answer["code"]) == (2, "NOT_FOUND")
