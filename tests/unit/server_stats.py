"""The Stats of an idle server without workers, for tests of its clients."""

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
