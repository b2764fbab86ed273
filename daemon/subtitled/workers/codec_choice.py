"""The codec of a remote worker's audio, chosen by the measured speeds of its link and its device."""

from __future__ import annotations

from collections import deque
from typing import Literal

from msgspec import Struct

from subtitled.core.protocol import WireCodec

Mode = Literal["auto", "pcm", "flac"]

FLAC_ABOVE = 0.5
"""Share of the link that PCM would use above which FLAC is used: the next lease must arrive while the last one is
decoded, even if the link is uneven."""
PCM_BELOW = 0.25
"""The share below which PCM is used again; the gap prevents a change with each measurement."""
LEAST_BYTES = 64 * 1024
"""Smaller leases measure the round trip, not the link."""
LEAST_S = 0.001
"""Shortest measurable time between the loops of two processes."""
WEIGHT = 0.3
"""Weight of the newest measurement in the mean."""
ROUND_TRIPS = 16
"""Probes that count; the shortest round trip is the link's."""


def choose(
    mode: Mode, current: WireCodec, *, link_bytes_per_s: float | None, pcm_bytes_per_s: float | None
) -> WireCodec:
    """Return the codec for the next lease.

    `link_bytes_per_s` is the speed of the link, `pcm_bytes_per_s` the PCM that the worker decodes; while either is unknown,
    the codec is not changed.
    """
    if mode != "auto":
        return mode
    if not link_bytes_per_s or not pcm_bytes_per_s:
        return current
    share = pcm_bytes_per_s / link_bytes_per_s
    if share > FLAC_ABOVE:
        return "flac"
    return "pcm" if share < PCM_BELOW else current


class _Transfer(Struct, frozen=True):
    bytes: int
    pcm_bytes: int
    sent_at: float


class LinkMeter:
    """Measures the round trip and the speed of one worker's link from its normal traffic."""

    def __init__(self) -> None:
        self._round_trips_s: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._in_flight: dict[int, _Transfer] = {}
        self._last_left_at = float("-inf")
        """When the last byte of the last received lease was on the link."""
        self._compression = 1.0
        self.bytes_per_s: float | None = None
        """A moving mean; None before the first measurement."""

    @property
    def round_trip_s(self) -> float | None:
        """Round trip of a small message on an idle link; None before the first answer to a probe."""
        return min(self._round_trips_s, default=None)

    @property
    def pcm_bytes_per_s(self) -> float | None:
        """PCM per second that the link carries, with the compression of the last received lease."""
        return None if self.bytes_per_s is None else self.bytes_per_s / self._compression

    @property
    def bytes_in_flight(self) -> int:
        """Bytes sent and not confirmed."""
        return sum(transfer.bytes for transfer in self._in_flight.values())

    def echoed(self, round_trip_s: float) -> None:
        """Record the time of a probe and its answer; one that queued behind a lease took longer."""
        self._round_trips_s.append(round_trip_s)

    def sent(self, lease: int, now: float, *, size: int, pcm_bytes: int) -> None:
        """Record that a lease was sent: `size` bytes, which stand for `pcm_bytes` of PCM."""
        self._in_flight[lease] = _Transfer(size, pcm_bytes, now)

    def received(self, lease: int, now: float) -> bool:
        """Record that a lease has arrived whole; return whether that was a measurement.

        Leases arrive in the order of sending: the link carried this one from its sending, or from the end of the one before,
        until a round trip ago.
        """
        transfer = self._in_flight.pop(lease, None)
        if transfer is None:
            return False
        begun_at = max(transfer.sent_at, self._last_left_at)
        self._last_left_at = now - (self.round_trip_s or 0.0)
        if transfer.bytes < LEAST_BYTES:
            return False
        measured = transfer.bytes / max(LEAST_S, self._last_left_at - begun_at)
        before = self.bytes_per_s
        self.bytes_per_s = measured if before is None else before + WEIGHT * (measured - before)
        self._compression = transfer.bytes / transfer.pcm_bytes
        return True
