"""What leases and answers show about models: each worker has the model that it is leased, none is changed too often or too late."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from action_checks import Violation
from msgspec import Struct
from simulated_models import SimulatedDevices

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.broker import Broker
from subtitled.core.records import Job, Role, Worker, model_of
from subtitled.core.states import AT_WORK, WorkerState

TURN_S, TURN_LOADS = 10.0, 10.0
"""A worker with work keeps its models for so long, or for so many load times of the next one."""


class _Load(Struct, frozen=True):
    """A lease that includes a load, when it was sent."""

    at: float
    rested_s: float
    """Since the worker's last load."""
    needed_s: float
    """How long it must have kept its models if it unloads one of them; 0 for the first load of this model."""


class ModelChecks:
    """Checks the models of one run of the daemon, by what workers have reported."""

    def __init__(self, broker: Broker, devices: SimulatedDevices) -> None:
        self._broker = broker
        self._devices = devices
        self._held: dict[str, set[str]] = {}
        """Models that each worker has reported, by its identity."""
        self._kept: dict[str, set[str]] = {}
        """Those that were in memory beside the default model, which a worker may be bound to keep."""
        self._unloaded: dict[str, set[str]] = {}
        """Those that it has unloaded since, when it was idle."""
        self._changed_at: dict[str, float] = {}
        """When each worker became ready, or was sent its last load."""
        self._loads: dict[int, _Load] = {}
        """By lease."""
        self._reserved: dict[tuple[str, str], bool] = {}
        """Models for which busy workers are reserved, by identity and name, and whether the segments that waited when the worker
        was reserved let it change its models early: none for the models that it holds, or only less urgent ones."""
        self._known: dict[tuple[str, str], float] = {}
        """Measured load time of each model, by slot and name."""
        self._crowded: set[tuple[str, str]] = set()
        """Models for which others were unloaded, by slot and name."""
        self._since: dict[str, float] = {}
        """Since when a model has had waiting segments, and no worker has held it."""
        self._requested: dict[str, int] = {}
        """How many workers an admin has had load a model, 0 after an unload, by name."""
        self._freed: dict[str, set[str]] = {}
        """Models that each worker had to unload for an admin, by its identity."""
        self._late: dict[str, Counter[str]] = {}
        """For each of these the leases of other models, by worker, that were sent after the worker's turn."""

    # -- what workers report ---------------------------------------------------------------------------------

    def happened(self, event: ev.Event, now: float) -> None:
        """Note an event that the broker is about to handle."""
        self._note_reservations()
        match event:
            case ev.ModelsChanged(models=models):
                before, after = self._broker.placement.specs, {spec.name: spec for spec in models}
                changed = {
                    name for name in before if name not in after or after[name].engine != before[name].engine
                }
                for held in (*self._held.values(), *self._kept.values(), *self._unloaded.values()):
                    held.difference_update(changed)
                changed |= {
                    name for name in before if name in after and after[name].preload != before[name].preload
                }
                self._requested = {
                    name: workers
                    for name, workers in self._requested.items()
                    if name in before and name in after and name not in changed
                }
                self._crowded.clear()
                self._since.clear()
                self._late.clear()
            case ev.ModelRequested(model=name, workers=workers):
                self._requested[name] = workers
            case ev.MessageReceived(worker=identity, message=pr.WorkerReady() as ready):
                worker = self._broker.worker_table.current(identity)
                if worker is not None and worker.state is WorkerState.STARTING:  # the message may be repeated
                    self._held[identity] = {""} if ready.has_default else set()
                    if worker.role is Role.TRANSLATE:
                        self._held[identity] = set(self._broker.placement.models_of_endpoint(worker.slot))
                    self._kept[identity] = set()
                    self._unloaded[identity] = set()
                    self._changed_at[identity] = now
            case ev.MessageReceived(worker=identity, message=pr.ModelUnloaded(model=name)):
                if name in self._held.get(identity, ()):
                    is_freed = name in self._freed.get(identity, ())
                    if self._broker.placement.specs[name].preload and not is_freed:
                        raise Violation(f"{identity} unloads the preloaded model {name!r} when it is idle")
                    self._held[identity].discard(name)
                    self._unloaded[identity].add(name)
                    leases = self._broker.lease_dispatch.leases.values()
                    if any((lease.worker, lease.model) == (identity, name) for lease in leases):
                        self._changed_at[identity] = -float("inf")  # it loads it again for one sent before
            case ev.MessageReceived(worker=identity, message=message) if isinstance(message, pr.LeaseAnswer):
                self._answered(identity, message, now)
            case _:
                pass

    def _note_reservations(self) -> None:
        ready = self._broker.lease_dispatch.ready
        waiting = ready.waiting()
        reserved: dict[tuple[str, str], bool] = {}
        for worker in self._broker.worker_table.of(Role.TRANSCRIBE):
            name, held = worker.reserved, self._held.get(worker.identity, ())
            if name is not None:
                own = [ready.priority(other) for other in waiting if other in held]
                is_early = not own or (name in waiting and ready.priority(name) > max(own))
                reserved[worker.identity, name] = self._reserved.get((worker.identity, name), is_early)
        self._reserved = reserved

    def _answered(self, identity: str, answer: pr.LeaseAnswer, now: float) -> None:
        lease = self._broker.lease_dispatch.leases.get(answer.lease)
        if lease is None or lease.worker != identity:
            return
        held = self._held[identity]
        load = self._loads.pop(lease.id, None)
        is_fault = isinstance(answer, pr.LeaseRefused) and answer.is_model_fault
        if is_fault or (
            lease.is_load
            and answer.loaded is None
            and not isinstance(answer, (pr.Transcribed, pr.Translated))
        ):
            held.discard(lease.model)
        elif lease.model in self._unloaded[identity] and (
            answer.loaded is not None or isinstance(answer, (pr.Transcribed, pr.Translated))
        ):
            held.add(lease.model)  # the message that it is unloaded was sent, or repeated, before
            self._unloaded[identity].discard(lease.model)
        if is_fault and load is not None and not answer.evicted:
            self._changed_at[identity] = load.at - load.rested_s  # nothing has changed
        unloaded = held.intersection(answer.evicted)
        held -= unloaded
        self._unloaded[identity] -= set(answer.evicted)
        self._kept[identity] &= held
        if answer.loaded is not None and "" in held:
            self._kept[identity] |= held
        slot = identity.rpartition(".")[0]
        if answer.loaded is not None and answer.loaded.load_s and load is not None:
            self._known[slot, lease.model] = min(answer.loaded.load_s, now - load.at)
        if answer.evicted:
            self._crowded.add((slot, lease.model))
        if load is not None and unloaded and load.rested_s < load.needed_s - 1e-6:
            raise Violation(
                f"{identity} thrashes: it unloads {sorted(unloaded)} for {lease.model!r} {load.rested_s:.2f} s"
                f" after its last load, not {load.needed_s:.2f} s"
            )

    # -- what the broker decides -----------------------------------------------------------------------------

    def decided(self, action: ac.Action, now: float) -> None:
        """Check an action of the broker."""
        match action:
            case ac.SendLease():
                self._leased(action, now)
            case ac.SendMessage(worker=identity, message=pr.FreeModel(model=name)):
                self._check_freed(identity, name)
            case ac.WriteFailure(job=job):
                self._check_cause(job)
            case _:
                pass

    def _preload(self, name: str) -> int:
        """Return how many workers are to keep a model: as an admin has requested, or as configured."""
        spec = self._broker.placement.specs.get(name)
        return 0 if spec is None else self._requested.get(name, spec.preload)

    def _check_freed(self, identity: str, name: str) -> None:
        """Check that a worker unloads a model only if an admin wants that, and nothing needs the model there."""
        self._freed.setdefault(identity, set()).add(name)
        broker = self._broker
        leases = broker.lease_dispatch.leases.values()
        if any((lease.worker, lease.model) == (identity, name) for lease in leases):
            raise Violation(f"{identity} is to unload {name!r} and has leases of it")
        if broker.lease_dispatch.ready.count(name) and not broker.is_paused:
            raise Violation(f"{identity} is to unload {name!r}, for which segments wait")
        if self._preload(name):
            raise Violation(f"{identity} is to unload {name!r}, which is to be kept")

    def _leased(self, action: ac.SendLease, now: float) -> None:
        lease, message = action.lease, action.message
        worker = self._broker.worker_table.current(lease.worker)
        for item in message.items:
            live_jobs = self._broker.live_jobs
            if model_of(live_jobs.job(item.key.job), live_jobs.segment(item.key)) != lease.model:
                raise Violation(f"{item.key} is leased as one of the model {lease.model!r}")
        if worker is None:  # it was lost in the same step
            return
        if worker.role is Role.TRANSLATE:
            if message.is_load or lease.model not in self._held[lease.worker]:
                raise Violation(f"{lease.worker} is leased {lease.model!r}, which is not its endpoint's")
            return
        held, ready = self._held[lease.worker], self._broker.lease_dispatch.ready
        self._check_preloads(worker, {*message.evict, *message.may_evict})
        self._check_order(worker, (*message.evict, *message.may_evict), has_segments=bool(message.items))
        if not message.items and not self._preload(lease.model):
            raise Violation(f"{lease.worker} is to load {lease.model!r}, which nothing needs")
        if message.items and self._broker.is_paused:
            raise Violation(f"{lease.worker} is leased segments while the queue is paused")
        if not message.items and (
            taken := held & {"", *ready.waiting()} & {*message.evict, *message.may_evict}
        ):
            raise Violation(f"{lease.worker} may unload {sorted(taken)} to preload {lease.model!r}")
        if message.is_load:
            if len(worker.leases) > 1:
                raise Violation(f"{lease.worker} is to load {lease.model!r} and holds other leases")
            spec = self._broker.placement.specs[lease.model]
            if not spec.may_be_on(worker.slot) or not spec.is_present:
                raise Violation(f"{lease.worker} is to load {lease.model!r}, which it may not")
            self._loads[lease.id] = self._load(worker, action, held, now)
            self._changed_at[lease.worker] = now
            held -= set(message.evict)
            held.add(lease.model)
            self._unloaded[lease.worker].discard(lease.model)
        elif lease.model not in held:
            raise Violation(f"{lease.worker} is leased the model {lease.model!r}, it holds {sorted(held)}")
        self._check_waits(worker, action, now)

    def _load(self, worker: Worker, action: ac.SendLease, held: Iterable[str], now: float) -> _Load:
        name = action.lease.model
        known_s = self._known_load_s(worker, name)
        ready = self._broker.lease_dispatch.ready
        priorities = [ready.priority(other) for other in ready.waiting() if other in held]
        own = max((self._priority(item.key.job) for item in action.message.items), default=None)
        needed_s = 0.0
        is_expected = (
            bool(action.message.evict) or self._devices.is_measured or (worker.slot, name) in self._crowded
        )
        is_preload = self._count_other_holders(worker, name) < self._preload(name)
        if known_s is not None and own is not None and is_expected and not is_preload:
            is_urgent = (
                not priorities or own > max(priorities) or self._reserved.get((worker.identity, name), False)
            )
            needed_s = known_s if is_urgent else max(TURN_S, TURN_LOADS * known_s)
        return _Load(now, now - self._changed_at[worker.identity], needed_s)

    def _known_load_s(self, worker: Worker, name: str) -> float | None:
        """Return the load time that the worker has measured for a model; the least of the others without one."""
        if (worker.slot, name) in self._known:
            return self._known[worker.slot, name]
        return min((load_s for (_, other), load_s in self._known.items() if other == name), default=None)

    def _count_other_holders(self, worker: Worker, name: str) -> int:
        return sum(
            other.state in AT_WORK
            and other.slot != worker.slot
            and name in self._held.get(other.identity, ())
            for other in self._broker.worker_table.of(Role.TRANSCRIBE)
        )

    def _priority(self, job: str) -> int:
        return self._broker.live_jobs.job(job).priority

    def _check_preloads(self, worker: Worker, unloaded: set[str]) -> None:
        """Check that as many workers keep each preloaded model as are configured."""
        for name in unloaded:
            spec = self._broker.placement.specs.get(name)
            is_kept = name in self._kept[worker.identity]
            others = sum(
                other.state in AT_WORK
                and other.slot != worker.slot
                and name in self._kept.get(other.identity, ())
                for other in self._broker.worker_table.of(Role.TRANSCRIBE)
            )
            count = min(spec.preload, self._preload(name)) if spec is not None else 0
            if is_kept and others < count:
                raise Violation(f"{worker.identity} may unload the preloaded model {name!r}")

    def _check_order(self, worker: Worker, unloaded: tuple[str, ...], *, has_segments: bool) -> None:
        """Check that a worker unloads a model that an admin has loaded after all others without work, and only for segments."""
        ready = self._broker.lease_dispatch.ready
        kept = {
            name
            for name in unloaded
            if self._requested.get(name)
            and worker.holds(name)
            and self._count_other_holders(worker, name) < self._requested[name]
        }
        if kept and not has_segments:
            raise Violation(f"{worker.identity} may unload {sorted(kept)} for a model without segments")
        first = min((unloaded.index(name) for name in kept), default=len(unloaded))
        for name in unloaded[first:]:
            if name in worker.held_models and name not in kept and not ready.count(name):
                raise Violation(f"{worker.identity} may unload {sorted(kept)} before {name!r}, which is idle")

    def _check_waits(self, worker: Worker, action: ac.SendLease, now: float) -> None:
        """Check that not every worker that may load a model gets leases of other models after its turn."""
        ready = self._broker.lease_dispatch.ready
        for name, since in self._since.items():
            if not ready.count(name):  # it was leased in this step
                continue
            if name == action.lease.model or now <= since or not self._may_load(worker, name, now):
                continue
            first = action.message.items[0].key.job if action.message.items else None
            if first is None or self._priority(first) > ready.priority(name):
                continue
            turn_s = max(TURN_S, TURN_LOADS * (self._known_load_s(worker, name) or 0.0))
            if now < self._changed_at[worker.identity] + turn_s or action.message.is_load:
                continue
            late = self._late.setdefault(name, Counter())
            late[worker.identity] += 1
            able = [
                other.identity
                for other in self._broker.worker_table.of(Role.TRANSCRIBE)
                if other.state in AT_WORK and self._may_load(other, name, now)
            ]
            if all(late[identity] for identity in able):
                raise Violation(
                    f"the model {name!r} starves since {since:.2f} s: {dict(late)} leases of others"
                )

    def _may_load(self, worker: Worker, name: str, now: float) -> bool:
        placement = self._broker.placement
        return placement.specs[name].may_be_on(worker.slot) and not placement._obstacle_at(worker, name, now)

    def observe(self, now: float) -> None:
        """Note which models wait for a worker."""
        placement, ready = self._broker.placement, self._broker.lease_dispatch.ready
        holders = [w for w in self._broker.worker_table.of(Role.TRANSCRIBE) if w.state in AT_WORK]
        waiting = {
            name
            for name in ready.waiting()
            if name in placement.specs
            and not placement.specs[name].endpoint_slot
            and not any(worker.holds(name) for worker in holders)
        }
        self._since = {name: self._since.get(name, now) for name in waiting}
        self._late = {name: late for name, late in self._late.items() if name in waiting}

    def _check_cause(self, job: Job) -> None:
        """Check that a job fails for lack of its model only if that is broken, or its workers are."""
        broken = {model.name for model in self._devices.others if model.is_broken}
        is_broken = not broken.isdisjoint(job.options.models)
        # Where only the translation's model is broken, segments may also fail for themselves before.
        if job.options.model in broken and "could not be transcribed" in job.cause:
            raise Violation(f"job {job.id} fails for its segments, and its model is broken")
        if "the model cannot be loaded" not in job.cause:
            return
        kept_size = sum(model.size for model in self._devices.others if model.preload)
        largest = max(model.size for model in self._devices.all_models if model.name in job.options.models)
        is_too_large = any(job.options.models) and kept_size + largest > self._devices.size
        if not (is_broken or is_too_large) and "worker was lost" not in job.cause:
            raise Violation(f"job {job.id} failed although its model can be loaded: {job.cause}")

    def missing_preloads(self) -> list[str]:
        """Return the preloaded models that fewer workers hold than should, and than have room for them."""
        placement = self._broker.placement
        is_room_taken = any(self._requested.values())
        if is_room_taken or not self._devices.has_room_for_preloads:
            return []
        workers = [w for w in self._broker.worker_table.of(Role.TRANSCRIBE) if w.state in AT_WORK]
        return [
            spec.name
            for spec in placement.specs.values()
            if sum(spec.name in self._held[worker.identity] for worker in workers)
            < min(self._preload(spec.name), len(workers))
        ]
