"""The queue in its order: changes, look-ups, and places between two jobs."""

from __future__ import annotations

import random

import pytest

from subtitled.core import queue_order
from subtitled.core.queue_order import Entry, QueueOrder, places_beside


def entry(number: float, *, priority: int = 0) -> Entry:
    return (-priority, number, int(number), f"job-{number:g}")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_order, "MAX_CHUNK", 4)


@pytest.mark.usefixtures("small_chunks")
def test_order_agrees_with_a_sorted_list_after_any_changes() -> None:
    rng = random.Random(7)
    order, expected = QueueOrder(), set[Entry]()
    for _ in range(2000):
        one = entry(rng.randrange(60), priority=rng.randrange(2))
        if rng.random() < 0.5:
            order.add(one)
            expected.add(one)
        else:
            assert order.discard(one) == (one in expected)
            expected.discard(one)
        in_order = sorted(expected)
        assert list(order) == in_order
        assert len(order) == len(in_order)
        other = entry(rng.randrange(60), priority=rng.randrange(2))
        assert (other in order) == (other in expected)
        assert order.position(other) == (in_order.index(other) + 1 if other in expected else 0)
        assert list(order.after(other)) == [one for one in in_order if one > other]
        assert list(order.before(other)) == [one for one in in_order if one < other][::-1]
    assert [order.pop_first() for _ in in_order] == in_order
    assert not order


@pytest.mark.usefixtures("small_chunks")
def test_chunks_stay_full_and_none_exceeds_the_limit() -> None:
    order = QueueOrder()
    for number in range(100):
        order.add(entry(number))
    assert {len(chunk) for chunk in order._chunks} == {4}
    for number in range(100):
        order.add(entry(number + 0.5))
    assert max(len(chunk) for chunk in order._chunks) == 4


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize("first", [1, 100_000, 1_000_000])
def test_any_number_of_jobs_is_moved_to_the_same_spot(first: int, *, is_after: bool) -> None:
    count = 300
    entries = {one[3]: one for one in map(entry, range(first, first + count))}
    order = QueueOrder()
    for one in entries.values():
        order.add(one)
    expected = list(entries)
    neighbour, most = f"job-{first + 5:g}", 0
    for name in list(entries)[6:] if is_after else list(entries)[:4:-1][:-1]:
        place, others = places_beside(order, entries[neighbour], is_after=is_after, moved=entries[name])
        most = max(most, len(others))
        for changed, new in {**others, name: place}.items():
            order.discard(entries[changed])
            level, _, number, _ = entries[changed]
            entries[changed] = (level, new, number, changed)
            order.add(entries[changed])
        expected.remove(name)
        expected.insert(expected.index(neighbour) + is_after, name)
        assert [name for *_, name in order] == expected
    assert most <= count


def test_place_at_an_end_of_a_level_is_outside_of_its_places() -> None:
    order = QueueOrder()
    jobs = [entry(1, priority=9), entry(4), entry(7), entry(2, priority=-9)]
    for one in jobs:
        order.add(one)
    assert places_beside(order, jobs[1], is_after=False, moved=jobs[3]) == (3.0, {})
    assert places_beside(order, jobs[2], is_after=True, moved=jobs[0]) == (8.0, {})
    assert places_beside(order, jobs[1], is_after=True, moved=jobs[0]) == (5.5, {})


def test_jobs_at_the_same_place_make_room() -> None:
    order = QueueOrder()
    same: list[Entry] = [(0, 5.0, number, f"job-{number}") for number in range(3)]
    for one in same:
        order.add(one)
    place, others = places_beside(order, same[1], is_after=True, moved=entry(9))
    places = {**{one[3]: one[1] for one in same}, **others}
    assert places["job-0"] <= places["job-1"] < place < places["job-2"]
