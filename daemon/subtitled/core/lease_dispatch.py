"""Transcribe workers and the leases they hold: what is ready, who has it, until when."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from subtitled.core.actions import Action, LeaseLost, ResultStale, Send, SendLease
from subtitled.core.fair_queue import ReadyQueue
from subtitled.core.lease_sizing import LeaseSizing
from subtitled.core.live_jobs import BYTES_PER_SAMPLE, LiveJobs
from subtitled.core.policy import Policy, time_to_arrive, time_to_run
from subtitled.core.protocol import Drain, LeaseItem, Transcribe
from subtitled.core.records import Lease, Role, Segment, SegmentKey, Worker
from subtitled.core.states import SegmentEvent, WorkerEvent, WorkerState
from subtitled.core.worker_table import NEVER, WorkerTable


class LeaseDispatch:
    """Each ready segment is in the queue or in exactly one lease of one live worker."""

    def __init__(
        self, policy: Policy, live_jobs: LiveJobs, worker_table: WorkerTable, out: list[Action]
    ) -> None:
        self.policy = policy
        self.ready = ReadyQueue()
        self.leases: dict[int, Lease] = {}
        self.sizing = LeaseSizing(policy, worker_table, self.leases)
        self._live_jobs = live_jobs
        self._worker_table = worker_table
        self._out = out
        self._lease_of: dict[SegmentKey, int] = {}
        self._last_id = 0

    def make_ready(self, segment: Segment) -> None:
        """Put a pending segment whose PCM is in memory in line."""
        self.ready.add(self._live_jobs.jobs[segment.key.job], segment)

    def withdraw(self, job: str) -> None:
        """Take a job's segments out of the line and out of their leases; results for them count no more."""
        self.ready.remove_job(job)
        for index in self._live_jobs.segments.get(job, {}):
            self._lease_of.pop(SegmentKey(job, index), None)

    def assign(self, now: float) -> None:
        """Give the ready segments to workers that may hold a lease."""
        if self.ready:
            self.sizing.weigh(now)
        while self.ready:
            # A worker with nothing to do goes before one that has a stream to spare.
            workers = list(self._worker_table.of(Role.TRANSCRIBE))
            free = self._worker_table.idle(Role.TRANSCRIBE) or [w for w in workers if _has_free_stream(w)]
            busy = [w for w in workers if w.state is WorkerState.BUSY and w not in free]
            if not self._give_to_free(free, busy, now) and not self._give_ahead(free, busy, now):
                return

    def batch_size(self, worker: Worker) -> int:
        """Return how many segments a worker decodes at once."""
        return self.sizing.batch_size(worker)

    def _give_to_free(self, free: list[Worker], busy: list[Worker], now: float) -> bool:
        """Give a lease to a worker that would begin it at once, if there is one."""
        ready = len(self.ready)
        crowd = self.sizing.crowd(free, busy)
        for worker in self.sizing.fastest_first(self._able(free)):
            # One that failed last time has to do one segment first, and can harm no more than that.
            share = 1 if worker.failures else self.sizing.share(worker, ready, crowd)
            if size := self.sizing.bounded(worker, share, ready, now):
                self._lease(worker, size, now)
                return True
        return False

    def _give_ahead(self, free: list[Worker], busy: list[Worker], now: float) -> bool:
        """Give a lease ahead to a busy worker, if one may have it.

        It lets features be computed, and PCM be on its way, while the device decodes, but only a full batch is worth
        tying to one worker, and only while there is as much for the others: with less, whoever is free first takes it.
        """
        ready = len(self.ready)
        crowd = self.sizing.crowd(free, busy)
        able = [worker for worker in busy if _may_hold_more(worker, self.sizing.credit(worker))]
        for worker in sorted(able, key=lambda worker: len(worker.leases)):
            share = self.sizing.share(worker, ready, crowd)
            if min(share, ready) < self.sizing.limit(worker):
                continue
            if size := self.sizing.bounded(worker, share, ready, now):
                self._lease(worker, size, now)
                return True
        return False

    def unloaded(self, identity: str, now: float) -> None:
        """Note that a worker has freed its model's memory: it has to be loaded before the next answer."""
        worker = self._worker_table.current(identity)
        if worker is None or not worker.is_loaded:
            return  # said a second time it gives no more time: its answer may have been lost
        worker = self._worker_table.put(replace(worker, is_loaded=False))
        for lease_id in worker.leases:  # sent while it made up its mind
            lease = self.leases[lease_id]
            due_at = lease.due_at + self.policy.start_timeout_s
            self.leases[lease_id] = replace(lease, begun_at=NEVER, due_at=due_at)
        if worker.leases:
            self._begin(worker, now)

    def _able(self, idle: list[Worker]) -> list[Worker]:
        """Return who of the idle may have the next lease.

        The last attempt at a segment is for a worker that did well last time, while there is one: a bad device must not
        bury what a healthy one could decode.
        """
        steady = [worker for worker in idle if not worker.failures]
        if len(steady) == len(idle) or (key := self.ready.next_suspect) is None:
            return idle
        if self._live_jobs.segments[key.job][key.index].losses + 1 < self.policy.attempts:
            return idle
        is_any_steady = any(
            worker.state in {WorkerState.IDLE, WorkerState.BUSY} and not worker.failures
            for worker in self._worker_table.of(Role.TRANSCRIBE)
        )
        return steady if is_any_steady else idle

    def received(self, identity: str, lease_id: int, now: float) -> None:
        """Note that a lease has reached its worker: its time to run begins when it is its turn."""
        worker = self._worker_table.current(identity)
        if worker is not None and lease_id in worker.leases and not self.leases[lease_id].is_received:
            self.leases[lease_id] = replace(self.leases[lease_id], is_received=True, due_at=NEVER)
            self._begin(worker, now)

    def settle(self, identity: str, lease_id: int, now: float, *, is_done: bool) -> Lease | None:
        """Take an answered lease from its worker; None, and a note for the log, when it is not current.

        One that was done tells how fast the worker is.
        """
        worker = self._worker_table.current(identity)
        if worker is None or lease_id not in worker.leases:
            self._out.append(ResultStale(worker=identity, lease=lease_id))
            return None
        lease = self.leases.pop(lease_id)
        pace = self.sizing.learned(worker, lease, now) if is_done else worker.pace
        left = tuple(other for other in worker.leases if other != lease_id)
        due = self._worker_table.leaving_due(now) if worker.state is WorkerState.DRAINING else NEVER
        worker = replace(worker, leases=left, heard_at=now, due_at=due, is_loaded=True, pace=pace)
        worker = self._begin(worker, now) if left else self._worker_table.put(worker)
        if not left and worker.state is WorkerState.BUSY:
            self._worker_table.move(worker, WorkerEvent.REPLIED)
        elif not left and worker.is_remote:
            self._out.append(Send(identity, Drain()))
        return lease

    def claim(self, lease: Lease, key: SegmentKey) -> Segment | None:
        """Take a segment out of a lease for its result; None when it is not in it any more."""
        if self._lease_of.get(key) != lease.id:
            return None
        del self._lease_of[key]
        return self._live_jobs.find(key)

    def release(self, worker: Worker) -> Iterator[tuple[Lease, bool]]:
        """Take all leases from a worker that is lost; yield each, and whether it was being worked on."""
        self._worker_table.put(replace(worker, leases=()))
        for place, lease_id in enumerate(worker.leases):
            lease = self.leases.pop(lease_id)
            yield lease, lease.is_received and place < worker.streams

    def give_back(self, lease: Lease, cause: str, *, is_blamed: bool) -> set[str]:
        """Make the segments of a lease that have no result ready again; bury those that were lost too often.

        Returns the jobs concerned.
        """
        lost = [key for key in lease.keys if self._lease_of.get(key) == lease.id]
        if lost:
            self._out.append(LeaseLost(lease=lease, cause=cause))
        for key in lost:
            del self._lease_of[key]
            segment = self._live_jobs.segments[key.job][key.index]
            losses = segment.losses + is_blamed
            if losses >= self.policy.attempts:
                self._live_jobs.move_segment(
                    segment, SegmentEvent.EXHAUSTED, losses=losses, cause=cause, has_pcm=False
                )
            else:
                back = self._live_jobs.move_segment(segment, SegmentEvent.LOST, losses=losses, cause=cause)
                self.make_ready(back)
        return {key.job for key in lost}

    def _lease(self, worker: Worker, size: int, now: float) -> None:
        self._last_id += 1
        items, samples, pcm_samples, windows = [], 0, 0, 0
        for key in self.ready.take(size):
            segment = self._live_jobs.segments[key.job][key.index]
            job = self._live_jobs.jobs[key.job]
            asked = job.options.language
            language = job.language if asked == "auto" else None if asked == "multi" else asked
            self._live_jobs.move_segment(segment, SegmentEvent.LEASED, worker=worker.identity)
            self._lease_of[key] = self._last_id
            items.append(
                LeaseItem(
                    key=key,
                    language=language,
                    task=job.options.task,
                    is_translated_too=job.options.is_translated_too,
                    initial_prompt=job.options.initial_prompt,
                    hotwords=job.options.hotwords,
                )
            )
            samples += segment.samples * job.options.passes
            pcm_samples += segment.samples
            windows += job.options.passes
        lease = Lease(
            id=self._last_id,
            worker=worker.identity,
            keys=tuple(item.key for item in items),
            samples=samples,
            windows=windows,
            pcm_bytes=pcm_samples * BYTES_PER_SAMPLE,
            is_received=not worker.is_remote,
        )
        self.leases[lease.id] = lease
        worker = self._begin(replace(worker, leases=(*worker.leases, lease.id)), now)
        if worker.state is WorkerState.IDLE:
            self._worker_table.move(worker, WorkerEvent.ASSIGNED)
        message = Transcribe(lease=lease.id, items=tuple(items), word_timestamps=job.options.word_timestamps)
        self._out.append(SendLease(lease=lease, message=message))

    def _begin(self, worker: Worker, now: float) -> Worker:
        """Store a worker with leases; the time to run of those whose turn has come begins.

        Those under way to another host have their time to arrive, one after the other.
        """
        loading_s = 0.0 if worker.is_loaded else self.policy.start_timeout_s
        due = NEVER
        under_way_bytes = 0
        for place, lease_id in enumerate(worker.leases):
            lease = self.leases[lease_id]
            if not lease.is_received:
                under_way_bytes += lease.pcm_bytes
            if lease.due_at == NEVER and not lease.is_received:
                due_at = now + time_to_arrive(self.policy, under_way_bytes) + loading_s
                lease = self.leases[lease_id] = replace(lease, due_at=due_at)
            elif lease.due_at == NEVER and place < worker.streams:
                due_at = now + time_to_run(self.policy, lease.samples) + loading_s
                begun_at = now if worker.is_loaded else NEVER
                lease = self.leases[lease_id] = replace(lease, due_at=due_at, begun_at=begun_at)
            due = min(due, lease.due_at)
        return self._worker_table.put(replace(worker, due_at=due))


def _has_free_stream(worker: Worker) -> bool:
    return worker.state is WorkerState.BUSY and not worker.failures and len(worker.leases) < worker.streams


def _may_hold_more(worker: Worker, credit: int) -> bool:
    return worker.state is WorkerState.BUSY and not worker.failures and len(worker.leases) < credit
