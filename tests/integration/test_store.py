"""Committed rows survive any end of the process, and each update names the state that it leaves."""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, cast

import msgspec
import pytest
from msgspec.structs import replace

from subtitle.commands.submit import untranslated_text
from subtitled.api.views import job_facts
from subtitled.core.actions import (
    SaveJob,
    SaveNewJob,
    SaveNewSegment,
    SaveSegment,
    SaveText,
    SaveWorker,
    StoredTranslation,
)
from subtitled.core.plan import Plan, PlanPiece, PlanSettings, Span
from subtitled.core.records import FIRST_TEXT, Job, Options, Segment, SegmentKey, TextPlan
from subtitled.core.states import (
    JobEvent,
    JobState,
    SegmentEvent,
    SegmentState,
    WorkerEvent,
    WorkerState,
)
from subtitled.core.translation import TranslationRequest
from subtitled.errors import StoreError
from subtitled.storage.reader import Reader
from subtitled.storage.rows import pack_results
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ODD = b"/in/\xff\xfe\n \xe4\xb8\xad.wav"
PLAN = Plan(0, (PlanPiece(100, 400), PlanPiece(900, 100)), (Span(100, 500), Span(900, 1000)))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "subtitled.sqlite")


@pytest.fixture
def store(path: str) -> Iterator[Store]:
    opened = Store(path)
    yield opened
    opened.close()


def new_job(name: str = "a1", order: int = 1, source: bytes = b"/in/a.wav", **more: object) -> Job:
    job = Job(
        id=name,
        state=JobState.QUEUED,
        source=source,
        location=source,
        size=7,
        mtime_ns=1_700_000_000_123_456_789,
        options=Options(inbox=b"/in", formats=("srt", "json")),
        order=order,
    )
    return replace(job, **more)


def new_segment(index: int = 0, job: str = "a1") -> Segment:
    return Segment(key=SegmentKey(job, index), state=SegmentState.PENDING, plan=replace(PLAN, index=index))


def moved(job: Job, event: JobEvent, after: JobState, **changes: object) -> SaveJob:
    return SaveJob(job=replace(job, state=after, **changes), before=job.state, event=event)


def test_job_is_read_as_it_was_written(store: Store, path: str) -> None:
    job = new_job(
        source=ODD,
        losses=1,
        plan_settings=PlanSettings(threshold=0.25, window_samples=480_000),
        is_planned=True,
        language="zh",
        language_probability=0.75,
        cause="why",
    )
    store.apply([SaveNewJob(job)])
    store.close()
    again = Store(path)
    row = again.find_job("a1")
    assert row is not None
    assert row.job == job
    assert row.media is None
    assert row.created_ms > 1_700_000_000_000
    assert (row.started_ms, row.ended_ms) == (None, None)
    assert again.find_job("a2") is None
    again.close()


def test_unfinished_jobs_are_restored_in_order_with_their_segments(store: Store, path: str) -> None:
    """Failed jobs too, until their files are in place."""
    jobs = [new_job(f"j{n}", n, f"/in/{n}".encode()) for n in (3, 1, 2, 4, 5)]
    store.apply([SaveNewJob(job) for job in jobs])
    three, _, two, four, five = jobs
    store.apply([SaveNewSegment(new_segment(1, "j3")), SaveNewSegment(new_segment(0, "j3"))])
    store.apply([moved(two, JobEvent.CANCEL, JobState.CANCELLED)])
    store.apply([moved(four, JobEvent.REJECTED, JobState.FAILED, is_closed=True)])
    store.apply([moved(five, JobEvent.REJECTED, JobState.FAILED, cause="bad")])
    store.close()
    again = Store(path)
    found = again.unfinished()
    assert [job.id for job, _ in found] == ["j1", "j3", "j5"]
    assert found[1][0] == three
    rows = found[1][1]
    assert [row.key.index for row in rows] == [0, 1]
    assert rows[0].plan == PLAN
    assert rows[0].state == "pending"
    assert again.next_order() == 6
    again.close()


