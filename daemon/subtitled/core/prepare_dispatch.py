"""Prepare workers and the files they read: which worker reads which file, and how much PCM it may send."""

from __future__ import annotations

import posixpath

from msgspec.structs import asdict, replace

from subtitled.core.actions import Action, CheckFile, SendMessage, SendPrepare, StopFileCheck
from subtitled.core.live_jobs import LiveJobs
from subtitled.core.model_placement import ModelPlacement
from subtitled.core.plan import PlanSettings
from subtitled.core.policy import Policy
from subtitled.core.protocol import Abandon, FeedCredit, Prepare
from subtitled.core.queue_order import Entry, QueueOrder, queue_entry
from subtitled.core.records import Feed, Job, Role, Worker
from subtitled.core.states import JobEvent, JobState, SegmentState, WorkerEvent, WorkerState
from subtitled.core.worker_table import NEVER, WorkerTable
from subtitled.languages import named_language

GRANT_BYTES = 4 * 2**20
"""Credit given to a prepare worker at a time; a segment has at most 960,000 bytes."""

_WAITING_STATES = frozenset({JobState.QUEUED, JobState.TRANSCRIBING})
"""States in which the file of a job may wait to be read, or to be read again."""
_READ_STATES = _WAITING_STATES | {JobState.PREPARING}
"""States in which it is read, or waits to be."""


