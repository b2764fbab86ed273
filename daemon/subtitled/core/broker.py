"""The scheduler: events in, actions out.

    file ─► SendPrepare ─► Prepared… ─► [ready queue] ─► SendLease ─► Transcribed ─► WriteOutputs ─► OutputsWritten

The broker reads no clock and touches no socket, file or thread: `handle(events, now)` returns actions; `tick(now)` returns
the actions that time requires, and when to call it next. State that must survive is among the actions as `Save…`; the
server commits those before it performs the others.

Invariants, kept with `prepare_dispatch`, `lease_dispatch`, `job_lifecycle` and `worker_loss`:
- a segment that is not final is in the ready queue, or in exactly one lease, or waits for its PCM;
- a result counts only if its lease is current and the segment is still in it;
- a lease belongs to a live worker, within its credit and (on another host) within the bytes that may be in flight; it
  ends by reply, refusal, loss of the worker, time limit, or a new session of its worker;
- an identity is used once, so late messages of a lost worker are recognised;
- a live job that makes no progress waits for a worker of the right role, or until the folder of its file answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, assert_never

from msgspec.structs import replace

from subtitled.config.model_choice import DEFAULT_MODEL
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.actions import Action, SaveJob, SavePause, WriteFailure, WriteOutputs
from subtitled.core.job_lifecycle import JobLifecycle
from subtitled.core.lease_dispatch import LeaseDispatch
from subtitled.core.live_jobs import BYTES_PER_SAMPLE, LiveJobs
from subtitled.core.model_placement import ModelSpec
from subtitled.core.plan import Plan, PlanSettings
from subtitled.core.policy import Policy
from subtitled.core.prepare_dispatch import PrepareDispatch
from subtitled.core.queue_order import places_beside, queue_entry
from subtitled.core.records import Feed, Job, Lease, ResidentModel, Role, SegmentKey, Worker
from subtitled.core.states import (
    JOB_LIVE,
    JobEvent,
    JobState,
    SegmentEvent,
    SegmentState,
    WorkerEvent,
    WorkerState,
)
from subtitled.core.worker_loss import WorkerLoss
from subtitled.core.worker_table import NEVER, WorkerTable

ENDED = (WorkerState.BACKOFF, WorkerState.BROKEN, WorkerState.STOPPED)
CHANGED = "the file changed while it was being processed; drop it again"


class Broker:
    """Jobs, segments, workers and leases, and what happens next."""

    def __init__(
        self,
        policy: Policy,
        *,
        plan_settings: PlanSettings | None = None,
        models: Iterable[ModelSpec] = (ModelSpec(),),
    ) -> None:
        self.plan_settings = plan_settings or PlanSettings()
        """The present settings for planning; a job keeps those of its first plan."""
        self.is_draining = False
        self.is_disk_full = False
        """No more files are started: there is no disk space for their results."""
        self.is_paused = False
        """An admin has paused the queue: nothing more is started, what is running ends."""
        self.window_samples: int | None = None
        """Window of the model; known when the first transcribe worker is ready."""
        self._out: list[Action] = []
        self.live_jobs = LiveJobs(self._out)
        self.worker_table = WorkerTable(policy, self._out)
        self.lease_dispatch = LeaseDispatch(policy, self.live_jobs, self.worker_table, self._out)
        self.placement = self.lease_dispatch.placement
        self.placement.configure(models)
        self.prepare_dispatch = PrepareDispatch(
            policy, self.live_jobs, self.worker_table, self.placement, self._out
        )
        self.lifecycle = JobLifecycle(self.live_jobs, self.prepare_dispatch, self.lease_dispatch, self._out)
        self.worker_loss = WorkerLoss(
            self.lifecycle,
            self.live_jobs,
            self.worker_table,
            self.prepare_dispatch,
            self.lease_dispatch,
            self._out,
        )

    def handle(self, events: Iterable[ev.Event], now: float) -> list[Action]:
        """Return the actions for some events, in order.

        Work is assigned once, after the last event, so segments that arrive together can be leased together.
        """
        for event in events:
            self._on(event, now)
        return self._assign(now)

    def tick(self, now: float) -> tuple[list[Action], float]:
        """Return the actions that time requires, and when to call again at the latest."""
        for worker, cause in self.worker_table.overdue(now):
            self.worker_loss.kill(worker, cause, now)
        self.worker_table.forget_gone(now)
        if not self.is_draining:
            self.worker_table.restart_due(now)
        actions = self._assign(now)
        wake_at = NEVER if self.is_draining else self.placement.wake_at
        return actions, min(self.worker_table.next_deadline(), wake_at)

    def restore(
        self, jobs: Iterable[tuple[Job, tuple[ev.SegmentRow, ...]]], now: float, *, is_paused: bool = False
    ) -> list[Action]:
        """Load the stored jobs after a restart; no worker is alive, no PCM is in memory. `is_paused`: the queue is paused."""
        self.is_paused = is_paused
        for job, rows in jobs:
            self.live_jobs.load_job(job, rows if job.state is not JobState.TRANSLATING else ())
            for segment in self.live_jobs.segments_in(job.id, SegmentState.LEASED):
                self.live_jobs.move_segment(segment, SegmentEvent.LOST, cause="the daemon was restarted")
            match job.state:
                case JobState.PREPARING:
                    self.prepare_dispatch.enqueue(self.live_jobs.move_job(job, JobEvent.LOST))
                case JobState.QUEUED:
                    self.prepare_dispatch.enqueue(job)
                case JobState.TRANSCRIBING:
                    self.lifecycle.advance(job.id)
                case JobState.WRITING:
                    self._out.append(WriteOutputs(job))
                case JobState.TRANSLATING:
                    self.lifecycle.plan_texts(job)
                case JobState.FAILED:
                    self._out.append(WriteFailure(job))
                case JobState.RECEIVING | JobState.DONE | JobState.CANCELLED:
                    pass
        return self._assign(now)

    def set_policy(self, policy: Policy) -> None:
        """Apply other limits to everything that starts from now on."""
        self.worker_table.policy = self.prepare_dispatch.policy = policy
        self.lease_dispatch.set_policy(policy)

    @property
    def is_idle(self) -> bool:
        """All workers have stopped; a draining daemon may end."""
        return all(worker.state is WorkerState.STOPPED for worker in self.worker_table.workers.values())

    def _assign(self, now: float) -> list[Action]:
        """Assign work to the workers that may have it, and return all actions."""
        self.prepare_dispatch.start_stop_timers(now)
        self.lease_dispatch.abandon_unneeded(now)
        if not self.is_draining:
            if self.window_samples is not None and not (self.is_disk_full or self.is_paused):
                settings = replace(self.plan_settings, window_samples=self.window_samples)
                for job in self.prepare_dispatch.assign(settings, now):
                    self.lifecycle.advance(job)
                while (stopped := self.prepare_dispatch.preempt(settings, now)) is not None:
                    self.worker_loss.requeue_file(stopped, "", is_blamed=False)
            self.lease_dispatch.assign(now, is_paused=self.is_paused)
            self._fail_jobs_without_model(now)
            self.prepare_dispatch.grant_credit()
        out = list(self._out)
        self._out.clear()
        return out

    # -- events ----------------------------------------------------------------------------------------------

    def _on(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.JobArrived(job=job):
                self.live_jobs.add_job(job)
                if job.state is JobState.QUEUED:
                    self.prepare_dispatch.enqueue(job)
            case ev.Uploaded(job=name, size=size, mtime_ns=mtime_ns, sha256=sha256, options=options):
                job = self.live_jobs.job(name)
                if event.source is not None:
                    self.live_jobs.rename_source(job, event.source)
                    job = self.live_jobs.job(name)
                changes = {
                    "size": size,
                    "mtime_ns": mtime_ns,
                    "sha256": sha256,
                    "options": options or job.options,
                }
                self.prepare_dispatch.enqueue(
                    self.live_jobs.move_job(job, JobEvent.UPLOADED, read=None, **changes)
                )
            case ev.PriorityChanged():
                self._on_queue_changed(event)
            case ev.JobMoved():
                self._on_job_moved(event)
            case ev.FailureDismissed(job=job):
                self._on_failure_dismissed(job)
            case ev.PauseRequested(is_paused=is_paused):
                if is_paused is not self.is_paused:
                    self.is_paused = is_paused
                    self._out.append(SavePause(is_paused))
            case ev.ModelRequested(model=name, workers=workers):
                self.placement.request(name, workers)
            case ev.UploadExpired(job=name, cause=cause):
                self.live_jobs.move_job(self.live_jobs.job(name), JobEvent.EXPIRED, cause=cause)
                self.lifecycle.forget(name)
            case ev.DownloadFailed(job=name, cause=cause):
                self.lifecycle.fail(self.live_jobs.job(name), JobEvent.DOWNLOAD_FAILED, cause)
            case ev.SlotAdded(slot=slot, role=role):
                if not self.is_draining:
                    self.worker_table.add(slot, role, now)
            case ev.SlotRemoved(slot=slot):
                self.worker_loss.drain(
                    self.worker_table.workers[slot], now, "slot removed from the configuration"
                )
            case ev.SlotReset(slot=slot):
                self.worker_table.reset(self.worker_table.workers[slot], now)
            case ev.WorkerJoined():
                self._on_joined(event, now)
            case ev.LinkMeasured(worker=identity, round_trip_s=round_trip_s, bytes_per_s=bytes_per_s):
                if worker := self.worker_table.current(identity):
                    self.worker_table.measured(worker, round_trip_s=round_trip_s, bytes_per_s=bytes_per_s)
            case ev.MessageReceived(worker=identity, message=message):
                self._on_message(identity, message, now)
            case ev.WorkerExited():
                self._on_exited(event, now)
            case ev.OutputsWritten(job=name, location=location, unheard=unheard):
                self.lifecycle.written(name, location, unheard)
            case ev.WriteFailed(job=name, cause=cause):
                self.lifecycle.fail(self.live_jobs.job(name), JobEvent.WRITE_FAILED, cause)
            case ev.FailureWritten(job=name, location=location):
                self.live_jobs.change_job(self.live_jobs.job(name), location=location, is_closed=True)
                self.lifecycle.forget(name)
            case ev.TranslationRequested():
                self.lifecycle.translate(event)
            case ev.TranslationsPlanned():
                self.lifecycle.texts_planned(event)
            case ev.TranslationsWritten(job=name, number=number):
                self.lifecycle.translations_written(name, number)
            case ev.SourceRenamed(job=name, source=source):
                live = self.live_jobs.jobs.get(name)
                if live is not None and live.job.location == live.job.source:
                    self.live_jobs.rename_source(live.job, source)
            case ev.FileChecked(job=name):
                live = self.live_jobs.jobs.get(name)
                self.worker_loss.file_checked(live.job if live else None, event)
            case ev.CancelRequested(job=name):
                self._on_cancel(name)
            case ev.RetryRequested():
                self._on_retry(event)
            case ev.ModelsChanged(models=models):
                self.placement.configure(models)
                self.prepare_dispatch.release_models()
            case ev.DiskSpaceChanged(is_enough=is_enough):
                self.is_disk_full = not is_enough
            case ev.DrainRequested():
                self.is_draining = True
                for worker in list(self.worker_table.workers.values()):
                    self.worker_loss.drain(worker, now, "the daemon stops")
            case _:
                assert_never(event)

    def _on_message(self, identity: str, message: pr.FromWorker, now: float) -> None:
        worker = self.worker_table.current(identity)
        if worker is not None:
            worker = self.worker_table.seen(worker, now)
        match message:
            case (
                pr.PlanComplete(feed=feed)
                | pr.PrepareRefused(feed=feed)
                | pr.AlreadySubtitled(feed=feed)
                | pr.FileAbandoned(feed=feed)
                | pr.FileUnavailable(feed=feed)
            ) if self.prepare_dispatch.stopped(identity, feed):
                pass
            case pr.Heartbeat(leases=leases) if leases:
                self.lease_dispatch.progressed(identity, leases, now)
            case pr.WorkerReady():
                if worker is not None and worker.state is WorkerState.STARTING:
                    self._on_ready(worker, message, now)
            case pr.WorkerLeaving(cause=cause):
                if worker is not None:
                    self.worker_loss.leave(worker, now, cause)
            case pr.LeaseReceived(lease=lease):
                self.lease_dispatch.lease_received(identity, lease, now)
            case pr.ModelUnloaded(model=model):
                self.lease_dispatch.model_unloaded(identity, model, now)
            case pr.SegmentsTranscribed(lease=lease, items=items):
                running = self.lease_dispatch.current(identity, lease)
                if running is not None:
                    self.lifecycle.advance_all(self._add_results(running, items))
            case pr.Transcribed():
                self._on_transcribed(identity, message, now)
            case pr.Translated():
                self._on_translated(identity, message, now)
            case pr.LeaseRefused():
                self._on_lease_refused(identity, message, now)
            case pr.LeaseAbandoned():
                self._on_lease_abandoned(identity, message, now)
            case pr.Heartbeat(feed=feed) | pr.Prepared(feed=feed) | pr.PlanComplete(feed=feed):
                if (found := self.prepare_dispatch.find(identity, feed)) is not None:
                    self._on_read(*found, message, now)
            case pr.PrepareRefused(feed=feed) | pr.AlreadySubtitled(feed=feed):
                if (found := self.prepare_dispatch.find(identity, feed)) is not None:
                    self._on_not_read(*found, message)
            case pr.FileUnavailable(feed=feed, cause=cause):
                if (found := self.prepare_dispatch.find(identity, feed)) is not None:
                    self.worker_loss.file_unavailable(found[0], self.live_jobs.job(found[1].job), cause)
            case pr.JoinSession() | pr.Echo() | pr.ExitReason() | pr.DownloadProgress() | pr.FileAbandoned():
                pass  # signs of life; the listener handles all but the last
            case _:
                assert_never(message)

    def _on_joined(self, event: ev.WorkerJoined, now: float) -> None:
        known = self.worker_table.workers.get(event.slot)
        if self.is_draining:
            return
        if known is not None:
            known = self.worker_loss.rejoined(known, is_alive=event.previous == known.identity, now=now)
        if known is None or known.state is not WorkerState.BROKEN:
            self.worker_table.join(event.slot, now)

    def _on_ready(self, worker: Worker, ready: pr.WorkerReady, now: float) -> None:
        if worker.role is Role.TRANSCRIBE:
            self.placement.worker_ready(worker, ready.stale_models, has_default=ready.has_default)
        if ready.window_samples is not None:
            self.window_samples = min(self.window_samples or ready.window_samples, ready.window_samples)
        self.worker_table.move(
            worker,
            WorkerEvent.READY,
            credit=ready.credit,
            streams=ready.streams,
            models=self._models_of(worker, ready, now),
            stale_models=ready.stale_models,
            loading=None,
            reserved=None,
            free_bytes=ready.free_bytes,
            device=ready.device,
            is_cpu=ready.is_cpu,
            due_at=NEVER,
        )

    def _models_of(self, worker: Worker, ready: pr.WorkerReady, now: float) -> dict[str, ResidentModel]:
        """Return what a worker holds that has become ready, with the speed that is known of its last process."""
        if worker.role is Role.TRANSLATE:
            models = self.placement.models_of_endpoint(worker.slot)
            return {name: ResidentModel(batch_size=1, loaded_at=now, used_at=now) for name in models}
        if ready.window_samples is None or not ready.has_default:
            return {}
        default = pr.HeldModel(
            name=DEFAULT_MODEL,
            batch_size=ready.batch_size,
            load_s=ready.load_s,
            memory_bytes=ready.memory_bytes,
        )
        if default.load_s:
            self.placement.loaded(worker.slot, default, self.worker_table.policy.start_timeout_s)
        held = replace(
            worker.resident(DEFAULT_MODEL),
            batch_size=default.batch_size,
            streams=None,
            is_loaded=True,
            is_pinned=False,
            loaded_at=now,
            used_at=now,
        )
        return {DEFAULT_MODEL: held}

    def _on_exited(self, event: ev.WorkerExited, now: float) -> None:
        worker = self.worker_table.workers.get(event.worker.rpartition(".")[0])
        if worker is None or worker.identity != event.worker:
            return
        # Known already: a worker on another host joined again, or a killed one was reported before its process ended.
        if worker.state in ENDED:
            return
        gone = self.worker_loss.exited(
            worker, is_fatal=event.is_fatal, cause=event.cause, is_blamed=event.is_blamed, now=now
        )
        if self.is_draining and gone.state is WorkerState.BROKEN:  # it was lost before the drain
            self.worker_loss.drain(gone, now, "the daemon stops")

    def _on_read(
        self,
        worker: Worker,
        feed: Feed,
        message: pr.Heartbeat | pr.Prepared | pr.PlanComplete,
        now: float,
    ) -> None:
        match message:
            case pr.Heartbeat(decoded_samples=samples, is_waiting=is_waiting):
                self.prepare_dispatch.progressed(
                    worker, decoded_samples=samples, is_waiting=is_waiting, now=now
                )
            case pr.Prepared(plan=plan):
                self._on_prepared(worker, self.live_jobs.job(feed.job), plan, now)
            case pr.PlanComplete():
                self._on_plan_complete(worker, feed, message)

    def _on_prepared(self, worker: Worker, job: Job, plan: Plan, now: float) -> None:
        self.prepare_dispatch.received(worker, plan.samples * BYTES_PER_SAMPLE, now)
        segment = self.live_jobs.find(SegmentKey(job.id, plan.index))
        if segment is None:
            self.lease_dispatch.make_ready(self.live_jobs.add_segment(job, plan))
        elif segment.plan != plan:
            self.prepare_dispatch.abandon(job.id)
            self.lifecycle.fail(job, JobEvent.REJECTED, CHANGED)
        elif segment.state is SegmentState.PENDING and not segment.has_pcm:
            self.lease_dispatch.make_ready(self.live_jobs.add_pcm(segment))

    def _on_plan_complete(self, worker: Worker, feed: Feed, message: pr.PlanComplete) -> None:
        self.prepare_dispatch.finish(worker)
        self.worker_table.succeeded(worker.identity)
        job = self.live_jobs.job(feed.job)
        if job.state is JobState.PREPARING:
            is_silent = not self.live_jobs.jobs[job.id].segments and message.cues is None
            event = JobEvent.NO_SPEECH if is_silent else JobEvent.PLANNED
            language = {"language": message.language} if message.cues is not None else {}
            job = self.live_jobs.move_job(job, event, read=message, is_planned=True, **language)
            if is_silent:
                self._out.append(WriteOutputs(job))
        elif feed.missing is not None and feed.missing & self.live_jobs.jobs[job.id].missing_pcm:
            self.lifecycle.fail(job, JobEvent.REJECTED, CHANGED)
            return
        self.lifecycle.advance(job.id)

    def _on_not_read(
        self, worker: Worker, feed: Feed, message: pr.PrepareRefused | pr.AlreadySubtitled
    ) -> None:
        job = self.live_jobs.job(feed.job)
        options = job.options
        if isinstance(message, pr.PrepareRefused) and message.is_missing and (options.inbox or options.mount):
            self.worker_loss.file_unavailable(worker, job, message.cause, is_missing=True)
            return
        self.prepare_dispatch.finish(worker)
        self.worker_table.succeeded(worker.identity)
        if isinstance(message, pr.PrepareRefused):
            self.lifecycle.fail(job, JobEvent.REJECTED, message.cause)
            return
        self.lease_dispatch.remove_job(job.id)
        self.live_jobs.drop_segments(job.id)  # segments of a reading before a restart
        job = self.live_jobs.move_job(
            self.live_jobs.job(job.id), JobEvent.ALREADY_SUBTITLED, cause=message.cause
        )
        self._out.append(WriteOutputs(job))

    def _on_transcribed(self, identity: str, message: pr.Transcribed, now: float) -> None:
        lease = self.lease_dispatch.finish(identity, message, now)
        if lease is None:
            return
        if lease.keys:
            self.worker_table.succeeded(identity)
        answered = self._add_results(lease, message.items)
        left_out = self.lease_dispatch.requeue(lease, "the worker's reply left it out", is_blamed=True)
        self.lifecycle.advance_all(answered | left_out)

    def _add_results(self, lease: Lease, items: Iterable[pr.ItemResult]) -> set[str]:
        """Store the results of segments that are still in a lease; return their jobs."""
        jobs = set()
        for item in items:
            segment = self.lease_dispatch.claim(lease, item.key)
            if segment is not None:
                jobs.add(item.key.job)
                self.lifecycle.add_result(segment, item, lease.worker)
        return jobs

    def _on_translated(self, identity: str, message: pr.Translated, now: float) -> None:
        lease = self.lease_dispatch.finish(identity, message, now)
        if lease is None:
            return
        if lease.keys:
            self.worker_table.succeeded(identity)
        answered = set()
        for result in message.results:
            segment = self.lease_dispatch.claim(lease, result.key, len(result.sentences))
            if segment is not None:
                answered.add(result.key.job)
                self.lifecycle.add_translations(segment, result)
        left_out = self.lease_dispatch.requeue(lease, "the worker's reply left it out", is_blamed=True)
        self.lifecycle.advance_all(answered | left_out)

    def _on_lease_refused(self, identity: str, message: pr.LeaseRefused, now: float) -> None:
        lease = self.lease_dispatch.finish(identity, message, now)
        if lease is None:
            return
        if message.is_model_fault:
            slot, is_preload = identity.rpartition(".")[0], lease.is_load and not lease.keys
            self.placement.load_failed(slot, lease.model, message.cause, now, is_preload=is_preload)
            self.lifecycle.advance_all(self.lease_dispatch.requeue(lease, message.cause, is_blamed=False))
            return
        self.lifecycle.advance_all(self.lease_dispatch.requeue(lease, message.cause, is_blamed=True))
        if (worker := self.worker_table.refused(identity)) is not None:
            self.worker_loss.kill(worker, f"refused a lease: {message.cause}", now, is_blamed=False)

    def _on_lease_abandoned(self, identity: str, message: pr.LeaseAbandoned, now: float) -> None:
        lease = self.lease_dispatch.finish(identity, message, now)
        if lease is not None:
            jobs = self.lease_dispatch.requeue(lease, "its worker abandoned it", is_blamed=True)
            self.lifecycle.advance_all(jobs)

    def _fail_jobs_without_model(self, now: float) -> None:
        """Fail the queued jobs, and those with ready segments, whose model cannot be used."""
        for name, cause in self.prepare_dispatch.take_unusable().items():
            self.lifecycle.fail(self.live_jobs.job(name), JobEvent.REJECTED, cause)
        for model in self.lease_dispatch.ready.waiting():
            if cause := self.placement.obstacle(model, now):
                for name in self.lease_dispatch.ready.jobs_of(model):
                    job = self.live_jobs.job(name)
                    if job.state is JobState.TRANSLATING:
                        self.lifecycle.fail_texts(name, model, cause)
                    elif job.state in {JobState.PREPARING, JobState.TRANSCRIBING}:
                        self.lifecycle.fail(job, JobEvent.REJECTED, cause)

    def _on_queue_changed(self, event: ev.PriorityChanged) -> None:
        live = self.live_jobs.jobs.get(event.job)
        if live is None or live.job.state not in JOB_LIVE:
            return
        place = live.job.place if event.priority == live.job.priority else None
        self._reorder(live.job, changed_priority=event.priority, place=place)

    def _on_job_moved(self, event: ev.JobMoved) -> None:
        jobs = [live.job for name in (event.job, event.neighbour) if (live := self.live_jobs.jobs.get(name))]
        if (
            len(jobs) < 2
            or event.job == event.neighbour
            or any(job.state is not JobState.QUEUED for job in jobs)
        ):
            return
        job, neighbour = jobs
        place, others = places_beside(
            self.live_jobs.waiting, queue_entry(neighbour), is_after=event.is_after, moved=queue_entry(job)
        )
        for name, other_place in others.items():
            self._reorder(self.live_jobs.job(name), place=other_place)
        self._reorder(job, changed_priority=neighbour.priority, place=place)

    def _reorder(self, job: Job, **changes: object) -> None:
        """Change a job's priority and place in all queues."""
        changed = self.live_jobs.change_job(job, **changes)
        self.prepare_dispatch.move(job, changed)
        self.lifecycle.move(job, changed)
        self.lease_dispatch.ready.move(changed)

    def _on_failure_dismissed(self, stored: Job) -> None:
        if stored.id in self.live_jobs.jobs:  # its files are still written
            self.live_jobs.change_job(self.live_jobs.job(stored.id), is_dismissed=True)
        else:
            changed = replace(stored, is_dismissed=True)
            self._out.append(SaveJob(job=changed, before=changed.state, event=None))

    def _on_cancel(self, name: str) -> None:
        job = self.live_jobs.job(name)
        if job.state is JobState.TRANSLATING:
            self.lifecycle.cancel_texts(job)
        else:
            self.live_jobs.move_job(job, JobEvent.CANCEL)
        self.prepare_dispatch.cancel(job)
        self.lease_dispatch.remove_job(name)
        self.live_jobs.drop_segments(name)
        self.lifecycle.forget(name)

    def _on_retry(self, event: ev.RetryRequested) -> None:
        self.live_jobs.load_job(event.job, event.segments)
        changes: dict[str, Any] = {"cause": "", "is_closed": False, "is_dismissed": False}
        if event.job.is_download_missing:
            self.live_jobs.move_job(event.job, JobEvent.DOWNLOAD_AGAIN, **changes)
            return
        for segment in list(self.live_jobs.jobs[event.job.id].segments.values()):
            is_suspect = segment.state is SegmentState.PENDING and segment.losses > 0
            if segment.state is SegmentState.FAILED or is_suspect:
                self.live_jobs.move_segment(segment, SegmentEvent.RETRIED, losses=0, cause="")
        job = self.live_jobs.move_job(event.job, JobEvent.RETRY, losses=0, **changes)
        self.prepare_dispatch.enqueue(job)
