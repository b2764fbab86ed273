"""Limit the requests of each client."""

from __future__ import annotations

from msgspec import Struct

MAX_KNOWN = 4096
"""Clients with a bucket; ten thousand short-lived clients must not fill the memory."""


class _Bucket(Struct):
    tokens: float
    at: float


class RateLimit:
    """A token bucket for each client: `per_s` requests a second, bursts of twice as many."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._buckets: dict[object, _Bucket] = {}

    def allows(self, client: object, now: float) -> bool:
        """Return whether `client` may send a request now, and count it if so."""
        burst = 2 * self._per_s
        bucket = self._buckets.get(client)
        if bucket is None:
            if len(self._buckets) >= MAX_KNOWN:
                self._forget(now)
            bucket = self._buckets[client] = _Bucket(burst, now)
        bucket.tokens = min(burst, bucket.tokens + (now - bucket.at) * self._per_s)
        bucket.at = now
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True

    def charge(self, client: object, cost_s: float) -> None:
        """Charge `client` for the processor time of a request beyond what one request pays for.

        One token pays for 1 / (4 * per_s) seconds, so that a client uses at most a quarter of a processor.
        """
        bucket = self._buckets.get(client)
        if bucket is not None:
            bucket.tokens -= max(0.0, cost_s * 4 * self._per_s - 1)

    def _forget(self, now: float) -> None:
        """Drop full buckets; if there are none, those unused for longest."""
        full_s = 2.0
        self._buckets = {
            client: bucket for client, bucket in self._buckets.items() if now - bucket.at < full_s
        }
        if len(self._buckets) >= MAX_KNOWN:
            newest = sorted(self._buckets.items(), key=lambda item: item[1].at)[-MAX_KNOWN // 2 :]
            self._buckets = dict(newest)
