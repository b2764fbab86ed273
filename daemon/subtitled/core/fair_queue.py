"""Which segments make the next lease.

Priority first, then fair between jobs: start-time fair queueing (Goyal, Vin, Cheng 1996) over audio samples, so that a
ten-hour file cannot keep a ten-second clip waiting. Segments share a lease only when their decoding options agree; a
segment that was with a worker when it was lost goes out alone, so that it can take nothing down but itself. A job has one
account for all of its segments: sixteen suspects do not make it sixteen jobs.
"""

from __future__ import annotations

import heapq
import math
from collections import deque

from msgspec import Struct

from subtitle.messages import WordTimestamps
from subtitled.core.records import Job, Segment, SegmentKey

Kind = tuple[WordTimestamps, SegmentKey | None]
"""What must agree inside a lease: word times, and (for a suspect) the segment itself."""


def kind_of(job: Job, segment: Segment) -> Kind:
    """Return what the other segments of its lease must share with this one."""
    return (job.options.word_timestamps, segment.key if segment.losses else None)


def lease_size(*, ready: int, idle_workers: float, busy_workers: float, batch_size: int) -> int:
    """Return how many of `ready` segments the next lease takes; the workers are counted in such as it is for.

    Those who have nothing to do share what there is, so that none of them waits while another holds a batch that both could have
    halved. A busy worker has half of its lease before it on average, so it counts half: near the end of the work, who
    is free first leaves something for those who are free next, and all end at about the same time.
    """
    return max(1, min(batch_size, math.ceil(2 * ready / max(1, 2 * idle_workers + busy_workers))))


Rank = tuple[int, int, int, int]
"""The least goes first: urgent jobs, then those given least, then the oldest; inside a job what became ready first."""


class _Flow(Struct):
    """The ready segments of one job and one kind."""

    job: str
    priority: int
    order: int
    ready: deque[tuple[int, int, int]]
    """(number in the order of becoming ready, index in the plan, samples)."""


class ReadyQueue:
    """Segments that are ready to be leased, in the order in which they go out."""

    def __init__(self) -> None:
        self._flows: dict[tuple[Kind, str], _Flow] = {}
        self._heaps: dict[Kind, list[tuple[Rank, str]]] = {}
        """For each kind its jobs by rank; an entry's rank is out of date when its job was given audio of another kind."""
        self._keys: dict[SegmentKey, Kind] = {}
        self._last_number = 0
        self._ready: dict[str, int] = {}
        """How many segments of a job are ready, of all kinds."""
        self._given_samples: dict[str, int] = {}
        """Audio given to a job so far, in the virtual time of its priority: one account, however many its kinds."""
        self._virtual_samples: dict[int, int] = {}
        """The present of each priority. They do not mix: what the urgent are given is no credit for those who wait."""

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: SegmentKey) -> bool:
        return key in self._keys

    def add(self, job: Job, segment: Segment) -> None:
        """Make a segment ready; it must not be ready already."""
        kind = kind_of(job, segment)
        key = segment.key
        if key in self._keys:
            raise ValueError(f"segment {key} is ready already")
        if not self._ready.get(job.id):
            # A job that comes (back) starts at the present, not with credit for the time it was away.
            present = self._virtual_samples.get(job.options.priority, 0)
            self._given_samples[job.id] = max(present, self._given_samples.get(job.id, 0))
        self._keys[key] = kind
        self._ready[job.id] = self._ready.get(job.id, 0) + 1
        self._last_number += 1
        ready = (self._last_number, key.index, segment.samples)
        flow = self._flows.get((kind, job.id))
        if flow is None:
            flow = _Flow(job.id, job.options.priority, job.order, deque([ready]))
            self._flows[kind, job.id] = flow
            heapq.heappush(self._heaps.setdefault(kind, []), (self._rank(flow), job.id))
        else:
            flow.ready.append(ready)

    def remove_job(self, job: str) -> None:
        """Forget all ready segments of a job, and what it was given."""
        for (kind, name), flow in list(self._flows.items()):
            if name == job:
                for _, index, _ in flow.ready:
                    del self._keys[SegmentKey(job, index)]
                del self._flows[kind, name]
        self._ready.pop(job, None)
        self._given_samples.pop(job, None)

    def take(self, count: int) -> tuple[SegmentKey, ...]:
        """Take the next lease's segments, at most `count`, all of one kind; empty when nothing is ready."""
        kind = self._next_kind()
        if kind is None:
            return ()
        heap = self._heaps[kind]
        taken: list[SegmentKey] = []
        while len(taken) < count and self._settle(kind, heap):
            _, job = heapq.heappop(heap)
            flow = self._flows[kind, job]
            given = self._given_samples[job]
            self._virtual_samples[flow.priority] = max(self._virtual_samples.get(flow.priority, 0), given)
            _, index, samples = flow.ready.popleft()
            key = SegmentKey(job, index)
            del self._keys[key]
            taken.append(key)
            self._ready[job] -= 1
            self._given_samples[job] = given + samples
            if flow.ready:
                heapq.heappush(heap, (self._rank(flow), job))
            else:
                del self._flows[kind, job]
        if not heap:
            self._heaps.pop(kind, None)
        return tuple(taken)

    @property
    def samples(self) -> int:
        """Audio that is ready; counted anew each time."""
        return sum(samples for flow in self._flows.values() for _, _, samples in flow.ready)

    @property
    def last_number(self) -> int:
        """The number of the segment that became ready last; they count up."""
        return self._last_number

    @property
    def oldest_number(self) -> int | None:
        """The number of the segment that has been ready longest; None when nothing is."""
        return min((flow.ready[0][0] for flow in self._flows.values()), default=None)

    @property
    def next_suspect(self) -> SegmentKey | None:
        """The segment of the next lease, if that is one that was lost before."""
        kind = self._next_kind()
        return kind[1] if kind is not None else None

    def _next_kind(self) -> Kind | None:
        heads = [(heap[0][0], kind) for kind, heap in list(self._heaps.items()) if self._settle(kind, heap)]
        return min(heads, key=lambda head: head[0])[1] if heads else None

    def _rank(self, flow: _Flow) -> Rank:
        return (-flow.priority, self._given_samples[flow.job], flow.order, flow.ready[0][0])

    def _settle(self, kind: Kind, heap: list[tuple[Rank, str]]) -> bool:
        """Bring the first entry of a heap up to date; say whether there is one."""
        while heap:
            rank, job = heap[0]
            flow = self._flows.get((kind, job))
            if flow is None:
                heapq.heappop(heap)
            elif rank != (present := self._rank(flow)):
                heapq.heapreplace(heap, (present, job))
            else:
                return True
        self._heaps.pop(kind, None)
        return False
