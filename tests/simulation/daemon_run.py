"""One life of the daemon: the broker with its store, PCM, files and processes, joined as server.py joins them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from action_checks import Violation, Witness
from door import Door
from fault_plan import Fate, Fault, Media
from invariants import check
from local_worker_process import Process, ToWorker
from memory_store import ModelStore
from slot_checks import SlotWitness
from worker_roles import start_worker

from subtitled.core import actions as ac
from subtitled.core import events as ev
from subtitled.core import protocol as pr
from subtitled.core.broker import Broker
from subtitled.core.policy import Policy
from subtitled.core.records import Role, SegmentKey

SHARE_AT_ONCE = 0.7
"""Of the messages, those that have a turn of the loop for themselves or with those that wait."""


class Killed(Exception):
    """The daemon ends here and now, whatever it was doing."""


class Around(Protocol):
    """What outlives the daemon."""

    fate: Fate
    policy: Policy
    store: ModelStore
    now: float
    roles: dict[str, Role]

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at a time."""

    def note(self, what: object) -> None:
        """Keep something for the history that is printed when it fails."""

    def media(self, job: str) -> Media:
        """Return a job's media file."""

    def readings(self, job: str) -> int:
        """Count a reading of a job's file; return how many there were before."""


class Life:
    """The daemon from its start to its end; what it had under way ends with it."""

    def __init__(self, around: Around, broker: Broker) -> None:
        self.around = around
        self.broker = broker
        self.fate = around.fate
        self.policy = around.policy
        self.is_over = False
        self.deadline = 0.0
        """When the broker wants to be called again at the latest."""
        self.processes: dict[str, Process] = {}
        self._pcm: dict[SegmentKey, int] = {}
        self._files: set[str] = set()
        self._mail: list[ev.Event] = []
        self._witness = Witness(around.policy, self._pcm, broker)
        self.door = Door(self, self._witness)
        self._slots = SlotWitness(around.policy)
        self._is_looked_at = False
        self._progress: dict[str, ev.Event] = {}

    def start(self) -> None:
        """Take up what the store holds, and open the slots."""
        self._perform(self.broker.restore(self.around.store.unfinished(), self.now))
        for slot, role in self.around.roles.items():
            self.happen(ev.SlotAdded(slot, role))

    def happen(self, *events: ev.Event) -> None:
        """Hand events to the broker, save what comes of them, then do it."""
        for event in events:
            if not _is_sign_of_life(event):
                self._note(event)
                self._is_looked_at = False
                self._slots.heard(event)
        self._perform(self._decided(self.broker.handle(events, self.now)))

    def reset(self, slot: str) -> None:
        """Have a broken slot tried again."""
        self._slots.reset(slot)
        self.happen(ev.SlotReset(slot))

    def turn(self) -> None:
        """Take a turn of the loop: what time calls for, and then a look at everything.

        Most turns are between workers and wires only. The broker cannot have changed in them, and is left alone.
        """
        if self._is_looked_at and self.now < self.deadline:
            return
        actions, self.deadline = self.broker.tick(self.now)
        self._perform(self._decided(actions))
        if self.deadline <= self.now:
            raise Violation("what is due was not done, and the loop would turn for ever")
        check(self.broker, self.around.store, self._pcm, self._files)
        self._witness.looked_at(self.broker)
        self._slots.looked_at(self.broker.worker_table, self.now)
        self.door.looked_at()
        self._is_looked_at = True

    def _decided(self, actions: list[ac.Action]) -> list[ac.Action]:
        self._slots.decided(actions, self.broker)
        return actions

    @property
    def is_idle(self) -> bool:
        """A drained daemon may end."""
        return self.broker.is_idle and not self._files

    # -- what a process has around it ------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The time."""
        return self.around.now

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at a time; not at all when this life is over by then."""
        self.around.at(when, lambda: None if self.is_over else call())

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call later; not at all when this life is over by then."""
        self.at(self.now + delay_s, call)

    def arrive(self, events: tuple[ev.Event, ...]) -> None:
        """Take what a worker said; it may wait for what others say in the same turn of the loop."""
        self._mail += events
        if self.fate.random.random() < SHARE_AT_ONCE:
            self.receive()
        else:
            self.after(0.02, self.receive)

    def receive(self) -> None:
        """Handle all that has come in as one turn of the loop does, the PCM first."""
        events, self._mail = self._mail, []
        stored = []
        for event in events:
            match event:
                case ev.MessageReceived(worker=worker, message=pr.Prepared(feed=feed, plan=plan)):
                    found = self.broker.prepare_dispatch.find(worker, feed)
                    if found is not None:
                        key = SegmentKey(found[1].job, plan.index)
                        self._pcm.setdefault(key, plan.samples * 2)
                        stored.append(key)
        self.happen(*events)
        for key in stored:
            segment = self.broker.live_jobs.find(key)
            if segment is None or not segment.has_pcm:
                self._pcm.pop(key, None)

    def ended(self, process: Process, *, is_fatal: bool, cause: str) -> None:
        """Notice that a process is gone."""
        self.receive()  # what it said before it ended counts
        self._witness.exited(process.identity)
        self._slots.exited(process.identity, is_fatal=is_fatal)
        self.happen(ev.WorkerExited(worker=process.identity, is_fatal=is_fatal, cause=cause))

    def exited_far(self, worker: str, cause: str) -> None:
        """Notice that a worker on another host was let go."""
        self.receive()
        self.happen(ev.WorkerExited(worker=worker, is_fatal=False, cause=cause))

    def media(self, job: str) -> Media:
        """Return a job's media file."""
        return self.around.media(job)

    def readings(self, job: str) -> int:
        """Count a reading of a job's file; return how many there were before."""
        return self.around.readings(job)

    def _note(self, event: ev.Event) -> None:
        if isinstance(event, ev.MessageReceived) and isinstance(event.message, pr.Heartbeat):
            if self._progress.get(event.worker) == event:
                return
            self._progress[event.worker] = event
        self.around.note(event)

    # -- what the broker asks for ----------------------------------------------------------------------------

    def _perform(self, actions: list[ac.Action]) -> None:
        saves = [action for action in actions if isinstance(action, ac.Save)]
        if saves and self.fate.strikes(Fault.STORE_FAILED):
            raise Killed("the commit failed")
        self.around.store.apply(saves)
        if actions and self.fate.strikes(Fault.DAEMON_KILL):
            # Killed between the commit and any of what follows it.
            actions = actions[: self.fate.random.randrange(len(actions))]
            for action in actions:
                self._do(action)
            raise Killed("SIGKILL")
        for action in actions:
            self._do(action)

    def _do(self, action: ac.Action) -> None:
        self._witness.saw(action)
        self._slots.saw(action, self.now)
        self.door.saw(action)
        if not isinstance(action, ac.Save):
            self.around.note(action)
        match action:
            case ac.SendPrepare() | ac.Send():
                self._send(action.worker, action.message)
            case ac.SendLease(lease=lease):
                self._send(lease.worker, action.message)
            case ac.DropPcm(key=key):
                self._pcm.pop(key, None)
            case ac.Spawn(slot=slot, incarnation=incarnation):
                self._spawn(slot, f"{slot}.{incarnation}")
            case ac.Kill(worker=worker):
                if not self.door.hang_up(worker):
                    self.processes[worker].kill()
            case ac.WriteOutputs(job=job):
                self._write(job.id, is_failure=False)
            case ac.WriteFailure(job=job):
                self._write(job.id, is_failure=True)

    def _send(self, worker: str, message: ToWorker) -> None:
        if self.door.send(worker, message):
            return
        process = self.processes.get(worker)
        if process is None:
            raise Violation(f"{message} goes to a worker that never was")
        process.hear(message)

    def _spawn(self, slot: str, identity: str) -> None:
        if any(
            other.is_alive and other.identity.rpartition(".")[0] == slot for other in self.processes.values()
        ):
            raise Violation(f"{identity} is started while the slot's last process is alive")
        if slot not in self.around.roles:
            raise Violation(f"a process is wanted in {slot}, which is on another host")
        if identity in self.processes:
            raise Violation(f"{identity} is started a second time")
        self.processes[identity] = start_worker(self, identity, self.around.roles[slot])

    def _write(self, job: str, *, is_failure: bool) -> None:
        if job in self._files:
            raise Violation(f"the files of job {job} are written twice at a time")
        self._files.add(job)
        is_written = is_failure or not self.fate.strikes(Fault.WRITE_FAILED)

        def come_back() -> None:
            self._files.discard(job)
            if not is_written:
                self.happen(ev.WriteFailed(job, "no space on the device"))
            elif is_failure:
                self.happen(ev.Closed(job, job.encode()))
            else:
                self.happen(ev.Written(job, job.encode()))

        self.after(self.fate.within(0.01, 2), come_back)


def _is_sign_of_life(event: ev.Event) -> bool:
    """Return whether an event says nothing but that a worker lives."""
    if not isinstance(event, ev.MessageReceived):
        return False
    return isinstance(event.message, pr.Echo) or event.message == pr.Heartbeat()