class PrepareDispatch:
    """Each file is read by one prepare worker at a time, within a credit of bytes."""

    def __init__(
        self,
        policy: Policy,
        live_jobs: LiveJobs,
        worker_table: WorkerTable,
        placement: ModelPlacement,
        out: list[Action],
    ) -> None:
        self.policy = policy
        self._placement = placement
        self._live_jobs = live_jobs
        self._worker_table = worker_table
        self._out = out
        self._slot_of: dict[str, str] = {}
        """Job → slot of the prepare worker that reads its file."""
        self._queue = QueueOrder()
        """Jobs that wait for a prepare worker, by priority and order; may have jobs that no longer wait."""
        self._unread = QueueOrder()
        """Queued jobs whose file was not read at all yet, by priority and size; likewise."""
        self._held: dict[bytes, dict[str, None]] = {}
        """Folder that may not answer → jobs with files in it; they are queued when it answers."""
        self._check_of: dict[bytes, str] = {}
        """Such a folder → the job whose file is checked."""
        self._awaiting: dict[str, dict[str, None]] = {}
        """Model that is being downloaded → jobs that name it; they are queued when it is here."""
        self._unusable: dict[str, str] = {}
        """Jobs whose model cannot be used, and why."""
        self._last_id = 0

    def enqueue(self, job: Job) -> None:
        """Queue a job for a prepare worker, unless one reads its file already, or its folder does not answer."""
        if (held := self._held.get(_folder_of(job))) is not None:
            held[job.id] = None
        elif job.id not in self._slot_of:
            self._queue.add(queue_entry(job))
            if self._is_unread(job.id):
                self._unread.add(_unread_entry(job))

    def move(self, before: Job, job: Job) -> None:
        """Apply a job's changed priority and place."""
        if self._queue.discard(queue_entry(before)):
            self._unread.discard(_unread_entry(before))
            self.enqueue(job)

    def hold_folder(self, job: Job, suspicion: str = "", *, is_missing: bool = False) -> None:
        """Start no file of this job's folder until the folder answers; `suspicion`, `is_missing`: see CheckFile."""
        folder = _folder_of(job)
        if folder not in self._held:
            self._held[folder] = {}
            self._check_of[folder] = job.id
            self._out.append(CheckFile(job=job, folder=folder, suspicion=suspicion, is_missing=is_missing))

    def is_folder_held(self, job: Job) -> bool:
        """Return whether the folder of a job's file may not answer."""
        return _folder_of(job) in self._held

    def release_folder(self, folder: bytes) -> None:
        """Queue the jobs with files in a folder that answers again."""
        self._check_of.pop(folder, None)
        for name in self._held.pop(folder, ()):
            live = self._live_jobs.jobs.get(name)
            if live is not None and live.job.state in _WAITING_STATES:
                self.enqueue(live.job)

    def cancel(self, job: Job) -> None:
        """Stop reading the file of a cancelled job; if its folder is checked for it, check it for another job or no more."""
        self._queue.discard(queue_entry(job))
        self._unread.discard(_unread_entry(job))
        self.abandon(job.id)
        folder = _folder_of(job)
        if (held := self._held.get(folder)) is None:
            return
        held.pop(job.id, None)
        if self._check_of[folder] != job.id:
            return
        self._out.append(StopFileCheck(folder=folder))
        for name in (*held, *self._slot_of):
            live = self._live_jobs.jobs.get(name)
            if live is not None and _folder_of(live.job) == folder and live.job.state in _READ_STATES:
                self._check_of[folder] = name
                self._out.append(CheckFile(job=live.job, folder=folder, suspicion=""))
                return
        self.release_folder(folder)

    def release_models(self) -> None:
        """Queue the jobs whose model was downloaded, or cannot be used."""
        for model in [model for model in self._awaiting if not self._placement.is_awaited(model)]:
            for name in self._awaiting.pop(model):
                live = self._live_jobs.jobs.get(name)
                if live is not None and live.job.state in _WAITING_STATES:
                    self.enqueue(self._live_jobs.change_job(live.job, cause=""))

    def take_unusable(self) -> dict[str, str]:
        """Return, once, the jobs that were queued and whose model cannot be used, and why."""
        unusable, self._unusable = self._unusable, {}
        return unusable

    def feed_of(self, job: str) -> Feed | None:
        """Return the feed of the worker that reads a job's file, or None."""
        slot = self._slot_of.get(job)
        return self._worker_table.workers[slot].feed if slot is not None else None

    def find(self, identity: str, feed: int) -> tuple[Worker, Feed] | None:
        """Return the worker and its feed if the worker is alive and this feed is its current one."""
        worker = self._worker_table.current(identity)
        if worker is None or worker.feed is None or worker.feed.id != feed or worker.feed.is_abandoned:
            return None
        return worker, worker.feed

    def stopped(self, identity: str, feed: int) -> bool:
        """Record the final message for a feed; False unless that was abandoned."""
        worker = self._worker_table.current(identity)
        if worker is None or worker.feed is None or worker.feed.id != feed or not worker.feed.is_abandoned:
            return False
        self.finish(worker)
        return True

    def start_stop_timers(self, now: float) -> None:
        """Limit the time of the workers that have to stop reading a file."""
        for worker in self._worker_table.of(Role.PREPARE):
            if worker.feed is not None and worker.feed.is_abandoned and worker.due_at == NEVER:
                self._worker_table.put(replace(worker, due_at=now + self.policy.abandon_s))

    def assign(self, settings: PlanSettings, now: float) -> list[str]:
        """Give files to idle prepare workers; return the queued jobs that need no reading."""
        complete: list[str] = []
        for worker in self._worker_table.idle(Role.PREPARE):
            # A file comes with its first credit: ten thousand short files are limited like one long one.
            while (
                self._queue and self._has_room(0, self._unused_credit()) and (job := self._next()) is not None
            ):
                if job.state is JobState.QUEUED:
                    event = JobEvent.RESUME if job.is_planned else JobEvent.LEASED
                    job = self._live_jobs.move_job(job, event, plan_settings=job.plan_settings or settings)
                missing = frozenset(self._live_jobs.jobs[job.id].missing_pcm) if job.is_planned else None
                if job.is_planned and not missing:
                    complete.append(job.id)
                    continue
                self._start(worker, job, missing, now)
                break
        return complete

    def preempt(self, settings: PlanSettings, now: float) -> Job | None:
        """Start an unread file that is smaller or more urgent in place of one whose worker waits for credit.

        Returns the job whose file was stopped, for the caller to queue again; None if there is no such pair. The stopped
        job has PCM in memory to continue with, and its file is not unread any more: it preempts no other.
        """
        while self._unread and not self._is_unread(self._unread.first[3]):
            self._unread.pop_first()
        if not self._unread or self._worker_table.idle(Role.PREPARE):
            return None
        job = self._live_jobs.job(self._unread.first[3])
        unused = self._unused_credit()
        if not self._has_room(0, unused):
            return None
        blocked = (self._blocked_job(worker, unused) for worker in self._worker_table.of(Role.PREPARE))
        others = [other for other in blocked if other is not None and _may_preempt(job, other)]
        if not others:
            return None
        other = max(others, key=lambda one: (-one.priority, one.size))
        slot = self._slot_of[other.id]
        self._unread.pop_first()
        self.abandon(other.id)
        # It waits for credit, so it stops at once: its message is not waited for.
        self.finish(self._worker_table.workers[slot])
        job = self._live_jobs.move_job(job, JobEvent.LEASED, plan_settings=job.plan_settings or settings)
        self._start(self._worker_table.workers[slot], job, None, now)
        return other

    def progressed(self, worker: Worker, *, decoded_samples: int, is_waiting: bool, now: float) -> None:
        """Record a worker's progress; waiting for credit counts as progress."""
        feed = worker.feed
        if feed is None:
            return
        has_moved = is_waiting or feed.is_waiting or decoded_samples != feed.decoded_samples
        progressed_at = now if has_moved else feed.progressed_at
        feed = replace(
            feed, decoded_samples=decoded_samples, is_waiting=is_waiting, progressed_at=progressed_at
        )
        self._worker_table.put(replace(worker, feed=feed))

    def received(self, worker: Worker, pcm_bytes: int, now: float) -> None:
        """Subtract received PCM from a worker's credit."""
        if worker.feed is not None:
            received = worker.feed.received_bytes + pcm_bytes
            feed = replace(worker.feed, received_bytes=received, progressed_at=now)
            self._worker_table.put(replace(worker, feed=feed))

    def finish(self, worker: Worker) -> None:
        """Make a worker that has read its file idle again."""
        if worker.feed is not None:
            if not worker.feed.is_abandoned:
                del self._slot_of[worker.feed.job]
            is_limited = worker.feed.is_abandoned and worker.state is WorkerState.BUSY
            due_at = NEVER if is_limited else worker.due_at
            worker = self._worker_table.put(replace(worker, feed=None, due_at=due_at))
        if worker.state is WorkerState.BUSY:
            self._worker_table.move(worker, WorkerEvent.REPLIED)

    def abandon(self, job: str) -> None:
        """Stop reading a job's file, if a worker reads it; the worker is idle once it has stopped."""
        slot = self._slot_of.pop(job, None)
        if slot is not None and (feed := self._worker_table.workers[slot].feed) is not None:
            worker = self._worker_table.workers[slot]
            self._out.append(SendMessage(worker.identity, Abandon(feed=feed.id)))
            self._worker_table.put(replace(worker, feed=replace(feed, is_abandoned=True)))

    def release(self, worker: Worker) -> Feed | None:
        """Take the file from a lost worker, and return its feed; None without one, or if it was abandoned."""
        feed = worker.feed
        if feed is None:
            return None
        self._worker_table.put(replace(worker, feed=None))
        if feed.is_abandoned:
            return None
        del self._slot_of[feed.job]
        return feed

    def grant_credit(self) -> None:
        """Give prepare workers more credit, as far as the memory for PCM allows."""
        unused = self._unused_credit()
        for worker in self._worker_table.of(Role.PREPARE):
            feed = worker.feed
            if feed is None or feed.is_abandoned or feed.unused_bytes >= GRANT_BYTES // 2:
                continue
            if self._has_room(self._live_jobs.jobs[feed.job].pcm_bytes + feed.unused_bytes, unused):
                unused += GRANT_BYTES
                granted = replace(feed, granted_bytes=feed.granted_bytes + GRANT_BYTES)
                self._worker_table.put(replace(worker, feed=granted))
                self._out.append(SendMessage(worker.identity, FeedCredit(feed=feed.id, bytes=GRANT_BYTES)))

    def _is_unread(self, name: str) -> bool:
        """Return whether a job is queued, and no segment of its file is known."""
        live = self._live_jobs.jobs.get(name)
        if live is None or live.job.state is not JobState.QUEUED or _folder_of(live.job) in self._held:
            return False
        models = live.job.options.models
        if any(self._placement.is_awaited(model) or self._placement.fault(model) for model in models):
            return False
        return not live.job.is_planned and not live.segments

    def _blocked_job(self, worker: Worker, unused_bytes: int) -> Job | None:
        """Return the job whose file a worker cannot read further for lack of credit."""
        feed = worker.feed
        if worker.state is not WorkerState.BUSY or feed is None or feed.is_abandoned:
            return None
        if not feed.is_waiting or feed.unused_bytes:
            return None
        live = self._live_jobs.jobs[feed.job]
        return None if self._has_room(live.pcm_bytes, unused_bytes) else live.job

    def _unused_credit(self) -> int:
        """Return the bytes that all workers may still send."""
        feeds = (worker.feed for worker in self._worker_table.of(Role.PREPARE))
        return sum(feed.unused_bytes for feed in feeds if feed and not feed.is_abandoned)

    def _has_room(self, own_bytes: int, unused_bytes: int) -> bool:
        """Return whether a file with `own_bytes` of PCM in memory or granted may have one grant more.

        The grant fits into the queue, or into the file's floor: a file that fills the queue cannot block another. All
        floors together are bounded, since files that are read to the end leave their PCM in memory.
        """
        total = self._live_jobs.queued_bytes + unused_bytes + GRANT_BYTES
        if total <= self.policy.queue_bytes:
            return True
        floor = self.policy.feed_floor_bytes
        floors = floor * sum(1 for _ in self._worker_table.of(Role.PREPARE))
        return own_bytes + GRANT_BYTES <= floor and total <= self.policy.queue_bytes + floors

    def _next(self) -> Job | None:
        while self._queue:
            *_, name = self._queue.pop_first()
            live = self._live_jobs.jobs.get(name)
            if live is None or name in self._slot_of:
                continue
            if (held := self._held.get(_folder_of(live.job))) is not None:
                held[name] = None
                continue
            if live.job.state not in _WAITING_STATES:
                continue
            models = live.job.options.models
            if fault := next(filter(None, map(self._placement.fault, models)), ""):
                self._unusable[name] = fault
                continue
            if (model := next(filter(self._placement.is_awaited, models), None)) is not None:
                self._awaiting.setdefault(model, {})[name] = None
                self._live_jobs.change_job(live.job, cause=f'waiting for the download of the model "{model}"')
                continue
            if live.job.state is JobState.QUEUED:
                return live.job
            if live.job.state is JobState.TRANSCRIBING and live.missing_pcm:
                return live.job
        return None

    def _start(self, worker: Worker, job: Job, missing: frozenset[int] | None, now: float) -> None:
        segments = self._live_jobs.jobs[job.id].segments
        self._last_id += 1
        feed = Feed(
            id=self._last_id, job=job.id, missing=missing, granted_bytes=GRANT_BYTES, progressed_at=now
        )
        worker = self._worker_table.put(replace(worker, feed=feed))
        self._worker_table.move(worker, WorkerEvent.ASSIGNED)
        self._slot_of[job.id] = worker.slot
        done = (i for i, s in segments.items() if s.has_pcm or s.state is not SegmentState.PENDING)
        message = Prepare(
            feed=feed.id,
            path=job.location,
            root=job.options.inbox,
            include=job.options.include,
            exclude=job.options.exclude,
            size=job.size,
            mtime_ns=job.mtime_ns,
            settings=_settings_of(job),
            language=named_language(job.options.language),
            audio_track=job.options.audio_track,
            channels=job.options.channels,
            plans=None if missing is None else tuple(segments[index].plan for index in sorted(missing)),
            done=frozenset(done),
            credit_bytes=GRANT_BYTES,
            is_subtitle_file=job.is_subtitle_file,
        )
        self._out.append(SendPrepare(worker=worker.identity, job=job, message=message))


def _settings_of(job: Job) -> PlanSettings:
    """Return the settings of a job's plan: the daemon's when it was first planned, overridden by the job's own."""
    own = {key: value for key, value in asdict(job.options.vad).items() if value is not None}
    return replace(job.plan_settings or PlanSettings(), **own)


def _unread_entry(job: Job) -> Entry:
    return (-job.priority, job.size, job.order, job.id)


def _folder_of(job: Job) -> bytes:
    """Return the folder that a job's file waits for: its inbox or a mount inside, or the folder of a submitted file."""
    folder, mount = job.options.inbox or posixpath.dirname(job.location), job.options.mount
    return mount if mount.startswith(folder + b"/") else folder


def _may_preempt(job: Job, other: Job) -> bool:
    """Return whether a job's file may stop the other's: more urgent, or as urgent and at most half as large.

    Half, so that files of about the same size do not preempt each other.
    """
    one, two = job.priority, other.priority
    return one > two or (one == two and 2 * job.size <= other.size)
