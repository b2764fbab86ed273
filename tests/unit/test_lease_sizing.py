"""How much each worker is given: by its speed and its distance, and never so that the others wait for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.lease_sizing import WINDOW_BYTES, fair_share, relative_speeds
from unit.broker_bench import WINDOW, bench
from unit.timed_pool import Kind, TimedPool

MB = 1_000_000
FAST = Kind()
SLOW = Kind(fixed_s=5, window_s=2)
NEAR = Kind(bytes_per_s=100 * MB, round_trip_s=0.005)


def cpu(window_s: float) -> Kind:
    """Return a CPU that takes so long for a window: calls have no fixed cost there."""
    return Kind(fixed_s=0.0, window_s=window_s, is_cpu=True, credit=1)


@pytest.mark.parametrize(
    ("ready", "free", "busy", "share"),
    [
        (16, 1, [], 16),
        (5, 4, [], 1.25),
        (20, 1, [(1, 1)], 10.5),  # the other one has nearly finished
        (9, 1, [(1, 11)], 9),  # it has more than a share already
        (8, 0, [(1, 4), (1, 8)], 10),  # both get more
        (10, 1, [(0.5, 2)], 8),  # half as fast
        (3, 1, [(63, 630)], 3),
    ],
)
def test_streams_finish_at_about_the_same_time(
    ready: int, free: float, busy: list[tuple[float, float]], share: float
) -> None:
    assert fair_share(ready, free, busy) == share


COUNTS = st.floats(0.1, 64)


@given(st.integers(1, 500), COUNTS, st.lists(st.tuples(COUNTS, st.floats(0, 500))))
def test_shares_add_up_to_the_ready_segments(
    ready: int, free: float, busy: list[tuple[float, float]]
) -> None:
    share = fair_share(ready, free, busy)
    given = share * free + sum(max(0.0, share * count - left) for count, left in busy)
    assert given == pytest.approx(ready)


def test_similar_speeds_count_as_equal() -> None:
    weights = relative_speeds({"a": 100, "b": 76, "c": 50, "d": 40, "e": 10})
    assert weights == {"a": 1, "b": 1, "c": 0.5, "d": 0.5, "e": 0.1}
    assert relative_speeds({}) == {}


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.floats(1, 1e9)))
def test_relative_speeds_keep_the_order(speeds: dict[str, float]) -> None:
    weights = relative_speeds(speeds)
    ranked = [weights[slot] for slot in sorted(speeds, key=lambda slot: -speeds[slot])]
    assert ranked == sorted(ranked, reverse=True)
    assert all(0 < weight <= 1 for weight in ranked)


def test_equal_workers_share_equally() -> None:
    pool = TimedPool({f"gpu{place}": Kind(window_s=0.2 + place / 100) for place in range(4)})
    pool.run(400)
    assert pool.bench.broker.lease_dispatch.sizing()._speeds == {}
    assert all(90 <= pool.windows(f"gpu{place}") <= 110 for place in range(4))


def test_lease_of_a_cpu_ends_within_ten_seconds() -> None:
    """The first one has a single segment, which shows the speed; slower than a segment in ten seconds, all have one."""
    for window_s, most in ((0.1, 16), (1.6, 6), (30.0, 1)):
        pool = TimedPool({"cpu0": cpu(window_s)})
        pool.run(100)
        sizes = [done.windows for done in pool.done]
        assert sizes[0] == 1
        assert most - 1 <= max(sizes) <= most, "equal leases may be a little smaller"
        assert all(done.windows == 1 or done.end - done.start <= 10 for done in pool.done)


def test_lease_of_a_gpu_ends_within_two_seconds_if_half_a_batch_does() -> None:
    for window_s, most in ((0.05, 16), (0.14, 10), (1.0, 8)):
        pool = TimedPool({"gpu0": Kind(window_s=window_s)}, lease_gpu_s=2.0)
        pool.run(400)
        assert {done.windows for done in pool.done[5:-3]} <= {most, most + 1}


@pytest.mark.parametrize("window_s", [0.1, 1.6])
def test_urgent_clip_behind_a_long_queue_waits_for_one_lease_of_a_cpu(window_s: float) -> None:
    """200 jobs are queued; the clip has a higher priority, and arrives while a lease is decoded."""
    b = bench("p0", queue_bytes=2**50, feed_floor_bytes=2**40, silence_s=1e6, prepare_stall_s=1e6)
    b.worker("cpu0", credit=1, is_cpu=True)
    for number in range(200):
        b.submit(f"job{number}")
    for number in range(200):
        b.read(0, job=f"job{number}", samples=WINDOW)
    for _ in range(4):
        [lease] = b.broker.lease_dispatch.leases
        b.wait(window_s * len(b.lease(lease).message.items))
        b.reply(b.lease(lease))
    b.submit("clip", priority=10)
    b.read(0, job="clip", samples=WINDOW // 3)
    [running] = b.broker.lease_dispatch.leases
    b.wait(window_s * len(b.lease(running).message.items))
    b.reply(b.lease(running))
    [following] = b.broker.lease_dispatch.leases
    assert b.lease(following).message.items[0].key.job == "clip"
    assert all(window_s * len(sent.message.items) <= 10 for sent in b.all(ac.SendLease))


def test_slow_worker_gets_its_share_and_does_not_delay_the_end() -> None:
    """Ten times as slow as two others, it does a twenty-first of the work: with equal shares it would take thrice as long."""
    pool = TimedPool({"gpu0": FAST, "gpu1": FAST, "cpu0": SLOW})
    took_s = pool.run(400)
    assert 10 <= pool.windows("cpu0") <= 20
    assert took_s < 1.1 * 400 / (2.1 * 16 / FAST.takes_s(16))
    assert took_s == max(done.end for done in pool.done if done.slot != "cpu0")


def test_slow_worker_gets_nothing_that_others_finish_sooner() -> None:
    b = bench("p0", "cpu0", "gpu0", silence_s=1000)
    b.submit()
    b.prepared(0, samples=WINDOW)
    b.prepared(1, samples=WINDOW)
    first, second = b.all(ac.SendLease)
    b.wait(1)
    b.reply(second)
    b.wait(9)
    b.reply(first)
    assert [first.lease.worker, second.lease.worker] == ["cpu0.1", "gpu0.1"]
    b.prepared(2, samples=WINDOW)
    b.prepared(3, samples=WINDOW)
    assert b.last(ac.SendLease).lease.worker == "gpu0.1", "3 waits, and gpu0 will have it within 2 s"
    assert [lease.worker for lease in b.broker.lease_dispatch.leases.values()] == ["gpu0.1"]
    for index in range(4, 30):
        b.prepared(index, samples=WINDOW)
    assert b.last(ac.SendLease).lease.worker == "cpu0.1", "now there is enough for both"


def test_segments_that_wait_for_a_faster_worker_go_to_another_when_it_hangs_or_dies() -> None:
    pool = TimedPool({"gpu0": Kind(hangs_at=3.0), "cpu0": SLOW}, lease_min_s=200)
    pool.run(40)
    assert {done.slot for done in pool.done if done.start > 3} == {"cpu0"}
    assert sum(done.windows for done in pool.done if 3 < done.start < 200) > 10


@pytest.mark.parametrize(("waited_s", "leases"), [(1, 2), (1000, 1)])
def test_slow_worker_that_seems_to_hang_gets_no_more_work(waited_s: float, leases: int) -> None:
    b = bench("p0", "cpu0", "gpu0", credit=2, silence_s=1e4, prepare_stall_s=1e4, lease_min_s=1e4)
    b.submit()
    b.prepared(0, samples=WINDOW)
    b.prepared(1, samples=WINDOW)
    first, second = b.all(ac.SendLease)
    b.wait(1)
    b.reply(second)
    b.wait(2)
    b.reply(first)
    for index in range(2, 10):
        b.prepared(index, samples=WINDOW)
    assert len(b.slot("cpu0").leases) == 1
    b.wait(waited_s)
    for index in range(10, 200):
        b.prepared(index, samples=WINDOW)
    assert len(b.slot("cpu0").leases) == leases


def test_nearby_remote_worker_is_as_busy_as_a_local_one() -> None:
    pool = TimedPool({"gpu0": FAST, "far/0": NEAR, "far/1": NEAR})
    took_s = pool.run(600)
    assert all(pool.busy(slot, 0.1 * took_s, 0.9 * took_s) > 0.99 for slot in ("gpu0", "far/0", "far/1"))
    assert all(190 <= pool.windows(slot) <= 210 for slot in ("gpu0", "far/0", "far/1"))


def test_far_worker_holds_enough_leases_ahead_for_its_round_trip() -> None:
    """At 4 s a way there and back, one lease ahead of 3.7 s each would leave it idle."""
    pool = TimedPool({"far/0": Kind(bytes_per_s=100 * MB, round_trip_s=4)})
    took_s = pool.run(400)
    assert pool.busy("far/0", 0.2 * took_s, 0.9 * took_s) > 0.99
    assert pool.most_bytes["far/0"] > 2 * 16 * WINDOW_BYTES


@pytest.mark.parametrize("round_trip_s", [0.1, 2, 60])
def test_far_worker_never_holds_more_than_max_in_flight(round_trip_s: float) -> None:
    kind = Kind(bytes_per_s=100 * MB, round_trip_s=round_trip_s)
    pool = TimedPool({"far/0": kind}, max_in_flight_bytes=20 * WINDOW_BYTES, silence_s=1000)
    pool.run(200)
    assert WINDOW_BYTES < pool.most_bytes["far/0"] <= 20 * WINDOW_BYTES


def test_worker_may_always_hold_one_segment() -> None:
    pool = TimedPool({"far/0": NEAR}, max_in_flight_bytes=1)
    pool.run(3)
    assert pool.most_bytes["far/0"] == WINDOW_BYTES


def test_leases_in_flight_on_a_slow_link_do_not_delay_heartbeats_too_long() -> None:
    """They wait behind it: of 1 MB/s no more than a third of the silence that ends a session."""
    thin = Kind(bytes_per_s=1 * MB, round_trip_s=0.05)
    pool = TimedPool({"gpu0": FAST, "far/0": thin}, silence_s=15)
    pool.run(200)
    assert max(done.windows for done in pool.done if done.slot == "far/0") == 5
    assert pool.windows("gpu0") > 140


def test_link_below_real_time_carries_one_segment_at_a_time() -> None:
    pool = TimedPool({"far/0": Kind(bytes_per_s=20_000)})
    pool.run(4)
    assert {done.windows for done in pool.done} == {1}


def test_first_lease_of_a_remote_worker_has_one_segment() -> None:
    """It measures the worker; until then the worker gets no other."""
    b = bench("p0", lease_gpu_s=1e6, silence_s=1000)
    b.join("far/cuda0", credit=2)
    b.submit()
    b.read(*range(40), samples=WINDOW)
    [first] = b.all(ac.SendLease)
    assert len(first.message.items) == 1
    b.receive(first)
    b.wait(1)
    b.reply(first)
    assert [len(sent.message.items) for sent in b.all(ac.SendLease)] == [1, 16, 16]


def test_loading_the_model_does_not_count_for_the_throughput() -> None:
    b = bench("p0", "gpu0", silence_s=1000, prepare_stall_s=1000, lease_min_s=1000)
    b.submit()
    b.handle(ev.MessageReceived("gpu0.1", pr.ModelUnloaded()))
    b.prepared(0, samples=WINDOW)
    b.wait(100)
    b.reply(b.last(ac.SendLease))
    assert not b.slot("gpu0").resident("").throughput.leases
    b.prepared(1, samples=WINDOW)
    b.wait(1)
    b.reply(b.last(ac.SendLease))
    assert b.slot("gpu0").resident("").throughput.mean_s == 1


def test_refused_lease_does_not_count_for_the_throughput() -> None:
    b = bench("p0", "gpu0")
    b.submit()
    b.prepared(0)
    b.wait(1)
    b.handle(ev.MessageReceived("gpu0.1", pr.LeaseRefused(lease=1, cause="out of memory")))
    assert not b.slot("gpu0").resident("").throughput.leases


KIND = st.builds(
    Kind,
    fixed_s=st.sampled_from([0.01, 0.5, 5.0]),
    window_s=st.sampled_from([0.01, 0.2, 8.0]),
    bytes_per_s=st.sampled_from([None, 0.1 * MB, 2.0 * MB, 100.0 * MB]),
    round_trip_s=st.sampled_from([0.001, 0.3, 5.0]),
)


@given(st.lists(KIND, min_size=1, max_size=5), st.integers(1, 60), st.sampled_from([0.0, 0.05, 1.0]))
def test_all_segments_are_done_with_any_workers(kinds: list[Kind], windows: int, feed_s: float) -> None:
    """No two workers wait for each other."""
    named = {f"{'far/' if kind.bytes_per_s else 'gpu'}{place}": kind for place, kind in enumerate(kinds)}
    pool = TimedPool(named, silence_s=1000)
    pool.run(windows, feed_s=feed_s)
