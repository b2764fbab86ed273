"""The worker slots: which workers are alive or overdue, and when the next process may start."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from subtitled.core.actions import Action, KillWorker, SaveWorker, SendMessage, SpawnWorker
from subtitled.core.policy import Policy, backoff, recent
from subtitled.core.protocol import Drain
from subtitled.core.records import Role, Worker
from subtitled.core.states import WORKER, WorkerEvent, WorkerState, step

NEVER = float("inf")
# Tuples: a lookup in a set hashes the Enum in Python, for every message of every worker.
SERVING = (WorkerState.IDLE, WorkerState.BUSY, WorkerState.DRAINING)
WAITING = (WorkerState.BACKOFF, WorkerState.BROKEN)
DEAD = (WorkerState.BACKOFF, WorkerState.BROKEN, WorkerState.STOPPED, WorkerState.LOST)


class WorkerTable:
    """Workers by slot; actions are appended to `out`."""

    def __init__(self, policy: Policy, out: list[Action]) -> None:
        self.out = out
        self.policy = policy
        self.workers: dict[str, Worker] = {}
        self._idle: dict[Role, dict[str, None]] = {role: {} for role in Role}
        self._leaving: set[str] = set()
        """Slots that get no other process after the present one ends, however it ends."""
        self._last_forgotten = 0
        """The highest incarnation of a forgotten slot: a new worker with its name gets a higher one."""

    def add(self, slot: str, role: Role, now: float) -> None:
        """Add a slot, or reopen a stopped one, and start a process in it."""
        known = self.workers.get(slot)
        if known is not None and known.state is not WorkerState.STOPPED:
            raise ValueError(f"slot {slot} exists already")
        self._leaving.discard(slot)
        self.workers[slot] = Worker(
            slot=slot,
            role=role,
            state=WorkerState.STARTING,
            incarnation=known.incarnation + 1 if known else 1,
            seen_at=now,
            due_at=now + self.policy.start_timeout_s,
        )
        self.out.append(SpawnWorker(slot=slot, incarnation=self.workers[slot].incarnation))

    def join(self, slot: str, now: float) -> Worker:
        """Add a slot for a worker on another host; the slot's last worker must be gone.

        The slot is a leaving one from the beginning: this daemon cannot start another process there.
        """
        known = self.workers.get(slot)
        if known is not None and (not known.is_remote or known.state is not WorkerState.STOPPED):
            raise ValueError(f"slot {slot} is taken by {known.identity}: {known.state.value}")
        self._leaving.add(slot)
        return self.put(
            Worker(
                slot=slot,
                role=Role.TRANSCRIBE,
                state=WorkerState.STARTING,
                incarnation=known.incarnation + 1 if known else self._last_forgotten + 1,
                failures=known.failures if known else 0,
                is_remote=True,
                seen_at=now,
                due_at=now + self.policy.start_timeout_s,
            )
        )

    def current(self, identity: str) -> Worker | None:
        """Return the worker of this identity if it is alive and its slot's current one, else None."""
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
        """Apply a transition of the table and changes to other fields."""
        moved = self.put(replace(worker, state=step(WORKER, worker.state, event), **changes))
        if event not in {WorkerEvent.ASSIGNED, WorkerEvent.REPLIED}:  # leases have their own journal entries
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
        """Record a sign of life."""
        return self.put(replace(worker, seen_at=now))

    def measured(self, worker: Worker, *, round_trip_s: float, bytes_per_s: float | None) -> Worker:
        """Record the round trip and the speed of a worker's link."""
        return self.put(replace(worker, round_trip_s=round_trip_s, bytes_per_s=bytes_per_s or None))

    def exited(self, worker: Worker, *, is_fatal: bool, cause: str, now: float) -> Worker:
        """Record the end of a process; its work must have been released before."""
        cause = worker.cause or cause if worker.state is WorkerState.LOST else cause
        gone = replace(worker, leases=(), feed=None, due_at=NEVER)
        failures = worker.failures + 1
        if is_fatal:
            gone = self.move(gone, WorkerEvent.EXITED_FATAL, cause=cause)
        elif worker.state is WorkerState.DRAINING:
            gone = self.move(gone, WorkerEvent.EXITED, cause=cause)
        elif failures >= self.policy.crash_budget:
            cause = self._quarantine_cause(failures, cause)
            due = now + self.policy.quarantine_s
            gone = self.move(gone, WorkerEvent.EXHAUSTED, cause=cause, failures=failures, due_at=due)
        else:
            crashes = (*recent(worker.crashes, now), now)
            due = now + backoff(crashes, worker.slot)
            gone = self.move(
                gone, WorkerEvent.EXITED, cause=cause, failures=failures, crashes=crashes, due_at=due
            )
        is_quarantined = worker.is_remote and gone.state is WorkerState.BROKEN and gone.due_at < NEVER
        if worker.slot in self._leaving and gone.state is not WorkerState.STOPPED and not is_quarantined:
            gone = self.move(gone, WorkerEvent.DRAIN, due_at=NEVER)
        return gone

    def succeeded(self, identity: str) -> None:
        """Record that a worker has finished a lease or a file: its earlier failures no longer count."""
        worker = self.current(identity)
        if worker is not None and worker.failures:
            self.put(replace(worker, failures=0))

    def refused(self, identity: str) -> Worker | None:
        """Record that a worker has refused a lease; return it if that exhausts its crash budget."""
        worker = self.current(identity)
        if worker is None:
            return None
        if worker.failures + 1 >= self.policy.crash_budget and worker.state is not WorkerState.DRAINING:
            return worker  # its end will count
        self.put(replace(worker, failures=worker.failures + 1))
        return None

    def _quarantine_cause(self, failures: int, cause: str) -> str:
        return (
            f"quarantined after {failures} failures in a row, the last one: {cause}; it is restarted"
            f" in {self.policy.quarantine_s:g} s, or at once on SIGHUP; see the log for the cause of each failure"
        )

    def drain(self, worker: Worker, now: float, cause: str) -> None:
        """Let a worker finish its work and exit; it gets no new work, and its slot no other process.

        One on another host is sent Drain after its last answer: a later answer may be lost with its connection.
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
        if is_starting:  # it reads no messages yet
            self.out.append(KillWorker(worker=moved.identity, cause=cause))
        elif is_alive and not (worker.is_remote and worker.leases):
            self.out.append(SendMessage(moved.identity, Drain()))

    def leaving_due(self, now: float) -> float:
        """Return when a drained worker without work must have exited.

        One that hangs in native code still sends heartbeats, and would stay forever.
        """
        return now + self.policy.silence_s

    def overdue(self, now: float) -> Iterator[tuple[Worker, str]]:
        """Yield the workers that have exceeded a time limit, each with the reason."""
        for slot in list(self.workers):
            worker = self.workers[slot]  # its present record: the loss of one worker may have changed another
            if worker.state is WorkerState.STARTING and now >= worker.due_at:
                yield worker, f"not ready {self.policy.start_timeout_s:g} s after its start"
            elif worker.state in SERVING:
                feed = worker.feed
                if now >= worker.seen_at + self.policy.silence_s:
                    yield worker, f"no message for {self.policy.silence_s:g} s"
                elif now >= worker.due_at and worker.state is WorkerState.BUSY and feed and feed.is_abandoned:
                    yield worker, f"did not stop reading an abandoned file within {self.policy.abandon_s:g} s"
                elif now >= worker.due_at:
                    is_idle = not worker.leases
                    what = "not received or not done" if worker.is_remote else "not done"
                    yield (
                        worker,
                        "still running after it was drained"
                        if is_idle
                        else f"lease {what} within its time limit",
                    )
                elif self.is_stalled(worker, now):
                    yield worker, f"no progress in decoding for {self.policy.prepare_stall_s:g} s"

    def is_stalled(self, worker: Worker, now: float) -> bool:
        """Return whether a prepare worker makes no progress with its file."""
        feed = worker.feed
        if feed is None or feed.is_waiting or feed.is_abandoned:
            return False
        return now >= feed.progressed_at + self.policy.prepare_stall_s

    def restart_due(self, now: float) -> None:
        """Start a process in each slot whose waiting time is over.

        A slot leaves quarantine with its failures: the next failure quarantines it again. A worker on another host may
        join again.
        """
        for worker in list(self.workers.values()):
            if now >= worker.due_at and worker.state in WAITING:
                if worker.is_remote:
                    self.move(worker, WorkerEvent.DRAIN, due_at=NEVER)
                else:
                    self._start_again(worker, WorkerEvent.ELAPSED, now)

    def forget_gone(self, now: float) -> None:
        """Drop the stopped slots of other hosts after a while: hosts that come and go have ever new names."""
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
        """Start a process in a broken slot; does nothing if it is not broken."""
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
            seen_at=now,
            due_at=now + self.policy.start_timeout_s,
        )
        self.out.append(SpawnWorker(slot=moved.slot, incarnation=moved.incarnation))

    def next_deadline(self) -> float:
        """Return when the next time limit ends; infinity if there is none."""
        due = NEVER
        for worker in self.workers.values():
            due = min(due, worker.due_at)
            if worker.state in SERVING:
                due = min(due, worker.seen_at + self.policy.silence_s)
                if worker.feed and not worker.feed.is_waiting and not worker.feed.is_abandoned:
                    due = min(due, worker.feed.progressed_at + self.policy.prepare_stall_s)
        return due