def test_update_from_another_state_is_an_error_and_changes_nothing(store: Store) -> None:
    """Memory and database must agree: the whole transaction is rolled back."""
    job = new_job()
    store.apply([SaveNewJob(job), SaveNewSegment(new_segment())])
    store.apply([moved(job, JobEvent.LEASED, JobState.PREPARING)])
    before = store.journal(0)
    good = SaveSegment(
        segment=replace(new_segment(), state=SegmentState.LEASED),
        before=SegmentState.PENDING,
        event=SegmentEvent.LEASED,
        worker="cpu0.1",
    )
    with pytest.raises(StoreError, match="job a1 is not queued"):
        store.apply([good, moved(job, JobEvent.CANCEL, JobState.CANCELLED)])
    assert store.journal(0) == before
    [row] = store.segment_rows("a1")
    assert row.state == "pending"
    with pytest.raises(StoreError, match="segment 0 of"):
        store.apply([replace(good, before=SegmentState.LEASED)])
    with pytest.raises(StoreError):
        store.apply([replace(good, segment=replace(good.segment, key=SegmentKey("a1", 9)))])
    store.apply([good])
    assert store.count_segments(["a1"]) == {"a1": {"leased": 1}}


def test_no_commit_waits_for_the_disk(store: Store) -> None:
    """What a power cut must not undo waits for `sync` outside the loop: see test_durability."""
    assert store._one("PRAGMA synchronous") == 1  # NORMAL


def test_duplicate_ids_orders_sources_and_segments_are_rejected(store: Store) -> None:
    store.apply([SaveNewJob(new_job()), SaveNewSegment(new_segment())])
    for save in (
        SaveNewJob(new_job(order=2, source=b"/in/other.wav")),  # the id
        SaveNewJob(new_job("a2", source=b"/in/other.wav")),  # the order
        SaveNewJob(new_job("a2", order=2)),  # the source
        SaveNewSegment(new_segment()),
        SaveNewSegment(new_segment(job="nosuch")),
    ):
        with pytest.raises(StoreError, match="database: "):
            store.apply([save])
    assert store.count_jobs() == {"queued": 1}


def test_journal_has_every_transition_in_order(store: Store, path: str) -> None:
    """Numbers increase by one, also over a restart; a number that a watcher resumes from is never used twice."""
    job = new_job()
    entries = store.apply([SaveNewJob(job), SaveNewSegment(new_segment())])
    assert [(entry.seq, entry.subject, entry.event, entry.after) for entry in entries] == [
        (1, "job", "accepted", "queued")
    ]
    store.apply([moved(job, JobEvent.LEASED, JobState.PREPARING)])
    worker = SaveWorker(
        slot="cpu0",
        incarnation=3,
        before=WorkerState.STARTING,
        event=WorkerEvent.EXITED,
        after=WorkerState.BACKOFF,
        cause="killed by SIGKILL",
    )
    store.apply([worker])
    store.close()
    again = Store(path)
    preparing = replace(job, state=JobState.PREPARING)
    [last] = again.apply([moved(preparing, JobEvent.REJECTED, JobState.FAILED, cause="no audio")])
    journal = again.journal(0)
    assert [entry.seq for entry in journal] == [1, 2, 3, 4]
    assert journal[3] == last
    assert (last.before, last.event, last.after, last.cause) == (
        "preparing",
        "rejected",
        "failed",
        "no audio",
    )
    assert (journal[2].subject, journal[2].name, journal[2].job) == ("worker", "cpu0.3", "")
    assert [entry.seq for entry in again.journal(2)] == [3, 4]
    assert [entry.seq for entry in again.journal(0, job="a1")] == [1, 2, 4]
    assert [entry.seq for entry in again.journal(0, limit=2)] == [1, 2]
    assert again.last_seq() == 4
    assert sorted(entry.at_ms for entry in journal) == [entry.at_ms for entry in journal]
    again.close()


def test_change_without_a_transition_is_stored_without_a_journal_entry(store: Store) -> None:
    job = new_job()
    store.apply([SaveNewJob(job)])
    changed = SaveJob(
        job=replace(job, language="en", location=b"/in/done/a.wav"), before=JobState.QUEUED, event=None
    )
    assert store.apply([changed]) == []
    row = store.find_job("a1")
    assert row is not None
    assert (row.job.language, row.job.location) == ("en", b"/in/done/a.wav")
    assert row.ended_ms is None


