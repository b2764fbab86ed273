"""How things stand, in the one line that `systemctl status` shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.broker import Broker
from subtitled.core.live_jobs import BYTES_PER_SAMPLE
from subtitled.core.records import Role
from subtitled.core.states import WorkerState
from subtitled.systemd.notify import SystemdNotifier

EVERY_S = 3.0
"""Shortest time between two lines."""
SPEED_S = 30.0
"""A speed is that of the last seconds: leases end one by one, and a shorter time would jump."""
WORKING = frozenset({WorkerState.IDLE, WorkerState.BUSY})


class SystemdStatus:
    """Tells systemd jobs, queue and speed; belongs to the thread of the server's loop."""

    def __init__(
        self, notifier: SystemdNotifier, broker: Broker, transcribed_samples: Callable[[], int]
    ) -> None:
        """`transcribed_samples` returns what was transcribed since the start."""
        self._notifier = notifier
        self._broker = broker
        self._transcribed_samples = transcribed_samples
        self._seen: deque[tuple[float, int]] = deque()
        self._told = ""
        self._due = 0.0

    def tell(self, now: float) -> None:
        """Send the line if it is another than the last one and that is long enough ago; to be called at each turn."""
        if now < self._due:
            return
        self._due = now + EVERY_S
        self._seen.append((now, self._transcribed_samples()))
        while now - self._seen[0][0] > SPEED_S:
            self._seen.popleft()
        line = self._line()
        if line != self._told:
            self._notifier.status(line)
            self._told = line

    def _line(self) -> str:
        broker = self._broker
        # Slots that were taken away, and those of hosts that have gone, are nobody's loss.
        workers = [w for w in broker.worker_table.of(Role.TRANSCRIBE) if w.state is not WorkerState.STOPPED]
        working = sum(worker.state in WORKING for worker in workers)
        parts = [f"{len(broker.live_jobs.jobs)} job{'' if len(broker.live_jobs.jobs) == 1 else 's'}"]
        if broker.live_jobs.jobs:
            waiting_s = broker.live_jobs.queued_bytes / BYTES_PER_SAMPLE / SAMPLE_RATE
            parts += [f"{_length(waiting_s)} of audio waiting", f"{self._speed():.0f}x real time"]
        if working < len(workers):
            parts.append(f"{working} of {len(workers)} workers ready")
        if broker.is_paused:
            parts.append("disk full: new files wait")
        if broker.is_draining:
            parts.append("stopping")
        return ", ".join(parts)

    def _speed(self) -> float:
        """Return how many times faster than real time the last seconds were."""
        (began, before), (ended, after) = self._seen[0], self._seen[-1]
        return (after - before) / SAMPLE_RATE / (ended - began) if ended > began else 0.0


def _length(seconds: float) -> str:
    """Return a length of time in the unit that suits it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3600:.1f} h"
