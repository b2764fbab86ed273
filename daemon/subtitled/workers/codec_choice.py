"""Which form a remote worker's audio takes on the wire, by what its link carries and what its GPU takes in."""

from __future__ import annotations

from collections import deque
from typing import Literal

from msgspec import Struct

from subtitled.core.protocol import WireCodec

Mode = Literal["auto", "pcm", "flac"]

FLAC_ABOVE = 0.5
"""Share of the link that PCM would fill, above which FLAC is worth its time: the next lease must arrive, with some
unevenness of the link, while the last one is decoded."""
PCM_BELOW = 0.25
"""The share below which PCM does again; the gap keeps a link near either from changing with each measurement."""
LEAST_BYTES = 64 * 1024
"""Smaller leases tell of the round trip, not of the link."""
LEAST_S = 0.001
"""The clocks of two processes' loops tell no shorter time apart; a link of 1 GB/s is fast enough for whatever follows."""
WEIGHT = 0.3
"""Of the newest measurement in the mean."""
ROUND_TRIPS = 16
"""Probes that count; the shortest of their round trips is the link's."""


def choose(
    mode: Mode, current: WireCodec, *, link_bytes_per_s: float | None, pcm_bytes_per_s: float | None
) -> WireCodec:
    """Return the form for the next lease.

    `link_bytes_per_s` is what the link carries, `pcm_bytes_per_s` what the worker decodes; while either is not known, the form
    stays as it is.
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
    """Measures how far away one worker is and what the link to it carries, from what is sent to it anyway."""

    def __init__(self) -> None:
        self._round_trips_s: deque[float] = deque(maxlen=ROUND_TRIPS)
        self._under_way: dict[int, _Transfer] = {}
        self._last_left_at = float("-inf")
        """When the last byte of the lease that arrived last had left."""
        self._packed = 1.0
        self.bytes_per_s: float | None = None
        """A moving mean; None before the first measurement."""

    @property
    def round_trip_s(self) -> float | None:
        """That of a small message with nothing before it; None before the first probe was answered."""
        return min(self._round_trips_s, default=None)

    @property
    def pcm_bytes_per_s(self) -> float | None:
        """The PCM that the link's bytes come to, packed as the last lease was that arrived."""
        return None if self.bytes_per_s is None else self.bytes_per_s / self._packed

    @property
    def bytes_under_way(self) -> int:
        """What was sent and has not arrived, as far as is known."""
        return sum(transfer.bytes for transfer in self._under_way.values())

    def echoed(self, round_trip_s: float) -> None:
        """Note how long a probe and its answer took; those that waited behind a lease took longer than the others."""
        self._round_trips_s.append(round_trip_s)

    def sent(self, lease: int, now: float, *, size: int, pcm_bytes: int) -> None:
        """Note that a lease was given to the socket: `size` bytes, which stand for so many of PCM."""
        self._under_way[lease] = _Transfer(size, pcm_bytes, now)

    def received(self, lease: int, now: float) -> bool:
        """Note that a lease has arrived whole; say whether that was a measurement.

        Leases arrive in the order in which they were sent: the link has carried one from when it was sent, or the one before
        had left, until a round trip ago.
        """
        transfer = self._under_way.pop(lease, None)
        if transfer is None:
            return False
        begun_at = max(transfer.sent_at, self._last_left_at)
        self._last_left_at = now - (self.round_trip_s or 0.0)
        if transfer.bytes < LEAST_BYTES:
            return False
        measured = transfer.bytes / max(LEAST_S, self._last_left_at - begun_at)
        before = self.bytes_per_s
        self.bytes_per_s = measured if before is None else before + WEIGHT * (measured - before)
        self._packed = transfer.bytes / transfer.pcm_bytes
        return True