def test_cause_of_a_failed_translation_is_stored_and_in_the_journal(store: Store) -> None:
    job = new_job(state=JobState.TRANSLATING)
    changes = {
        "translation_cause": "damaged",
        "added_languages": ("ja", "es"),
        "added_models": (("es", "a b"),),
        "cancelled_languages": ("es", "ko"),
    }
    store.apply([SaveNewJob(job), moved(job, JobEvent.TRANSLATED, JobState.DONE, **changes)])
    row = store.find_job(job.id)
    assert row is not None
    assert (row.job.added_languages, row.job.added_models) == (("ja", "es"), (("es", "a b"),))
    assert row.job.cancelled_languages == ("es", "ko")
    assert (row.job.translation_cause, row.job.is_already_subtitled) == ("damaged", False)
    assert store.journal(0)[-1].cause == "damaged"
    facts = job_facts(row, segments={}, sentences={}, is_uploaded=False, default_model="m")
    assert untranslated_text(facts) == "ja: not translated: damaged, es: not translated: damaged"


def test_translation_is_replaced_by_another_and_kept_if_there_is_none(store: Store) -> None:
    job = new_job()
    request = TranslationRequest(source="de", target="ja", sentences=("Ja.",))
    text = TextPlan(model="m", request=request, keys=("k",), terms=("",))
    segment = Segment(key=SegmentKey(job.id, FIRST_TEXT), state=SegmentState.DONE, text=text)

    def save(**fields: str) -> StoredTranslation:
        row = StoredTranslation(target="ja", key="k", source="Ja.", **fields)
        before, event = SegmentState.LEASED, SegmentEvent.DONE
        store.apply([SaveText(segment=segment, before=before, event=event, translations=(row,))])
        return store.translations(job.id, "ja")["k"]

    store.apply([SaveNewJob(job)])
    assert save(text="Ja.", problem="no model").problem == "no model"
    assert save(text="はい。", model="m").text == "はい。"
    kept = save(text="Ja.", problem="no answer", model="n")
    assert (kept.text, kept.model, kept.problem) == ("はい。", "m", "")
    assert kept.warning == "an earlier translation is kept: no answer"
    assert save(text="ええ。", model="n", terms="x = y") == StoredTranslation(
        target="ja", key="k", source="Ja.", text="ええ。", model="n", terms="x = y"
    )


def test_times_of_start_and_end_follow_the_transitions(store: Store) -> None:
    """A retry starts nothing again: the first start stays, the end is open again."""
    job = new_job()
    store.apply([SaveNewJob(job)])
    store.apply([moved(job, JobEvent.LEASED, JobState.PREPARING)])
    first = store.find_job("a1")
    assert first is not None
    assert first.started_ms is not None
    assert first.ended_ms is None
    failed = moved(first.job, JobEvent.REJECTED, JobState.FAILED)
    store.apply([failed])
    second = store.find_job("a1")
    assert second is not None
    assert second.ended_ms is not None
    store.apply([SaveJob(job=replace(failed.job, is_closed=True), before=JobState.FAILED, event=None)])
    closed = store.find_job("a1")
    assert closed is not None
    assert closed.ended_ms == second.ended_ms
    store.apply([moved(closed.job, JobEvent.RETRY, JobState.QUEUED)])
    third = store.find_job("a1")
    assert third is not None
    assert (third.started_ms, third.ended_ms) == (first.started_ms, None)


def test_results_stay_with_their_segments(store: Store) -> None:
    """A transition without a result or a worker keeps the stored ones."""
    segment = new_segment()
    store.apply([SaveNewJob(new_job()), SaveNewSegment(segment)])
    leased = replace(segment, state=SegmentState.LEASED)
    done = replace(segment, state=SegmentState.DONE, language="en", language_probability=0.5)
    store.apply(
        [
            SaveSegment(
                segment=leased, before=SegmentState.PENDING, event=SegmentEvent.LEASED, worker="gpu1.4"
            ),
            SaveSegment(
                segment=done, before=SegmentState.LEASED, event=SegmentEvent.DONE, result=b"\x01\x00"
            ),
        ]
    )
    [row] = store.results("a1")
    assert (row.state, row.worker, row.result, row.plan) == (SegmentState.DONE, "gpu1.4", b"\x01\x00", PLAN)
    rejected = replace(done, state=SegmentState.PENDING, cause="decoded as en")
    store.apply(
        [SaveSegment(segment=rejected, before=SegmentState.DONE, event=SegmentEvent.LANGUAGE_CHANGED)]
    )
    [row] = store.results("a1")
    assert (row.worker, row.result, row.cause) == ("gpu1.4", b"\x01\x00", "decoded as en")


