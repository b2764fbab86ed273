"""The queue of ready segments, and which of them make the next lease.

Priority first, then fair between jobs: the job that would have been given least audio with its next segment is first, as
in weighted fair queueing (Demers, Keshav, Shenker 1989), so that neither a ten-hour file nor 200 waiting jobs keep a
ten-second clip waiting. Segments share a lease only when their decoding options agree; a
segment whose worker was lost is leased alone, so that it affects no other segment. A job has one account for all of its
segments: sixteen suspect segments do not count as sixteen jobs.
"""

from __future__ import annotations

import heapq
from collections import deque

from msgspec import Struct

from subtitle.messages import WordTimestamps
from subtitled.config.model_choice import DEFAULT_MODEL
from subtitled.core.records import FIRST_TEXT, Job, Segment, SegmentKey, model_of

Kind = tuple[WordTimestamps, SegmentKey | None, str]
"""Segments of one lease have the same kind: word times, for a suspect segment the segment itself, and the model's name."""


def kind_of(job: Job, segment: Segment) -> Kind:
    """Return a segment's kind."""
    word_timestamps: WordTimestamps = "auto" if segment.text is not None else job.options.word_timestamps
    return (word_timestamps, segment.key if segment.losses else None, model_of(job, segment))


Rank = tuple[int, int, float, int]
"""Sort key: urgent jobs, then those given least audio with their next segment, then the oldest; within a job in the order
of becoming ready."""
CLIPS_SHARE = 4
"""An endless series of short jobs gets at most about this many times the audio of a long one."""


class _Flow(Struct):
    """The ready segments of one job and one kind."""

    job: str
    priority: int
    order: float
    ready: deque[tuple[int, int, int]]
    """(number in the order of becoming ready, index in the plan, samples)."""


