"""The daemon's side of the workers on other hosts: who has joined, by which session; told as server.py tells it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from action_checks import Violation, Witness
from local_worker_process import BEAT_S, ToWorker
from remote_worker_process import Echo, Join, Probe, Session, ToHead, TurnedAway, Unknown, Welcome

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.policy import time_to_arrive
from subtitled.core.states import WorkerState

if TYPE_CHECKING:
    from daemon_run import Life

SERVING = (WorkerState.IDLE, WorkerState.BUSY, WorkerState.DRAINING)


class Door:
    """Knows the sessions of one life of the daemon."""

    def __init__(self, life: Life, witness: Witness) -> None:
        self._life = life
        self._witness = witness
        self._identities: dict[Session, str] = {}
        self._sessions: dict[str, Session] = {}
        self._past: dict[Session, str] = {}
        """Sessions that are over, whose results may still come."""
        self._heard_at: dict[str, float] = {}
        self._sent_at: dict[int, float] = {}
        """When each lease went to another host that has not arrived there."""

    def came(self, session: Session, said: ToHead) -> None:
        """Take a message of a session."""
        life = self._life
        identity = self._identities.get(session)
        if isinstance(said, Join):
            self._let_in(session, said)
        elif identity is None:
            session.hear(Unknown())
            if session in self._past and isinstance(said, tuple):
                life.arrive(said)
        elif isinstance(said, Echo):
            self._heard_at[identity] = life.now
            measured = ev.LinkMeasured(
                worker=identity, round_trip_s=life.now - said.stamp_s, bytes_per_s=said.bytes_per_s
            )
            life.arrive((measured, ev.MessageReceived(identity, pr.Echo(stamp_s=said.stamp_s))))
        else:
            self._heard_at[identity] = life.now
            life.arrive(said)

    def send(self, worker: str, message: ToWorker) -> bool:
        """Send a message to a worker on another host; say whether it is one. One that is to go is gone then."""
        session = self._sessions.get(worker)
        if session is None:
            return worker in self._past.values()
        session.hear(message)
        if isinstance(message, pr.Drain):
            self._end(worker, "left")
        return True

    def hang_up(self, worker: str) -> bool:
        """Tell a worker on another host that it is not known any more; say whether it is one."""
        session = self._sessions.get(worker)
        if session is None:
            return worker in self._past.values()
        session.hear(Unknown())
        self._end(worker, "not known any more")
        return True

    def saw(self, action: ac.Action) -> None:
        """Note which leases are under way."""
        if isinstance(action, ac.SendLease) and not action.lease.is_received:
            self._sent_at[action.lease.id] = self._life.now

    def looked_at(self) -> None:
        """Raise Violation where a worker is cut off and keeps what others could do, or a slow link has no time."""
        life = self._life
        for identity, heard_at in self._heard_at.items():
            worker = life.broker.worker_table.current(identity)
            is_silent = life.now > heard_at + life.policy.silence_s + BEAT_S
            if worker is not None and worker.state in SERVING and worker.leases and is_silent:
                raise Violation(f"{identity} was last heard at {heard_at:.2f} s, and keeps its leases")
        for lease in life.broker.lease_dispatch.leases.values():
            allowed_s = time_to_arrive(life.policy, lease.pcm_bytes)
            if not lease.is_received and lease.due_at < self._sent_at[lease.id] + allowed_s:
                raise Violation(f"{lease} has less than {allowed_s:g} s to arrive")

    def _let_in(self, session: Session, join: Join) -> None:
        life = self._life
        if (identity := self._identities.get(session)) is not None:
            session.hear(Welcome(identity))  # the first one was lost
            return
        if session in self._past:
            session.hear(Unknown())
            return
        life.receive()
        life.happen(ev.WorkerJoined(slot=join.slot, previous=join.previous))
        worker = life.broker.worker_table.workers.get(join.slot)
        if life.broker.is_draining or worker is None or worker.state is not WorkerState.STARTING:
            session.hear(TurnedAway())
            return
        self._witness.joined(worker.identity)
        self._identities[session] = worker.identity
        self._sessions[worker.identity] = session
        self._heard_at[worker.identity] = life.now
        session.hear(Welcome(worker.identity))
        self._probe(session)

    def _probe(self, session: Session) -> None:
        if session in self._identities:
            session.hear(Probe(self._life.now))
            self._life.after(BEAT_S, lambda: self._probe(session))

    def _end(self, worker: str, cause: str) -> None:
        session = self._sessions.pop(worker)
        del self._identities[session]
        self._past[session] = worker
        self._life.after(0, lambda: self._exited(worker, cause))

    def _exited(self, worker: str, cause: str) -> None:
        self._witness.exited(worker)
        self._heard_at.pop(worker, None)
        self._life.exited_far(worker, cause)
