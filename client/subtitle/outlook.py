"""How fast the daemon works, from one look at it to the next."""

from __future__ import annotations

from msgspec import Struct

from subtitle.messages import JobFacts, StatsInfo


class Snapshot(Struct, frozen=True, kw_only=True):
    """What the server does at one moment."""

    at: float
    """On the client's monotonic clock."""
    stats: StatsInfo
    jobs: tuple[JobFacts, ...] = ()
    """Those that have not ended, newest first."""


class Speeds(Struct, frozen=True, kw_only=True):
    """Audio transcribed a second, between two snapshots."""

    total: float | None
    """None without an earlier snapshot of the same daemon."""
    slots: dict[str, float] = {}


def speeds(before: Snapshot | None, now: Snapshot) -> Speeds:
    """Return how fast audio was transcribed from one snapshot to the next."""
    if before is None or now.at <= before.at or now.stats.uptime_s < before.stats.uptime_s:
        return Speeds(total=None)
    passed_ms = (now.at - before.at) * 1000
    earlier = {worker.slot: worker.audio_ms for worker in before.stats.workers}
    return Speeds(
        total=(now.stats.audio_ms - before.stats.audio_ms) / passed_ms,
        slots={
            worker.slot: max(0, worker.audio_ms - earlier.get(worker.slot, worker.audio_ms)) / passed_ms
            for worker in now.stats.workers
        },
    )
