"""The daemon's speed between two snapshots, and the time until its queue is done."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from msgspec import Struct

from subtitle.messages import JobFacts, StatsInfo


class QueueSnapshot(Struct, frozen=True, kw_only=True):
    """The server's queue and workers at one time."""

    at: float
    """On the client's monotonic clock."""
    stats: StatsInfo
    jobs: tuple[JobFacts, ...] = ()
    """Jobs that have not ended, newest first."""


class Speed(Struct, frozen=True, kw_only=True):
    """Seconds of audio transcribed per second, between two snapshots."""

    total: float | None
    """None without an earlier snapshot of the same daemon."""
    slots: dict[str, float] = {}


def speeds(before: QueueSnapshot | None, now: QueueSnapshot) -> Speed:
    """Return the speed between two snapshots."""
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


class SpeedMeter:
    """Measures the speed over the last `window_s` seconds in which the server had work.

    With the idle time before its work in the window, a server would look slow, and its work long.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._snapshots: deque[QueueSnapshot] = deque()
        """Oldest first; the second one is within the window."""

    @property
    def latest(self) -> QueueSnapshot | None:
        """The newest snapshot."""
        return self._snapshots[-1] if self._snapshots else None

    def add(self, now: QueueSnapshot) -> Speed:
        """Add a snapshot, and return the speed until then."""
        before = self.latest
        if before is not None:
            was_idle = not before.stats.waiting_ms and not before.stats.unread_files
            if was_idle or now.at - before.at > self._window_s:
                self._snapshots.clear()
        self._snapshots.append(now)
        while len(self._snapshots) > 2 and now.at - self._snapshots[1].at > self._window_s:
            self._snapshots.popleft()
        return speeds(self._snapshots[0] if len(self._snapshots) > 1 else None, now)


class EtaEstimator(Struct, frozen=True, kw_only=True):
    """The remaining work."""

    waiting_ms: int
    """Audio found and not transcribed yet."""
    unread_files: int
    """Files whose amount of audio is unknown."""
    unread_ms: int
    """Estimate of their audio from files of known length; 0 if there are none."""
    finish_s: float | None
    """Seconds until all of it is done at the current speed; None if unknown."""


def estimate(stats: StatsInfo, speed: Speed, known: Iterable[JobFacts]) -> EtaEstimator:
    """Return the remaining work; `known` are jobs of known length, for the ratio of audio to bytes."""
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
