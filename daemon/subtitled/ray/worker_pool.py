"""The workers requested from Ray: requested, placed, stopping, departed.

Belongs to one thread. Only `close` waits for Ray; everything else is polled.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Any

import ray
from msgspec import Struct, structs
from ray.exceptions import RayActorError

from subtitled.errors import ExitCode
from subtitled.ray.actor import ActorEnded, ActorSettings, ActorStarted, WorkerActor
from subtitled.runtime.processes import describe_status

STOP_SLACK_S = 15.0
"""Seconds beyond its own time limit that a stopping worker may take to end."""
CONCURRENCY = 4
"""Simultaneous calls of one actor: `wait` lasts as long as the worker."""


class WorkerStage(Enum):
    """The stage of a worker."""

    REQUESTED = "requested"
    PLACED = "placed"
    STOPPING = "stopping"


class PlacedWorker(Struct, kw_only=True):
    """One worker that was requested."""

    number: int
    actor: Any
    started: Any
    """Ray's future of an `ActorStarted`."""
    ended: Any
    """Ray's future of an `ActorEnded`."""
    requested_at: float
    stage: WorkerStage = WorkerStage.REQUESTED
    placed_at: float = 0.0
    place: str = ""
    """Its place in the daemon, once it has a node."""
    node: str = ""
    """Ray's id of the node."""
    stop_by: float = 0.0


class DepartedWorker(Struct, frozen=True, kw_only=True):
    """A worker that has ended."""

    worker: PlacedWorker
    cause: str
    is_ok: bool = False
    """It finished its leases and stopped on request."""
    is_fatal: bool = False
    """It reported that a restart cannot help."""
    is_lost: bool = False
    """Its node or its actor is departed; the worker is not at fault."""


class _Actor(WorkerActor):
    def start(self, settings: ActorSettings) -> ActorStarted:
        return structs.replace(super().start(settings), node=ray.get_runtime_context().get_node_id())


class RayWorkerPool:
    """All workers of one connection to Ray."""

    def __init__(
        self, settings_of: Callable[[int], ActorSettings], *, num_gpus: float, num_cpus: float
    ) -> None:
        """`settings_of` returns the settings of the worker with a number; each needs these resources."""
        self._settings_of = settings_of
        actor: Any = ray.remote(_Actor)
        self._actor = actor.options(
            num_gpus=num_gpus, num_cpus=num_cpus, max_restarts=0, max_concurrency=CONCURRENCY
        )
        self._number = 0
        self.workers: dict[int, PlacedWorker] = {}
        """By number."""

    def request(self) -> int:
        """Request one more worker on any node with room, now or later; return its number."""
        self._number += 1
        actor = self._actor.remote()
        self.workers[self._number] = PlacedWorker(
            number=self._number,
            actor=actor,
            started=actor.start.remote(self._settings_of(self._number)),
            ended=actor.wait.remote(),
            requested_at=time.monotonic(),
        )
        return self._number

    def poll(self) -> tuple[list[PlacedWorker], list[DepartedWorker]]:
        """Return the workers placed and the workers ended since the last call."""
        placed, departed, now = [], [], time.monotonic()
        ready = self._ready()
        for worker in list(self.workers.values()):
            if worker.stage is WorkerStage.REQUESTED and worker.started in ready:
                match _result(worker.started):
                    case ActorStarted() as started:
                        worker.stage, worker.placed_at = WorkerStage.PLACED, now
                        worker.place, worker.node = started.place, started.node
                        placed.append(worker)
                    case error:
                        departed.append(
                            self._end(worker, DepartedWorker(worker=worker, cause=_last_line(error)))
                        )
                        continue
            if worker.ended in ready:
                departed.append(self._end(worker, _gone(worker)))
            elif worker.stage is WorkerStage.STOPPING and now >= worker.stop_by:
                departed.append(
                    self._end(worker, DepartedWorker(worker=worker, cause="did not stop in time"))
                )
        return placed, departed

    def stop(self, number: int, within_s: float) -> None:
        """Let a worker finish its leases and exit; one without a node is cancelled."""
        worker = self.workers[number]
        if worker.stage is WorkerStage.REQUESTED:
            self._end(worker, None)
        elif worker.stage is WorkerStage.PLACED:
            worker.stage, worker.stop_by = WorkerStage.STOPPING, time.monotonic() + within_s + STOP_SLACK_S
            worker.actor.stop.remote()

    def close(self, within_s: float) -> None:
        """Stop all workers; end those that are left after `within_s`."""
        for number in list(self.workers):
            self.stop(number, within_s)
        futures = [worker.ended for worker in self.workers.values()]
        if futures:
            ray.wait(futures, num_returns=len(futures), timeout=within_s, fetch_local=False)
        for worker in list(self.workers.values()):
            self._end(worker, None)

    def _ready(self) -> frozenset[Any]:
        """Return the futures that are done."""
        futures = [future for worker in self.workers.values() for future in (worker.started, worker.ended)]
        if not futures:
            return frozenset()
        ready, _ = ray.wait(futures, num_returns=len(futures), timeout=0, fetch_local=False)
        return frozenset(ready)

    def _end(self, worker: PlacedWorker, departed: DepartedWorker | None) -> Any:
        """Give the actor's resources back to Ray; an unreachable actor counts as ended."""
        ray.kill(worker.actor)
        del self.workers[worker.number]
        return departed


def _gone(worker: PlacedWorker) -> DepartedWorker:
    match _result(worker.ended):
        case ActorEnded(status=ExitCode.OK, cause=cause):
            return DepartedWorker(worker=worker, cause=cause or "stopped on request", is_ok=True)
        case ActorEnded(status=status, cause=cause):
            reason = cause or describe_status(status)
            return DepartedWorker(worker=worker, cause=reason, is_fatal=status == ExitCode.FATAL)
        case error:
            was_placed = worker.stage is not WorkerStage.REQUESTED
            is_lost = isinstance(error, RayActorError) and was_placed
            return DepartedWorker(worker=worker, cause=_last_line(error), is_lost=is_lost)


def _result(future: Any) -> object:
    """Return the value of a future that is done, or its error."""
    try:
        return ray.get(future, timeout=10.0)
    except Exception as error:  # noqa: BLE001 - any exception of the actor, plain or wrapped by Ray
        return error


def _last_line(error: object) -> str:
    """Return the last line of an error of Ray, which has the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'no message'}"[:500]
