"""Which worker holds which models, and when a worker loads another one.

Each worker loads the default model at its start, and holds further models as its memory allows. A worker loads a model with
the first lease of it. A model with waiting segments that no worker holds gets a worker in bounded time; one that some
workers hold gets another worker only if the waiting work is worth the load.

An admin may load and unload models while the daemon runs. A loaded one is kept by a number of workers, as one with `preload`,
but is unloaded if a model with waiting segments has no room otherwise, so that no job fails because of it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase

from msgspec import Struct
from msgspec.structs import replace

from subtitled.config.model_choice import DEFAULT_MODEL
from subtitled.core.fair_queue import ReadyQueue
from subtitled.core.policy import Policy
from subtitled.core.protocol import EngineSettings, HeldModel
from subtitled.core.records import Role, Worker
from subtitled.core.states import AT_WORK, WorkerState
from subtitled.core.worker_table import NEVER, WorkerTable

TURN_S = 10.0
TURN_LOADS = 10.0
"""A worker with work for its models keeps them for TURN_S, or for TURN_LOADS times the load time of the next model, before it
unloads one for a model that no worker holds."""
IDLE_LOADS = 1.0
"""The same for a worker without work for its models."""
MAX_TURN_S = 600.0
"""Maximum time for which a worker keeps its models, however long a load takes."""
WORTH_LOADS = 3.0
"""A further worker loads a model if its waiting work takes the present workers this many times the load time."""
MARGIN = 1.1
"""A model is loaded beside others if the free memory is at least this many times what it needs."""
USUAL_LOAD_S = 10.0
"""Load time of a model that was not loaded yet."""


class ModelSpec(Struct, frozen=True, kw_only=True):
    """A configured model."""

    name: str = DEFAULT_MODEL
    engine: EngineSettings | None = None
    """How a worker loads it; None: as the worker's settings say."""
    slots: tuple[str, ...] = ("*",)
    """Patterns of the slots that may hold it."""
    preload: int = 0
    """Number of workers that keep it."""
    fault: str = ""
    """Why it cannot be used."""
    is_present: bool = True
    """It is on this host; until then no worker loads it."""
    endpoint_slot: str = ""
    """The only slot that has it: that of the worker which sends text to its endpoint; "": workers with a device load it."""

    @property
    def is_for_text(self) -> bool:
        """It translates text."""
        return self.engine is not None and self.engine.kind != "whisper"

    def may_be_on(self, slot: str) -> bool:
        """Return whether a slot may hold it."""
        if self.endpoint_slot:
            return slot == self.endpoint_slot
        return any(fnmatchcase(slot, pattern) for pattern in self.slots)


class ModelLoad(Struct, frozen=True, kw_only=True):
    """A model to load on an idle worker."""

    slot: str
    spec: ModelSpec
    evict: tuple[str, ...]
    """Models to unload first."""
    may_evict: tuple[str, ...]
    """Models to unload in this order while memory is short."""
    is_preload: bool = False
    """It has no waiting segments."""


class _Impossible(Struct, frozen=True):
    until: float
    cause: str
    is_preload: bool
    """It was loaded without segments, so that fewer models could be unloaded for it."""
    is_displaced: bool = False
    """It was unloaded for the model of a job."""


