"""The worker slots: who is alive, who is overdue, when the next process may start."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from subtitled.core.actions import Action, Kill, SaveWorker, Send, Spawn
from subtitled.core.policy import Policy, backoff, recent
from subtitled.core.protocol import Drain
from subtitled.core.records import Role, Worker
from subtitled.core.states import WORKER, WorkerEvent, WorkerState, step

NEVER = float("inf")
# Tuples, since a look into a set hashes the Enum in Python, for every message of every worker.
SERVING = (WorkerState.IDLE, WorkerState.BUSY, WorkerState.DRAINING)
WAITING = (WorkerState.BACKOFF, WorkerState.BROKEN)
DEAD = (WorkerState.BACKOFF, WorkerState.BROKEN, WorkerState.STOPPED, WorkerState.LOST)


class WorkerTable:
    """Workers by slot; what is to be done is appended to `out`."""

    def __init__(self, policy: Policy, out: list[Action]) -> None:
        self.out = out
        self.policy = policy
        self.workers: dict[str, Worker] = {}
        self._idle: dict[Role, dict[str, None]] = {role: {} for role in Role}
        self._leaving: set[str] = set()
        """Slots that get no other process once their present one is gone, however it goes."""
        self._last_forgotten = 0
        """The highest incarnation of a forgotten slot: whoever comes to one of its name is another."""

    def add(self, slot: str, role: Role, now: float) -> None:
        """Open a slot, or open a stopped one again, and ask for a process in it."""
        known = self.workers.get(slot)
        if known is not None and known.state is not WorkerState.STOPPED:
            raise ValueError(f"slot {slot} exists already")
        self._leaving.discard(slot)
        self.workers[slot] = Worker(
            slot=slot,
            role=role,
            state=WorkerState.STARTING,
            incarnation=known.incarnation + 1 if known else 1,
            heard_at=now,
            due_at=now + self.policy.start_timeout_s,
        )
        self.out.append(Spawn(slot=slot, incarnation=self.workers[slot].incarnation))

    def join(self, slot: str, now: float) -> Worker:
        """Open a slot for a worker on another host that has come; whoever was in it must be gone.

        Its slot is a leaving one from the beginning: nobody here could start another process there.
        """
        known = self.workers.get(slot)
        if known is not None and (not known.is_remote or known.state is not WorkerState.STOPPED):
            raise ValueError(f"slot {slot} is taken, by {known.identity}: {known.state.value}")
        self._leaving.add(slot)
        return self.put(
            Worker(
                slot=slot,
                role=Role.TRANSCRIBE,
                state=WorkerState.STARTING,
                incarnation=known.incarnation + 1 if known else self._last_forgotten + 1,
                failures=known.failures if known else 0,
                is_remote=True,
                heard_at=now,
                due_at=now + self.policy.start_timeout_s,
            )
        )

    def current(self, identity: str) -> Worker | None:
        """Return the worker of this identity while it is its slot's current one; None for the dead."""
        worker = self.workers.get(identity.rpartition(".")[0])
        if worker is None or worker.identity != identity:
            return None
        return None if worker.state in DEAD else worker

    def of(self, role: Role) -> Iterator[Worker]:
        """Yield the workers of one role."""
        return (worker for worker in self.workers.values() if worker.role is role)

    def idle(self, role: Role) -> list[Worker]:
        """Return the idle workers of one role, the one that has been idle longest first."""
        return [self.workers[slot] for slot in self._idle[role]]

    def put(self, worker: Worker) -> Worker:
        """Store a changed record."""
        self.workers[worker.slot] = worker
        idle = self._idle[worker.role]
        if worker.state is not WorkerState.IDLE:
            idle.pop(worker.slot, None)
        elif worker.slot not in idle:
            idle[worker.slot] = None
        return worker

    def move(self, worker: Worker, event: WorkerEvent, **changes: object) -> Worker:
        """Take a worker through a transition of the table, with changes to its other fields."""
        moved = self.put(replace(worker, state=step(WORKER, worker.state, event), **changes))
        if event not in {
            WorkerEvent.ASSIGNED,
            WorkerEvent.REPLIED,
        }:  # leases have journal entries of their own
            self.out.append(
                SaveWorker(
                    slot=worker.slot,
                    incarnation=moved.incarnation,
                    before=worker.state,
                    event=event,
                    after=moved.state,
                    cause=moved.cause,
                )
            )
        return moved

    def seen(self, worker: Worker, now: float) -> Worker:
        """Note a sign of life."""
        return self.put(replace(worker, heard_at=now))

    def measured(self, worker: Worker, *, round_trip_s: float, bytes_per_s: float | None) -> Worker:
        """Note how far away a worker is."""
        return self.put(replace(worker, round_trip_s=round_trip_s, bytes_per_s=bytes_per_s or None))

    def exited(self, worker: Worker, *, is_fatal: bool, cause: str, now: float) -> Worker:
        """Note the end of a process; what it held must have been released before."""
        cause = worker.cause or cause if worker.state is WorkerState.LOST else cause
        gone = replace(worker, leases=(), feed=None, due_at=NEVER)
        failures = worker.failures + 1
        if is_fatal:
            gone = self.move(gone, WorkerEvent.EXITED_FATAL, cause=cause)
        elif worker.state is WorkerState.DRAINING:
            gone = self.move(gone, WorkerEvent.EXITED, cause=cause)
        elif failures >= self.policy.crash_budget:
            cause = self._why_put_aside(failures, cause)
            due = now + self.policy.quarantine_s
            gone = self.move(gone, WorkerEvent.EXHAUSTED, cause=cause, failures=failures, due_at=due)
        else:
            crashes = (*recent(worker.crashes, now), now)
            due = now + backoff(crashes, worker.slot)
            gone = self.move(
                gone, WorkerEvent.EXITED, cause=cause, failures=failures, crashes=crashes, due_at=due
            )
        is_put_aside = worker.is_remote and gone.state is WorkerState.BROKEN and gone.due_at < NEVER
        if worker.slot in self._leaving and gone.state is not WorkerState.STOPPED and not is_put_aside:
            gone = self.move(gone, WorkerEvent.DRAIN, due_at=NEVER)
        return gone

    def succeeded(self, identity: str) -> None:
        """Note that a worker has finished what it was given: what failed before counts no more."""
        worker = self.current(identity)
        if worker is not None and worker.failures:
            self.put(replace(worker, failures=0))

    def refused(self, identity: str) -> Worker | None:
        """Note that a worker has refused a lease; return it if it is to be put aside for that."""
        worker = self.current(identity)
        if worker is None:
            return None
        if worker.failures + 1 >= self.policy.crash_budget and worker.state is not WorkerState.DRAINING:
            return worker  # its end will count
        self.put(replace(worker, failures=worker.failures + 1))
        return None

    def _why_put_aside(self, failures: int, cause: str) -> str:
        return (
            f"put aside after {failures} failures in a row, the last one: {cause}; it is tried again"
            f" in {self.policy.quarantine_s:g} s, or at once on SIGHUP; see the log for what led to each"
        )

    def drain(self, worker: Worker, now: float, cause: str) -> None:
        """Let a worker finish what it holds and go; it gets nothing new, and its slot no other process.

        One on another host is told to go when its last answer is here: what it says later may be lost with its connection.
        """
        self._leaving.add(worker.slot)
        if worker.state in {WorkerState.DRAINING, WorkerState.STOPPED, WorkerState.LOST}:
            return
        is_alive = worker.state in {WorkerState.STARTING, WorkerState.IDLE, WorkerState.BUSY}
        is_starting = worker.state is WorkerState.STARTING
        due = self.leaving_due(now) if is_alive else NEVER
        moved = self.move(
            worker,
            WorkerEvent.DRAIN,
            due_at=worker.due_at if worker.leases else due,
            cause=cause if is_alive else worker.cause,
        )
        if is_starting:  # it does not listen yet
            self.out.append(Kill(worker=moved.identity, cause=cause))
        elif is_alive and not (worker.is_remote and worker.leases):
            self.out.append(Send(moved.identity, Drain()))

    def leaving_due(self, now: float) -> float:
        """Return when a drained worker with nothing left to do must be gone.

        One that hangs in native code still sends its heartbeats, and would stay for ever.
        """
        return now + self.policy.silence_s

    def overdue(self, now: float) -> Iterator[tuple[Worker, str]]:
        """Yield the workers that have had their time, each with the reason."""
        for slot in list(self.workers):
            worker = self.workers[slot]  # as it is now: the loss of one worker may have changed another
            if worker.state is WorkerState.STARTING and now >= worker.due_at:
                yield worker, f"not ready {self.policy.start_timeout_s:g} s after its start"
            elif worker.state in SERVING:
                feed = worker.feed
                if now >= worker.heard_at + self.policy.silence_s:
                    yield worker, f"not heard for {self.policy.silence_s:g} s"
                elif now >= worker.due_at:
                    is_idle = not worker.leases
                    what = "not arrived or not done" if worker.is_remote else "not done"
                    yield (
                        worker,
                        "not gone when it should be" if is_idle else f"lease {what} within its time to run",
                    )
                elif feed and not feed.is_waiting and now >= feed.progressed_at + self.policy.prepare_stall_s:
                    yield worker, f"no progress in decoding for {self.policy.prepare_stall_s:g} s"

    def restart_due(self, now: float) -> None:
        """Ask for a process in each slot that has waited long enough.

        One that was put aside still has its failures: the next one puts it aside again. A worker on another host may join
        again.
        """
        for worker in list(self.workers.values()):
            if now >= worker.due_at and worker.state in WAITING:
                if worker.is_remote:
                    self.move(worker, WorkerEvent.DRAIN, due_at=NEVER)
                else:
                    self._start_again(worker, WorkerEvent.ELAPSED, now)

    def forget_gone(self, now: float) -> None:
        """Drop the slots of other hosts that were left long ago: hosts that come and go have ever new names."""
        for worker in list(self.workers.values()):
            if not worker.is_remote or worker.state is not WorkerState.STOPPED:
                continue
            if worker.due_at == NEVER:
                self.put(replace(worker, due_at=now + self.policy.forget_s))
            elif now >= worker.due_at:
                del self.workers[worker.slot]
                self._leaving.discard(worker.slot)
                self._last_forgotten = max(self._last_forgotten, worker.incarnation)

    def reset(self, worker: Worker, now: float) -> None:
        """Ask for a process in a broken slot; nothing happens if it is not broken."""
        if worker.state is WorkerState.BROKEN and worker.is_remote:
            self.move(replace(worker, failures=0), WorkerEvent.DRAIN, due_at=NEVER)
        elif worker.state is WorkerState.BROKEN:
            self._start_again(replace(worker, failures=0), WorkerEvent.RESET, now)

    def _start_again(self, worker: Worker, event: WorkerEvent, now: float) -> None:
        moved = self.move(
            worker,
            event,
            incarnation=worker.incarnation + 1,
            cause="",
            heard_at=now,
            due_at=now + self.policy.start_timeout_s,
        )
        self.out.append(Spawn(slot=moved.slot, incarnation=moved.incarnation))

    def next_deadline(self) -> float:
        """Return when something is next due; infinity when nothing is."""
        due = NEVER
        for worker in self.workers.values():
            due = min(due, worker.due_at)
            if worker.state in SERVING:
                due = min(due, worker.heard_at + self.policy.silence_s)
                if worker.feed and not worker.feed.is_waiting:
                    due = min(due, worker.feed.progressed_at + self.policy.prepare_stall_s)
        return due
