"""How long things may take, and how soon they are tried again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from subtitled.core.policy import BACKOFF_LAST_S, CRASH_WINDOW_S, Policy, backoff, recent, time_to_run

POLICY = Policy(lease_min_s=30, lease_per_audio_s=4)


def test_short_lease_has_the_minimum_time_limit() -> None:
    assert time_to_run(POLICY, 16_000) == 30


def test_time_limit_of_a_long_lease_follows_its_audio() -> None:
    assert time_to_run(POLICY, 16 * 480_000) == 4 * 16 * 30


def test_crash_is_forgotten_after_ten_minutes() -> None:
    assert CRASH_WINDOW_S == 600
    assert recent((0.0, 100.0, 650.0), now=700.0) == (650.0,)
    assert recent((0.0, 100.5, 650.0), now=700.0) == (100.5, 650.0)


def test_the_first_restart_is_soon() -> None:
    assert 0.5 <= backoff((1.0,), "gpu0") <= 0.625


@given(st.integers(1, 5000), st.sampled_from(["gpu0", "gpu1", "prepare7", "cpu0"]))
def test_each_crash_makes_the_backoff_longer_up_to_75_seconds(crashes: int, slot: str) -> None:
    wait_s = backoff(tuple(float(at) for at in range(crashes)), slot)
    base_s = min(BACKOFF_LAST_S, 0.5 * 2 ** min(crashes - 1, 10))
    assert base_s <= wait_s <= 1.25 * base_s


def test_slots_that_crash_together_do_not_start_together() -> None:
    waits = {backoff((0.0,) * 6, f"gpu{place}") for place in range(8)}
    assert len(waits) == 8


def test_a_replayed_history_waits_the_same() -> None:
    assert backoff((1.0, 2.0), "gpu3") == backoff((1.0, 2.0), "gpu3")