def test_media_facts_are_kept_by_later_transitions(store: Store) -> None:
    job = new_job()
    store.apply([SaveNewJob(job)])
    planned = replace(job, state=JobState.PREPARING)
    store.apply([SaveJob(job=planned, before=JobState.QUEUED, event=JobEvent.LEASED, media=b"facts")])
    store.apply([moved(planned, JobEvent.PLANNED, JobState.TRANSCRIBING)])
    row = store.find_job("a1")
    assert row is not None
    assert row.media == b"facts"


class Interrupted:
    """A connection before whose `count`-th statement another connection changes the database."""

    def __init__(self, database: sqlite3.Connection, count: int, change: Callable[[], object]) -> None:
        self._database, self._left, self._change = database, count, change

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        """Execute a statement."""
        self._left -= 1
        if not self._left:
            self._change()
        return self._database.execute(statement, values)


def reader_of(path: str, count: int, change: Callable[[], object]) -> Reader:
    return Reader(cast("sqlite3.Connection", Interrupted(sqlite3.connect(path), count, change)))


def test_job_that_is_deleted_during_a_list_is_left_out(store: Store, path: str) -> None:
    store.apply([SaveNewJob(new_job(f"a{order}", order, b"/in/%d" % order)) for order in (1, 2)])
    row = store.find_job("a1")
    assert row is not None
    reader = reader_of(path, 2, lambda: store.delete_job(row, is_noted=False))
    assert [found.job.id for found in reader.list_jobs()] == ["a2"]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_that_are_packed_while_they_are_read_are_complete(
    store: Store, path: str, count: int
) -> None:
    job = new_job()
    store.apply([SaveNewJob(job), *(SaveNewSegment(new_segment(index)) for index in range(3))])
    results = store.results(job.id)

    def pack() -> None:
        store.pack(job.id, *pack_results(results))
        assert not store.compact(job.id, 2)

    assert reader_of(path, count, pack).results(job.id) == results


@pytest.mark.parametrize("count", [1, 2, 3])
def test_segments_that_are_packed_while_they_are_counted_are_complete(
    store: Store, path: str, count: int
) -> None:
    job = new_job()
    store.apply([SaveNewJob(job), *(SaveNewSegment(new_segment(index)) for index in range(3))])

    def pack() -> None:
        store.pack(job.id, *pack_results(store.results(job.id)))
        assert not store.compact(job.id, 2)

    assert reader_of(path, count, pack).count_segments([job.id]) == {job.id: {"pending": 3}}


def test_source_is_found_by_path_size_time_and_options(store: Store) -> None:
    job = new_job(source=ODD)
    store.apply([SaveNewJob(job)])
    found = store.find_source(ODD, job.size, job.mtime_ns, job.options)
    assert found is not None
    assert found.job == job
    assert store.find_source(ODD + b"x", job.size, job.mtime_ns, job.options) is None
    assert store.find_source(ODD, job.size + 1, job.mtime_ns, job.options) is None
    assert store.find_source(ODD, job.size, job.mtime_ns + 1, job.options) is None
    assert store.find_source(ODD, job.size, job.mtime_ns, replace(job.options, language="de")) is None


def test_source_is_found_whatever_the_reason_for_its_model_is(store: Store) -> None:
    job = new_job(source=ODD)
    store.apply([SaveNewJob(job)])
    options = replace(job.options, model_reason="chosen by the language")
    assert store.find_source(ODD, job.size, job.mtime_ns, options) is not None
    assert store.find_source(ODD, job.size, job.mtime_ns, replace(options, model="big")) is None


