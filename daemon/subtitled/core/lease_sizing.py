"""The size of a worker's next lease: by its speed, its link, and what the other workers finish in the meantime.

Equally fast workers of this host share the ready segments equally.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from subtitled.core.live_jobs import BYTES_PER_SAMPLE
from subtitled.core.policy import Policy
from subtitled.core.records import Lease, Worker
from subtitled.core.states import AT_WORK
from subtitled.core.throughput import Throughput
from subtitled.core.worker_table import NEVER

COMPARE_EVERY_S = 1.0
SAME_SPEED = 0.75
"""Workers with at least this share of a speed count as equally fast: times vary with the speech."""
SOONER = 0.9
"""Other workers are sooner if they need less than this share of the time; so no two wait for each other."""
OVERLONG = 2.0
"""A worker whose lease takes this many times its usual time is not counted on."""
WINDOW_BYTES = 480_000 * BYTES_PER_SAMPLE
"""PCM of the longest segment: what Whisper sees at once."""


OVERDUE_SHARE = 0.1
"""Share of a lease that is assumed to be left when it takes longer than expected."""


class StreamGroup(Struct, frozen=True):
    """The streams of all workers; the streams of the fastest worker are 1 together."""

    free: float
    busy: tuple[tuple[float, float], ...]
    """For each worker its streams at work, and the windows that they still have to decode."""


class LeaseSizing:
    """Compares the speeds and links of the workers that hold one model."""

    def __init__(
        self, policy: Policy, model: str, workers: Callable[[], Iterable[Worker]], leases: Mapping[int, Lease]
    ) -> None:
        """`workers` returns those that hold the model."""
        self.policy = policy
        self._model = model
        self._workers = workers
        self._leases = leases
        self._speeds: dict[str, float] = {}
        """Relative speeds, 1 for the fastest; empty if all workers are on this host and equally fast."""
        self._compare_at = 0.0

    def batch_size(self, worker: Worker) -> int:
        """Return how many segments a worker decodes at once."""
        return worker.resident(self._model).batch_size or self.policy.batch_size

    def updated_throughput(self, worker: Worker, lease: Lease, now: float) -> Throughput:
        """Return a worker's throughput after a lease that it has just finished."""
        took_s = now - lease.begun_at
        if worker.is_cpu and lease.pcm_bytes:
            # Where streams were idle beside it, it was decoded with their threads too. They help with half of the work: it
            # takes about 0.7 of the time with twice the threads.
            streams = worker.streams_of(self._model)
            running = min(streams, (lease.beside + min(len(worker.leases), worker.streams)) / 2)
            took_s *= math.sqrt(streams / running)
        if took_s <= 0:
            return self._throughput(worker)
        if not self._throughput(worker).leases:
            self._compare_at = now  # until now it counted as the fastest
        return self._throughput(worker).after(lease.windows, took_s)

    def decodes_per_s(self, worker: Worker) -> float:
        """Return how many segments a worker decodes per second in full leases, once it has finished one."""
        windows = self.batch_size(worker)
        return worker.streams_of(self._model) * windows / self._throughput(worker).seconds(windows)

    def compare_speeds(self, now: float) -> None:
        """Compare the workers' speeds again, at most once in COMPARE_EVERY_S."""
        if now < self._compare_at:
            return
        self._compare_at = now + COMPARE_EVERY_S
        known = [worker for worker in self._workers() if self._throughput(worker).leases]
        self._speeds = relative_speeds({worker.slot: self._windows_per_s(worker) for worker in known})
        if not any(worker.is_remote for worker in known) and min(self._speeds.values(), default=1.0) == 1.0:
            self._speeds = {}

    def fastest_first(self, workers: list[Worker]) -> list[Worker]:
        """Return workers by speed, equally fast ones in the order given."""
        if not self._speeds:
            return workers
        return sorted(workers, key=lambda worker: -self._relative_speed(worker))

    def streams(self, free: Iterable[Worker], busy: Iterable[Worker], now: float) -> StreamGroup:
        """Return the streams that share the ready segments."""
        free_streams, at_work = 0.0, []
        for worker in (*free, *busy):
            streams = worker.streams_of(self._model)
            stream = self._relative_speed(worker) / streams
            count = min(len(worker.leases), streams)
            free_streams += stream * (streams - count)
            if count:
                at_work.append((stream * count, self._windows_left(worker, now)))
        return StreamGroup(free_streams, tuple(at_work))

    def share(self, worker: Worker, ready: int, streams: StreamGroup, now: float) -> int:
        """Return a worker's share of `ready` segments for its next lease, which one of its streams decodes."""
        own = self._relative_speed(worker) / worker.streams_of(self._model)
        busy = [(count / own, windows) for count, windows in streams.busy]
        share = fair_share(ready, streams.free / own, busy)
        if len(worker.leases) >= worker.streams:
            share -= self._windows_left(worker, now) / worker.streams
        limit = self.limit(worker)
        if worker.is_cpu and share > limit:
            # Equal leases: of full ones first, a small one would be left for the end, beside which streams are idle.
            share /= math.ceil(share / limit)
        return max(1, min(limit, math.ceil(share)))

    def limit(self, worker: Worker) -> int:
        """Return the most segments that one lease of a worker may have.

        It ends soon enough for urgent work to wait for it. A GPU gets at least half a batch: each call has a fixed cost,
        and smaller batches would waste a slow one. On its way to another host, it must not delay heartbeats until the link looks dead. The first lease of a CPU or of
        another host has one segment, to measure the worker's speed.
        """
        batch_size = self.batch_size(worker)
        if not self._throughput(worker).leases:
            return 1 if worker.is_remote or worker.is_cpu else batch_size
        if worker.is_cpu:
            in_time = self._throughput(worker).least_windows_within(self.policy.lease_cpu_s)
        else:
            in_time = max(
                batch_size // 2, self._throughput(worker).least_windows_within(self.policy.lease_gpu_s)
            )
        batch_size = max(1, min(batch_size, in_time))
        if not worker.is_remote:
            return batch_size
        if worker.bytes_per_s is not None:
            batch_size = min(batch_size, int(self._arriving_bytes(worker.bytes_per_s) / WINDOW_BYTES))
        return max(1, min(batch_size, self.policy.max_in_flight_bytes // WINDOW_BYTES))

    def credit(self, worker: Worker) -> int:
        """Return how many leases a worker may hold; on another host more, so that it is not idle while they arrive."""
        if not worker.is_remote:
            return worker.credit
        if not self._throughput(worker).leases:
            return worker.streams
        windows = self.limit(worker)
        arrival_s = _arrival_s(worker, windows * WINDOW_BYTES)
        ahead = math.ceil(arrival_s * worker.streams / self._throughput(worker).seconds(windows))
        return max(worker.credit, worker.streams + ahead)

    def bounded(self, worker: Worker, size: int, ready: int, now: float) -> int:
        """Return how many of its share of `size` segments a worker gets; 0: none now.

        A worker on another host gets no more than may be in flight. A slow or remote worker gets nothing that the others
        would finish sooner: they would wait for it at the end. The worker that finishes a segment soonest always gets it,
        so every ready segment is leased.
        """
        if not self._speeds and not worker.is_remote:
            return size
        if worker.is_remote:
            size = min(size, self._free_segments(worker))
        if self._throughput(worker).leases and (worker.is_remote or self._relative_speed(worker) < 1):
            if (begins_s := self._begins_in(worker, now)) == NEVER:
                return 0
            others = self._others(worker, now)
            while size > 0:
                own_s = begins_s + self._throughput(worker).seconds(size)
                if size + _done_within(SOONER * own_s, others) <= ready:
                    break
                size //= 2
        return max(0, size)

    def _free_segments(self, worker: Worker) -> int:
        """Return how many segments may be sent to a worker on another host now."""
        held = [self._leases[lease] for lease in worker.leases]
        free_bytes: float = self.policy.max_in_flight_bytes - sum(lease.pcm_bytes for lease in held)
        in_flight_bytes = sum(lease.pcm_bytes for lease in held if not lease.is_received)
        if worker.bytes_per_s is not None and in_flight_bytes:
            free_bytes = min(free_bytes, self._arriving_bytes(worker.bytes_per_s) - in_flight_bytes)
        return int(free_bytes / WINDOW_BYTES) if held else max(1, int(free_bytes / WINDOW_BYTES))

    def _arriving_bytes(self, bytes_per_s: float) -> float:
        """Return the bytes that may be in flight at once: heartbeats queue behind them and must arrive in time."""
        return bytes_per_s * self.policy.silence_s / 3

    def _others(self, worker: Worker, now: float) -> list[_Other]:
        """Return the other workers that are known to work at their usual speed."""
        return [
            _Other(other.streams_of(self._model), self._throughput(other), self.batch_size(other), begins_s)
            for other in self._workers()
            if other.slot != worker.slot
            and other.state in AT_WORK
            and self._throughput(other).leases
            and not other.failures
            and (begins_s := self._begins_in(other, now)) < NEVER
        ]

    def _begins_in(self, worker: Worker, now: float) -> float:
        """Return the seconds until a worker can start another segment; infinity if it seems to hang."""
        left_s = 0.0
        in_flight_bytes = WINDOW_BYTES
        for lease in (self._leases[lease] for lease in worker.leases):
            takes_s = worker.resident(lease.model).throughput.seconds(lease.windows)
            took_s = max(0.0, now - lease.begun_at)
            if took_s > OVERLONG * takes_s:
                return NEVER
            left_s += max(0.0, takes_s - took_s)
            in_flight_bytes += 0 if lease.is_received else lease.pcm_bytes
        return max(left_s / worker.streams, _arrival_s(worker, in_flight_bytes))

    def _windows_left(self, worker: Worker, now: float) -> float:
        """Return the windows that a worker still has to decode, as far as its speed is known."""
        left = 0.0
        for lease in (self._leases[lease] for lease in worker.leases):
            throughput = worker.resident(lease.model).throughput
            if lease.begun_at == NEVER or not lease.windows:
                share = 1.0
            elif not throughput.leases:
                share = 0.5
            else:
                share = 1 - (now - lease.begun_at) / throughput.seconds(lease.windows)
            left += lease.windows * max(OVERDUE_SHARE, share)
        return left

    def _throughput(self, worker: Worker) -> Throughput:
        return worker.resident(self._model).throughput

    def _relative_speed(self, worker: Worker) -> float:
        return self._speeds.get(worker.slot, 1.0)

    def _windows_per_s(self, worker: Worker) -> float:
        """Return the segments that a worker decodes per second in full leases, limited by its link."""
        decoded = self.decodes_per_s(worker)
        return decoded if worker.bytes_per_s is None else min(decoded, worker.bytes_per_s / WINDOW_BYTES)


class _Other(Struct, frozen=True):
    """Another worker, and the seconds until it can start another segment."""

    streams: int
    throughput: Throughput
    batch_size: int
    begins_s: float


def _done_within(seconds: float, others: Iterable[_Other]) -> int:
    """Return how many windows some workers finish within a time."""
    return sum(
        other.streams * other.throughput.windows_within(seconds - other.begins_s, other.batch_size)
        for other in others
        if other.begins_s < seconds
    )


def fair_share(ready: float, free: float, busy: Iterable[tuple[float, float]]) -> float:
    """Return the windows that each stream has if all finish at about the same time.

    `free` are the streams without work, `busy` the others and the windows that they still have. Those that have more than a
    share get none of the ready ones.
    """
    streams, windows = free, ready
    for count, left in sorted(busy, key=lambda one: one[1] / one[0]):
        if streams and left / count >= windows / streams:
            break
        streams += count
        windows += left
    return windows / streams


def relative_speeds(speeds: Mapping[str, float]) -> dict[str, float]:
    """Return the speeds relative to the fastest; those that are about the same get the same value."""
    relative: dict[str, float] = {}
    fastest = max(speeds.values(), default=1.0)
    leader = fastest
    for slot in sorted(speeds, key=lambda slot: (-speeds[slot], slot)):
        if speeds[slot] < SAME_SPEED * leader:
            leader = speeds[slot]
        relative[slot] = leader / fastest
    return relative


def _arrival_s(worker: Worker, pcm_bytes: int) -> float:
    """Return the seconds that PCM and its answer are on the link."""
    return worker.round_trip_s + (pcm_bytes / worker.bytes_per_s if worker.bytes_per_s else 0.0)
