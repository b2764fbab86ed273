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
    wanted,
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
def test_the_number_follows_the_hours_in_line(hours: float, is_any: bool, count: int) -> None:
    assert wanted(hours * HOUR_MS, LIMITS, is_any=is_any) == count


def test_the_least_number_is_kept_without_work() -> None:
    limits = ScalingLimits(min_workers=2, max_workers=4, hours_per_worker=1.0, idle_s=1.0)
    assert wanted(0, limits, is_any=False) == 2
    scaling = ScalingPolicy(limits)
    for now in (0.0, 1000.0):
        assert scaling.decide(now, idle(1, 2), 0, is_any=False).let_go == ()


def test_a_file_that_nobody_has_read_yet_asks_for_a_worker() -> None:
    """Reading begins when a worker is ready: with none, no file would ever be known to be long."""
    assert ScalingPolicy(LIMITS).decide(0.0, [], 0, is_any=True).ask == 1


def test_more_are_asked_for_at_once() -> None:
    decision = ScalingPolicy(LIMITS).decide(0.0, [*busy(1), *pending(2)], 7 * HOUR_MS, is_any=True)
    assert (decision.wanted, decision.ask) == (4, 2)


def test_none_is_asked_for_during_a_pause() -> None:
    assert ScalingPolicy(LIMITS).decide(0.0, [], HOUR_MS, is_any=True, may_ask=False).ask == 0


def test_a_worker_without_work_is_let_go_after_the_time() -> None:
    scaling = ScalingPolicy(LIMITS)
    assert scaling.decide(0.0, idle(1), 0, is_any=False).let_go == ()
    assert scaling.decide(599.0, idle(1), 0, is_any=False).let_go == ()
    assert scaling.decide(600.0, idle(1), 0, is_any=False).let_go == (1,)


def test_work_between_two_looks_counts() -> None:
    scaling = ScalingPolicy(LIMITS)
    scaling.decide(0.0, idle(1), 0, is_any=False)
    scaling.decide(599.0, idle(1, audio_ms=30_000), 0, is_any=False)
    assert scaling.decide(601.0, idle(1, audio_ms=30_000), 0, is_any=False).let_go == ()
    assert scaling.decide(1199.0, idle(1, audio_ms=30_000), 0, is_any=False).let_go == (1,)


def test_a_worker_with_work_is_never_let_go() -> None:
    scaling = ScalingPolicy(LIMITS)
    for now in range(0, 10_000, 100):
        assert scaling.decide(float(now), busy(1, 2), 0, is_any=False).let_go == ()


def test_only_so_many_are_let_go_as_are_too_many() -> None:
    scaling = ScalingPolicy(LIMITS)
    scaling.decide(0.0, idle(1), 0, is_any=False)
    scaling.decide(1.0, idle(1, 2, 3), 0, is_any=False)
    assert scaling.decide(700.0, idle(1, 2, 3), 3 * HOUR_MS, is_any=True).let_go == (1,)


def test_what_has_no_node_is_withdrawn_when_it_was_too_much_for_a_while() -> None:
    scaling = ScalingPolicy(LIMITS)
    crew = [*busy(1), *pending(2, 3)]
    assert scaling.decide(0.0, crew, HOUR_MS, is_any=True).withdraw == ()
    assert scaling.decide(SETTLE_S, crew, HOUR_MS, is_any=True).withdraw == (3, 2)


def test_a_queue_that_comes_and_goes_starts_and_stops_nobody() -> None:
    """Between the two looks there is too much, then too little; the one that waits for a node stays in line."""
    scaling = ScalingPolicy(LIMITS)
    crew = [*idle(1), *pending(2)]
    for turn in range(100):
        decision = scaling.decide(turn * 30.0, crew, (turn % 2) * 3 * HOUR_MS, is_any=True)
        assert (decision.ask, decision.withdraw) == (0, ())


@given(
    st.lists(
        st.tuples(st.floats(0, 900), st.integers(0, 9), st.sets(st.integers(0, 3))), min_size=1, max_size=60
    ),
    st.integers(0, 2),
)
def test_the_limits_hold_and_nobody_with_work_goes(
    turns: list[tuple[float, int, set[int]]], least: int
) -> None:
    limits = ScalingLimits(min_workers=least, max_workers=4, hours_per_worker=2.0, idle_s=600.0)
    scaling, now, crew, number = ScalingPolicy(limits), 0.0, list[int](), 0
    for passed_s, hours, at_work in turns:
        now += passed_s
        members = [
            ScalingMember(number=one, is_placed=one % 3 > 0, is_idle=one % 3 > 0 and one % 4 not in at_work)
            for one in crew
        ]
        decision = scaling.decide(now, members, hours * HOUR_MS, is_any=hours > 0)
        gone = {*decision.withdraw, *decision.let_go}
        assert gone <= {member.number for member in members if member.is_idle or not member.is_placed}
        assert not (gone and decision.ask)
        crew = [one for one in crew if one not in gone] + list(range(number, number + decision.ask))
        number += decision.ask
        assert least <= len(crew) <= 4
        assert len(crew) >= decision.wanted


def test_a_fault_that_repeats_itself_is_tried_ever_more_seldom() -> None:
    pauses, now, tries = ScalingCooldowns(), 0.0, 0
    while now < 3600.0:
        assert pauses.may_ask(now)
        pauses.failed(now, 0.5)
        tries += 1
        now += pauses.left_s(now)
    assert tries < 3600 / MAX_PAUSE_S + 7


def test_several_that_fail_together_count_as_one() -> None:
    pauses = ScalingCooldowns()
    for _ in range(8):
        pauses.failed(0.0, 0.5)
    assert pauses.left_s(0.0) == FIRST_PAUSE_S


def test_a_worker_that_lived_long_did_not_fail_at_its_start() -> None:
    pauses, now = ScalingCooldowns(), 0.0
    for _ in range(5):
        pauses.failed(now, 0.5)
        now += pauses.left_s(now)
    pauses.failed(now, LONG_LIFE_S)
    assert pauses.left_s(now) == FIRST_PAUSE_S


def test_what_cannot_help_is_tried_once_a_minute() -> None:
    pauses = ScalingCooldowns()
    pauses.failed(0.0, 0.5, is_fatal=True)
    assert pauses.left_s(0.0) == MAX_PAUSE_S


def test_a_worker_that_joins_ends_the_pauses() -> None:
    pauses, now = ScalingCooldowns(), 0.0
    for _ in range(5):
        pauses.failed(now, 0.5)
        now += pauses.left_s(now)
    pauses.succeeded()
    pauses.failed(now, 0.5)
    assert pauses.left_s(now) == FIRST_PAUSE_S


def test_files_that_nobody_has_read_are_taken_to_be_as_long_as_others() -> None:
    assert backlog_ms(1000, 0, 5000) == 1000
    assert backlog_ms(1000, 3, 5000) == 16_000
    assert backlog_ms(0, 2, 0) == 2 * UNREAD_MS
