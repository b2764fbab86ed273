"""The workers that Ray was asked for: asked, placed, leaving, gone.

Belongs to one thread. Nothing here waits for Ray but `close`: what it has to say is looked for.
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

LEAVE_SLACK_S = 15.0
"""How much longer than its own time a worker that was told to leave may take to end."""
CONCURRENCY = 4
"""Calls of one actor at once: `wait` lasts as long as the worker."""


class WorkerStage(Enum):
    """How far a worker is."""

    ASKED = "asked"
    PLACED = "placed"
    LEAVING = "leaving"


class PlacedWorker(Struct, kw_only=True):
    """One worker that was asked for."""

    number: int
    actor: Any
    seated: Any
    """Ray's promise of a `ActorStarted`."""
    ended: Any
    """Ray's promise of an `ActorEnded`."""
    asked_at: float
    stage: WorkerStage = WorkerStage.ASKED
    placed_at: float = 0.0
    place: str = ""
    """What the daemon calls it, once it has a node."""
    node: str = ""
    """Ray's id of that."""
    leave_by: float = 0.0


class DepartedWorker(Struct, frozen=True, kw_only=True):
    """A worker that is no more."""

    hand: PlacedWorker
    cause: str
    is_ok: bool = False
    """It has finished, and gone as it was told."""
    is_fatal: bool = False
    """It said that starting it again cannot help."""
    is_lost: bool = False
    """Its node or its actor is gone, which is no fault of its own."""


class _Actor(WorkerActor):
    def begin(self, orders: ActorSettings) -> ActorStarted:
        return structs.replace(super().begin(orders), node=ray.get_runtime_context().get_node_id())


class RayWorkerPool:
    """All workers of one connection to Ray."""

    def __init__(
        self, orders_of: Callable[[int], ActorSettings], *, num_gpus: float, num_cpus: float
    ) -> None:
        """`orders_of` gives the orders of the worker of a number; each takes so much of a node."""
        self._orders_of = orders_of
        actor: Any = ray.remote(_Actor)
        self._actor = actor.options(
            num_gpus=num_gpus, num_cpus=num_cpus, max_restarts=0, max_concurrency=CONCURRENCY
        )
        self._number = 0
        self.hands: dict[int, PlacedWorker] = {}
        """By number."""

    def ask(self) -> int:
        """Ask Ray for one more, wherever there is room or will be; return its number."""
        self._number += 1
        actor = self._actor.remote()
        self.hands[self._number] = PlacedWorker(
            number=self._number,
            actor=actor,
            seated=actor.begin.remote(self._orders_of(self._number)),
            ended=actor.wait.remote(),
            asked_at=time.monotonic(),
        )
        return self._number

    def look(self) -> tuple[list[PlacedWorker], list[DepartedWorker]]:
        """Return who has been placed, and who is gone, since the last look."""
        placed, gone, now = [], [], time.monotonic()
        ready = self._ready()
        for hand in list(self.hands.values()):
            if hand.stage is WorkerStage.ASKED and hand.seated in ready:
                match _result(hand.seated):
                    case ActorStarted() as seated:
                        hand.stage, hand.placed_at = WorkerStage.PLACED, now
                        hand.place, hand.node = seated.place, seated.node
                        placed.append(hand)
                    case error:
                        gone.append(self._end(hand, DepartedWorker(hand=hand, cause=_in_short(error))))
                        continue
            if hand.ended in ready:
                gone.append(self._end(hand, _gone(hand)))
            elif hand.stage is WorkerStage.LEAVING and now >= hand.leave_by:
                gone.append(self._end(hand, DepartedWorker(hand=hand, cause="did not leave in its time")))
        return placed, gone

    def leave(self, number: int, within_s: float) -> None:
        """Have a worker finish what it holds and go; one that has no node yet is withdrawn."""
        hand = self.hands[number]
        if hand.stage is WorkerStage.ASKED:
            self._end(hand, None)
        elif hand.stage is WorkerStage.PLACED:
            hand.stage, hand.leave_by = WorkerStage.LEAVING, time.monotonic() + within_s + LEAVE_SLACK_S
            hand.actor.leave.remote()

    def close(self, within_s: float) -> None:
        """Have all leave; what is there after so long is ended."""
        for number in list(self.hands):
            self.leave(number, within_s)
        promises = [hand.ended for hand in self.hands.values()]
        if promises:
            ray.wait(promises, num_returns=len(promises), timeout=within_s, fetch_local=False)
        for hand in list(self.hands.values()):
            self._end(hand, None)

    def _ready(self) -> frozenset[Any]:
        """Return the promises that are kept or broken."""
        promises = [promise for hand in self.hands.values() for promise in (hand.seated, hand.ended)]
        if not promises:
            return frozenset()
        ready, _ = ray.wait(promises, num_returns=len(promises), timeout=0, fetch_local=False)
        return frozenset(ready)

    def _end(self, hand: PlacedWorker, gone: DepartedWorker | None) -> Any:
        """Give the actor's place back to Ray; one that cannot be reached now is dead to us from here on."""
        ray.kill(hand.actor)
        del self.hands[hand.number]
        return gone


def _gone(hand: PlacedWorker) -> DepartedWorker:
    match _result(hand.ended):
        case ActorEnded(status=ExitCode.OK, cause=cause):
            return DepartedWorker(hand=hand, cause=cause or "as it was told", is_ok=True)
        case ActorEnded(status=status, cause=cause):
            said = cause or describe_status(status)
            return DepartedWorker(hand=hand, cause=said, is_fatal=status == ExitCode.FATAL)
        case error:
            was_placed = hand.stage is not WorkerStage.ASKED
            is_lost = isinstance(error, RayActorError) and was_placed
            return DepartedWorker(hand=hand, cause=_in_short(error), is_lost=is_lost)


def _result(promise: Any) -> object:
    """Return what a promise that is ready holds: a value, or the error in its place."""
    try:
        return ray.get(promise, timeout=10.0)
    except Exception as error:  # noqa: BLE001 - whatever the actor raised comes back as it was, or in Ray's wrapping
        return error


def _in_short(error: object) -> str:
    """Return an error of Ray's in one line: the last of them, which has the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else 'without a word'}"[:500]
