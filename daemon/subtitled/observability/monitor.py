"""Update the gauges and the daemon's health once a second."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping

from msgspec import Struct

from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.broker import Broker
from subtitled.core.policy import time_to_run
from subtitled.core.records import Role, Worker
from subtitled.core.states import WorkerState
from subtitled.observability.metrics import Metrics, ModelGauges

UPDATE_S = 1.0
BUSY_WINDOW_S = 60.0
LOADED = frozenset({WorkerState.IDLE, WorkerState.BUSY})


class BusyMeter:
    """Share of the last minute that a worker decoded, from the decoding times of finished leases."""

    def __init__(self) -> None:
        self.busy_s: Counter[str] = Counter()
        """Decoding time of all finished leases, by slot."""
        self._since: dict[str, float] = {}
        """Slot -> start of its current lease."""
        self._samples: dict[str, deque[tuple[float, float]]] = {}
        """Slot -> (time, busy seconds until then), one a call of `ratio`, oldest first."""

    def sent(self, slot: str, now: float) -> None:
        """Record that a lease was sent to a worker."""
        self._since.setdefault(slot, now)

    def answered(self, slot: str, decode_s: float, now: float) -> None:
        """Record that a worker finished a lease and starts its next one."""
        self.busy_s[slot] += decode_s  # type: ignore[assignment]  # a Counter adds floats as well
        self._since[slot] = now

    def forget(self, slot: str) -> None:
        """Drop what is known of a slot that no longer exists."""
        for table in (self.busy_s, self._since, self._samples):
            table.pop(slot, None)

    def ratio(self, slot: str, now: float, *, is_busy: bool) -> float:
        """Return the busy share of the last minute, or of the time since the first call."""
        if not is_busy:
            self._since.pop(slot, None)
        busy_s = self.busy_s[slot] + now - self._since.get(slot, now)
        samples = self._samples.setdefault(slot, deque())
        samples.append((now, busy_s))
        while len(samples) > 2 and samples[1][0] <= now - BUSY_WINDOW_S:
            samples.popleft()
        at, before_s = samples[0]
        return max(0.0, min(1.0, (busy_s - before_s) / (now - at))) if now > at else float(is_busy)


class WaitMeter:
    """Waiting time of the oldest ready segment, to a second, without storing a time for each."""

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()
        """(number of the newest ready segment, time when it was first seen), oldest first."""

    def wait_s(self, last: int, oldest: int | None, now: float) -> float:
        """Return the time since segment number `oldest` was first seen ready; 0 for None."""
        if not self._marks or self._marks[-1][0] != last:
            self._marks.append((last, now))
        if oldest is None:
            return 0.0
        while self._marks[0][0] < oldest:
            self._marks.popleft()
        return now - self._marks[0][1]


class Monitor:
    """Belongs to the thread of the server's loop, except `health`, which is thread-safe."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.health = Health(clock)
        self._clock = clock
        self._metrics = metrics
        self._busy = BusyMeter()
        self._waits = WaitMeter()
        self._slots: frozenset[str] = frozenset()
        """Slots that have gauges."""
        self._due = 0.0
        self._progress_at = clock()
        self.default_model = ""
        """Name of the default model in metrics."""

    @property
    def busy_s(self) -> Mapping[str, float]:
        """Decoding time since the start, by slot."""
        return self._busy.busy_s

    def sent(self, slot: str) -> None:
        """Record that a lease was sent to a worker."""
        self._busy.sent(slot, self._clock())

    def answered(self, slot: str, decode_s: float) -> None:
        """Record that a worker finished a lease."""
        self._progress_at = self._clock()
        self._busy.answered(slot, decode_s, self._progress_at)

    def update(self, broker: Broker, *, is_stopping: bool, state_fault: str = "") -> None:
        """Record a turn of the loop; once a second, set the gauges and publish the health."""
        self.health.record_turn()
        now = self._clock()
        if now < self._due:
            return
        self._due = now + UPDATE_S
        workers = list(broker.worker_table.workers.values())
        self._set_gauges(broker, workers, now)
        # Text that waits for an endpoint is none of this daemon's faults, and holds up no transcript.
        ready = sum(
            count
            for name, count in broker.lease_dispatch.ready.waiting().items()
            if not broker.placement.is_endpoint(name)
        )
        leases = broker.lease_dispatch.leases.values()
        if not ready and not leases:
            self._progress_at = now
        transcribers = [worker for worker in workers if worker.role is Role.TRANSCRIBE]
        self.health.state = HealthState(
            is_stopping=is_stopping,
            state_fault=state_fault,
            has_worker=has_model(broker),
            workers=tuple(_description(worker) for worker in transcribers if worker.state not in LOADED),
            waiting=ready,
            progress_at=self._progress_at,
            timeout_s=time_to_run(
                broker.lease_dispatch.policy, max((lease.samples for lease in leases), default=0)
            ),
        )

    def _set_gauges(self, broker: Broker, workers: list[Worker], now: float) -> None:
        metrics, ready = self._metrics, broker.lease_dispatch.ready
        metrics.ready_segments.set(len(ready))
        metrics.queue_audio_seconds.set(ready.samples / SAMPLE_RATE)
        metrics.oldest_ready_seconds.set(self._waits.wait_s(ready.last_number, ready.oldest_number, now))
        metrics.queued_bytes.set(broker.live_jobs.queued_bytes)
        metrics.waiting_sentences.set(broker.live_jobs.open_sentences)
        counts = Counter((worker.role, worker.state) for worker in workers)
        for role in Role:
            for state in WorkerState:
                metrics.workers.labels(role.value, state.value).set(counts[role, state])
        jobs = broker.live_jobs.count_by_model
        metrics.set_models(
            ModelGauges(
                name=name or self.default_model,
                workers=sum(worker.has_loaded(name) for worker in workers),
                memory_bytes=broker.placement.memory_bytes(name),
                jobs=jobs[name],
            )
            for name in broker.placement.specs
        )
        slots = frozenset(worker.slot for worker in workers)
        for slot in self._slots - slots:  # of a host that left, whose name may never return
            metrics.remove_slot(slot)
            self._busy.forget(slot)
        self._slots = slots
        for worker in workers:
            metrics.worker_broken.labels(worker.slot).set(worker.state is WorkerState.BROKEN)
            if worker.role is Role.TRANSCRIBE:
                is_busy = worker.state is WorkerState.BUSY
                metrics.busy_ratio.labels(worker.slot).set(
                    self._busy.ratio(worker.slot, now, is_busy=is_busy)
                )


