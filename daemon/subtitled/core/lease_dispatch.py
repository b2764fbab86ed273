"""Transcribe workers and their leases: which segments are ready, which worker has them, until when."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from functools import partial
from typing import Any

from msgspec.structs import replace

from subtitle.messages import WordTimestamps
from subtitled.config.model_choice import DEFAULT_MODEL
from subtitled.core import protocol as pr
from subtitled.core.actions import Action, LeaseLost, ResultStale, SendLease, SendMessage
from subtitled.core.fair_queue import ReadyQueue
from subtitled.core.lease_sizing import LeaseSizing
from subtitled.core.live_jobs import BYTES_PER_SAMPLE, LiveJobs
from subtitled.core.model_placement import ModelLoad, ModelPlacement
from subtitled.core.policy import EXPECTED_TIMES, MAX_LIMITS, Policy, time_to_arrive, time_to_run
from subtitled.core.records import Lease, Segment, SegmentKey, Worker
from subtitled.core.states import AT_WORK, SegmentEvent, WorkerEvent, WorkerState
from subtitled.core.worker_table import NEVER, WorkerTable

MAX_DOUBLINGS = 4
"""Maximum number of times that losses double the time limit of a lease."""


class LeaseDispatch:
    """Each ready segment is in the queue or in exactly one lease of one live worker."""

    def __init__(
        self, policy: Policy, live_jobs: LiveJobs, worker_table: WorkerTable, out: list[Action]
    ) -> None:
        self.policy = policy
        self.ready = ReadyQueue()
        self.leases: dict[int, Lease] = {}
        self.placement = ModelPlacement(policy, worker_table, self.ready)
        self._sizing: dict[str, LeaseSizing] = {}
        """Sizing of the leases of each model, by its name."""
        self._live_jobs = live_jobs
        self._worker_table = worker_table
        self._out = out
        self._lease_of: dict[SegmentKey, int] = {}
        self._reduced: set[int] = set()
        """Leases that have lost segments since the last `abandon_unneeded`."""
        self._last_id = 0

    def set_policy(self, policy: Policy) -> None:
        """Apply other limits to everything that starts from now on."""
        self.policy = self.placement.policy = policy
        for sizing in self._sizing.values():
            sizing.policy = policy

    def sizing(self, model: str = DEFAULT_MODEL) -> LeaseSizing:
        """Return the sizing of a model's leases."""
        if model not in self._sizing:
            holders = partial(self.placement.holders, model)
            self._sizing[model] = LeaseSizing(self.policy, model, holders, self.leases)
        return self._sizing[model]

    def make_ready(self, segment: Segment) -> None:
        """Queue a pending segment whose PCM is in memory."""
        self.ready.add(self._live_jobs.job(segment.key.job), segment)

    def remove_job(self, job: str) -> None:
        """Take a job's segments out of the queue and out of their leases; later results for them are dropped."""
        self.ready.remove_job(job)
        live = self._live_jobs.jobs.get(job)
        for index in live.segments if live is not None else ():
            if (lease_id := self._lease_of.pop(SegmentKey(job, index), None)) is not None:
                self._reduced.add(lease_id)

    def abandon_unneeded(self, now: float) -> None:
        """Abandon the leases of which no segment is needed any more."""
        for lease_id in sorted(self._reduced):
            lease = self.leases.get(lease_id)
            if lease is None or any(self._lease_of.get(key) == lease_id for key in lease.keys):
                continue
            worker = self._worker_table.current(lease.worker)
            if worker is None or lease.is_abandoned:
                continue
            self._out.append(SendMessage(lease.worker, pr.AbandonLease(lease=lease_id)))
            is_started = lease.is_received and worker.leases.index(lease_id) < worker.streams
            due_at = NEVER if is_started and not _may_stop_late(worker) else lease.due_at
            self.leases[lease_id] = replace(lease, is_abandoned=True, due_at=due_at)
            self._start_timers(worker, now)
        self._reduced.clear()

    def progressed(self, identity: str, progress: Iterable[pr.LeaseProgress], now: float) -> None:
        """Record the reported steps of a worker's leases; each new step restarts the lease's time limit."""
        worker = self._worker_table.current(identity)
        for reported in progress:
            lease = self.leases.get(reported.lease)
            if worker is None or lease is None or lease.worker != identity or reported.steps <= lease.steps:
                continue
            is_running = lease.is_received and lease.due_at < NEVER and not lease.is_abandoned
            due_at = min(now + lease.limit_s, lease.stop_at) if is_running else lease.due_at
            self.leases[lease.id] = replace(lease, steps=reported.steps, due_at=due_at)
            worker = self._start_timers(worker, now)

    def overdue(self, worker: Worker, now: float) -> list[Lease]:
        """Return the leases of a worker that have exceeded their time limits."""
        leases = (self.leases[lease_id] for lease_id in worker.leases)
        return [lease for lease in leases if now >= lease.due_at]

    def assign(self, now: float, *, is_paused: bool = False) -> None:
        """Lease the ready segments to workers that may hold a lease; `is_paused`: models are loaded, no segment is leased."""
        self._free_models(is_paused=is_paused)
        for identity, name, is_kept in self.placement.pin_changes():
            self._out.append(SendMessage(identity, pr.KeepModel(model=name, is_kept=is_kept)))
        if not self.ready and not self.placement.has_preloads:
            self.placement.wake_at = NEVER
            return
        for load in self.placement.plan(now, is_paused=is_paused):
            self._lease_with_load(load, now)
        if is_paused:
            return
        for model in self.ready.waiting():
            self.sizing(model).compare_speeds(now)
        while True:
            emptied = self._to_be_emptied()
            if not any(self._assign_one(model, emptied, now) for model in self.ready.waiting()):
                return

    def _free_models(self, *, is_paused: bool) -> None:
        """Have models unloaded that an admin has unloaded, once neither a lease nor a segment that may be leased needs them."""
        for identity, names in list(self.placement.to_unload.items()):
            worker = self._worker_table.current(identity)
            if worker is None or worker.state not in AT_WORK:
                del self.placement.to_unload[identity]
                continue
            needed = {self.leases[lease_id].model for lease_id in worker.leases}
            if not is_paused:
                needed |= self.ready.waiting().keys()
            for name in sorted(names - needed):
                if worker.has_in_memory(name):
                    self._out.append(SendMessage(identity, pr.FreeModel(model=name)))
                if worker.holds(name):
                    worker = self._worker_table.put(worker.with_model(name, is_pinned=False))
            if not names & needed:
                del self.placement.to_unload[identity]
            else:
                self.placement.to_unload[identity] = names & needed

    def batch_size(self, lease: Lease) -> int:
        """Return how many segments the worker of a lease decodes at once."""
        worker = self._worker_table.workers[lease.worker.rpartition(".")[0]]
        return self.sizing(lease.model).batch_size(worker)

    def _assign_one(self, model: str, emptied: Collection[str], now: float) -> bool:
        """Lease the next segments of a model; return whether there was a worker for them.

        Workers in the slots `emptied` are to have none but the last attempt at a segment.
        """
        is_last = self._is_alone(model)
        workers = [w for w in self.placement.holders(model) if is_last or w.slot not in emptied]
        # An idle worker goes before one with a free stream.
        free = [w for w in self.placement.idle_holders(model) if is_last or w.slot not in emptied]
        if not free and not is_last:
            free = [w for w in workers if len(w.leases) < w.streams and self._may_have_another(w, model)]
        busy = [w for w in workers if w.state is WorkerState.BUSY and w not in free]
        return self._lease_to_free(model, free, busy, now, is_last=is_last) or self._lease_ahead(
            model, free, busy, now, is_last=is_last
        )

    def _is_last_attempt(self, model: str) -> bool:
        """Return whether the next lease of a model is the last attempt at a segment that was lost before."""
        key = self.ready.next_suspect(model)
        return key is not None and self._live_jobs.segment(key).losses + 1 >= self.policy.attempts

    def _is_alone(self, model: str) -> bool:
        """Return whether the next lease of a model must not have others beside it; text cannot end an endpoint's worker."""
        return not self.placement.is_endpoint(model) and self._is_last_attempt(model)

    def _to_be_emptied(self) -> set[str]:
        """Return the slots of workers that get no lease until they are idle, for the last attempt at a segment.

        It is made without other leases beside it, which would be blamed for its worker's end. A worker that a model before it
        in the queue may have is not emptied.
        """
        slots: set[str] = set()
        earlier: set[str] = set()
        for model in self.ready.waiting():
            holders = list(self.placement.holders(model))
            if self._is_alone(model) and not self._eligible(model, self.placement.idle_holders(model)):
                able = [worker for worker in holders if worker.state is WorkerState.BUSY]
                able = [worker for worker in able if _is_reliable(worker)] or able
                free = [worker for worker in able if worker.slot not in earlier]
                if free and all(worker.streams > 1 for worker in able):
                    slots.add(min(free, key=lambda worker: (len(worker.leases), worker.slot)).slot)
            earlier |= {worker.slot for worker in holders}
        return slots

    def _lease_to_free(
        self, model: str, free: list[Worker], busy: list[Worker], now: float, *, is_last: bool
    ) -> bool:
        """Lease to a worker that starts it at once; return whether there was one."""
        ready, sizing = self.ready.count(model), self.sizing(model)
        streams = sizing.streams(free, busy, now)
        for worker in sizing.fastest_first(self._eligible(model, free)):
            # A worker that failed last time gets one segment first: it can fail no more than that.
            share = 1 if worker.failures else sizing.share(worker, ready, streams, now)
            if size := 1 if is_last else sizing.bounded(worker, share, ready, now):
                self._lease(worker, model, size, now)
                return True
        return False

    def _lease_ahead(
        self, model: str, free: list[Worker], busy: list[Worker], now: float, *, is_last: bool
    ) -> bool:
        """Lease ahead to a busy worker; return whether there was one.

        Its features are computed, and its PCM is sent, while the device decodes. Only a full batch is tied to one worker,
        and only while the others have as much: with less, the next free worker takes it.
        """
        ready, sizing = self.ready.count(model), self.sizing(model)
        streams = sizing.streams(free, busy, now)
        able = [w for w in busy if len(w.leases) < sizing.credit(w) and self._may_have_another(w, model)]
        if is_last:
            able = [worker for worker in able if worker.streams == 1]
        for worker in sorted(able, key=lambda worker: len(worker.leases)):
            share = sizing.share(worker, ready, streams, now)
            if min(share, ready) < sizing.limit(worker):
                continue
            if size := sizing.bounded(worker, share, ready, now):
                self._lease(worker, model, size, now)
                return True
        return False

    def _lease_with_load(self, load: ModelLoad, now: float) -> None:
        """Lease segments to an idle worker that has to load their model first; none if it is only to be loaded."""
        worker, name = self._worker_table.workers[load.slot], load.spec.name
        count = 0 if load.is_preload else self.ready.count(name)
        if not count and not (load.is_preload and self.placement.is_preload_missing(name)):
            return  # an earlier load of this call took them
        if not self._eligible(name, [worker]):
            return
        size = min(1 if worker.failures else self.sizing(name).limit(worker), count)
        worker = worker.without_models(load.evict)
        stale = tuple(other for other in worker.stale_models if other != name)
        worker = replace(worker, loading=name, stale_models=stale)
        is_pinned = self.placement.is_kept_after_load(name)
        loading = worker.with_model(name, is_loaded=False, is_pinned=is_pinned, loaded_at=now)
        self._lease(loading, name, size, now, load)

    def _with_changed_models(
        self, worker: Worker, lease: Lease, answer: pr.LeaseAnswer, now: float
    ) -> Worker:
        """Return a worker with the models that it holds after a lease; another model than the lease's in `loaded` is ignored."""
        loaded = answer.loaded if answer.loaded is not None and answer.loaded.name == lease.model else None
        is_fault = isinstance(answer, pr.LeaseRefused) and answer.is_model_fault
        is_unknown = (
            lease.is_load and loaded is None and not isinstance(answer, (pr.Transcribed, pr.Translated))
        )
        if is_fault or is_unknown:
            worker = worker.without_models([lease.model])
        elif loaded is not None:
            if loaded.load_s and lease.is_load:
                took_s = now - worker.resident(lease.model).loaded_at  # since the lease was sent
                self.placement.loaded(worker.slot, loaded, took_s)
            if lease.model in worker.models:
                worker = worker.with_model(lease.model, batch_size=loaded.batch_size, streams=loaded.streams)
            elif lease.model not in worker.stale_models:  # the configuration was changed meanwhile
                worker = worker.without_models([lease.model])
        evicted = {*answer.evicted, *(lease.evict if loaded is not None else ())}
        if answer.evicted:
            self.placement.evicted(worker.slot, lease.model)
        self.placement.displaced(worker.slot, evicted, now)
        if loaded is not None or evicted or answer.free_bytes is not None:
            worker = replace(worker, free_bytes=answer.free_bytes)
        return worker.without_models(evicted, is_in_memory=False) if evicted else worker

    def model_unloaded(self, identity: str, model: str, now: float) -> None:
        """Record that a worker has unloaded a model, after `model.idle_unload_s` without work or for an admin.

        The answers of its leases include loading it again.
        """
        worker = self._worker_table.current(identity)
        if worker is not None and model in worker.stale_models:
            stale = tuple(name for name in worker.stale_models if name != model)
            worker = self._worker_table.put(replace(worker, stale_models=stale))
        if worker is None or model not in worker.models or not worker.models[model].is_loaded:
            return  # a repeated message gives no more time
        free_bytes = worker.free_bytes
        if free_bytes is not None:
            free_bytes += self.placement.memory_bytes(model, worker.slot)
        worker = self._worker_table.put(
            replace(worker.with_model(model, is_loaded=False, is_pinned=False), free_bytes=free_bytes)
        )
        for lease_id in worker.leases:  # sent before it unloaded
            lease = self.leases[lease_id]
            if lease.model != model:
                continue
            due_at = lease.due_at + self.policy.start_timeout_s
            self.leases[lease_id] = replace(lease, begun_at=NEVER, due_at=due_at)
        if worker.leases:
            self._start_timers(worker, now)

    def _eligible(self, model: str, idle: list[Worker]) -> list[Worker]:
        """Return the idle workers that may have the next lease.

        The last attempt at a segment goes to a reliable worker, while there is one: a faulty or hostile worker must not
        fail a segment that another one can decode.
        """
        reliable = [worker for worker in idle if _is_reliable(worker)]
        if len(reliable) == len(idle) or not self._is_last_attempt(model):
            return idle
        is_any_reliable = any(
            worker.state in {WorkerState.IDLE, WorkerState.BUSY} and _is_reliable(worker)
            for worker in self.placement.holders(model)
        )
        return reliable if is_any_reliable else idle

    def lease_received(self, identity: str, lease_id: int, now: float) -> None:
        """Record that a lease has reached its worker: its time limit starts when the worker gets to it."""
        worker = self._worker_table.current(identity)
        if worker is not None and lease_id in worker.leases and not self.leases[lease_id].is_received:
            self.leases[lease_id] = replace(self.leases[lease_id], is_received=True, due_at=NEVER)
            self._start_timers(worker, now)

    def current(self, identity: str, lease_id: int) -> Lease | None:
        """Return a lease that a worker holds; None, with a ResultStale, if it does not hold it (any more)."""
        worker = self._worker_table.current(identity)
        if worker is None or lease_id not in worker.leases:
            self._out.append(ResultStale(worker=identity, lease=lease_id))
            return None
        return self.leases[lease_id]

    def finish(self, identity: str, answer: pr.LeaseAnswer, now: float) -> Lease | None:
        """Take an answered lease from its worker; None, with a ResultStale, if it is not current.

        A lease that is done measures the worker's throughput.
        """
        lease_id, is_done = answer.lease, isinstance(answer, (pr.Transcribed, pr.Translated))
        lease = self.current(identity, lease_id)
        worker = self._worker_table.current(identity)
        if lease is None or worker is None:
            return None
        del self.leases[lease_id]
        worker = self._with_changed_models(worker, lease, answer, now)
        held = worker.resident(lease.model)
        throughput = (
            self.sizing(lease.model).updated_throughput(worker, lease, now)
            if is_done and lease.keys
            else held.throughput
        )
        left = tuple(other for other in worker.leases if other != lease_id)
        due = self._worker_table.leaving_due(now) if worker.state is WorkerState.DRAINING else NEVER
        loading = None if lease.is_load else worker.loading
        worker = replace(worker, leases=left, seen_at=now, due_at=due, loading=loading)
        if lease.model in worker.models:
            is_loaded = held.is_loaded or is_done or answer.loaded is not None
            worker = worker.with_model(lease.model, is_loaded=is_loaded, used_at=now, throughput=throughput)
            if answer.loaded is not None and worker.holds(DEFAULT_MODEL):
                for name in worker.held_models:
                    worker = worker.with_model(name, is_kept=True)
        worker = self._start_timers(worker, now) if left else self._worker_table.put(worker)
        if not left and worker.state is WorkerState.BUSY:
            self._worker_table.move(worker, WorkerEvent.REPLIED)
        elif not left and worker.is_remote:
            self._out.append(SendMessage(identity, pr.Drain()))
        return lease

    def claim(self, lease: Lease, key: SegmentKey, sentences: int | None = None) -> Segment | None:
        """Take a segment out of a lease for its result; None if it is no longer in it.

        `sentences`: how many the result has, None for that of audio. A text segment needs a result for each of its sentences: a
        result of the other kind, or with another number, is not one of it.
        """
        segment = self._live_jobs.find(key)
        if self._lease_of.get(key) != lease.id or segment is None:
            return None
        if sentences != (None if segment.text is None else len(segment.text.keys)):
            return None
        del self._lease_of[key]
        return segment

    def release(self, worker: Worker) -> Iterator[tuple[Lease, bool]]:
        """Take all leases from a lost worker; yield each, and whether the worker was working on it."""
        self._worker_table.put(replace(worker, leases=(), loading=None, reserved=None))
        for place, lease_id in enumerate(worker.leases):
            lease = self.leases.pop(lease_id)
            yield lease, lease.is_received and place < worker.streams

    def requeue(self, lease: Lease, cause: str, *, is_blamed: bool) -> set[str]:
        """Queue the segments of a lease that have no result again; fail those that were lost too often.

        Returns their jobs.
        """
        lost = [key for key in lease.keys if self._lease_of.get(key) == lease.id]
        if lost:
            self._out.append(LeaseLost(lease=lease, cause=cause))
        for key in lost:
            del self._lease_of[key]
            segment = self._live_jobs.segment(key)
            losses = segment.losses + is_blamed
            if losses >= self.policy.attempts:
                self._live_jobs.move_segment(
                    segment, SegmentEvent.EXHAUSTED, losses=losses, cause=cause, has_pcm=False
                )
            else:
                back = self._live_jobs.move_segment(segment, SegmentEvent.LOST, losses=losses, cause=cause)
                self.make_ready(back)
        return {key.job for key in lost}

    def _lease(
        self, worker: Worker, model: str, size: int, now: float, load: ModelLoad | None = None
    ) -> None:
        self._last_id += 1
        items: list[pr.LeaseItem] = []
        texts: list[pr.TextItem] = []
        samples, pcm_samples, windows = 0, 0, 0
        word_timestamps: WordTimestamps = "auto"
        if load is not None:
            may_evict = load.may_evict
        else:
            may_evict = () if worker.leases else self.placement.may_evict(worker, model)
        is_alone = size > 0 and self._is_alone(model)
        keys = self.ready.take(size, model)
        if keys:
            self.placement.needed(model)
        for key in keys:
            segment = self._live_jobs.segment(key)
            if segment.text is not None:
                self._live_jobs.move_segment(segment, SegmentEvent.LEASED)
                self._lease_of[key] = self._last_id
                texts.append(pr.TextItem(key=key, request=segment.text.request))
                samples += segment.samples
                windows += 1
                continue
            job = self._live_jobs.job(key.job)
            asked = job.options.language
            is_transcribed = segment.transcript is not None
            language = job.language if asked == "auto" else asked
            if is_transcribed:  # it is translated from the language in which it was transcribed
                language = segment.language
            word_timestamps = job.options.word_timestamps
            self._live_jobs.move_segment(segment, SegmentEvent.LEASED, worker=worker.identity)
            self._lease_of[key] = self._last_id
            items.append(
                pr.LeaseItem(
                    key=key,
                    language=language,
                    is_language_given=asked not in {"auto", "multi"},
                    task="translate" if is_transcribed else job.options.task,
                    is_translated_too=job.options.passes > 1,
                    initial_prompt=job.options.initial_prompt,
                    hotwords=job.options.hotwords,
                    sound=segment.plan.sound(),
                )
            )
            samples += segment.samples * job.options.passes
            pcm_samples += segment.samples
            windows += job.options.passes
        lease = Lease(
            id=self._last_id,
            worker=worker.identity,
            model=model,
            is_load=load is not None,
            evict=load.evict if load is not None else (),
            keys=keys,
            samples=samples,
            windows=windows,
            pcm_bytes=pcm_samples * BYTES_PER_SAMPLE,
            is_received=not worker.is_remote,
            is_alone=is_alone,
        )
        self.leases[lease.id] = lease
        worker = replace(worker, leases=(*worker.leases, lease.id)).with_model(model, used_at=now)
        worker = self._start_timers(worker, now)
        if worker.state is WorkerState.IDLE:
            self._worker_table.move(worker, WorkerEvent.ASSIGNED)
        order: dict[str, Any] = {
            "lease": lease.id,
            "model": model,
            "is_load": load is not None,
            "is_kept": load is not None and worker.resident(model).is_pinned,
            "engine": load.spec.engine if load is not None else None,
            "evict": lease.evict,
            "may_evict": may_evict,
        }
        message = (
            pr.Translate(items=tuple(texts), **order)
            if texts or (load is not None and load.spec.is_for_text)
            else pr.Transcribe(items=tuple(items), word_timestamps=word_timestamps, **order)
        )
        self._out.append(SendLease(lease=lease, message=message))

    def _start_timers(self, worker: Worker, now: float) -> Worker:
        """Store a worker with leases, and start the time limits of those that it is working on.

        Leases in flight to another host have time limits to arrive, one after the other.
        """
        due = NEVER
        in_flight_bytes = 0
        for place, lease_id in enumerate(worker.leases):
            lease = self.leases[lease_id]
            is_loaded = worker.resident(lease.model).is_loaded
            loading_s = 0.0 if is_loaded else self.policy.start_timeout_s
            if not lease.is_received:
                in_flight_bytes += lease.pcm_bytes
            if lease.due_at == NEVER and not lease.is_received:
                due_at = now + time_to_arrive(self.policy, in_flight_bytes) + loading_s
                lease = self.leases[lease_id] = replace(lease, due_at=due_at)
            elif lease.due_at == NEVER and place < worker.streams and lease.is_abandoned:
                limit_s = self._limit_s(worker, lease) if _may_stop_late(worker) else self.policy.abandon_s
                lease = self.leases[lease_id] = replace(
                    lease, limit_s=limit_s, due_at=now + limit_s + loading_s
                )
            elif lease.due_at == NEVER and place < worker.streams:
                limit_s = self._limit_s(worker, lease) + loading_s
                lease = self.leases[lease_id] = replace(
                    lease,
                    limit_s=limit_s,
                    due_at=now + limit_s,
                    stop_at=now + MAX_LIMITS * limit_s,
                    begun_at=now if is_loaded else NEVER,
                    beside=min(len(worker.leases), worker.streams),
                )
            due = min(due, lease.due_at)
        return self._worker_table.put(replace(worker, due_at=due))

    def _may_have_another(self, worker: Worker, model: str) -> bool:
        """Return whether a busy worker may have a further lease of a model, to start it at once or to wait."""
        if worker.state is not WorkerState.BUSY or worker.failures:
            return False
        if worker.streams == 1:
            return True
        leases = [self.leases[lease_id] for lease_id in worker.leases]
        if any(lease.is_alone for lease in leases):
            return False
        # Each of as many leases as it has streams counts as started, and one that waits will be among them.
        streams = worker.streams_of(model)
        return streams == worker.streams or sum(lease.model == model for lease in leases) < streams

    def _limit_s(self, worker: Worker, lease: Lease) -> float:
        """Return the seconds that a lease may take without progress.

        They follow the worker's measured speed. Each attempt at a segment has twice the time: a machine that is too slow
        for the limit finishes at last.
        """
        limit_s = time_to_run(self.policy, lease.samples)
        throughput = worker.resident(lease.model).throughput
        if throughput.leases:
            limit_s = max(limit_s, EXPECTED_TIMES * throughput.seconds(lease.windows))
        segments = (self._live_jobs.find(key) for key in lease.keys)
        losses = max((segment.losses for segment in segments if segment is not None), default=0)
        return limit_s * 2.0 ** min(losses, MAX_DOUBLINGS)


def _may_stop_late(worker: Worker) -> bool:
    """Return whether an abandoned lease has its usual time limit: a CPU's other leases must not be lost for it.

    Encoding a window there may take longer than `abandon_s`. Its other streams work meanwhile.
    """
    return worker.is_cpu and worker.streams > 1


def _is_reliable(worker: Worker) -> bool:
    """Return whether a worker did well last time; a new one on another host has to finish a lease first."""
    return not worker.failures and (worker.has_finished_leases or not worker.is_remote)
