"""Which segments make the next lease."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from subtitle.messages import WordTimestamps
from subtitled.core.fair_queue import ReadyQueue
from subtitled.core.plan import Plan, PlanPiece, Span
from subtitled.core.records import Job, Options, Segment, SegmentKey
from subtitled.core.states import JobState, SegmentState

WINDOW = 480_000


def job(name: str, *, order: int = 0, priority: int = 0, words: WordTimestamps = "auto") -> Job:
    """Return a job."""
    return Job(
        id=name,
        state=JobState.TRANSCRIBING,
        source=b"",
        location=b"",
        size=1,
        mtime_ns=1,
        options=Options(priority=priority, word_timestamps=words),
        order=order,
    )


def segment(name: str, index: int, *, samples: int = WINDOW, losses: int = 0) -> Segment:
    """Return a pending segment."""
    start = index * WINDOW
    plan = Plan(index, (PlanPiece(start, samples),), (Span(start, start + samples),))
    return Segment(key=SegmentKey(name, index), state=SegmentState.PENDING, plan=plan, losses=losses)


def fill(queue: ReadyQueue, of: Job, indices: range, *, samples: int = WINDOW, losses: int = 0) -> None:
    """Make segments of a job ready."""
    for index in indices:
        queue.add(of, segment(of.id, index, samples=samples, losses=losses))


def take_singly(queue: ReadyQueue, leases: int) -> list[tuple[str, int]]:
    """Take so many leases of one segment each."""
    return [(key.job, key.index) for _ in range(leases) for key in queue.take(1)]


def take_all(queue: ReadyQueue, count: int = 1) -> list[tuple[tuple[str, int], ...]]:
    """Take leases until nothing is ready."""
    leases = []
    while keys := queue.take(count):
        leases.append(tuple((key.job, key.index) for key in keys))
    return leases


def test_empty_queue_makes_no_lease() -> None:
    assert ReadyQueue().take(16) == ()


def test_segments_of_one_job_keep_the_order_of_becoming_ready() -> None:
    queue = ReadyQueue()
    fill(queue, job("a"), range(5))
    assert take_all(queue, 2) == [(("a", 0), ("a", 1)), (("a", 2), ("a", 3)), (("a", 4),)]


def test_segment_is_ready_once() -> None:
    queue = ReadyQueue()
    fill(queue, job("a"), range(1))
    with pytest.raises(ValueError, match="ready already"):
        fill(queue, job("a"), range(1))
    assert len(queue) == 1
    assert SegmentKey("a", 0) in queue


def test_priority_goes_first() -> None:
    queue = ReadyQueue()
    fill(queue, job("slow", order=1), range(3))
    fill(queue, job("urgent", order=2, priority=5), range(2))
    assert [name for ((name, _),) in take_all(queue)] == ["urgent", "urgent", "slow", "slow", "slow"]


def test_short_clip_waits_one_lease_behind_a_long_job() -> None:
    queue = ReadyQueue()
    fill(queue, job("long", order=1), range(1200))
    for _ in range(300):
        queue.take(4)
    fill(queue, job("clip", order=2), range(1), samples=160_000)
    fill(queue, job("long", order=1), range(1200, 1300))
    assert SegmentKey("clip", 0) in queue.take(4) + queue.take(4)


@pytest.mark.parametrize("served", [0, 1, 150])
def test_short_clip_goes_before_many_jobs_of_equal_rank(served: int) -> None:
    """200 jobs, whose first segments alone are an hour and a half of audio; also in their second round."""
    queue = ReadyQueue()
    for number in range(200):
        fill(queue, job(f"job{number}", order=number), range(3))
    take_singly(queue, served)
    fill(queue, job("clip", order=1000), range(1), samples=WINDOW // 3)
    assert take_singly(queue, 1) == [("clip", 0)]


def test_endless_short_clips_do_not_stop_a_long_job() -> None:
    queue = ReadyQueue()
    fill(queue, job("long"), range(10))
    taken = []
    for number in range(100):
        fill(queue, job(f"clip{number}", order=number + 1), range(1), samples=WINDOW // 3)
        taken += [name for name, _ in take_singly(queue, 1)]
    assert taken.count("long") >= 3


def test_jobs_of_one_priority_share_by_audio_not_by_segments() -> None:
    queue = ReadyQueue()
    fill(queue, job("full", order=1), range(100))
    fill(queue, job("short", order=2), range(100), samples=WINDOW // 4)
    taken = Counter(name for name, _ in take_singly(queue, 50))
    assert taken == {"full": 10, "short": 40}


def test_returning_job_gets_no_credit_for_its_absence() -> None:
    queue = ReadyQueue()
    early, late = job("early", order=1), job("late", order=2)
    fill(queue, early, range(1))
    queue.take(1)
    fill(queue, late, range(100))
    take_singly(queue, 50)
    fill(queue, early, range(1, 20))
    taken = Counter(name for name, _ in take_singly(queue, 20))
    assert taken["late"] >= 9


def test_audio_of_urgent_jobs_is_no_credit_for_others() -> None:
    """A job that waits behind an urgent one must not shut out a clip of its own priority that comes after that."""
    queue = ReadyQueue()
    fill(queue, job("waiting", order=1), range(100))
    fill(queue, job("urgent", order=2, priority=5), range(1000))
    take_singly(queue, 1000)
    fill(queue, job("clip", order=3), range(1))
    assert ("clip", 0) in take_singly(queue, 2)


def test_suspect_segments_have_leases_of_their_own() -> None:
    queue = ReadyQueue()
    fill(queue, job("a"), range(2), losses=1)
    fill(queue, job("a"), range(2, 4))
    leases = take_all(queue, 16)
    assert sorted(leases) == [(("a", 0),), (("a", 1),), (("a", 2), ("a", 3))]


def test_sixteen_suspects_of_a_job_count_as_one_job() -> None:
    """After the loss of a full lease, a clip still waits no longer than for one segment of that job."""
    queue = ReadyQueue()
    long = job("long", order=1)
    fill(queue, long, range(16))
    queue.take(16)
    fill(queue, long, range(16), losses=1)
    fill(queue, job("clip", order=2), range(1))
    assert ("clip", 0) in take_singly(queue, 2)


def test_suspect_does_not_wait_for_the_rest_of_its_job() -> None:
    queue = ReadyQueue()
    long = job("long")
    fill(queue, long, range(10))
    fill(queue, long, range(10, 11), losses=1)
    fill(queue, long, range(11, 100))
    assert ("long", 10) in take_singly(queue, 11)


def test_jobs_share_a_lease() -> None:
    queue = ReadyQueue()
    for place in range(8):
        fill(queue, job(f"clip{place}", order=place), range(1))
    assert len(queue.take(8)) == 8


def test_segments_share_a_lease_only_with_the_same_word_times() -> None:
    queue = ReadyQueue()
    fill(queue, job("words", order=1, words=True), range(2))
    fill(queue, job("plain", order=2, words=False), range(2))
    fill(queue, job("open", order=3), range(2))
    fill(queue, job("as open", order=4), range(2))
    leases = [sorted({name for name, _ in lease}) for lease in take_all(queue, 16)]
    assert leases == [["words"], ["plain"], ["as open", "open"]]


def test_removed_job_leaves_nothing_in_the_queue() -> None:
    queue = ReadyQueue()
    fill(queue, job("gone"), range(3))
    fill(queue, job("gone"), range(3, 5), losses=1)
    fill(queue, job("kept", order=1), range(1))
    queue.remove_job("gone")
    queue.remove_job("gone")
    assert take_all(queue) == [(("kept", 0),)]
    assert len(queue) == 0


def test_removed_job_can_be_added_again() -> None:
    queue = ReadyQueue()
    fill(queue, job("a"), range(3))
    queue.remove_job("a")
    fill(queue, job("a"), range(3))
    assert take_all(queue, 16) == [(("a", 0), ("a", 1), ("a", 2))]


ADDED = st.tuples(st.integers(0, 4), st.integers(0, 1), st.sampled_from([4_000, 100_000, WINDOW]))


@given(st.lists(st.one_of(ADDED, st.integers(1, 6)), max_size=80))
def test_each_segment_leaves_the_queue_once(doings: list[tuple[int, int, int] | int]) -> None:
    """Whatever is added and taken in whatever order: nothing is lost, nothing comes twice, no lease mixes kinds."""
    queue = ReadyQueue()
    jobs = [job(f"job{place}", order=place, priority=place % 2, words=place == 4) for place in range(5)]
    added: dict[SegmentKey, Segment] = {}
    taken: list[SegmentKey] = []
    for doing in [*doings, *[16] * 80]:
        if isinstance(doing, int):
            lease = queue.take(doing)
            assert len(lease) <= doing
            assert len(lease) == 1 or not any(added[key].losses for key in lease)
            assert len({key.job == "job4" for key in lease}) <= 1
            taken += lease
        else:
            place, losses, samples = doing
            fresh = segment(f"job{place}", len(added), samples=samples, losses=losses)
            queue.add(jobs[place], fresh)
            added[fresh.key] = fresh
        assert len(queue) == len(added) - len(taken)
    assert sorted(taken) == sorted(added)


@given(
    st.lists(st.sampled_from([4_000, 100_000, 300_000, WINDOW]), min_size=40, max_size=40), st.integers(1, 8)
)
def test_two_waiting_jobs_get_equal_audio(lengths: list[int], count: int) -> None:
    """Never more than a segment apart, whatever their lengths (Goyal, Vin, Cheng 1996, theorem 1)."""
    queue = ReadyQueue()
    jobs = [job("a", order=1), job("b", order=2)]
    for index, samples in enumerate(lengths):
        fill(queue, jobs[index % 2], range(index, index + 1), samples=samples)
    left = {"a": 20, "b": 20}
    given = {"a": 0, "b": 0}
    while all(left.values()):
        for key in queue.take(count):
            given[key.job] += lengths[key.index]
            left[key.job] -= 1
            if all(left.values()):
                assert abs(given["a"] - given["b"]) <= 2 * WINDOW


def test_ready_segments_follow_the_changed_priority_and_place_of_their_job() -> None:
    queue = ReadyQueue()
    jobs = [job(name, order=order) for order, name in enumerate("abc", 1)]
    for one in jobs:
        fill(queue, one, range(2))
    queue.move(replace(jobs[1], changed_priority=5))
    queue.move(replace(jobs[2], place=0.5))
    assert [key.job for key in queue.take(6)] == ["b", "b", "c", "a", "c", "a"]
