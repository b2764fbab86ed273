"""How many requests a client may make, and how many clients are remembered."""

from __future__ import annotations

from subtitled.network.rate_limit import MAX_KNOWN, RateLimit


def allowed(rate: RateLimit, client: object, count: int, now: float) -> int:
    """Return how many of `count` requests at once are allowed."""
    return sum(rate.allows(client, now) for _ in range(count))


def test_twice_the_rate_is_allowed_at_once_then_the_rate() -> None:
    rate = RateLimit(10)
    assert allowed(rate, "ann", 100, 0.0) == 20
    assert allowed(rate, "ann", 100, 1.0) == 10
    assert allowed(rate, "ann", 100, 1.5) == 5


def test_who_waits_saves_up_no_more_than_twice_the_rate() -> None:
    rate = RateLimit(10)
    assert allowed(rate, "ann", 100, 0.0) == 20
    assert allowed(rate, "ann", 100, 1_000.0) == 20


def test_one_client_does_not_use_up_what_another_has() -> None:
    rate = RateLimit(10)
    assert allowed(rate, "ann", 100, 0.0) == 20
    assert allowed(rate, "bob", 100, 0.0) == 20


def test_a_slow_rate_comes_to_a_request_in_the_end() -> None:
    rate = RateLimit(1)
    assert allowed(rate, "ann", 5, 0.0) == 2
    assert allowed(rate, "ann", 5, 0.9) == 0
    assert allowed(rate, "ann", 5, 1.1) == 1


def test_ten_thousand_strangers_do_not_fill_the_memory() -> None:
    rate = RateLimit(10)
    for number in range(10_000):
        assert rate.allows(number, number * 1e-5)
        assert len(rate._buckets) <= MAX_KNOWN


def test_strangers_do_not_give_a_known_client_new_requests() -> None:
    """Who still asks is remembered; those who have not asked for longest are forgotten."""
    rate = RateLimit(10)
    assert allowed(rate, "ann", 100, 0.0) == 20
    asked = 0
    for number in range(MAX_KNOWN):
        rate.allows(number, number * 1e-6)
        asked += rate.allows("ann", number * 1e-6)
    assert asked == 0


def test_clients_whose_buckets_are_full_are_forgotten_first() -> None:
    rate = RateLimit(10)
    for number in range(MAX_KNOWN):
        rate.allows(number, 0.0)
    rate.allows("ann", 5.0)
    assert set(rate._buckets) == {"ann"}
