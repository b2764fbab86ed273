"""Every statement uses an index, and the answers stay right without scans: lists, searches, counts, the journal."""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from subtitled.core.actions import SaveJob, SaveNewJob
from subtitled.core.records import Job, Options
from subtitled.core.states import JobEvent, JobState
from subtitled.storage import queries, reader
from subtitled.storage.schema import MIGRATIONS
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FRAGMENTS = {"SELECT_JOB", "SELECT_FILTERED", "SELECT_JOURNAL", "SELECT_EDIT"}
"""The columns that other statements begin with; never run alone."""
_STATEMENTS = {
    name: text for name, text in vars(queries).items() if name.isupper() and name not in _FRAGMENTS
}
_ALLOWED = {
    "SCAN job_counts",  # one row for each owner and state
    "USE TEMP B-TREE FOR GROUP BY",  # of those few rows
    "SCAN CONSTANT ROW",
    "SCAN deleted_jobs",  # its first row
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(str(tmp_path / "subtitled.sqlite"))
    yield opened
    opened.close()


def new_job(order: int, name: str = "talk.mp4", owner: str = "", tag: str = "") -> Job:
    return Job(
        id=f"j{order}",
        state=JobState.QUEUED,
        source=f"/in/{order}/{name}".encode(),
        location=b"/in",
        size=7,
        mtime_ns=1,
        options=Options(),
        order=order,
        owner=owner,
        tag=tag,
    )


def add(store: Store, *jobs: Job) -> None:
    store.apply([SaveNewJob(job) for job in jobs])


def cancel(store: Store, job: Job) -> None:
    cancelled = replace(job, state=JobState.CANCELLED)
    store.apply([SaveJob(job=cancelled, before=JobState.QUEUED, event=JobEvent.CANCEL)])


@pytest.mark.parametrize("name", sorted(_STATEMENTS))
def test_statement_uses_an_index(name: str) -> None:
    """A plan with SCAN or a sort takes longer with every job that is stored."""
    database = sqlite3.connect(":memory:")
    database.executescript(";".join(MIGRATIONS))
    text = _STATEMENTS[name]
    numbered = set(re.findall(r"\?\d", text))
    named = re.findall(r":([a-z_0-9]+)", text)
    values = dict.fromkeys(named, "abc") or ["abc"] * (len(numbered) or text.count("?"))
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {text}", values)]
    database.close()
    steps = [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step]
    assert [step for step in steps if step not in _ALLOWED and "VIRTUAL TABLE INDEX" not in step] == []
    assert not any(step.endswith("VIRTUAL TABLE INDEX 0:") for step in steps), "a search without its index"


def test_list_filters_by_owner_tag_and_state_in_every_combination(store: Store) -> None:
    jobs = [
        new_job(number, owner=("ann", "")[number % 2], tag=("a", "b", "")[number % 3])
        for number in range(1, 25)
    ]
    add(store, *jobs)
    for job in jobs[::4]:
        cancel(store, job)
    states = {job.id: JobState.CANCELLED if job in jobs[::4] else JobState.QUEUED for job in jobs}
    for owner in (None, "ann"):
        for tag in (None, "a", "b"):
            for wanted in (
                (),
                (JobState.CANCELLED,),
                (JobState.QUEUED, JobState.CANCELLED),
                (JobState.DONE,),
            ):
                matching = [
                    job.id
                    for job in reversed(jobs)
                    if owner in {None, job.owner}
                    and tag in {None, job.tag}
                    and (not wanted or states[job.id] in wanted)
                ]
                found = store.list_jobs(wanted, owner=owner, tag=tag, limit=5)
                assert [row.job.id for row in found] == matching[:5], (owner, tag, wanted)
                if len(matching) > 5:
                    rest = store.list_jobs(wanted, owner=owner, tag=tag, before=matching[4])
                    assert [row.job.id for row in rest] == matching[5:]


def test_search_finds_parts_of_names_in_any_case_with_filters(store: Store) -> None:
    add(
        store,
        new_job(1, "Monday Talk.mp4", owner="ann"),
        new_job(2, 'a "quoted" AND name.mkv'),
        new_job(3, "ÜBER uns.wav", owner="ann", tag="x"),
        new_job(4, "星期一的演講.mp4"),
        new_job(5, "talk Monday.mp3"),
    )

    def found(name: str, owner: str | None = None, tag: str | None = None) -> list[int]:
        return [row.job.order for row in store.list_jobs(name=name, owner=owner, tag=tag)]

    assert found("monday talk") == [1]
    assert found("MONDAY") == [5, 1]
    assert found('"quoted" and') == [2]
    assert found("über") == [3]
    assert found("演講") == [4]
    assert found("期一的") == [4]
    assert found("mp") == [5, 4, 1]
    assert found("mon", owner="ann") == [1]
    assert found("uns", owner="ann", tag="x") == [3]
    assert found("uns", owner="ann", tag="y") == []
    assert found("nowhere") == []
    assert found("x" * 1000) == []


def test_search_examines_a_bounded_number_of_jobs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_CANDIDATES", 3)
    monkeypatch.setattr(reader, "MAX_SHORT_CANDIDATES", 3)
    add(store, new_job(1, owner="ann"), *(new_job(number) for number in range(2, 10)))
    assert [row.job.order for row in store.list_jobs(name="talk", limit=9)] == [9, 8, 7]
    assert store.list_jobs(name="talk", owner="ann") == []
    assert store.list_jobs(name="ta", owner="ann") == []
    assert [row.job.order for row in store.list_jobs(name="talk", owner="ann", before="j4")] == [1]


def test_counts_follow_every_transition_and_deletion(store: Store) -> None:
    jobs = [new_job(number, owner="ann" if number < 3 else "") for number in range(1, 6)]
    add(store, *jobs)
    cancel(store, jobs[0])
    assert store.count_jobs() == {"queued": 4, "cancelled": 1}
    assert store.count_jobs(owner="ann") == {"queued": 1, "cancelled": 1}
    row = store.find_job("j1")
    assert row is not None
    store.delete_job(row, is_noted=False)
    assert store.count_jobs() == {"queued": 4}
    assert store.count_jobs(owner="ann") == {"queued": 1}
    assert store.count_jobs(owner="unknown") == {}


def test_journal_is_read_by_owner_and_by_job(store: Store) -> None:
    add(store, new_job(1, owner="ann"), new_job(2), new_job(3, owner="ann"))
    assert [entry.job for entry in store.journal(0, owner="ann")] == ["j1", "j3"]
    assert [entry.seq for entry in store.journal(1, owner="ann")] == [3]
    assert [entry.job for entry in store.journal(0, job="j2")] == ["j2"]
    assert store.journal(0, job="j2", owner="ann") == []
    assert [entry.owner for entry in store.journal(0)] == ["ann", "", "ann"]


def test_equal_options_of_jobs_are_stored_once_and_removed_with_the_last_job(store: Store) -> None:
    add(store, *(new_job(number) for number in range(1, 4)))
    assert store._one("SELECT count(*) FROM settings") == 2
    for number in range(1, 4):
        job = new_job(number)
        cancel(store, job)
        row = store.find_job(job.id)
        assert row is not None
        assert row.job.options == job.options
        store.delete_job(row, is_noted=False)
    assert store._one("SELECT count(*) FROM settings") == 0


def test_orders_and_journal_numbers_are_not_reused_after_a_deletion(store: Store, tmp_path: Path) -> None:
    job = new_job(store.next_order())
    add(store, job)
    cancel(store, job)
    row = store.find_job(job.id)
    assert row is not None
    store.delete_job(row, is_noted=True)
    while not store.delete_remains(10):
        pass
    last = store.last_seq()
    assert store.trim_journal(2**62, 10) is True
    assert store.journal(0) == []
    store.close()
    again = Store(str(tmp_path / "subtitled.sqlite"))
    assert (again.next_order(), again.last_seq()) == (2, last)
    add(again, new_job(2))
    assert [entry.seq for entry in again.journal(0)] == [last + 1]
    again.close()
