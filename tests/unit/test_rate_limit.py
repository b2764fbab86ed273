"""The rate limit of each client, and the number of buckets."""

from __future__ import annotations

from subtitled.network.rate_limit import MAX_KNOWN, RateLimit


def allowed(rate: RateLimit, client: object, count: int, now: float) -> int:
    """Return how many of `count` requests at once are allowed."""
    return sum(rate.allows(client, now) for _ in range(count))


def test_burst_of_twice_the_rate_is_allowed_then_the_rate() -> None:
    rate = RateLimit(10)
    assert allowed(rate, "ann", 100, 0.0) == 20
    assert allowed(rate, "ann", 100, 1.0) == 10
    assert allowed(rate, "ann", 100, 1.5) == 5


def test_idle_client_saves_at_most_one_burst() -> None:
    rate = RateLimit(10)
    assert allowed(rate, "ann", 100, 0.0) == 20
    assert allowed(rate, "ann", 100, 1_000.0) == 20


def test_clients_have_separate_limits() -> None:
    rate = RateLimit(10)
    assert allowed(rate, "ann", 100, 0.0) == 20
    assert allowed(rate, "bob", 100, 0.0) == 20


def test_rate_below_one_allows_a_request_after_a_while() -> None:
    rate = RateLimit(1)
    assert allowed(rate, "ann", 5, 0.0) == 2
    assert allowed(rate, "ann", 5, 0.9) == 0
    assert allowed(rate, "ann", 5, 1.1) == 1


def test_number_of_buckets_is_bounded() -> None:
    rate = RateLimit(10)
    for number in range(10_000):
        assert rate.allows(number, number * 1e-5)
        assert len(rate._buckets) <= MAX_KNOWN


def test_other_clients_do_not_refill_a_bucket() -> None:
    """Who still asks is remembered; those who have not asked for longest are forgotten."""
    rate = RateLimit(10)
    assert allowed(rate, "ann", 100, 0.0) == 20
    asked = 0
    for number in range(MAX_KNOWN):
        rate.allows(number, number * 1e-6)
        asked += rate.allows("ann", number * 1e-6)
    assert asked == 0


def test_full_buckets_are_dropped_first() -> None:
    rate = RateLimit(10)
    for number in range(MAX_KNOWN):
        rate.allows(number, 0.0)
    rate.allows("ann", 5.0)
    assert set(rate._buckets) == {"ann"}
