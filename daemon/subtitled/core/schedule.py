"""Which segments make the next lease.

Priority first, then fair between jobs: start-time fair queueing (Goyal, Vin, Cheng 1996) over audio samples, so that a
ten-hour file cannot keep a ten-second clip waiting. Segments share a lease only when their decoding options agree; a
segment that was with a worker when it was lost goes out alone, so that it can take nothing down but itself.
"""

from __future__ import annotations

import heapq
from collections import deque

from msgspec import Struct

from subtitled.core.records import Job, Segment, SegmentKey

Kind = tuple[bool, SegmentKey | None]
"""What must agree inside a lease: word times, and (for a suspect) the segment itself."""


def kind_of(job: Job, segment: Segment) -> Kind:
    """Return what the other segments of its lease must share with this one."""
    return (job.options.word_timestamps, segment.key if segment.losses else None)


def lease_size(*, ready: int, idle_workers: int, batch_size: int) -> int:
    """Return how many segments one of `idle_workers` idle workers takes of `ready` ones.

    The idle share what there is, so that none of them waits while another holds a batch that both could have halved.
    """
    return max(1, min(batch_size, -(-ready // max(1, idle_workers))))


class _Flow(Struct):
    """The ready segments of one job and one kind, and where they stand in fair order."""

    job: str
    priority: int
    order: int
    virtual_samples: int
    """Audio given to this job so far, in the queue's virtual time."""
    ready: deque[tuple[int, int]]
    """(index in the plan, samples)."""

    @property
    def rank(self) -> tuple[int, int, int]:
        return (-self.priority, self.virtual_samples, self.order)


class ReadyQueue:
    """Segments that are ready to be leased, in the order in which they go out."""

    def __init__(self) -> None:
        self._flows: dict[tuple[Kind, str], _Flow] = {}
        self._heaps: dict[Kind, list[tuple[tuple[int, int, int], str]]] = {}
        self._keys: dict[SegmentKey, Kind] = {}
        self._virtual_samples = 0
        self._served: dict[str, int] = {}

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
        self._keys[key] = kind
        flow = self._flows.get((kind, key.job))
        if flow is None:
            # A job that comes (back) starts at the present, not with credit for the time it was away.
            virtual = max(self._virtual_samples, self._served.get(key.job, 0))
            flow = _Flow(key.job, job.options.priority, job.order, virtual, deque())
            self._flows[kind, key.job] = flow
            heapq.heappush(self._heaps.setdefault(kind, []), (flow.rank, key.job))
        flow.ready.append((key.index, segment.samples))

    def remove_job(self, job: str) -> None:
        """Forget all ready segments of a job."""
        for (kind, name), flow in list(self._flows.items()):
            if name == job:
                for index, _ in flow.ready:
                    self._keys.pop(SegmentKey(job, index), None)
                del self._flows[kind, name]
        self._served.pop(job, None)

    def take(self, count: int) -> tuple[SegmentKey, ...]:
        """Take the next lease's segments, at most `count`, all of one kind; empty when nothing is ready."""
        heads = [(heap[0][0], kind) for kind, heap in list(self._heaps.items()) if self._settle(kind, heap)]
        if not heads:
            return ()
        kind = min(heads, key=lambda head: head[0])[1]
        heap = self._heaps[kind]
        taken: list[SegmentKey] = []
        while len(taken) < count and self._settle(kind, heap):
            _, job = heapq.heappop(heap)
            flow = self._flows[kind, job]
            self._virtual_samples = max(self._virtual_samples, flow.virtual_samples)
            index, samples = flow.ready.popleft()
            key = SegmentKey(job, index)
            del self._keys[key]
            taken.append(key)
            flow.virtual_samples += samples
            self._served[job] = flow.virtual_samples
            if flow.ready:
                heapq.heappush(heap, (flow.rank, job))
            else:
                del self._flows[kind, job]
        if not heap:
            self._heaps.pop(kind, None)
        return tuple(taken)

    def _settle(self, kind: Kind, heap: list[tuple[tuple[int, int, int], str]]) -> bool:
        """Drop heap entries whose flow is gone or has moved; say whether one is left."""
        while heap:
            rank, job = heap[0]
            flow = self._flows.get((kind, job))
            if flow is not None and flow.rank == rank:
                return True
            heapq.heappop(heap)
        self._heaps.pop(kind, None)
        return False