def test_start_reads_no_ended_job_but_those_whose_upload_is_stored(store: Store) -> None:
    """A million jobs that ended within `uploads.keep_failed_s` must not delay the start."""
    jobs = [new_job(f"a{order}", order, b"/uploads/%d" % order) for order in (1, 2, 3)]
    store.apply([SaveNewJob(job) for job in jobs])
    store._db.execute("UPDATE jobs SET state = 'done', ended_ms = 2000 - ord, sha256 = 'a'")
    stored = [jobs[0].id, jobs[1].id, "lost+found"]
    found = store.uploaded_jobs(stored, done_since_ms=0, failed_since_ms=0)
    assert [row.job.id for row in found] == [jobs[1].id, jobs[0].id]
    assert not store.uploaded_jobs(stored, done_since_ms=2000, failed_since_ms=0)


def test_source_is_found_by_options_that_an_older_release_stored(store: Store) -> None:
    """Missing fields have their defaults."""
    job = new_job(source=ODD)
    store.apply([SaveNewJob(job)])
    kept = {"inbox": job.options.inbox, "formats": job.options.formats}
    store._db.execute(
        "UPDATE settings SET data = ? WHERE id = (SELECT options FROM jobs)", (msgspec.msgpack.encode(kept),)
    )
    assert store.find_source(ODD, job.size, job.mtime_ns, job.options) is not None
    assert store.find_source(ODD, job.size, job.mtime_ns, replace(job.options, language="de")) is None


def test_outputs_belong_to_the_source_that_claimed_them_last(store: Store) -> None:
    one, two = new_job(source=ODD), new_job("a2", 2, b"/in/b.wav")
    store.apply([SaveNewJob(one), SaveNewJob(two)])
    odd_output = b"/out/\xff.srt"
    store.claim_outputs(one, [odd_output, b"/out/x.srt"])
    store.claim_outputs(two, [b"/out/x.srt"])
    assert store.source_of_output(odd_output) == ODD
    assert store.source_of_output(b"/out/x.srt") == b"/in/b.wav"
    assert store.source_of_output(b"/out/y.srt") is None
    assert store.outputs_of("a1") == [os.fsdecode(odd_output)]
    assert store.outputs_of("a2") == ["/out/x.srt"]


def test_jobs_are_listed_newest_first_by_state(store: Store) -> None:
    jobs = [new_job(f"j{n}", n, f"/in/{n}".encode()) for n in range(1, 6)]
    store.apply([SaveNewJob(job) for job in jobs])
    store.apply([moved(jobs[2], JobEvent.CANCEL, JobState.CANCELLED)])
    assert [row.job.id for row in store.list_jobs()] == ["j5", "j4", "j3", "j2", "j1"]
    assert [row.job.id for row in store.list_jobs(limit=2)] == ["j5", "j4"]
    assert [row.job.id for row in store.list_jobs([JobState.CANCELLED])] == ["j3"]
    assert store.count_jobs() == {"queued": 4, "cancelled": 1}


def test_jobs_are_listed_page_by_page_and_found_by_name(store: Store) -> None:
    names = ("Talk one.mp4", "talks/two.mp4", "\u00dcber TALK%.mp4", "_.mp4")
    store.apply(SaveNewJob(new_job(f"j{n}", n, f"/talk/{name}".encode())) for n, name in enumerate(names, 1))

    def listed(*, before: str = "", name: str = "") -> list[str]:
        return [row.job.id for row in store.list_jobs(before=before, name=name, limit=2)]

    assert (listed(), listed(before="j3"), listed(before="j1")) == (["j4", "j3"], ["j2", "j1"], [])
    assert listed(before="nosuch") == []
    assert listed(name="talk") == ["j3", "j1"], "folders are no part of a name"
    assert listed(name="talk", before="j3") == ["j1"]
    assert (listed(name="%"), listed(name="_"), listed(name="\u00dcber")) == (["j3"], ["j4"], ["j3"])


def test_empty_list_of_saves_commits_nothing(store: Store) -> None:
    assert store.apply([]) == []
    assert store.last_seq() == 0


def test_file_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("Dear diary\n" * 1000, "utf-8")
    with pytest.raises(StoreError, match=r"text\.sqlite: the file is damaged"):
        Store(str(tmp_path / "text.sqlite"))
    with pytest.raises(StoreError, match="check the folder's permissions"):
        Store(str(tmp_path / "nosuch" / "x.sqlite"))