def has_model(broker: Broker) -> bool:
    """Return whether a transcribe worker has loaded its model: before that the daemon can only read files."""
    return any(worker.state in LOADED for worker in broker.worker_table.of(Role.TRANSCRIBE))


def _description(worker: Worker) -> str:
    cause = f" ({worker.cause})" if worker.cause else ""
    return f"{worker.slot} is {worker.state.value}{cause}"


STUCK_S = 10.0
"""Time without a turn after which the loop counts as stuck; a turn blocks for 50 ms at most."""


class HealthState(Struct, frozen=True, kw_only=True):
    """State at the loop's last update; times are of the monotonic clock."""

    is_stopping: bool = False
    has_worker: bool = False
    """A transcribe worker has loaded its model."""
    workers: tuple[str, ...] = ()
    """The transcribe workers that have not, with state and cause."""
    waiting: int = 0
    """Segments waiting for a worker."""
    progress_at: float = 0.0
    """When a lease was last finished or no work was queued."""
    state_fault: str = ""
    """Why nothing that is stored survives a restart."""
    timeout_s: float = 0.0
    """Longest time until the next lease must be finished."""


class Health:
    """Set by the loop and read by other threads: each value is replaced as a whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned_at = clock()
        self.state = HealthState()

    def record_turn(self) -> None:
        """Record a turn of the loop."""
        self._turned_at = self._clock()

    def liveness_fault(self) -> str:
        """Return in one line why the daemon is not alive, or ""."""
        idle_s = self._clock() - self._turned_at
        return f"the loop has been stuck for {idle_s:.0f} s" if idle_s > STUCK_S else ""

    def readiness_fault(self) -> str:
        """Return in one line why the daemon makes no subtitles, or ""."""
        state = self.state
        if fault := self.liveness_fault():
            return fault
        if state.state_fault:
            return state.state_fault
        if state.is_stopping:
            return "the daemon is stopping"
        if not state.has_worker:
            return f"no transcribe worker is ready: {'; '.join(state.workers) or 'none started yet'}"
        idle_s = self._clock() - state.progress_at
        if state.waiting and idle_s > state.timeout_s:
            return f"{state.waiting} segments are waiting and no lease was finished for {idle_s:.0f} s"
        return ""
