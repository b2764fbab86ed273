"""How long a worker's leases take, learned from those before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitled.core.throughput import FIXED_WINDOWS, Throughput


def learned(*leases: tuple[int, float]) -> Throughput:
    """Return the pace after leases of so many windows, each with its seconds."""
    pace = Throughput()
    for windows, took_s in leases:
        pace = pace.after(windows, took_s)
    return pace


def test_one_lease_gives_a_usual_estimate() -> None:
    """0.70 s for a window of a GPU mean 2.22 s for eight."""
    pace = learned((1, 0.70))
    assert pace.seconds(1) == pytest.approx(0.70)
    assert pace.seconds(8) == pytest.approx(0.70 * (FIXED_WINDOWS + 8) / (FIXED_WINDOWS + 1))
    assert pace.seconds(8) == pytest.approx(2.22, rel=0.01)


def test_leases_of_different_sizes_separate_the_fixed_cost() -> None:
    pace = learned(*[(windows, 5.0 * windows) for windows in (1, 16, 4, 16, 1, 8, 16, 2)])
    assert pace.seconds(16) == pytest.approx(80, rel=0.02), "a CPU has next to no fixed cost"


def test_one_time_costs_are_dropped_with_the_second_lease() -> None:
    pace = learned((4, 30.0), (4, 1.35))
    assert pace.seconds(4) == pytest.approx(1.35)


def test_slower_worker_is_detected_within_a_few_leases() -> None:
    pace = learned(*[(16, 4.0)] * 50, *[(16, 40.0)] * 16)
    assert pace.seconds(16) > 25


def test_windows_within_a_time_are_counted_in_batches() -> None:
    pace = learned((1, 0.70))
    batch_s = pace.seconds(16)
    assert pace.windows_within(0.69, 16) == 0
    assert pace.windows_within(-7, 16) == 0
    assert pace.windows_within(0.71, 16) == 1
    assert pace.windows_within(batch_s * 1.001, 16) == 16
    assert pace.windows_within(batch_s * 2.001 + 0.70, 16) == 33


LEASE = st.tuples(st.integers(1, 32), st.floats(0.001, 1e4))


@given(st.lists(LEASE, min_size=1, max_size=40), st.floats(0, 1e5), st.integers(1, 32))
def test_longer_leases_take_longer_after_any_history(
    leases: list[tuple[int, float]], seconds: float, batch_size: int
) -> None:
    """No time is negative, and what is done within a time takes no longer."""
    pace = learned(*leases)
    times = [pace.seconds(windows) for windows in (1, 2, 8, 16, 32)]
    assert times[0] > 0
    assert times == sorted(times)
    windows = pace.windows_within(seconds, batch_size)
    whole, rest = divmod(windows, batch_size)
    takes_s = whole * pace.seconds(batch_size) + (pace.seconds(rest) if rest else 0)
    assert takes_s <= seconds * (1 + 1e-6)
