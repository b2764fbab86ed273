"""What the worker slots show: a bad one is put aside, and comes back when its time is over."""

from __future__ import annotations

from action_checks import Violation
from msgspec import Struct

from subtitled.core import actions as ac
from subtitled.core.broker import Broker
from subtitled.core.model_placement import _may_lease
from subtitled.core.policy import Policy
from subtitled.core.records import Role, Worker
from subtitled.core.states import WorkerState
from subtitled.core.worker_table import WorkerTable


class _Broken(Struct, frozen=True):
    """A slot that is out of service."""

    since: float
    is_fatal: bool
    """Its process reported that a restart cannot help."""


class SlotChecks:
    """Checks the slots of one run of the daemon."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._crashes: dict[str, int] = {}
        """Processes of each slot that ended since it finished anything; the broker may count more, not less."""
        self._fatal: set[str] = set()
        self._broken: dict[str, _Broken] = {}

    def finished(self, worker: str) -> None:
        """Note that a worker has finished something."""
        self._crashes.pop(_slot(worker), None)

    def added(self, slot: str) -> None:
        """Note that a slot starts again."""
        self._crashes.pop(slot, None)
        self._broken.pop(slot, None)

    def exited(self, worker: str, *, is_fatal: bool) -> None:
        """Note that a worker has ended."""
        slot = _slot(worker)
        self._fatal.discard(slot)
        if is_fatal:
            self._fatal.add(slot)
        else:
            self._crashes[slot] = self._crashes.get(slot, 0) + 1

    def reset(self, slot: str) -> None:
        """Note that a slot is tried again after a reload."""
        if self._broken.pop(slot, None) is not None:
            self._crashes.pop(slot, None)

    def performed(self, action: ac.Action, now: float) -> None:
        """Note which slots go out of service; raise Violation where a process is started in one."""
        if isinstance(action, ac.SaveWorker) and action.after is WorkerState.BROKEN:
            self._broken[action.slot] = _Broken(now, action.slot in self._fatal)
        elif (
            isinstance(action, ac.SpawnWorker) and (broken := self._broken.pop(action.slot, None)) is not None
        ):
            if broken.is_fatal:
                raise Violation(f"{action.slot} is tried again automatically, which cannot help")
            if now < broken.since + self._policy.quarantine_s:
                raise Violation(f"{action.slot} was put aside at {broken.since:.2f} s, and is tried too soon")

    def decided(self, actions: list[ac.Action], broker: Broker) -> None:
        """Raise Violation where the last attempt at a segment is for a worker that failed, and another could have it.

        Also where it is made beside other leases.
        """
        for action in actions:
            if not isinstance(action, ac.SendLease) or not action.message.items:
                continue
            worker = broker.worker_table.current(action.lease.worker)
            if (
                worker is not None
                and worker.role is Role.TRANSCRIBE
                and worker.streams > 1 < len(worker.leases)
            ):
                self._check_last_attempts(worker, broker)
            segment = broker.live_jobs.find(action.message.items[0].key)
            if worker is None or segment is None or not worker.failures:
                continue
            if len(action.message.items) > 1 or len(worker.leases) > 1:
                raise Violation(f"{worker.identity} failed last time, and is given more than a segment")
            model = action.lease.model
            steady = [
                other.identity
                for other in broker.worker_table.of(Role.TRANSCRIBE)
                if _is_steady(other) and _may_lease(other, model)
            ]
            if segment.losses and segment.losses + 1 >= self._policy.attempts and steady:
                raise Violation(f"{segment.key} may fail with {worker.identity}; there are {steady}")

    def _check_last_attempts(self, worker: Worker, broker: Broker) -> None:
        for lease_id in worker.leases:
            for key in broker.lease_dispatch.leases[lease_id].keys:
                segment = broker.live_jobs.find(key)
                if segment is not None and segment.losses and segment.losses + 1 >= self._policy.attempts:
                    raise Violation(f"{worker.identity} has other leases beside the last attempt at {key}")

    def observe(self, worker_table: WorkerTable, now: float) -> None:
        """Raise Violation where a slot is out of service for too long, or should be and is not."""
        for slot, worker in worker_table.workers.items():
            if worker.state is WorkerState.STOPPED:  # it starts again if it is asked for again
                self._crashes.pop(slot, None)
            if worker.state is not WorkerState.BROKEN:
                self._broken.pop(slot, None)
                self._check_budget(worker)
            elif (
                not (broken := self._broken[slot]).is_fatal and now > broken.since + self._policy.quarantine_s
            ):
                raise Violation(f"{slot} was put aside at {broken.since:.2f} s, and does not come back")

    def _check_budget(self, worker: Worker) -> None:
        crashes = self._crashes.get(worker.slot, 0)
        if worker.state is WorkerState.BACKOFF and crashes >= self._policy.crash_budget:
            raise Violation(f"{worker.slot} crashed {crashes} times in a row, and is not put aside")


def _is_steady(worker: Worker) -> bool:
    is_proven = worker.has_finished_leases or not worker.is_remote
    return worker.state in {WorkerState.IDLE, WorkerState.BUSY} and not worker.failures and is_proven


def _slot(worker: str) -> str:
    return worker.rpartition(".")[0]
