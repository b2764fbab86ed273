"""How things stand, looked at once a second by the loop: gauges, and the daemon's health."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from msgspec import Struct

from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.broker import Broker
from subtitled.core.policy import time_to_run
from subtitled.core.records import Role, Worker
from subtitled.core.states import WorkerState
from subtitled.observability.metrics import Metrics

LOOK_S = 1.0
BUSY_WINDOW_S = 60.0
LOADED = frozenset({WorkerState.IDLE, WorkerState.BUSY})


class BusyMeter:
    """How much of the last minute a worker decoded, by its own measure of finished leases."""

    def __init__(self) -> None:
        self.busy_s: Counter[str] = Counter()
        """Seconds of all finished leases, by slot."""
        self._since: dict[str, float] = {}
        """When a worker began with the lease that it is at."""
        self._looks: dict[str, deque[tuple[float, float]]] = {}
        """(when, seconds busy until then), one a look, oldest first."""

    def sent(self, slot: str, now: float) -> None:
        """Note that a worker was given a lease."""
        self._since.setdefault(slot, now)

    def answered(self, slot: str, decode_s: float, now: float) -> None:
        """Note that a worker has finished a lease, and begins with the next if it holds one."""
        self.busy_s[slot] += decode_s  # type: ignore[assignment]  # a Counter adds floats as well
        self._since[slot] = now

    def look(self, slot: str, now: float, *, is_busy: bool) -> float:
        """Return the share of the last minute, or of the time since the first look."""
        if not is_busy:
            self._since.pop(slot, None)
        busy_s = self.busy_s[slot] + now - self._since.get(slot, now)
        looks = self._looks.setdefault(slot, deque())
        looks.append((now, busy_s))
        while len(looks) > 2 and looks[1][0] <= now - BUSY_WINDOW_S:
            looks.popleft()
        at, before_s = looks[0]
        return max(0.0, min(1.0, (busy_s - before_s) / (now - at))) if now > at else float(is_busy)


class WaitMeter:
    """How long the oldest ready segment has waited, to a second, without a time in each."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()
        """(number of the segment that had become ready last, when that was seen), oldest first."""

    def look(self, last: int, oldest: int | None, now: float) -> float:
        """Return the seconds since segment number `oldest` was first seen ready; 0 for None."""
        if not self._marks or self._marks[-1][0] != last:
            self._marks.append((last, now))
        if oldest is None:
            return 0.0
        while self._marks[0][0] < oldest:
            self._marks.popleft()
        return now - self._marks[0][1]


