"""A server with nothing to do and nobody to do it, for tests of what is made of its answer to Stats."""

from __future__ import annotations

from subtitle.messages import StatsInfo

STATS = StatsInfo(
    request=1,
    workers=(),
    jobs={},
    ready_segments=0,
    leased_segments=0,
    queued_bytes=0,
    audio_ms=0,
    uptime_s=9.0,
    last_seq=0,
)
