"""Lists by properties without an index and in other orders, and the counts of translated sentences: results and cost."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from msgspec.structs import replace

from subtitled.core.actions import SaveJob, SaveNewJob, StoredTranslation
from subtitled.core.protocol import Media
from subtitled.core.records import Job, Options
from subtitled.core.states import JobEvent, JobState
from subtitled.storage import queries, reader
from subtitled.storage.reader import JobFilter
from subtitled.storage.rows import JobRow, job_row
from subtitled.storage.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MINUTE = 960_000
"""Samples."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(str(tmp_path / "subtitled.sqlite"))
    yield opened
    opened.close()


def _add(store: Store, order: int, **fields: Any) -> Job:
    """Store a done job; `minutes` and `language` are those of its file."""
    minutes, language = fields.pop("minutes", 1), fields.pop("language", "en")
    values: dict[str, Any] = {
        "id": f"j{order}",
        "state": JobState.WRITING,
        "source": b"/in/%d/talk.mp4" % order,
        "location": b"/in",
        "size": 7,
        "mtime_ns": order,
        "options": Options(),
        "order": order,
    }
    job = Job(**{**values, **fields})
    store.apply([SaveNewJob(job)])
    done = replace(job, state=JobState.DONE, language=language)
    media = msgspec.msgpack.encode(Media(decoded_samples=minutes * MINUTE))
    store.apply([SaveJob(job=done, before=JobState.WRITING, event=JobEvent.WRITTEN, media=media)])
    return done


def _steps(store: Store, action: Callable[[], object]) -> int:
    """Return how many instructions SQLite runs."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    store._db.set_progress_handler(count, 1)
    try:
        action()
    finally:
        store._db.set_progress_handler(None, 1)
    return steps


@pytest.mark.parametrize("sort", ["newest", "oldest", "name", "longest"])
def test_pages_of_a_filter_contain_each_job_once_in_order(store: Store, sort: str) -> None:
    rng = random.Random(sort)
    jobs = {}
    for order in range(1, 61):
        minutes, name = rng.randrange(9), rng.choice("bADc")
        job = _add(
            store,
            order,
            language=rng.choice(["en", "ja", None]),
            options=Options(language=rng.choice(["auto", "ja"]), inbox=rng.choice([b"/in", b"/other"])),
            source=f"/in/{order}/{name}.mp4".encode(),
            minutes=minutes,
        )
        jobs[job.id] = (job, minutes, name)
    keys: dict[str, Callable[[str], Any]] = {
        "newest": lambda one: -jobs[one][0].order,
        "oldest": lambda one: jobs[one][0].order,
        "name": lambda one: (jobs[one][2].lower(), -jobs[one][0].order),
        "longest": lambda one: (-jobs[one][1], -jobs[one][0].order),
    }
    wanted = JobFilter(language="ja", inbox=b"/in")
    expected = sorted(
        (
            name
            for name, (job, _, _) in jobs.items()
            if (job.language or job.options.language) == "ja" and job.options.inbox == b"/in"
        ),
        key=keys[sort],
    )
    assert len(expected) > 10
    listed: list[str] = []
    while page := store.find_jobs(wanted, sort=sort, limit=4, before=listed[-1] if listed else ""):
        listed += [row.job.id for row in page]
    assert listed == expected
    assert store.find_jobs(wanted, sort=sort, limit=4, before="unknown") == []


@pytest.mark.parametrize("sort", ["newest", "oldest"])
def test_list_by_time_stops_when_it_is_complete(store: Store, sort: str) -> None:
    def page() -> None:
        assert len(store.find_jobs(JobFilter(language="ja"), sort=sort, limit=5)) == 5

    for order in range(1, 21):
        _add(store, order, language="ja")
    few = _steps(store, page)
    for order in range(21, 201):
        _add(store, order, language="ja")
    assert _steps(store, page) == few
    before = "j190" if sort == "newest" else "j10"
    after = _steps(
        store, lambda: store.find_jobs(JobFilter(language="ja"), sort=sort, limit=5, before=before)
    )
    assert after < 2 * few, "a further page starts after the last job of the one before"


@pytest.mark.parametrize("sort", ["name", "longest"])
def test_only_the_listed_jobs_are_decoded(store: Store, monkeypatch: pytest.MonkeyPatch, sort: str) -> None:
    for order in range(1, 51):
        _add(store, order)
    decoded: list[str] = []

    def counted(row: tuple[Any, ...]) -> JobRow:
        decoded.append(row[0])
        return job_row(row)

    monkeypatch.setattr(reader, "job_row", counted)
    found = store.find_jobs(JobFilter(), sort=sort, limit=3)
    assert decoded == [row.job.id for row in found] == ["j50", "j49", "j48"]


def test_counts_of_translations_agree_with_the_rows_after_any_changes(store: Store) -> None:
    rng = random.Random(3)
    jobs = [_add(store, order) for order in (1, 2)]
    for _ in range(400):
        job, target = rng.choice(jobs), rng.choice(["ja", "zh-TW"])
        row = StoredTranslation(
            target=target,
            key=str(rng.randrange(9)),
            source="s",
            text="t",
            problem=rng.choice(["", "no answer"]),
            model="m",
        )
        match rng.randrange(8):
            case 0:
                kept = f'["{rng.randrange(9)}", "{rng.randrange(9)}"]'
                store._db.execute(queries.DELETE_OTHER_TRANSLATIONS, (job.id, target, kept))
            case 1:
                store._db.execute(queries.DELETE_UNTRANSLATED, (job.id,))
            case _:
                values = (job.id, *msgspec.structs.astuple(row))
                store._db.execute(queries.PUT_TRANSLATION, values)
                assert store.translations(job.id, target)[row.key] == row
        for one in jobs:
            rows = [store.translations(one.id, name).values() for name in ("ja", "zh-TW")]
            expected = {
                name: (len(found), sum(bool(row.problem) for row in found))
                for name, found in zip(("ja", "zh-TW"), rows, strict=True)
                if found
            }
            assert store.count_translations(one.id) == expected
    for job in jobs:
        found_row = store.find_job(job.id)
        assert found_row is not None
        store.delete_job(found_row, is_noted=False)
        assert store.count_translations(job.id) == {}
        assert store.translations(job.id, "ja") == {}


def test_counting_translations_reads_no_sentence(store: Store) -> None:
    steps = []
    for order, sentences in ((1, 10), (2, 1000)):
        job = _add(store, order)
        rows = [(job.id, "ja", str(number), "s", "t", "", "m", "", "", "", "") for number in range(sentences)]
        store._db.executemany(queries.PUT_TRANSLATION, rows)
        assert store.count_translations(job.id) == {"ja": (sentences, 0)}
        steps.append(_steps(store, lambda name=job.id: store.count_translations(name)))  # type: ignore[misc]
    assert steps[0] == steps[1]
