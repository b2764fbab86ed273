"""What people do to the daemon: they submit, cancel, retry, reload, stop and kill it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon_run import Killed, Life
from fault_plan import Fault, Media

from subtitled.core import events as ev
from subtitled.core.records import Job, Options
from subtitled.core.states import JobState, WorkerState

if TYPE_CHECKING:
    from history import World

SENT = 0.3
"""Of all files, those that clients send."""
CANCELLABLE = {JobState.RECEIVING, JobState.QUEUED, JobState.PREPARING, JobState.TRANSCRIBING}


class People:
    """Everybody who has to do with one daemon; what is not allowed at the moment, they leave."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.removed: set[str] = set()
        """Slots that are not in the configuration at the moment."""

    def come_and_go(self, seconds: float) -> None:
        """Decide by chance what they do in the time to come."""
        world = self._world
        fate = world.fate
        for _ in range(fate.random.choice((1, 2, 3, 3, 4))):
            world.at(fate.within(0, seconds * 0.5), self._visit)
        for fault, call in (
            (Fault.NO_SPACE, self._fill_the_disk),
            (Fault.SLOT_REMOVED, lambda: self.remove_slot(fate.random.choice(sorted(world.roles)))),
            (Fault.RELOAD, self.reload),
            (Fault.DRAIN, self._stop),
            (Fault.PARTITION, self._cut_off),
            (Fault.PARTITION, self._cut_off),
            (Fault.LEAVE, self._take_away),
        ):
            if fault in fate.rates:
                world.at(fate.within(0, seconds), call)

    def submit(self, media: Media, options: Options, *, is_sent: bool = False) -> str:
        """Put a file into the inbox, or begin to send it; return its job, which a daemon that stops does not take."""
        world = self._world
        order = world.store.next_order()
        name = f"job{order}"
        world.add_media(name, media)
        if is_sent:  # before the daemon has a chance to be killed: its client is another process
            is_whole = not world.fate.strikes(Fault.CANCEL)
            ends_at = world.now + world.fate.within(0, 60)
            world.at(ends_at, lambda: self.end_upload(name, is_whole=is_whole))
        if not world.life.broker.is_draining:
            job = Job(
                id=name,
                state=JobState.RECEIVING if is_sent else JobState.QUEUED,
                source=name.encode(),
                location=name.encode(),
                size=len(media.plans),
                mtime_ns=1,
                options=options,
                order=order,
            )
            world.life.happen(ev.JobArrived(job))
        return name

    def end_upload(self, name: str, *, is_whole: bool) -> None:
        """Have an upload complete, or given up, if it still goes on; its client tries again when the daemon is killed."""
        world = self._world
        job = world.store.jobs.get(name)
        if job is not None and job.state is JobState.RECEIVING:
            world.at(world.now + 1, lambda: self.end_upload(name, is_whole=is_whole))
            arrived = ev.Uploaded(job=name, size=2, mtime_ns=2, sha256="0" * 64)
            self._world.life.happen(arrived if is_whole else ev.Expired(job=name, cause="silent"))

    def cancel(self, name: str) -> None:
        """Cancel a job."""
        job = self._world.store.jobs.get(name)  # the daemon may have been killed before it was accepted
        if job is not None and job.state in CANCELLABLE:
            self._world.life.happen(ev.CancelRequested(name))

    def retry(self, name: str) -> None:
        """Have a failed job tried again."""
        job = self._world.store.jobs.get(name)
        if job is not None and job.state is JobState.FAILED and job.is_closed:
            self._world.life.happen(ev.RetryRequested(job, self._world.store.rows(name)))

    def set_space(self, *, is_enough: bool) -> None:
        """Fill the disk, or make room on it."""
        self._world.life.happen(ev.SpaceChanged(is_enough=is_enough))

    def remove_slot(self, slot: str) -> None:
        """Take a slot out of the configuration, unless it is the last of its role."""
        roles = self._world.roles
        kept = (role for name, role in roles.items() if name != slot and name not in self.removed)
        if roles[slot] in kept and slot in self._world.life.broker.worker_table.workers:
            self.removed.add(slot)
            self._world.life.happen(ev.SlotRemoved(slot))

    def reload(self, *, is_for_all: bool = True) -> None:
        """Have the configuration read again, with every slot in it; one that is not yet empty stays away."""
        life = self._world.life
        for slot, worker in list(life.broker.worker_table.workers.items()):
            if is_for_all or worker.is_permanently_broken:
                life.reset(slot)
            if worker.state is WorkerState.STOPPED and not worker.is_remote and not life.broker.is_draining:
                self.removed.discard(slot)
                life.happen(ev.SlotAdded(slot, worker.role))

    def mend(self) -> None:
        """Have every slot back that does not come back by itself."""
        self.reload(is_for_all=False)

    def drain(self) -> None:
        """SIGTERM."""
        self._world.life.happen(ev.DrainRequested())

    def kill(self, life: Life) -> None:
        """End a life of the daemon, if it has not ended; raises Killed."""
        if not life.is_over:
            raise Killed("by a person, or the stop timeout")

    def _visit(self) -> None:
        world = self._world
        fate = world.fate
        name = self.submit(fate.media(), fate.options(), is_sent=fate.random.random() < SENT)
        if fate.strikes(Fault.CANCEL):
            world.at(world.now + fate.within(0, 40), lambda: self.cancel(name))
        for _ in range(3):
            if fate.strikes(Fault.RETRY):
                world.at(world.now + fate.within(5, 80), lambda: self.retry(name))

    def _cut_off(self) -> None:
        if self._world.far:
            fate = self._world.fate
            fate.random.choice(self._world.far).cut_off(fate.random.choice((5.0, 25.0, 60.0, 120.0)))

    def _take_away(self) -> None:
        if self._world.far:
            self._world.fate.random.choice(self._world.far).leave()

    def _fill_the_disk(self) -> None:
        self.set_space(is_enough=False)
        world = self._world
        world.at(world.now + world.fate.within(1, 60), lambda: self.set_space(is_enough=True))

    def _stop(self) -> None:
        life = self._world.life
        self._world.at(self._world.now + self._world.fate.within(0, 60), lambda: self.kill(life))
        self.drain()