class ReadyQueue:
    """Segments that are ready to be leased, in the order in which they are leased."""

    def __init__(self) -> None:
        self._flows: dict[tuple[Kind, str], _Flow] = {}
        self._heaps: dict[Kind, list[tuple[Rank, str]]] = {}
        """For each kind its jobs by rank; a rank is out of date if its job was given audio of another kind."""
        self._keys: dict[SegmentKey, Kind] = {}
        self._waiting: dict[str, int] = {}
        """Number of ready segments of each model, by its name; never 0."""
        self._last_number = 0
        self._ready: dict[str, int] = {}
        """Ready segments of each job, of all kinds."""
        self._given_samples: dict[str, int] = {}
        """Audio given to each job so far, of all kinds, in the virtual time of its priority."""
        self._virtual_samples: dict[int, int] = {}
        """Virtual time of each priority; they are separate: audio of urgent jobs is no credit for the others."""

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
            # A job that is added (again) starts at the present virtual time, without credit for its absence.
            virtual_now = self._virtual_samples.get(job.priority, 0)
            self._given_samples[job.id] = max(virtual_now, self._given_samples.get(job.id, 0))
        self._keys[key] = kind
        self._waiting[kind[2]] = self._waiting.get(kind[2], 0) + 1
        self._ready[job.id] = self._ready.get(job.id, 0) + 1
        self._last_number += 1
        ready = (self._last_number, key.index, segment.samples)
        flow = self._flows.get((kind, job.id))
        if flow is None:
            flow = _Flow(job.id, job.priority, job.queue_key[1], deque([ready]))
            self._flows[kind, job.id] = flow
            heapq.heappush(self._heaps.setdefault(kind, []), (self._rank(flow), job.id))
        else:
            flow.ready.append(ready)

    def move(self, job: Job) -> None:
        """Apply a job's changed priority and place to its ready segments."""
        if not self._ready.get(job.id):
            return
        flows = [(kind, flow) for (kind, name), flow in self._flows.items() if name == job.id]
        if any(flow.priority != job.priority for _, flow in flows):
            self._given_samples[job.id] = self._virtual_samples.get(job.priority, 0)
        for kind, flow in flows:
            flow.priority, flow.order = job.priority, job.queue_key[1]
            heap = [entry for entry in self._heaps[kind] if entry[1] != job.id]
            self._heaps[kind] = [*heap, (self._rank(flow), job.id)]
            heapq.heapify(self._heaps[kind])

    def remove_job(self, job: str) -> None:
        """Drop all ready segments of a job, and its account."""
        for (kind, name), flow in list(self._flows.items()) if self._ready.get(job) else ():
            if name == job:
                for _, index, _ in flow.ready:
                    del self._keys[SegmentKey(job, index)]
                self._subtract(kind, len(flow.ready))
                del self._flows[kind, name]
        self._ready.pop(job, None)
        self._given_samples.pop(job, None)

    def take(self, count: int, model: str = DEFAULT_MODEL) -> tuple[SegmentKey, ...]:
        """Take the segments of a model's next lease, at most `count`, all of one kind; empty when none is ready."""
        kind = self._next_kind(model)
        if kind is None:
            return ()
        heap = self._heaps[kind]
        taken: list[SegmentKey] = []
        while len(taken) < count and self._refresh(kind, heap):
            _, job = heapq.heappop(heap)
            flow = self._flows[kind, job]
            given = self._given_samples[job]
            _, index, samples = flow.ready.popleft()
            virtual_now = self._virtual_samples.get(flow.priority, 0)
            self._virtual_samples[flow.priority] = max(virtual_now, given + samples // CLIPS_SHARE)
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
        self._subtract(kind, len(taken))
        return tuple(taken)

    def waiting(self) -> dict[str, int]:
        """Return the number of ready segments of each model, first the model whose turn it is."""
        if len(self._waiting) <= 1:
            return dict(self._waiting)
        heads = sorted(
            (heap[0][0], kind[2]) for kind, heap in list(self._heaps.items()) if self._refresh(kind, heap)
        )
        return {model: self._waiting[model] for _, model in heads}

    def count(self, model: str) -> int:
        """Return the number of ready segments of a model."""
        return self._waiting.get(model, 0)

    def priority(self, model: str) -> int:
        """Return the highest priority among a model's ready segments, of which there is at least one."""
        return max(flow.priority for (kind, _), flow in self._flows.items() if kind[2] == model)

    def jobs_of(self, model: str) -> tuple[str, ...]:
        """Return the jobs with ready segments of a model."""
        return tuple(dict.fromkeys(job for kind, job in self._flows if kind[2] == model))

    @property
    def samples(self) -> int:
        """Audio that is ready, without text; counted on each call."""
        return sum(
            samples for flow in self._flows.values() for _, index, samples in flow.ready if index < FIRST_TEXT
        )

    @property
    def last_number(self) -> int:
        """The number of the segment that became ready last; numbers increase."""
        return self._last_number

    @property
    def oldest_number(self) -> int | None:
        """The number of the segment that has been ready longest; None if the queue is empty."""
        return min((flow.ready[0][0] for flow in self._flows.values()), default=None)

    def next_suspect(self, model: str) -> SegmentKey | None:
        """Return the segment of a model's next lease, if it was lost before."""
        if all(kind[1] is None for kind in self._heaps):
            return None
        kind = self._next_kind(model)
        return kind[1] if kind is not None else None

    def _next_kind(self, model: str) -> Kind | None:
        heads = [
            (heap[0][0], kind)
            for kind, heap in list(self._heaps.items())
            if kind[2] == model and self._refresh(kind, heap)
        ]
        return min(heads, key=lambda head: head[0])[1] if heads else None

    def _subtract(self, kind: Kind, count: int) -> None:
        model = kind[2]
        self._waiting[model] -= count
        if not self._waiting[model]:
            del self._waiting[model]

    def _rank(self, flow: _Flow) -> Rank:
        number, _, samples = flow.ready[0]
        return (-flow.priority, self._given_samples[flow.job] + samples, flow.order, number)

    def _refresh(self, kind: Kind, heap: list[tuple[Rank, str]]) -> bool:
        """Bring the first entry of a heap up to date; return whether there is one."""
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
