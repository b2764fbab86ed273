"""How many workers Ray is asked for: more at once, fewer after a time without work, never to and fro."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.ray.scaling_policy import (
    FIRST_PAUSE_S,
    LONG_LIFE_S,
    MAX_PAUSE_S,
    SETTLE_S,
    UNREAD_MS,
    ScalingCooldowns,
    ScalingLimits,
    ScalingMember,
    ScalingPolicy,
    backlog_ms,
    desired_workers,
)

HOUR_MS = 3_600_000
LIMITS = ScalingLimits(min_workers=0, max_workers=4, hours_per_worker=2.0, idle_s=600.0)


def pending(*numbers: int) -> list[ScalingMember]:
    return [ScalingMember(number=number, is_placed=False, is_idle=False) for number in numbers]


def idle(*numbers: int, audio_ms: int = 0) -> list[ScalingMember]:
    return [
        ScalingMember(number=number, is_placed=True, is_idle=True, audio_ms=audio_ms) for number in numbers
    ]


def busy(*numbers: int) -> list[ScalingMember]:
    return [ScalingMember(number=number, is_placed=True, is_idle=False) for number in numbers]


@pytest.mark.parametrize(
    ("hours", "is_any", "count"),
    [
        (0, False, 0),
        (0, True, 1),
        (0.01, True, 1),
        (2, True, 1),
        (2.01, True, 2),
        (7, True, 4),
        (99, True, 4),
    ],
)
def test_the_number_of_workers_follows_the_hours_of_queued_audio(
    hours: float, is_any: bool, count: int
) -> None:
    assert desired_workers(hours * HOUR_MS, LIMITS, is_any=is_any) == count


def test_the_minimum_number_is_kept_without_work() -> None:
    limits = ScalingLimits(min_workers=2, max_workers=4, hours_per_worker=1.0, idle_s=1.0)
    assert desired_workers(0, limits, is_any=False) == 2
    scaling = ScalingPolicy(limits)
    for now in (0.0, 1000.0):
        assert scaling.decide(now, idle(1, 2), 0, is_any=False).stop == ()


def test_an_unread_file_requests_a_worker() -> None:
    """Files are read once a worker is ready: without one, no length would ever be known."""
    assert ScalingPolicy(LIMITS).decide(0.0, [], 0, is_any=True).request == 1


def test_more_workers_are_requested_immediately() -> None:
    decision = ScalingPolicy(LIMITS).decide(0.0, [*busy(1), *pending(2)], 7 * HOUR_MS, is_any=True)
    assert (decision.desired, decision.request) == (4, 2)


def test_no_worker_is_requested_during_a_cooldown() -> None:
    assert ScalingPolicy(LIMITS).decide(0.0, [], HOUR_MS, is_any=True, may_request=False).request == 0


def test_an_idle_worker_is_stopped_after_idle_s() -> None:
    scaling = ScalingPolicy(LIMITS)
    assert scaling.decide(0.0, idle(1), 0, is_any=False).stop == ()
    assert scaling.decide(599.0, idle(1), 0, is_any=False).stop == ()
    assert scaling.decide(600.0, idle(1), 0, is_any=False).stop == (1,)


def test_work_between_two_turns_resets_the_idle_time() -> None:
    scaling = ScalingPolicy(LIMITS)
    scaling.decide(0.0, idle(1), 0, is_any=False)
    scaling.decide(599.0, idle(1, audio_ms=30_000), 0, is_any=False)
    assert scaling.decide(601.0, idle(1, audio_ms=30_000), 0, is_any=False).stop == ()
    assert scaling.decide(1199.0, idle(1, audio_ms=30_000), 0, is_any=False).stop == (1,)


def test_a_busy_worker_is_never_stopped() -> None:
    scaling = ScalingPolicy(LIMITS)
    for now in range(0, 10_000, 100):
        assert scaling.decide(float(now), busy(1, 2), 0, is_any=False).stop == ()


def test_only_surplus_workers_are_stopped() -> None:
    scaling = ScalingPolicy(LIMITS)
    scaling.decide(0.0, idle(1), 0, is_any=False)
    scaling.decide(1.0, idle(1, 2, 3), 0, is_any=False)
    assert scaling.decide(700.0, idle(1, 2, 3), 3 * HOUR_MS, is_any=True).stop == (1,)


def test_surplus_requests_without_a_node_are_cancelled_after_a_while() -> None:
    scaling = ScalingPolicy(LIMITS)
    pool = [*busy(1), *pending(2, 3)]
    assert scaling.decide(0.0, pool, HOUR_MS, is_any=True).cancel == ()
    assert scaling.decide(SETTLE_S, pool, HOUR_MS, is_any=True).cancel == (3, 2)


def test_a_short_empty_queue_stops_no_worker() -> None:
    """Between the two looks there is too much, then too little; the one that waits for a node stays in line."""
    scaling = ScalingPolicy(LIMITS)
    pool = [*idle(1), *pending(2)]
    for turn in range(100):
        decision = scaling.decide(turn * 30.0, pool, (turn % 2) * 3 * HOUR_MS, is_any=True)
        assert (decision.request, decision.cancel) == (0, ())


@given(
    st.lists(
        st.tuples(st.floats(0, 900), st.integers(0, 9), st.sets(st.integers(0, 3))), min_size=1, max_size=60
    ),
    st.integers(0, 2),
)
def test_the_limits_hold_and_no_busy_worker_is_stopped(
    turns: list[tuple[float, int, set[int]]], least: int
) -> None:
    limits = ScalingLimits(min_workers=least, max_workers=4, hours_per_worker=2.0, idle_s=600.0)
    scaling, now, pool, number = ScalingPolicy(limits), 0.0, list[int](), 0
    for passed_s, hours, at_work in turns:
        now += passed_s
        members = [
            ScalingMember(number=one, is_placed=one % 3 > 0, is_idle=one % 3 > 0 and one % 4 not in at_work)
            for one in pool
        ]
        decision = scaling.decide(now, members, hours * HOUR_MS, is_any=hours > 0)
        gone = {*decision.cancel, *decision.stop}
        assert gone <= {member.number for member in members if member.is_idle or not member.is_placed}
        assert not (gone and decision.request)
        pool = [one for one in pool if one not in gone] + list(range(number, number + decision.request))
        number += decision.request
        assert least <= len(pool) <= 4
        assert len(pool) >= decision.desired


def test_repeated_failures_double_the_cooldown() -> None:
    pauses, now, tries = ScalingCooldowns(), 0.0, 0
    while now < 3600.0:
        assert pauses.may_request(now)
        pauses.failed(now, 0.5)
        tries += 1
        now += pauses.left_s(now)
    assert tries < 3600 / MAX_PAUSE_S + 7


def test_failures_at_the_same_time_count_as_one() -> None:
    pauses = ScalingCooldowns()
    for _ in range(8):
        pauses.failed(0.0, 0.5)
    assert pauses.left_s(0.0) == FIRST_PAUSE_S


def test_a_long_lived_worker_resets_the_cooldown() -> None:
    pauses, now = ScalingCooldowns(), 0.0
    for _ in range(5):
        pauses.failed(now, 0.5)
        now += pauses.left_s(now)
    pauses.failed(now, LONG_LIFE_S)
    assert pauses.left_s(now) == FIRST_PAUSE_S


def test_after_a_fatal_failure_a_worker_is_requested_once_a_minute() -> None:
    pauses = ScalingCooldowns()
    pauses.failed(0.0, 0.5, is_fatal=True)
    assert pauses.left_s(0.0) == MAX_PAUSE_S


def test_a_joined_worker_resets_the_cooldown() -> None:
    pauses, now = ScalingCooldowns(), 0.0
    for _ in range(5):
        pauses.failed(now, 0.5)
        now += pauses.left_s(now)
    pauses.succeeded()
    pauses.failed(now, 0.5)
    assert pauses.left_s(now) == FIRST_PAUSE_S


def test_unread_files_count_with_the_typical_length() -> None:
    assert backlog_ms(1000, 0, 5000) == 1000
    assert backlog_ms(1000, 3, 5000) == 16_000
    assert backlog_ms(0, 2, 0) == 2 * UNREAD_MS
