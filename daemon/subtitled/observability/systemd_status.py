"""The status line of `systemctl status`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.broker import Broker
from subtitled.core.live_jobs import BYTES_PER_SAMPLE
from subtitled.core.records import Role
from subtitled.core.states import WorkerState
from subtitled.systemd.notify import SystemdNotifier

INTERVAL_S = 3.0
"""Shortest time between two updates."""
SPEED_WINDOW_S = 30.0
"""Time over which the speed is averaged: leases end one by one."""
WORKING = frozenset({WorkerState.IDLE, WorkerState.BUSY})


class SystemdStatus:
    """Sends jobs, queue and speed to systemd; belongs to the thread of the server's loop."""

    def __init__(
        self, notifier: SystemdNotifier, broker: Broker, transcribed_samples: Callable[[], int]
    ) -> None:
        """`transcribed_samples` returns the samples transcribed since the start."""
        self._notifier = notifier
        self._broker = broker
        self._transcribed_samples = transcribed_samples
        self._samples: deque[tuple[float, int]] = deque()
        self._sent = ""
        self._next_at = 0.0

    def update(self, now: float) -> None:
        """Send the line if it changed, at most once in INTERVAL_S; to be called at each turn of the loop."""
        if now < self._next_at:
            return
        self._next_at = now + INTERVAL_S
        self._samples.append((now, self._transcribed_samples()))
        while now - self._samples[0][0] > SPEED_WINDOW_S:
            self._samples.popleft()
        line = self._line()
        if line != self._sent:
            self._notifier.status(line)
            self._sent = line

    def _line(self) -> str:
        broker = self._broker
        # Removed slots and those of hosts that left do not count.
        workers = [w for w in broker.worker_table.of(Role.TRANSCRIBE) if w.state is not WorkerState.STOPPED]
        working = sum(worker.state in WORKING for worker in workers)
        parts = [f"{len(broker.live_jobs.jobs)} job{'' if len(broker.live_jobs.jobs) == 1 else 's'}"]
        if broker.live_jobs.jobs:
            waiting_s = broker.live_jobs.queued_bytes / BYTES_PER_SAMPLE / SAMPLE_RATE
            parts += [f"{_duration(waiting_s)} of audio waiting", f"{self._speed():.0f}x real time"]
        if working < len(workers):
            parts.append(f"{working} of {len(workers)} workers ready")
        if broker.is_disk_full:
            parts.append("disk full, new files wait")
        if broker.is_draining:
            parts.append("stopping")
        return ", ".join(parts)

    def _speed(self) -> float:
        """Return the speed against real time in SPEED_WINDOW_S."""
        (start, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / SAMPLE_RATE / (end - start) if end > start else 0.0


def _duration(seconds: float) -> str:
    """Return a duration with a suitable unit."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3600:.1f} h"