class ModelPlacement:
    """Decides about loads; the leases that it reads and the workers that it changes belong to the broker."""

    def __init__(self, policy: Policy, worker_table: WorkerTable, ready: ReadyQueue) -> None:
        self.policy = policy
        self.specs: dict[str, ModelSpec] = {DEFAULT_MODEL: ModelSpec()}
        """Models by name."""
        self.loads: dict[str, int] = {}
        """Loads of each model since the start, by name."""
        self.wake_at = NEVER
        """When `plan` may load a model for which it is too early now."""
        self._worker_table = worker_table
        self._ready = ready
        self._measured: dict[tuple[str, str], HeldModel] = {}
        """The last load of each model by each worker, by slot and name. A worker's report counts for its own slot first:
        a wrong one must not keep the other workers from loading the model."""
        self._unserved_since: dict[str, float] = {}
        """Since when a model has had waiting segments and no worker, by name."""
        self._losses: dict[tuple[str, str], int] = {}
        """Consecutive losses of workers that loaded a model, by slot and name."""
        self._impossible: dict[tuple[str, str], _Impossible] = {}
        """Models that could not be loaded, by slot and name."""
        self._crowded: set[tuple[str, str]] = set()
        """Models for which others had to be unloaded, by slot and name."""
        self._requested: dict[str, int] = {}
        """How many workers keep a model that an admin has loaded, in the place of `preload`; 0: an admin has unloaded it."""
        self.to_unload: dict[str, set[str]] = {}
        """Models that workers unload as soon as they are not in use, since an admin has unloaded them; by identity."""
        self._has_kept = False
        """A model was to be kept at some time, by configuration or by an admin; until then there is nothing to compare."""
        self._pinned_stale: list[tuple[str, str]] = []
        """Workers, by identity, that keep a model of an earlier configuration, and its name."""
        self._is_paused = False
        """No segment was leased at the last `plan`: the queue was paused."""
        self._unneeded: set[str] = set()
        """Models that an admin has unloaded, and that no segment has needed since."""

    def configure(self, specs: Iterable[ModelSpec]) -> None:
        """Apply other models. A worker loads a changed one again; leases that it has end with the old one.

        What an admin has requested for a model ends when its configuration changes.
        """
        before, self.specs = self.specs, {spec.name: spec for spec in specs}
        self._has_kept |= any(spec.preload for spec in self.specs.values())
        for name in list(self._requested):
            if _configuration_of(before.get(name)) != _configuration_of(self.specs.get(name)):
                del self._requested[name]
                self._forget_unload(name)
        changed = {
            name for name, spec in before.items() if self.specs.get(name, ModelSpec()).engine != spec.engine
        }
        changed |= before.keys() - self.specs.keys()
        self._impossible.clear()
        self._crowded.clear()
        for worker in list(self._worker_table.of(Role.TRANSCRIBE)):
            if held := changed & worker.models.keys():
                if worker.state in AT_WORK:
                    pinned = [name for name in sorted(held) if worker.models[name].is_pinned]
                    self._pinned_stale += [(worker.identity, name) for name in pinned]
                self._worker_table.put(worker.without_models(held))

    # -- for admins ------------------------------------------------------------------------------------------

    def request(self, name: str, workers: int) -> None:
        """Have `workers` load a model and keep it; 0: have all unload it as soon as they do not use it."""
        self._requested[name] = workers
        self._has_kept |= workers > 0
        self._forget_unload(name)
        if not workers:
            self._unneeded.add(name)
            for worker in self._worker_table.of(Role.TRANSCRIBE):
                if worker.has_in_memory(name):
                    self.to_unload.setdefault(worker.identity, set()).add(name)
        for (slot, other), impossible in list(self._impossible.items()):
            if other == name and impossible.is_preload:
                del self._impossible[slot, other]

    def is_requested(self, name: str) -> bool:
        """Return whether an admin has loaded or unloaded a model since its configuration was read."""
        return name in self._requested

    def preload(self, name: str) -> int:
        """Return how many workers keep a model: as an admin has requested, or as configured."""
        spec = self.specs.get(name)
        return 0 if spec is None else self._requested.get(name, spec.preload)

    def pin_changes(self) -> Iterator[tuple[str, str, bool]]:
        """Yield the workers that are to keep a model that they hold, or no longer, and record that they are sent this.

        By identity and name.
        """
        yield from ((identity, name, False) for identity, name in self._pinned_stale)
        self._pinned_stale.clear()
        # This runs for each event.
        for name in self.specs if self._has_kept else ():
            holders = self._holders(name)
            holders.sort(key=lambda worker: (not worker.models[name].is_pinned, worker.slot))
            for place, worker in enumerate(holders):
                is_kept = place < self.preload(name)
                if worker.models[name].is_pinned is not is_kept:
                    self._worker_table.put(worker.with_model(name, is_pinned=is_kept))
                    yield worker.identity, name, is_kept

    def is_kept_after_load(self, name: str) -> bool:
        """Return whether a further worker that loads a model is one of those that keep it."""
        return self._pinned(name) < self.preload(name)

    def _pinned(self, name: str) -> int:
        return sum(worker.models[name].is_pinned for worker in self._holders(name))

    def _holders(self, name: str) -> list[Worker]:
        """Return the workers at work that hold a model."""
        return [
            worker
            for worker in self._worker_table.of(Role.TRANSCRIBE)
            if worker.state in AT_WORK and worker.holds(name)
        ]

    def needed(self, name: str) -> None:
        """Record that segments of a model are leased."""
        self._unneeded.discard(name)

    def worker_ready(self, worker: Worker, stale_models: Collection[str], *, has_default: bool) -> None:
        """Record that a worker has started or joined again.

        It unloads the default model, and models in its memory from an earlier session, if an admin has unloaded them. What
        its last process could not keep beside the model of a job may be loaded again.
        """
        names = {name for name in stale_models if self._requested.get(name) == 0}
        if has_default and DEFAULT_MODEL in self._unneeded:
            names.add(DEFAULT_MODEL)
        if names:
            self.to_unload.setdefault(worker.identity, set()).update(names)
        for key, impossible in list(self._impossible.items()):
            if key[0] == worker.slot and impossible.is_displaced:
                del self._impossible[key]

    def _forget_unload(self, name: str) -> None:
        self._unneeded.discard(name)
        for identity in list(self.to_unload):
            self.to_unload[identity].discard(name)

    # -- for leases ------------------------------------------------------------------------------------------

    def holders(self, name: str) -> Iterator[Worker]:
        """Yield the workers that hold a model and may have further leases of it."""
        return (worker for worker in self._worker_table.of(self._role(name)) if _may_lease(worker, name))

    def idle_holders(self, name: str) -> list[Worker]:
        """Return the idle ones among them, the one that has been idle longest first."""
        return [worker for worker in self._worker_table.idle(self._role(name)) if _may_lease(worker, name)]

    def models_of_endpoint(self, slot: str) -> list[str]:
        """Return the names of the models of the endpoint that a slot's worker uses."""
        return [spec.name for spec in self.specs.values() if spec.endpoint_slot == slot]

    def is_endpoint(self, name: str) -> bool:
        """Return whether a model is behind an endpoint."""
        spec = self.specs.get(name)
        return spec is not None and bool(spec.endpoint_slot)

    def _role(self, name: str) -> Role:
        """Return the role of the workers that may hold a model."""
        return Role.TRANSLATE if self.is_endpoint(name) else Role.TRANSCRIBE

    # -- results ---------------------------------------------------------------------------------------------

    def evicted(self, slot: str, name: str) -> None:
        """Record that a worker had to unload others for a model."""
        self._crowded.add((slot, name))

    def displaced(self, slot: str, names: Collection[str], now: float) -> None:
        """Record that a worker has unloaded models for a lease: one that an admin has loaded is not loaded again at once."""
        for name in names:
            if self._requested.get(name):
                cause, until = "it was unloaded for a job of another model", now + self.policy.quarantine_s
                self._impossible[slot, name] = _Impossible(until, cause, is_preload=True, is_displaced=True)

    def loaded(self, slot: str, model: HeldModel, within_s: float) -> None:
        """Record the measured time and memory of a load, which took `within_s` at most."""
        self.loads[model.name] = self.loads.get(model.name, 0) + 1
        self._measured[slot, model.name] = replace(model, load_s=min(model.load_s, within_s))
        self._losses.pop((slot, model.name), None)

    def memory_bytes(self, name: str, slot: str = "") -> int:
        """Return the memory that a model took at its last load by a worker; the least of the others without one; else 0."""
        return min((model.memory_bytes for model in self._measurements(name, slot)), default=0)

    def _load_s(self, name: str, slot: str = "", default: float = 0.0) -> float:
        """Return the time of the last load, by the same rule."""
        return min((model.load_s for model in self._measurements(name, slot)), default=default)

    def _measurements(self, name: str, slot: str) -> list[HeldModel]:
        if (own := self._measured.get((slot, name))) is not None:
            return [own]
        return [model for (_, other), model in self._measured.items() if other == name]

    def load_failed(self, slot: str, name: str, cause: str, now: float, *, is_preload: bool = False) -> None:
        """Record that a worker could not load a model: it is not tried again there for a while.

        After a preload only the next preload waits: a load with segments may unload more models.
        """
        self._impossible[slot, name] = _Impossible(now + self.policy.quarantine_s, cause, is_preload)

    def lost(self, slot: str, name: str, cause: str, now: float) -> None:
        """Record that a worker was lost while it loaded a model; after `attempts` losses this counts as a failed load."""
        losses = self._losses.pop((slot, name), 0) + 1
        if losses < self.policy.attempts:
            self._losses[slot, name] = losses
        else:
            self.load_failed(slot, name, f"the worker was lost {losses} times while loading it: {cause}", now)

    # -- decisions -------------------------------------------------------------------------------------------

    def plan(self, now: float, *, is_paused: bool = False) -> list[ModelLoad]:
        """Return the models to load now, each on another idle worker; reserves busy workers for later.

        `is_paused`: only those that are to be kept without waiting segments.
        """
        self.wake_at = NEVER
        self._is_paused = is_paused
        waiting = {
            name: count
            for name, count in self._ready.waiting().items()
            if name in self.specs and self.specs[name].is_present and not self.specs[name].endpoint_slot
        }
        kept = (DEFAULT_MODEL, *waiting)
        if is_paused:
            waiting = {}
        loads = list(self._due_reservations(waiting, kept, now))
        taken = {load.slot for load in loads}
        loading = {load.spec.name for load in loads}
        unserved = [name for name in waiting if name not in loading and not self._is_served(name)]
        self._unserved_since = {name: self._unserved_since.get(name, now) for name in unserved}
        for name in sorted(unserved, key=self._unserved_since.__getitem__):
            worker = self._worker_for(name, waiting, taken, now)
            if worker is not None:
                taken.add(worker.slot)
                loads.append(self._load(worker, name, waiting))
        for name, count in waiting.items():
            if name not in unserved and name not in loading and self._is_worth_another(name, count):
                worker = self._further_worker_for(name, waiting, taken, now)
                if worker is not None:
                    taken.add(worker.slot)
                    loads.append(self._load(worker, name, waiting))
        for name in [name for name in self.specs if self.is_preload_missing(name)]:
            missing = self.preload(name) - self._count_holders(name)
            missing -= sum(load.spec.name == name for load in loads)
            protected = () if name in waiting else kept
            candidates = self._candidates(name, taken, now, protected)
            for worker in candidates[: max(0, missing)]:
                taken.add(worker.slot)
                if worker.leases:
                    self._worker_table.put(replace(worker, reserved=name))
                else:
                    loads.append(self._load(worker, name, waiting, protected))
            again = (one.until for (_, other), one in self._impossible.items() if other == name)
            self.wake_at = min([self.wake_at, *(until for until in again if until > now)])
        return loads

    @property
    def has_preloads(self) -> bool:
        """Some models are to be kept by workers without waiting segments."""
        return any(self.preload(name) for name in self.specs)

    def is_preload_missing(self, name: str) -> bool:
        """Return whether further workers have to load a model without waiting segments."""
        spec = self.specs.get(name)
        return (
            spec is not None
            and spec.is_present
            and not spec.fault
            and self._count_holders(name) < self.preload(name)
        )

    def _count_holders(self, name: str) -> int:
        return sum(
            worker.state in AT_WORK and (worker.holds(name) or worker.reserved == name)
            for worker in self._worker_table.of(Role.TRANSCRIBE)
        )

    def fault(self, name: str) -> str:
        """Return why a model cannot be used on any worker; "" if it can."""
        spec = self.specs.get(name)
        if spec is None:
            known = ", ".join(["default", *(f'"{other}"' for other in self.specs if other)])
            return f'the model "{name}" is not in [[models]]; add it, or submit again with one of: {known}'
        return spec.fault

    def is_awaited(self, name: str) -> bool:
        """Return whether a model is not on this host yet: it is being downloaded."""
        spec = self.specs.get(name)
        return spec is not None and not spec.is_present and not spec.fault

    def obstacle(self, name: str, now: float) -> str:
        """Return why no worker can ever hold a model with waiting segments; "" if one can, or may join."""
        if fault := self.fault(name):
            return fault
        spec = self.specs[name]
        if spec.endpoint_slot:
            endpoint = self._worker_table.workers.get(spec.endpoint_slot)
            is_broken = endpoint is not None and endpoint.is_permanently_broken
            return f"the endpoint cannot be used: {endpoint.cause}" if endpoint and is_broken else ""
        if self._is_served(name):
            return ""
        workers = [
            worker
            for worker in self._worker_table.of(Role.TRANSCRIBE)
            if worker.state is not WorkerState.STOPPED and spec.may_be_on(worker.slot)
        ]
        causes = [self._obstacle_at(worker, name, now) for worker in workers]
        return f"the model cannot be loaded: {causes[0]}" if causes and all(causes) else ""

    def preload_obstacle(self, name: str, now: float) -> str:
        """Return why fewer workers keep a model than its `preload`; "" if they do, or if one may load it."""
        if not self.is_preload_missing(name):
            return ""
        spec, waiting = self.specs[name], self._ready.waiting()
        kept = (DEFAULT_MODEL, *waiting) if self._is_paused or name not in waiting else ()
        if name in self._requested and not any(
            worker.state in AT_WORK and spec.may_be_on(worker.slot)
            for worker in self._worker_table.of(Role.TRANSCRIBE)
        ):
            return "no worker that is configured for it is running"
        causes = [
            self._obstacle_at(worker, name, now, kept)
            for worker in self._worker_table.of(Role.TRANSCRIBE)
            if worker.state in AT_WORK and spec.may_be_on(worker.slot) and not worker.holds(name)
        ]
        if not causes or not all(causes):
            return ""
        return f"it is not kept in memory: {causes[0]}; a job that needs it loads it in place of other models"

    def _obstacle_at(self, worker: Worker, name: str, now: float, kept: Collection[str] = ()) -> str:
        """Return why a worker cannot load a model; a load without segments unloads none of `kept`."""
        is_preload = bool(kept)
        impossible = self._impossible.get((worker.slot, name))
        if impossible is not None and now < impossible.until and (is_preload or not impossible.is_preload):
            return impossible.cause
        if self._excess(worker) > len(self._evictable(worker, (), kept)):
            return f"{worker.slot} keeps its preloaded models and has reached pool.max_models"
        return ""

    def _is_served(self, name: str) -> bool:
        """Return whether a worker holds a model, loads it, or is reserved for it."""
        return self._count_holders(name) > 0

    def _candidates(
        self, name: str, taken: Collection[str], now: float, kept: Collection[str] = ()
    ) -> list[Worker]:
        """Return the workers that may load a model: first those with room for it, then the least recently used.

        A load without segments unloads none of `kept`. Workers that failed last time are among them only if there are no others.
        """
        found = [
            worker
            for worker in self._worker_table.of(Role.TRANSCRIBE)
            if worker.state in AT_WORK
            and worker.slot not in taken
            and worker.loading is None
            and worker.reserved is None
            and not worker.holds(name)
            and self.specs[name].may_be_on(worker.slot)
            and not self._obstacle_at(worker, name, now, kept)
        ]
        found = [worker for worker in found if not worker.failures] or found
        return sorted(found, key=lambda worker: (not self._has_room(worker, name), _last_used(worker)))

    def _worker_for(
        self, name: str, waiting: Mapping[str, int], taken: Collection[str], now: float
    ) -> Worker | None:
        """Return the idle worker that loads a model that no worker holds; None if none may load it yet.

        The worker that may unload a model for it soonest; if that one is busy, it is reserved, so it gets no more leases.
        """
        candidates = self._candidates(name, taken, now)
        if not candidates:
            return None
        due_at = {worker.slot: self._due_at(worker, name, waiting) for worker in candidates}
        worker = min(candidates, key=lambda worker: (max(now, due_at[worker.slot]), bool(worker.leases)))
        if now < due_at[worker.slot]:
            self.wake_at = min(self.wake_at, due_at[worker.slot])
            return None
        if not worker.leases:
            return worker
        self._worker_table.put(replace(worker, reserved=name))
        return None

    def _further_worker_for(
        self, name: str, waiting: Mapping[str, int], taken: Collection[str], now: float
    ) -> Worker | None:
        """Return an idle worker without work that loads a model that others hold; None if none may load it yet."""
        for worker in self._candidates(name, taken, now):
            if not worker.leases and waiting.keys().isdisjoint(worker.held_models):
                due_at = self._due_at(worker, name, waiting)
                if now >= due_at:
                    return worker
                self.wake_at = min(self.wake_at, due_at)
        return None

    def _due_reservations(
        self, waiting: Mapping[str, int], kept: Collection[str], now: float
    ) -> Iterator[ModelLoad]:
        """Yield the loads for which workers were reserved that are idle now; drop reservations without work."""
        for worker in list(self._worker_table.of(Role.TRANSCRIBE)):
            name = worker.reserved
            if name is None:
                continue
            free = self._worker_table.put(replace(worker, reserved=None))
            protected = () if name in waiting else kept
            is_needed = name in waiting or self.is_preload_missing(name)
            if worker.state in AT_WORK and worker.leases and is_needed:
                self._worker_table.put(worker)
            elif (
                worker.state in AT_WORK
                and not worker.leases
                and is_needed
                and not worker.holds(name)
                and not self._obstacle_at(free, name, now, protected)
            ):
                yield self._load(free, name, waiting, protected)

    def _is_worth_another(self, name: str, count: int) -> bool:
        """Return whether the waiting segments of a model are worth loading it on a further worker."""
        throughputs = [worker.models[name].throughput for worker in self._holders(name)]
        if not throughputs or not all(one.leases for one in throughputs):
            return False  # the first lease measures the speed
        windows_per_s = sum(1 / one.s_per_window for one in throughputs)
        return count / windows_per_s >= WORTH_LOADS * self._load_s(name, default=USUAL_LOAD_S)

    def _due_at(self, worker: Worker, name: str, waiting: Mapping[str, int]) -> float:
        """Return when a worker may load a model that no worker holds: at once if it has room for it."""
        if self._has_room(worker, name):
            return -NEVER
        since = max((worker.models[other].loaded_at for other in worker.held_models), default=-NEVER)
        own = [self._ready.priority(other) for other in waiting if worker.holds(other)]
        if not own or self._ready.priority(name) > max(own):
            return since + min(MAX_TURN_S, IDLE_LOADS * self._load_s(name, worker.slot))
        return since + min(MAX_TURN_S, max(TURN_S, TURN_LOADS * self._load_s(name, worker.slot)))

    def _load(
        self, worker: Worker, name: str, waiting: Collection[str], kept: Collection[str] = ()
    ) -> ModelLoad:
        """Return the load of a model; one without waiting segments unloads none of `kept`."""
        evictable = self._evictable(worker, waiting, kept)
        excess = self._excess(worker)
        is_limited = bool(self.policy.max_models)
        stale = [other for other in worker.stale_models if other != name]
        evict = [other for other in stale if is_limited or other not in self.specs]
        unneeded = [other for other in stale if other not in evict]
        return ModelLoad(
            slot=worker.slot,
            spec=self.specs[name],
            evict=(*evict, *evictable[:excess]),
            may_evict=(*unneeded, *evictable[excess:]),
            is_preload=bool(kept),
        )

    def may_evict(self, worker: Worker, name: str) -> tuple[str, ...]:
        """Return the models that a worker may unload, in this order, if it has to load one again that it holds."""
        stale = (other for other in worker.stale_models if other != name)
        return (*stale, *(other for other in self._evictable(worker, self._ready.waiting()) if other != name))

    def _has_room(self, worker: Worker, name: str) -> bool:
        """Return whether a worker seems to have room for a model beside its others."""
        if self._excess(worker):
            return False
        if worker.free_bytes is None:
            return (worker.slot, name) not in self._crowded
        return MARGIN * self.memory_bytes(name, worker.slot) <= worker.free_bytes

    def _excess(self, worker: Worker) -> int:
        """Return how many models a worker must unload for another one, whatever its memory."""
        limit = self.policy.max_models
        return max(0, len(worker.held_models) + 1 - limit) if limit else 0

    def _evictable(self, worker: Worker, waiting: Collection[str], kept: Collection[str] = ()) -> list[str]:
        """Return the models that a worker may unload: first those without work, the least recently used before others.

        A load without segments unloads neither the default model nor one with waiting segments (`kept`): jobs
        would fail that could be transcribed. Nor does it unload one that an admin has loaded; other loads unload that
        after all others without work.
        """
        requested = {name for name in worker.held_models if self._is_requested_on(worker, name)}
        names = [
            name
            for name in worker.held_models
            if name not in kept and not (kept and name in requested) and not self._is_kept(worker, name)
        ]
        return sorted(
            names, key=lambda name: (name in waiting, name in requested, worker.models[name].used_at, name)
        )

    def _is_requested_on(self, worker: Worker, name: str) -> bool:
        """Return whether a worker is one of those that keep a model that an admin has loaded."""
        count = self._requested.get(name)
        if not count:
            return False
        return worker.slot in sorted(holder.slot for holder in self._holders(name))[:count]

    def _is_kept(self, worker: Worker, name: str) -> bool:
        """Return whether a worker is one of the `preload` workers that keep a model.

        They have had room for it beside the default model: else that could never be loaded again.
        """
        spec = self.specs.get(name)
        count = min(spec.preload, self.preload(name)) if spec is not None else 0
        if not count:
            return False
        holders = [
            other.slot
            for other in self._worker_table.of(Role.TRANSCRIBE)
            if other.state in AT_WORK
            and other.holds(name)
            and (other.models[name].is_kept or name == DEFAULT_MODEL)
        ]
        return worker.slot in sorted(holders)[:count]


def _configuration_of(spec: ModelSpec | None) -> ModelSpec | None:
    """Return a model without what is found out about it."""
    return None if spec is None else replace(spec, is_present=True, fault="")


def _may_lease(worker: Worker, name: str) -> bool:
    return worker.holds(name) and worker.reserved is None and worker.loading is None


def _last_used(worker: Worker) -> float:
    return max((model.used_at for model in worker.models.values()), default=0.0)
