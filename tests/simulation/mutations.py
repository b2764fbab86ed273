"""Faults put into the core and the loop on purpose; the simulation has to find each."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import daemon_run
from msgspec import Struct
from msgspec.structs import replace

from subtitled.config.schema import Config
from subtitled.core import actions as ac
from subtitled.core import config_mapping
from subtitled.core import events as ev
from subtitled.core import lease_dispatch as leasing_module
from subtitled.core import lease_sizing as sizing_module
from subtitled.core import model_placement as placement_module
from subtitled.core import protocol as pr
from subtitled.core.broker import Broker
from subtitled.core.fair_queue import ReadyQueue
from subtitled.core.job_lifecycle import JobLifecycle
from subtitled.core.lease_dispatch import LeaseDispatch
from subtitled.core.lease_sizing import LeaseSizing
from subtitled.core.live_jobs import LiveJobs
from subtitled.core.model_placement import ModelPlacement, ModelSpec
from subtitled.core.prepare_dispatch import PrepareDispatch
from subtitled.core.records import Job, Lease, Role, Segment, SegmentKey, Worker
from subtitled.core.states import SegmentEvent, SegmentState, WorkerEvent, WorkerState
from subtitled.core.worker_loss import WorkerLoss
from subtitled.core.worker_table import NEVER, WorkerTable
from subtitled.errors import NoSpaceError
from subtitled.inboxes.arrivals import FoundFile, InboxArrivals
from subtitled.server.dispatch import Dispatcher
from subtitled.server.loop import Server
from subtitled.server.reconfiguration import Reconfiguration
from subtitled.server.shutdown import Shutdown
from subtitled.storage.durability import Transactions
from subtitled.storage.rows import JournalEntry
from subtitled.workers.local_listener import WorkerListener
from subtitled.workers.pcm_store import PcmStore
from subtitled.workers.remote_listener import RemoteListener
from subtitled.workers.resident_models import ResidentModels


class Mutation(Struct, frozen=True):
    """One fault: what is replaced, and by what."""

    name: str
    owner: Any
    attribute: str
    replacement: Any


def _release_nothing(_leasing: LeaseDispatch, _worker: Worker) -> Iterator[tuple[Lease, bool]]:
    return iter(())


def _claim_without_a_look(
    lease_dispatch: LeaseDispatch, _lease: Lease, key: SegmentKey, _sentences: int | None = None
) -> Segment | None:
    lease_dispatch._lease_of.pop(key, None)
    return lease_dispatch._live_jobs.find(key)


_on_transcribed = Broker._on_transcribed


def _accept_stale(broker: Broker, identity: str, message: pr.Transcribed, now: float) -> None:
    """Count a late reply for a lease that is not current, where the segment is leased again."""
    _on_transcribed(broker, identity, message, now)
    for item in message.items:
        segment = broker.live_jobs.find(item.key)
        if segment is not None and segment.state is SegmentState.LEASED:
            broker.lifecycle.add_result(segment, item, identity)
            broker.lifecycle.advance(item.key.job)


_requeue = LeaseDispatch.requeue


def _blame_nothing(lease_dispatch: LeaseDispatch, lease: Lease, cause: str, *, is_blamed: bool) -> set[str]:
    del is_blamed
    return _requeue(lease_dispatch, lease, cause, is_blamed=False)


def _requeue_nowhere(lease_dispatch: LeaseDispatch, lease: Lease, cause: str, *, is_blamed: bool) -> set[str]:
    """Forget to put what was lost in line again."""
    for key in lease.keys:
        if lease_dispatch._lease_of.pop(key, None):
            segment = lease_dispatch._live_jobs.segment(key)
            losses = segment.losses + is_blamed
            lease_dispatch._live_jobs.move_segment(segment, SegmentEvent.LOST, losses=losses, cause=cause)
    return {key.job for key in lease.keys}


def _change_unsaved(live_jobs: LiveJobs, job: Job, **changes: object) -> Job:
    changed = replace(job, **changes)
    live_jobs.jobs[job.id].job = changed
    return changed


_take = ReadyQueue.take


def _take_and_keep(queue: ReadyQueue, count: int, model: str = "") -> tuple[SegmentKey, ...]:
    """Leave the first segment of a lease in line for another one."""
    taken = _take(queue, count, model)
    if len(taken) > 1:
        queue._keys[taken[0]] = (False, None, "")
    return taken


_advance = JobLifecycle.advance


def _advance_when_planned(lifecycle: JobLifecycle, name: str) -> None:
    """Forget to ask again for PCM that an rejected segment has no more."""
    live = lifecycle._live_jobs.jobs.get(name)
    if live is None or not live.missing_pcm:
        _advance(lifecycle, name)


def _exited_and_wanted(worker_table: WorkerTable, worker: Worker, **how: Any) -> Worker:
    worker_table._leaving.clear()
    return _exited(worker_table, worker, **how)


def _exited_and_put_aside_for_ever(worker_table: WorkerTable, worker: Worker, **how: Any) -> Worker:
    gone = _exited(worker_table, worker, **how)
    return worker_table.put(replace(gone, due_at=NEVER)) if gone.state is WorkerState.BROKEN else gone


_exited = WorkerTable.exited
_start_again = WorkerTable._start_again


def _start_again_forgetful(worker_table: WorkerTable, worker: Worker, event: WorkerEvent, now: float) -> None:
    _start_again(worker_table, replace(worker, failures=0), event, now)


def _restart_the_hopeless(worker_table: WorkerTable, now: float) -> None:
    for worker in list(worker_table.workers.values()):
        if worker.state is WorkerState.BACKOFF and now >= worker.due_at:
            worker_table._start_again(worker, WorkerEvent.ELAPSED, now)
        elif worker.state is WorkerState.BROKEN:
            worker_table._start_again(worker, WorkerEvent.RESET, now)


_abandon = PrepareDispatch.abandon


def _abandon_in_silence(prepare_dispatch: PrepareDispatch, job: str) -> None:
    """Forget the file, and that its worker is free again."""
    slot = prepare_dispatch._slot_of.pop(job, None)
    if slot is not None:
        prepare_dispatch._worker_table.put(replace(prepare_dispatch._worker_table.workers[slot], feed=None))


def _rejoin_with_leases(worker_loss: WorkerLoss, worker: Worker, *, is_alive: bool, now: float) -> Worker:
    """Let a worker join again that still holds what its last session held."""
    del is_alive, now
    if worker.state in {WorkerState.STOPPED, WorkerState.BROKEN}:
        return worker
    return worker_loss._worker_table.move(worker, WorkerEvent.REPLACED, due_at=NEVER)


_join = WorkerTable.join
_forget_gone = WorkerTable.forget_gone
_overdue = WorkerTable.overdue
_bounded = LeaseSizing.bounded


def _join_as_the_first(worker_table: WorkerTable, slot: str, now: float) -> Worker:
    return worker_table.put(replace(_join(worker_table, slot, now), incarnation=1))


def _join_as_one_of_ours(worker_table: WorkerTable, slot: str, now: float) -> Worker:
    joined = _join(worker_table, slot, now)
    worker_table._leaving.discard(slot)
    return joined


def _forget_the_name_too(worker_table: WorkerTable, now: float) -> None:
    _forget_gone(worker_table, now)
    worker_table._last_forgotten = 0


def _overdue_on_this_host(worker_table: WorkerTable, now: float) -> Iterator[tuple[Worker, str]]:
    return ((worker, cause) for worker, cause in _overdue(worker_table, now) if not worker.is_remote)


def _bounded_to_nothing(sizing: LeaseSizing, worker: Worker, size: int, ready: int, now: float) -> int:
    return (
        0 if worker.is_remote and worker.has_finished_leases else _bounded(sizing, worker, size, ready, now)
    )


# -- in the loop -------------------------------------------------------------------------------------------------------


def _perform_before_commit(dispatcher: Dispatcher, actions: list[ac.Action]) -> None:
    for action in actions:
        dispatcher._perform(action)
    dispatcher._transactions.apply([action for action in actions if isinstance(action, ac.Save)])


def _commit_nothing_on_a_full_disk(transactions: Transactions, saves: list[ac.Save]) -> list[JournalEntry]:
    try:
        return transactions._store.apply(saves)
    except NoSpaceError:
        return []


_receive = WorkerListener.receive


def _receive_without_the_last(worker_listener: WorkerListener) -> tuple[list[ev.Event], list[SegmentKey]]:
    """Lose the last event of a turn in which several messages were received."""
    events, stored = _receive(worker_listener)
    return (events[:-1], stored) if len(events) > 2 else (events, stored)


def _handle_exit_at_once(server: Server, pidfd: int) -> None:
    """Collect a process without receiving its last messages."""
    end = server._supervisor.reap(pidfd)
    server._dispatcher.dispatch(ev.WorkerExited(worker=end.worker, is_fatal=end.is_fatal, cause=end.cause))
    server._reconfiguration.fill_slots()


_drain_mailbox = Server._drain_mailbox


def _drain_mailbox_for_files(server: Any) -> None:
    """Forget the callbacks that come with files in one turn."""
    items = server._parts.mailbox.items
    files = [item for item in items if isinstance(item, FoundFile)]
    if files:
        items.clear()
        items.extend(files)
    _drain_mailbox(server)


_send_lease = WorkerListener.send_lease


def _send_lease_and_forget(worker_listener: WorkerListener, lease: Lease, message: pr.Transcribe) -> None:
    """Drop the PCM of a lease when it is sent, before it is answered."""
    _send_lease(worker_listener, lease, message)
    for key in lease.keys:
        worker_listener.pcm.drop(key)


def _live_places(store: PcmStore, worker: str, _: int) -> tuple[int, ...]:
    """Report the places of segments that wait to be free."""
    file = store._file_of.get(worker)
    return tuple(file.live) if file is not None else ()


def _fill_no_slot_again(reconfiguration: Reconfiguration) -> None:
    """Forget that a slot may come back into the configuration."""
    known = reconfiguration._broker.worker_table.workers
    for slot, role in reconfiguration._workers.slots(has_model=True):
        if slot not in known:
            reconfiguration._dispatcher.dispatch(ev.SlotAdded(slot, role))


def _shut_down_at_once(shutdown: Shutdown, timeout_s: float) -> None:
    """End without the writing that is in progress."""
    shutdown.deadline = shutdown._clock() + timeout_s
    shutdown.finish()


# -- about models ------------------------------------------------------------------------------------------------------


def _due_after_its_work(
    placement: ModelPlacement, worker: Worker, name: str, waiting: Mapping[str, int]
) -> float:
    """Keep the models of a worker as long as it has work for them."""
    is_in_use = any(worker.holds(other) for other in waiting)
    return NEVER if is_in_use else _due_at(placement, worker, name, waiting)


def _take_of_any_model(queue: ReadyQueue, count: int, model: str = "") -> tuple[SegmentKey, ...]:
    """Lease whatever is next, by whatever model."""
    del model
    return _take(queue, count, next(iter(queue.waiting()), ""))


def _forget_evictions(
    lease_dispatch: LeaseDispatch, worker: Worker, lease: Lease, answer: pr.LeaseAnswer, now: float
) -> Worker:
    return _with_changed_models(lease_dispatch, worker, lease, replace(answer, evicted=()), now)


def _forget_the_reason(broker: Broker, identity: str, message: pr.LeaseRefused, now: float) -> None:
    """Blame the segments for a model that cannot be loaded."""
    _on_lease_refused(broker, identity, replace(message, is_model_fault=False), now)


def _configure_nothing_else(placement: ModelPlacement, specs: Iterable[ModelSpec]) -> None:
    """Lease the models that workers have loaded, whatever they are now."""
    placement.specs = {spec.name: spec for spec in specs}


def _specs_with_idle_unload(config: Config) -> tuple[ModelSpec, ...]:
    """Unload also preloaded models when they are idle."""
    return tuple(
        replace(spec, engine=replace(spec.engine, idle_unload_s=config.model.idle_unload_s))
        if spec.engine is not None
        else spec
        for spec in _model_specs(config)
    )


def _evict_anything(
    placement: ModelPlacement, worker: Worker, waiting: Collection[str], kept: Collection[str] = ()
) -> list[str]:
    """Unload the default model, and models with waiting segments, for a preload."""
    del kept
    return _evictable(placement, worker, waiting)


def _free_models_in_use(lease_dispatch: LeaseDispatch, *, is_paused: bool) -> None:
    """Have models unloaded that leases and waiting segments need."""
    del is_paused
    placement = lease_dispatch.placement
    for identity, names in placement.to_unload.items():
        if lease_dispatch._worker_table.current(identity) is not None:
            lease_dispatch._out += [ac.SendMessage(identity, pr.FreeModel(model=name)) for name in names]
    placement.to_unload.clear()


def _keep_without_room(placement: ModelPlacement, worker: Worker, name: str) -> bool:
    """Keep a preloaded model also if there is no room for the default model beside it."""
    return bool(placement.specs.get(name, ModelSpec()).preload) and worker.holds(name)


_due_at = ModelPlacement._due_at
_evictable = ModelPlacement._evictable
_model_specs = config_mapping.model_specs
_with_changed_models = LeaseDispatch._with_changed_models
_on_lease_refused = Broker._on_lease_refused

MODEL_MUTATIONS = (
    Mutation("a worker changes models at once", ModelPlacement, "_due_at", lambda *_: -NEVER),
    Mutation(
        "a worker keeps its models as long as it has work", ModelPlacement, "_due_at", _due_after_its_work
    ),
    Mutation("a lease has segments of another model", ReadyQueue, "take", _take_of_any_model),
    Mutation(
        "a worker is leased a model that it does not hold",
        placement_module,
        "_may_lease",
        lambda worker, _name: worker.reserved is None and worker.loading is None,
    ),
    Mutation("a preloaded model is unloaded", ModelPlacement, "_is_kept", lambda *_: False),
    Mutation(
        "a preloaded model is loaded with its first lease only",
        ModelPlacement,
        "is_preload_missing",
        lambda *_: False,
    ),
    Mutation(
        "a preloaded model is unloaded when it is idle", daemon_run, "model_specs", _specs_with_idle_unload
    ),
    Mutation("a preload unloads the default model", ModelPlacement, "_evictable", _evict_anything),
    Mutation("a model is unloaded while it is used", LeaseDispatch, "_free_models", _free_models_in_use),
    Mutation(
        "a model that an admin has unloaded is loaded again",
        ModelPlacement,
        "preload",
        lambda placement, name: placement.specs[name].preload if name in placement.specs else 0,
    ),
    Mutation(
        "a model that an admin has loaded is unloaded as any other",
        ModelPlacement,
        "_is_requested_on",
        lambda *_: False,
    ),
    Mutation("a preloaded model leaves the default no room", ModelPlacement, "_is_kept", _keep_without_room),
    Mutation(
        "a load that runs out of memory is not tried again", ResidentModels, "_unload_one", lambda *_: None
    ),
    Mutation(
        "models that were unloaded are forgotten", LeaseDispatch, "_with_changed_models", _forget_evictions
    ),
    Mutation("segments are blamed for a broken model", Broker, "_on_lease_refused", _forget_the_reason),
    Mutation("a changed model is not loaded again", ModelPlacement, "configure", _configure_nothing_else),
    Mutation("a job waits forever for a broken model", ModelPlacement, "obstacle", lambda *_: ""),
    Mutation("a broken model is tried again at once", ModelPlacement, "load_failed", lambda *_, **__: None),
)
# -- about translations ------------------------------------------------------------------------------------------------


def _claim_any_count(
    lease_dispatch: LeaseDispatch, lease: Lease, key: SegmentKey, sentences: int | None = None
) -> Segment | None:
    """Accept a result with too few sentences."""
    del sentences
    segment = lease_dispatch._live_jobs.find(key)
    count = len(segment.text.keys) if segment is not None and segment.text is not None else None
    return _claim(lease_dispatch, lease, key, count)


def _end_outdated(lifecycle: JobLifecycle, name: str, number: int) -> None:
    """Forget the languages that were added while the others were written."""
    if (live := lifecycle._live_jobs.jobs.get(name)) is not None:
        live.is_text_outdated = False
    _translations_written(lifecycle, name, number)


def _restore_without_plan(lifecycle: JobLifecycle, job: Job) -> None:
    """Wait for a plan that was lost with the last daemon."""
    if lifecycle._prepare_dispatch._worker_table.workers:
        _plan_texts(lifecycle, job)
    else:
        lifecycle._live_jobs.start_texts(job)


def _move_text_unsaved(
    live_jobs: LiveJobs, segment: Segment, event: SegmentEvent, translations: Any, **changes: object
) -> Segment:
    """Count sentences as translated without storing them."""
    moved = _move_text(live_jobs, segment, event, translations, **changes)
    save = live_jobs.out[-1]
    if isinstance(save, ac.SaveText):
        live_jobs.out[-1] = replace(save, translations=())
    return moved


_claim = LeaseDispatch.claim
_translations_written = JobLifecycle.translations_written
_plan_texts = JobLifecycle.plan_texts
_move_text = LiveJobs.move_text

TEXT_MUTATIONS = (
    Mutation("a result with too few sentences counts", LeaseDispatch, "claim", _claim_any_count),
    Mutation(
        "a language that is added late is forgotten", JobLifecycle, "translations_written", _end_outdated
    ),
    Mutation("a restart forgets a translation", JobLifecycle, "plan_texts", _restore_without_plan),
    Mutation("translations are not stored", LiveJobs, "move_text", _move_text_unsaved),
    Mutation(
        "text is leased to transcribe workers only", ModelPlacement, "_role", lambda *_: Role.TRANSCRIBE
    ),
    Mutation("sentences wait for a model that cannot be used", JobLifecycle, "fail_texts", lambda *_: None),
)
LOOP_MUTATIONS = (
    Mutation("a message leaves before the commit", Dispatcher, "perform", _perform_before_commit),
    Mutation("a commit on a full disk is dropped", Transactions, "apply", _commit_nothing_on_a_full_disk),
    Mutation("a message is lost before the broker", WorkerListener, "receive", _receive_without_the_last),
    Mutation("an exit is handled before the last messages", Server, "_handle_exit", _handle_exit_at_once),
    Mutation("a callback is lost when a file arrives", Server, "_drain_mailbox", _drain_mailbox_for_files),
    Mutation("PCM is forgotten when it is sent", WorkerListener, "send_lease", _send_lease_and_forget),
    Mutation("shared memory of a file is never freed", PcmStore, "finish", lambda *_args, **_more: None),
    Mutation("a place is written again while its segment waits", PcmStore, "take_free_places", _live_places),
    Mutation("joins are never answered", WorkerListener, "handled", lambda _self, _keys: None),
    Mutation("held files are forgotten", InboxArrivals, "release", lambda self: self._held.clear()),
    Mutation("a slot never comes back", Reconfiguration, "fill_slots", _fill_no_slot_again),
    Mutation("the loop ends while files are written", Shutdown, "begin", _shut_down_at_once),
    Mutation("a remote worker that is dismissed stays", RemoteListener, "end_session", lambda *_: None),
    Mutation("the remote listener never wakes the loop", RemoteListener, "_probe", lambda *_: []),
)
CORE_MUTATIONS = (
    Mutation("a dead worker keeps its leases", LeaseDispatch, "release", _release_nothing),
    Mutation("a dead decoder keeps its file", PrepareDispatch, "release", lambda _self, _worker: None),
    Mutation("a result counts without a look at its lease", LeaseDispatch, "claim", _claim_without_a_look),
    Mutation("a late reply for a stale lease counts", Broker, "_on_transcribed", _accept_stale),
    Mutation("nothing is blamed for a loss", LeaseDispatch, "requeue", _blame_nothing),
    Mutation("a lost segment is not put in line again", LeaseDispatch, "requeue", _requeue_nowhere),
    Mutation("the tick starts no process again", WorkerTable, "restart_due", lambda _self, _now: None),
    Mutation("the tick finds no worker overdue", WorkerTable, "overdue", lambda _self, _now: iter(())),
    Mutation("the tick is called too late", WorkerTable, "next_deadline", lambda _self: float("inf")),
    Mutation("PCM is never dropped", LiveJobs, "drop_pcm", lambda _self, segment: segment),
    Mutation("a change of a job is not saved", LiveJobs, "change_job", _change_unsaved),
    Mutation("a cancelled job stays in line", ReadyQueue, "remove_job", lambda _self, _job: None),
    Mutation("a leased segment stays in line", ReadyQueue, "take", _take_and_keep),
    Mutation(
        "audio given is no account",
        ReadyQueue,
        "_rank",
        lambda _self, flow: (-flow.priority, 0, flow.order, 0),
    ),
    Mutation(
        "priority counts for nothing",
        ReadyQueue,
        "_rank",
        lambda self, flow: (0, self._given_samples[flow.job], 0, 0),
    ),
    Mutation("credit has no end", PrepareDispatch, "_has_room", lambda _self, _own, _promised: True),
    Mutation(
        "a worker holds more than its credit",
        LeaseSizing,
        "credit",
        lambda _self, _worker: 64,
    ),
    Mutation(
        "the last attempt at a segment is made beside others",
        LeaseDispatch,
        "_is_last_attempt",
        lambda _self, _model: False,
    ),
    Mutation("an rejected segment without PCM is forgotten", JobLifecycle, "advance", _advance_when_planned),
    Mutation("a removed slot is filled again", WorkerTable, "exited", _exited_and_wanted),
    Mutation(
        "a slot that was put aside does not come back",
        WorkerTable,
        "exited",
        _exited_and_put_aside_for_ever,
    ),
    Mutation(
        "a slot that crashes again and again is not put aside",
        WorkerTable,
        "_start_again",
        _start_again_forgetful,
    ),
    Mutation("a bad device may bury", LeaseDispatch, "_eligible", lambda _self, _model, idle: idle),
    Mutation("a broken slot is tried again at once", WorkerTable, "restart_due", _restart_the_hopeless),
    Mutation(
        "a drained worker may stay forever", WorkerTable, "leaving_due", lambda _self, _now: float("inf")
    ),
    Mutation("a feed outlives its job", PrepareDispatch, "abandon", lambda _self, _job: None),
    Mutation("a file is let go but not its worker", PrepareDispatch, "abandon", _abandon_in_silence),
    Mutation("who joins again holds its old leases", WorkerLoss, "rejoined", _rejoin_with_leases),
    Mutation("an identity is given twice", WorkerTable, "join", _join_as_the_first),
    Mutation("a slot that was forgotten begins at one", WorkerTable, "forget_gone", _forget_the_name_too),
    Mutation("a process is started on another host", WorkerTable, "join", _join_as_one_of_ours),
    Mutation("who is cut off keeps its leases", WorkerTable, "overdue", _overdue_on_this_host),
    Mutation(
        "a slow link has no time to bring a lease",
        leasing_module,
        "time_to_arrive",
        lambda policy, _pcm_bytes: policy.lease_min_s,
    ),
    Mutation("more is in flight than may be", LeaseSizing, "_free_segments", lambda _self, _worker: 99),
    Mutation(
        "a worker on another host is given one lease and no more", LeaseSizing, "bounded", _bounded_to_nothing
    ),
    Mutation("workers wait for each other", sizing_module, "SOONER", 9.0),
)
MUTATIONS = CORE_MUTATIONS + LOOP_MUTATIONS + MODEL_MUTATIONS + TEXT_MUTATIONS
