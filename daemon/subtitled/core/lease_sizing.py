"""How much a worker is given at a time: by its speed, its distance, and what the others will have done meanwhile.

Among workers of this host that are equally fast none of this makes a difference: they share what is ready equally.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from subtitled.core.fair_queue import lease_size
from subtitled.core.live_jobs import BYTES_PER_SAMPLE
from subtitled.core.policy import Policy
from subtitled.core.records import Lease, Role, Worker
from subtitled.core.states import WorkerState
from subtitled.core.throughput import Throughput
from subtitled.core.worker_table import NEVER, WorkerTable

WEIGH_EVERY_S = 1.0
ALIKE = 0.75
"""Workers at least so fast as the fastest of them, of 1, count as equally fast: times vary with what is said."""
SOONER = 0.9
"""Others do something sooner if that is within this part of the time; so no two wait for each other."""
HUNG = 2.0
"""A lease that takes so many times as long as it should is not counted on any more."""
AT_WORK = (WorkerState.IDLE, WorkerState.BUSY)
WINDOW_BYTES = 480_000 * BYTES_PER_SAMPLE
"""Of the longest segment: what Whisper sees at once."""


class WorkerGroup(Struct, frozen=True):
    """The workers with nothing to do, and the others, counted in fastest ones."""

    free: float
    busy: float


class LeaseSizing:
    """Compares the transcribe workers."""

    def __init__(self, policy: Policy, worker_table: WorkerTable, leases: Mapping[int, Lease]) -> None:
        self.policy = policy
        self._worker_table = worker_table
        self._leases = leases
        self._weights: dict[str, float] = {}
        """Speeds of the workers, of the fastest 1; empty where all are alike and on this host."""
        self._weigh_at = 0.0

    def batch_size(self, worker: Worker) -> int:
        """Return how many segments a worker decodes at once."""
        return worker.batch_size or self.policy.batch_size

    def learned(self, worker: Worker, lease: Lease, now: float) -> Throughput:
        """Return what is known of a worker's speed now that it has done a lease."""
        took_s = now - lease.begun_at
        if took_s <= 0:
            return worker.pace
        if not worker.pace.leases:
            self._weigh_at = now  # it was taken to be as fast as the fastest
        return worker.pace.after(lease.windows, took_s, samples=lease.samples)

    def decodes_per_s(self, worker: Worker) -> float:
        """Return how many segments a worker decodes in a second, in full leases, once it has answered one."""
        windows = self.batch_size(worker)
        return worker.streams * windows / worker.pace.seconds(windows)

    def weigh(self, now: float) -> None:
        """Compare the workers' speeds anew, if that is long enough ago."""
        if now < self._weigh_at:
            return
        self._weigh_at = now + WEIGH_EVERY_S
        known = [worker for worker in self._worker_table.of(Role.TRANSCRIBE) if worker.pace.leases]
        self._weights = weigh({worker.slot: self._windows_per_s(worker) for worker in known})
        if not any(worker.is_remote for worker in known) and min(self._weights.values(), default=1.0) == 1.0:
            self._weights = {}

    def fastest_first(self, workers: list[Worker]) -> list[Worker]:
        """Return workers by their speed, equally fast ones as they come."""
        if not self._weights:
            return workers
        return sorted(workers, key=lambda worker: -self._weight(worker))

    def crowd(self, free: Sequence[Worker], busy: Sequence[Worker]) -> WorkerGroup:
        """Return among whom what is ready is to be shared."""
        if not self._weights:
            return WorkerGroup(len(free), len(busy))
        return WorkerGroup(sum(map(self._weight, free)), sum(map(self._weight, busy)))

    def share(self, worker: Worker, ready: int, crowd: WorkerGroup) -> int:
        """Return how many of `ready` segments are a worker's next lease."""
        own = self._weight(worker)
        return lease_size(
            ready=ready,
            idle_workers=crowd.free / own,
            busy_workers=crowd.busy / own,
            batch_size=self.limit(worker),
        )

    def limit(self, worker: Worker) -> int:
        """Return the most segments that one lease of a worker may have.

        To another host, what one lease takes to arrive must not look like a dead link to the other end; and its first is
        of one segment, which tells how fast it is.
        """
        batch_size = self.batch_size(worker)
        if not worker.is_remote:
            return batch_size
        if not worker.pace.leases:
            return 1
        if worker.bytes_per_s is not None:
            batch_size = min(batch_size, int(self._arriving_bytes(worker.bytes_per_s) / WINDOW_BYTES))
        return max(1, min(batch_size, self.policy.max_in_flight_bytes // WINDOW_BYTES))

    def credit(self, worker: Worker) -> int:
        """Return how many leases a worker may hold: those on their way to another host must not leave it idle."""
        if not worker.is_remote:
            return worker.credit
        if not worker.pace.leases:
            return worker.streams
        windows = self.limit(worker)
        away_s = _arrival_s(worker, windows * WINDOW_BYTES)
        ahead = math.ceil(away_s * worker.streams / worker.pace.seconds(windows))
        return max(worker.credit, worker.streams + ahead)

    def bounded(self, worker: Worker, size: int, ready: int, now: float) -> int:
        """Return how many segments a worker is given of the `size` that are its share; 0: none at present.

        To another host no more is under way than it may hold; and a slow or far worker gets nothing that would keep the
        others waiting in the end. The one that would be first with a segment is never refused it, so whatever is ready
        is taken.
        """
        if not self._weights and not worker.is_remote:
            return size
        if worker.is_remote:
            size = min(size, self._room(worker))
        if worker.pace.leases and (worker.is_remote or self._weight(worker) < 1):
            if (begins_s := self._begins_in(worker, now)) == NEVER:
                return 0
            others = self._others(worker, now)
            while size > 0:
                own_s = begins_s + worker.pace.seconds(size)
                if size + _done_within(SOONER * own_s, others) <= ready:
                    break
                size //= 2
        return max(0, size)

    def _room(self, worker: Worker) -> int:
        """Return how many segments may be sent to another host at present."""
        held = [self._leases[lease] for lease in worker.leases]
        room_bytes: float = self.policy.max_in_flight_bytes - sum(lease.pcm_bytes for lease in held)
        under_way_bytes = sum(lease.pcm_bytes for lease in held if not lease.is_received)
        if worker.bytes_per_s is not None and under_way_bytes:
            room_bytes = min(room_bytes, self._arriving_bytes(worker.bytes_per_s) - under_way_bytes)
        return int(room_bytes / WINDOW_BYTES) if held else max(1, int(room_bytes / WINDOW_BYTES))

    def _arriving_bytes(self, bytes_per_s: float) -> float:
        """Return what may be under way at once: heartbeats wait behind it, and must be in time."""
        return bytes_per_s * self.policy.silence_s / 3

    def _others(self, worker: Worker, now: float) -> list[_Other]:
        """Return the other workers that can be counted on."""
        return [
            _Other(other, self.batch_size(other), begins_s)
            for other in self._worker_table.of(Role.TRANSCRIBE)
            if other.slot != worker.slot
            and other.state in AT_WORK
            and other.pace.leases
            and not other.failures
            and (begins_s := self._begins_in(other, now)) < NEVER
        ]

    def _begins_in(self, worker: Worker, now: float) -> float:
        """Return in how many seconds a worker could begin with a segment more; infinity when it seems to hang."""
        left_s = 0.0
        under_way_bytes = WINDOW_BYTES
        for lease in (self._leases[lease] for lease in worker.leases):
            takes_s = worker.pace.seconds(lease.windows)
            took_s = max(0.0, now - lease.begun_at)
            if took_s > HUNG * takes_s:
                return NEVER
            left_s += max(0.0, takes_s - took_s)
            under_way_bytes += 0 if lease.is_received else lease.pcm_bytes
        return max(left_s / worker.streams, _arrival_s(worker, under_way_bytes))

    def _weight(self, worker: Worker) -> float:
        return self._weights.get(worker.slot, 1.0)

    def _windows_per_s(self, worker: Worker) -> float:
        """Return how much a worker does in a second, in full leases; no more than its link brings."""
        decoded = self.decodes_per_s(worker)
        return decoded if worker.bytes_per_s is None else min(decoded, worker.bytes_per_s / WINDOW_BYTES)


class _Other(Struct, frozen=True):
    """Another worker, and in how many seconds it could begin with a segment more."""

    worker: Worker
    batch_size: int
    begins_s: float


def _done_within(seconds: float, others: Iterable[_Other]) -> int:
    """Return how many windows some workers have done within a time."""
    return sum(
        other.worker.streams * other.worker.pace.windows_within(seconds - other.begins_s, other.batch_size)
        for other in others
        if other.begins_s < seconds
    )


def weigh(speeds: Mapping[str, float]) -> dict[str, float]:
    """Return the speeds in relation to the fastest; those that are nearly as fast as another have its weight."""
    weights: dict[str, float] = {}
    fastest = max(speeds.values(), default=1.0)
    leader = fastest
    for slot in sorted(speeds, key=lambda slot: (-speeds[slot], slot)):
        if speeds[slot] < ALIKE * leader:
            leader = speeds[slot]
        weights[slot] = leader / fastest
    return weights


def _arrival_s(worker: Worker, pcm_bytes: int) -> float:
    """Return how long so much PCM, and the answer, are on their way."""
    return worker.round_trip_s + (pcm_bytes / worker.bytes_per_s if worker.bytes_per_s else 0.0)
