"""Which form a remote worker's audio takes on the wire, by what its link carries and what its GPU takes in."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from subtitled.config import SAMPLE_RATE
from subtitled.workers.backend import WireCodec

Mode = Literal["auto", "pcm", "flac"]

PCM_BYTES_PER_S = 2 * SAMPLE_RATE
"""Of a second of audio."""
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


def choose(
    mode: Mode, current: WireCodec, *, bytes_per_s: float | None, audio_per_s: float | None
) -> WireCodec:
    """Return the form for the next lease.

    `bytes_per_s` is what the link carries, `audio_per_s` the seconds of audio that the worker decodes in a second; while
    either is not known, the form stays as it is.
    """
    if mode != "auto":
        return mode
    if not bytes_per_s or not audio_per_s:
        return current
    share = audio_per_s * PCM_BYTES_PER_S / bytes_per_s
    if share > FLAC_ABOVE:
        return "flac"
    return "pcm" if share < PCM_BELOW else current


class _Transfer(Struct, frozen=True):
    bytes: int
    pcm_bytes: int
    sent_at: float
    is_alone: bool
    """Nothing else was under way when it was sent."""


class LinkMeter:
    """Measures what the link to one worker carries, from the leases that are sent to it anyway."""

    def __init__(self) -> None:
        self._under_way: dict[int, _Transfer] = {}
        self._packed = 1.0
        self.bytes_per_s: float | None = None
        """A moving mean; None before the first measurement."""

    @property
    def pcm_bytes_per_s(self) -> float | None:
        """The PCM that this comes to, packed as the last lease was that arrived."""
        return None if self.bytes_per_s is None else self.bytes_per_s / self._packed

    @property
    def bytes_under_way(self) -> int:
        """What was sent and has not arrived, as far as is known."""
        return sum(transfer.bytes for transfer in self._under_way.values())

    def sent(self, lease: int, now: float, *, size: int, pcm_bytes: int) -> None:
        """Note that a lease was given to the socket: `size` bytes, which stand for so many of PCM."""
        self._under_way[lease] = _Transfer(size, pcm_bytes, now, is_alone=not self._under_way)

    def received(self, lease: int, now: float, round_trip_s: float) -> bool:
        """Note that a lease has arrived whole; say whether that was a measurement.

        One that was sent behind another is none: it has waited for that one. `round_trip_s` is that of a small message.
        """
        transfer = self._under_way.pop(lease, None)
        if transfer is None or not transfer.is_alone or transfer.bytes < LEAST_BYTES:
            return False
        measured = transfer.bytes / max(LEAST_S, now - transfer.sent_at - round_trip_s)
        before = self.bytes_per_s
        self.bytes_per_s = measured if before is None else before + WEIGHT * (measured - before)
        self._packed = transfer.bytes / transfer.pcm_bytes
        return True