class Monitor:
    """Belongs to the thread of the server's loop; `health` may be asked by any."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.health = Health(clock)
        self._clock = clock
        self._metrics = metrics
        self._busy = BusyMeter()
        self._waits = WaitMeter()
        self._slots: frozenset[str] = frozenset()
        """Those that have gauges."""
        self._due = 0.0
        self._moved_at = clock()

    @property
    def busy_s(self) -> Mapping[str, float]:
        """Seconds that workers have decoded, by slot; grows."""
        return self._busy.busy_s

    def sent(self, slot: str) -> None:
        """Note that a lease was sent to a worker."""
        self._busy.sent(slot, self._clock())

    def answered(self, slot: str, decode_s: float) -> None:
        """Note that a worker has finished a lease."""
        self._moved_at = self._clock()
        self._busy.answered(slot, decode_s, self._moved_at)

    def look(self, broker: Broker, *, is_stopping: bool) -> None:
        """Note that the loop turns; once a second, set the gauges and publish how things stand."""
        self.health.turned()
        now = self._clock()
        if now < self._due:
            return
        self._due = now + LOOK_S
        workers = list(broker.worker_table.workers.values())
        self._gauge(broker, workers, now)
        ready, leases = len(broker.lease_dispatch.ready), broker.lease_dispatch.leases.values()
        if not ready and not leases:
            self._moved_at = now
        transcribers = [worker for worker in workers if worker.role is Role.TRANSCRIBE]
        self.health.condition = HealthState(
            is_stopping=is_stopping,
            has_worker=has_model(broker),
            workers=tuple(_described(worker) for worker in transcribers if worker.state not in LOADED),
            waiting=ready,
            moved_at=self._moved_at,
            patience_s=time_to_run(
                broker.lease_dispatch.policy, max((lease.samples for lease in leases), default=0)
            ),
        )

    def _gauge(self, broker: Broker, workers: list[Worker], now: float) -> None:
        metrics, ready = self._metrics, broker.lease_dispatch.ready
        metrics.ready_segments.set(len(ready))
        metrics.queue_audio_seconds.set(ready.samples / SAMPLE_RATE)
        metrics.oldest_ready_seconds.set(self._waits.look(ready.last_number, ready.oldest_number, now))
        metrics.queued_bytes.set(broker.live_jobs.queued_bytes)
        counts = Counter((worker.role, worker.state) for worker in workers)
        for role in Role:
            for state in WorkerState:
                metrics.workers.labels(role.value, state.value).set(counts[role, state])
        slots = frozenset(worker.slot for worker in workers)
        for slot in self._slots - slots:  # of a host that has left, whose name may never come again
            for gauge in (metrics.worker_broken, metrics.busy_ratio, metrics.worker_round_trip):
                with contextlib.suppress(KeyError):
                    gauge.remove(slot)
        self._slots = slots
        for worker in workers:
            metrics.worker_broken.labels(worker.slot).set(worker.state is WorkerState.BROKEN)
            if worker.role is Role.TRANSCRIBE:
                is_busy = worker.state is WorkerState.BUSY
                metrics.busy_ratio.labels(worker.slot).set(self._busy.look(worker.slot, now, is_busy=is_busy))


def has_model(broker: Broker) -> bool:
    """Say whether a transcribe worker has its model loaded: before that the daemon can only read files."""
    return any(worker.state in LOADED for worker in broker.worker_table.of(Role.TRANSCRIBE))


def _described(worker: Worker) -> str:
    cause = f" ({worker.cause})" if worker.cause else ""
    return f"{worker.slot} is {worker.state.value}{cause}"


STUCK_S = 10.0
"""A loop that has not turned for so long is stuck; no turn is meant to block longer than 50 ms."""


class HealthState(Struct, frozen=True, kw_only=True):
    """How things stood when the loop last looked; times are of the monotonic clock."""

    is_stopping: bool = False
    has_worker: bool = False
    """A transcribe worker has its model loaded."""
    workers: tuple[str, ...] = ()
    """The transcribe workers that have not, each with its state and cause."""
    waiting: int = 0
    """Segments that wait for a worker."""
    moved_at: float = 0.0
    """When a lease was last finished, or nothing was to be done."""
    patience_s: float = 0.0
    """How long after that a further one may take."""


class Health:
    """Set by the loop, asked by other threads: each value is replaced as a whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned_at = clock()
        self.condition = HealthState()

    def turned(self) -> None:
        """Note that the loop turns."""
        self._turned_at = self._clock()

    def why_not_alive(self) -> str:
        """Return in one line why the daemon is not alive; "" if it is."""
        still_s = self._clock() - self._turned_at
        return f"the loop has not turned for {still_s:.0f} s" if still_s > STUCK_S else ""

    def why_not_ready(self) -> str:
        """Return in one line why nobody should wait for subtitles; "" if work is being done."""
        condition = self.condition
        if why := self.why_not_alive():
            return why
        if condition.is_stopping:
            return "the daemon is stopping"
        if not condition.has_worker:
            return f"no transcribe worker is ready: {'; '.join(condition.workers) or 'there is none yet'}"
        idle_s = self._clock() - condition.moved_at
        if condition.waiting and idle_s > condition.patience_s:
            return f"{condition.waiting} segments wait, and no lease has been finished for {idle_s:.0f} s"
        return ""
