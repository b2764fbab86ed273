"""Prepare workers and the files they read: who reads what, and how much PCM may be under way."""

from __future__ import annotations

import heapq

from msgspec.structs import asdict, replace

from subtitled.core.actions import Action, Send, SendPrepare
from subtitled.core.live_jobs import LiveJobs
from subtitled.core.plan import PlanSettings
from subtitled.core.policy import Policy
from subtitled.core.protocol import Abandon, FeedCredit, Prepare
from subtitled.core.records import Feed, Job, Role, Worker
from subtitled.core.states import JobEvent, JobState, SegmentState, WorkerEvent, WorkerState
from subtitled.core.worker_table import WorkerTable

GRANT_BYTES = 4 * 2**20
"""Credit given to a prepare worker at a time; a segment has at most 960,000 bytes."""


class PrepareDispatch:
    """Each file is read by one prepare worker at a time, within a credit of bytes."""

    def __init__(
        self, policy: Policy, live_jobs: LiveJobs, worker_table: WorkerTable, out: list[Action]
    ) -> None:
        self.policy = policy
        self._live_jobs = live_jobs
        self._worker_table = worker_table
        self._out = out
        self._slots: dict[str, str] = {}
        """Job → slot of the prepare worker that reads its file."""
        self._unfed: list[tuple[int, int, str]] = []
        """Heap of jobs that wait for a prepare worker; may name jobs that no longer do."""
        self._fresh: list[tuple[int, int, int, str]] = []
        """Heap of those that nothing was read of yet, the smallest file of the most urgent first; likewise."""
        self._last_id = 0

    def want(self, job: Job) -> None:
        """Put a job in line for a prepare worker, unless one reads its file already."""
        if job.id not in self._slots:
            heapq.heappush(self._unfed, (-job.options.priority, job.order, job.id))
            if self._is_fresh(job.id):
                heapq.heappush(self._fresh, (-job.options.priority, job.size, job.order, job.id))

    def feeder(self, identity: str, feed: int) -> tuple[Worker, Feed] | None:
        """Return the worker and its feed if the worker is alive and this feed is its current one."""
        worker = self._worker_table.current(identity)
        if worker is None or worker.feed is None or worker.feed.id != feed:
            return None
        return worker, worker.feed

    def assign(self, settings: PlanSettings, now: float) -> list[str]:
        """Give files to idle prepare workers; return the jobs that turned out to need none."""
        complete: list[str] = []
        for worker in self._worker_table.idle(Role.PREPARE):
            # A file comes with its first credit: ten thousand short files are held back like one long one.
            while self._unfed and self._is_room(0, self._promised()) and (job := self._next()) is not None:
                if job.state is JobState.QUEUED:
                    event = JobEvent.RESUME if job.is_planned else JobEvent.LEASED
                    job = self._live_jobs.move_job(job, event, plan_settings=job.plan_settings or settings)
                wanted = frozenset(self._live_jobs.starved[job.id]) if job.is_planned else None
                if job.is_planned and not wanted:
                    complete.append(job.id)
                    continue
                self._start(worker, job, wanted, now)
                break
        return complete

    def swap(self, settings: PlanSettings, now: float) -> Job | None:
        """Have a smaller file, or a more urgent one, read in the place of one that only waits for credit.

        Returns the job whose file was put away, for the caller to put back in line; None when nothing is to be gained.
        What is put away has its PCM in memory to be going on with; a file that was put away displaces no other, so that
        each displaces one at most.
        """
        while self._fresh and not self._is_fresh(self._fresh[0][3]):
            heapq.heappop(self._fresh)
        if not self._fresh or self._worker_table.idle(Role.PREPARE):
            return None
        job = self._live_jobs.jobs[self._fresh[0][3]]
        promised = self._promised()
        if not self._is_room(0, promised):
            return None
        held_up = (self._held_up(worker, promised) for worker in self._worker_table.of(Role.PREPARE))
        others = [other for other in held_up if other is not None and _goes_before(job, other)]
        if not others:
            return None
        other = max(others, key=lambda one: (-one.options.priority, one.size))
        slot = self._slots[other.id]
        heapq.heappop(self._fresh)
        self.abandon(other.id)
        job = self._live_jobs.move_job(job, JobEvent.LEASED, plan_settings=job.plan_settings or settings)
        self._start(self._worker_table.workers[slot], job, None, now)
        return other

    def progressed(self, worker: Worker, *, decoded_samples: int, is_waiting: bool, now: float) -> None:
        """Note how far a worker is; waiting for credit counts as progress."""
        feed = worker.feed
        if feed is None:
            return
        has_moved = is_waiting or feed.is_waiting or decoded_samples > feed.decoded_samples
        progressed_at = now if has_moved else feed.progressed_at
        feed = replace(
            feed, decoded_samples=decoded_samples, is_waiting=is_waiting, progressed_at=progressed_at
        )
        self._worker_table.put(replace(worker, feed=feed))

    def received(self, worker: Worker, pcm_bytes: int, now: float) -> None:
        """Take received PCM off a worker's credit."""
        if worker.feed is not None:
            received = worker.feed.received_bytes + pcm_bytes
            feed = replace(worker.feed, received_bytes=received, progressed_at=now)
            self._worker_table.put(replace(worker, feed=feed))

    def finish(self, worker: Worker) -> None:
        """Make a worker that has read its file idle again."""
        if worker.feed is not None:
            self._slots.pop(worker.feed.job, None)
            worker = self._worker_table.put(replace(worker, feed=None))
        if worker.state is WorkerState.BUSY:
            self._worker_table.move(worker, WorkerEvent.REPLIED)

    def abandon(self, job: str) -> None:
        """Stop reading a job's file, if a worker does."""
        slot = self._slots.get(job)
        if slot is not None:
            worker = self._worker_table.workers[slot]
            if worker.feed is not None:
                self._out.append(Send(worker.identity, Abandon(feed=worker.feed.id)))
            self.finish(worker)

    def release(self, worker: Worker) -> Feed | None:
        """Take the file from a worker that is lost; return what it was reading."""
        feed = worker.feed
        if feed is not None:
            del self._slots[feed.job]
            self._worker_table.put(replace(worker, feed=None))
        return feed

    def grant_credit(self) -> None:
        """Let the prepare workers send on, as far as the memory for PCM goes."""
        promised = self._promised()
        for worker in self._worker_table.of(Role.PREPARE):
            feed = worker.feed
            if feed is None or (ahead := _ahead(feed)) >= GRANT_BYTES // 2:
                continue
            if self._is_room(self._live_jobs.pcm_bytes[feed.job] + ahead, promised):
                promised += GRANT_BYTES
                granted = replace(feed, granted_bytes=feed.granted_bytes + GRANT_BYTES)
                self._worker_table.put(replace(worker, feed=granted))
                self._out.append(Send(worker.identity, FeedCredit(feed=feed.id, bytes=GRANT_BYTES)))

    def _is_fresh(self, name: str) -> bool:
        """Say whether a job is in line, and nothing of its file was read yet."""
        job = self._live_jobs.jobs.get(name)
        return (
            job is not None
            and job.state is JobState.QUEUED
            and not job.is_planned
            and not self._live_jobs.segments[name]
        )

    def _held_up(self, worker: Worker, promised_bytes: int) -> Job | None:
        """Return the job whose file a worker cannot go on reading for want of credit."""
        feed = worker.feed
        if worker.state is not WorkerState.BUSY or feed is None or not feed.is_waiting or _ahead(feed):
            return None
        if self._is_room(self._live_jobs.pcm_bytes[feed.job], promised_bytes):
            return None
        return self._live_jobs.jobs[feed.job]

    def _promised(self) -> int:
        """Return the bytes that all workers may still send."""
        return sum(_ahead(worker.feed) for worker in self._worker_table.of(Role.PREPARE) if worker.feed)

    def _is_room(self, own_bytes: int, promised_bytes: int) -> bool:
        """Say whether a file that has `own_bytes` in memory, or promised, may have a grant more.

        It fits into the queue, or into the file's floor: one that fills the queue cannot shut out another. All floors
        together are bounded, since files that are read to the end leave their PCM behind.
        """
        total = self._live_jobs.queued_bytes + promised_bytes + GRANT_BYTES
        if total <= self.policy.queue_bytes:
            return True
        floor = self.policy.feed_floor_bytes
        floors = floor * sum(1 for _ in self._worker_table.of(Role.PREPARE))
        return own_bytes + GRANT_BYTES <= floor and total <= self.policy.queue_bytes + floors

    def _next(self) -> Job | None:
        while self._unfed:
            _, _, name = heapq.heappop(self._unfed)
            job = self._live_jobs.jobs.get(name)
            if job is None or name in self._slots:
                continue
            if job.state is JobState.QUEUED:
                return job
            if job.state is JobState.TRANSCRIBING and self._live_jobs.starved[name]:
                return job
        return None

    def _start(self, worker: Worker, job: Job, wanted: frozenset[int] | None, now: float) -> None:
        segments = self._live_jobs.segments[job.id]
        self._last_id += 1
        feed = Feed(id=self._last_id, job=job.id, wanted=wanted, granted_bytes=GRANT_BYTES, progressed_at=now)
        worker = self._worker_table.put(replace(worker, feed=feed))
        self._worker_table.move(worker, WorkerEvent.ASSIGNED)
        self._slots[job.id] = worker.slot
        language = job.options.language
        done = (i for i, s in segments.items() if s.has_pcm or s.state is not SegmentState.PENDING)
        self._out.append(
            SendPrepare(
                worker=worker.identity,
                job=job,
                message=Prepare(
                    feed=feed.id,
                    path=job.location,
                    size=job.size,
                    mtime_ns=job.mtime_ns,
                    settings=_settings_of(job),
                    language=None if language in {"auto", "multi"} else language,
                    plans=None if wanted is None else tuple(segments[index].plan for index in sorted(wanted)),
                    done=frozenset(done),
                    credit_bytes=GRANT_BYTES,
                ),
            )
        )


def _settings_of(job: Job) -> PlanSettings:
    """Return the settings of a job's plan: the daemon's when it was first planned, overridden by the job's own."""
    own = {key: value for key, value in asdict(job.options.vad).items() if value is not None}
    return replace(job.plan_settings or PlanSettings(), **own)


def _goes_before(job: Job, other: Job) -> bool:
    """Say whether a job's file is worth putting away the other's: more urgent, or as urgent and at most half as large.

    Half, so that of many files alike none displaces another.
    """
    one, two = job.options.priority, other.options.priority
    return one > two or (one == two and 2 * job.size <= other.size)


def _ahead(feed: Feed) -> int:
    """Return the credit that was granted and not used; the last segment may have overdrawn it."""
    return max(0, feed.granted_bytes - feed.received_bytes)
