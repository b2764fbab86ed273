"""How fast the daemon works, from one look at it to the next, and when it will be done."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from subtitle.messages import JobFacts, StatsInfo


class QueueSnapshot(Struct, frozen=True, kw_only=True):
    """What the server does at one moment."""

    at: float
    """On the client's monotonic clock."""
    stats: StatsInfo
    jobs: tuple[JobFacts, ...] = ()
    """Those that have not ended, newest first."""


class Speed(Struct, frozen=True, kw_only=True):
    """Audio transcribed a second, between two snapshots."""

    total: float | None
    """None without an earlier snapshot of the same daemon."""
    slots: dict[str, float] = {}


def speeds(before: QueueSnapshot | None, now: QueueSnapshot) -> Speed:
    """Return how fast audio was transcribed from one snapshot to the next."""
    if before is None or now.at <= before.at or now.stats.uptime_s < before.stats.uptime_s:
        return Speed(total=None)
    passed_ms = (now.at - before.at) * 1000
    earlier = {worker.slot: worker.audio_ms for worker in before.stats.workers}
    return Speed(
        total=(now.stats.audio_ms - before.stats.audio_ms) / passed_ms,
        slots={
            worker.slot: max(0, worker.audio_ms - earlier.get(worker.slot, worker.audio_ms)) / passed_ms
            for worker in now.stats.workers
        },
    )


class EtaEstimator(Struct, frozen=True, kw_only=True):
    """What is still to be done."""

    waiting_ms: int
    """Audio that was found and is not transcribed yet."""
    unread_files: int
    """Files of which it is not known yet how much audio they have."""
    unread_ms: int
    """How much that may be, as it was in other files of their size; 0 where there is none to go by."""
    finish_s: float | None
    """In how long all of it may be done, at the present speed; None where that cannot be told."""


def outlook(stats: StatsInfo, speed: Speed, known: Iterable[JobFacts]) -> EtaEstimator:
    """Return what is still to be done; `known` are jobs whose length shows how much audio a byte is worth."""
    lengths = [(job.size, job.audio_ms) for job in known if job.size and job.audio_ms]
    size, audio_ms = sum(size for size, _ in lengths), sum(audio_ms for _, audio_ms in lengths)
    unread_ms = stats.unread_bytes * audio_ms // size if size else 0
    finish_s = None
    if not stats.waiting_ms and not stats.unread_files:
        finish_s = 0.0
    elif speed.total and (unread_ms or not stats.unread_files):
        finish_s = (stats.waiting_ms + unread_ms) / 1000 / speed.total
    return EtaEstimator(
        waiting_ms=stats.waiting_ms,
        unread_files=stats.unread_files,
        unread_ms=unread_ms,
        finish_s=finish_s,
    )
