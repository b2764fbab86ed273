"""Faults put into the core on purpose; the simulation has to find each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from subtitled.core import events as ev
from subtitled.core import lease_dispatch as leasing_module
from subtitled.core import lease_sizing as sizing_module
from subtitled.core.broker import Broker
from subtitled.core.fair_queue import ReadyQueue
from subtitled.core.job_lifecycle import Course
from subtitled.core.lease_dispatch import Leasing
from subtitled.core.lease_sizing import Sizing
from subtitled.core.live_jobs import Ledger
from subtitled.core.prepare_dispatch import Feeding
from subtitled.core.records import Job, Lease, Segment, SegmentKey, Worker
from subtitled.core.states import SegmentEvent, SegmentState, WorkerEvent, WorkerState
from subtitled.core.worker_loss import Departures
from subtitled.core.worker_table import NEVER, Roster


class Mutation(Struct, frozen=True):
    """One fault: what is replaced, and by what."""

    name: str
    owner: Any
    attribute: str
    replacement: Any


def _release_nothing(_leasing: Leasing, _worker: Worker) -> Iterator[tuple[Lease, bool]]:
    return iter(())


def _claim_without_a_look(leasing: Leasing, _lease: Lease, key: SegmentKey) -> Segment | None:
    leasing._lease_of.pop(key, None)
    return leasing._ledger.find(key)


_on_transcribed = Broker._on_transcribed


def _accept_stale(broker: Broker, event: ev.Transcribed, now: float) -> None:
    """Count a late reply for a lease that is not current, where the segment is leased again."""
    _on_transcribed(broker, event, now)
    for outcome in event.outcomes:
        segment = broker.ledger.find(outcome.key)
        if segment is not None and segment.state is SegmentState.LEASED:
            broker.course.election.count(segment, outcome, event.worker)
            broker.course.advance(outcome.key.job)


_give_back = Leasing.give_back


def _blame_nobody(leasing: Leasing, lease: Lease, cause: str, *, is_blamed: bool) -> set[str]:
    del is_blamed
    return _give_back(leasing, lease, cause, is_blamed=False)


def _give_back_out_of_line(leasing: Leasing, lease: Lease, cause: str, *, is_blamed: bool) -> set[str]:
    """Forget to put what was lost in line again."""
    for key in lease.keys:
        if leasing._lease_of.pop(key, None):
            segment = leasing._ledger.segments[key.job][key.index]
            losses = segment.losses + is_blamed
            leasing._ledger.move_segment(segment, SegmentEvent.LOST, losses=losses, cause=cause)
    return {key.job for key in lease.keys}


def _change_unsaved(ledger: Ledger, job: Job, **changes: object) -> Job:
    changed = replace(job, **changes)
    ledger.jobs[job.id] = changed
    return changed


_take = ReadyQueue.take


def _take_and_keep(queue: ReadyQueue, count: int) -> tuple[SegmentKey, ...]:
    """Leave the first segment of a lease in line for another one."""
    taken = _take(queue, count)
    if len(taken) > 1:
        queue._keys[taken[0]] = (False, None)
    return taken


_advance = Course.advance


def _advance_when_planned(course: Course, name: str) -> None:
    """Forget to ask again for PCM that an outvoted segment has no more."""
    if not course._ledger.starved.get(name):
        _advance(course, name)


def _exited_and_wanted(roster: Roster, worker: Worker, **how: Any) -> Worker:
    roster._leaving.clear()
    return _exited(roster, worker, **how)


def _exited_and_put_aside_for_ever(roster: Roster, worker: Worker, **how: Any) -> Worker:
    gone = _exited(roster, worker, **how)
    return roster.put(replace(gone, due_at=NEVER)) if gone.state is WorkerState.BROKEN else gone


_exited = Roster.exited
_start_again = Roster._start_again


def _start_again_forgetful(roster: Roster, worker: Worker, event: WorkerEvent, now: float) -> None:
    _start_again(roster, replace(worker, failures=0), event, now)


def _restart_the_hopeless(roster: Roster, now: float) -> None:
    for worker in list(roster.workers.values()):
        if worker.state is WorkerState.BACKOFF and now >= worker.due_at:
            roster._start_again(worker, WorkerEvent.ELAPSED, now)
        elif worker.state is WorkerState.BROKEN:
            roster._start_again(worker, WorkerEvent.RESET, now)


_abandon = Feeding.abandon


def _abandon_in_silence(feeding: Feeding, job: str) -> None:
    """Forget the file, and that its worker is free again."""
    slot = feeding._slots.pop(job, None)
    if slot is not None:
        feeding._roster.put(replace(feeding._roster.workers[slot], feed=None))


def _make_way_with_hands_full(
    departures: Departures, worker: Worker, *, is_alive: bool, now: float
) -> Worker:
    """Let a worker join again that still holds what its last session held."""
    del is_alive, now
    if worker.state in {WorkerState.STOPPED, WorkerState.BROKEN}:
        return worker
    return departures._roster.move(worker, WorkerEvent.REPLACED, due_at=NEVER)


_join = Roster.join
_forget_gone = Roster.forget_gone
_overdue = Roster.overdue
_bounded = Sizing.bounded


def _join_as_the_first(roster: Roster, slot: str, now: float) -> Worker:
    return roster.put(replace(_join(roster, slot, now), incarnation=1))


def _join_as_one_of_ours(roster: Roster, slot: str, now: float) -> Worker:
    joined = _join(roster, slot, now)
    roster._leaving.discard(slot)
    return joined


def _forget_the_name_too(roster: Roster, now: float) -> None:
    _forget_gone(roster, now)
    roster._last_forgotten = 0


def _overdue_on_this_host(roster: Roster, now: float) -> Iterator[tuple[Worker, str]]:
    return ((worker, cause) for worker, cause in _overdue(roster, now) if not worker.is_remote)


def _bounded_to_nothing(sizing: Sizing, worker: Worker, size: int, ready: int, now: float) -> int:
    return 0 if worker.is_remote and worker.pace.leases else _bounded(sizing, worker, size, ready, now)


MUTATIONS = (
    Mutation("a dead worker keeps its leases", Leasing, "release", _release_nothing),
    Mutation("a dead decoder keeps its file", Feeding, "release", lambda _self, _worker: None),
    Mutation("a result counts without a look at its lease", Leasing, "claim", _claim_without_a_look),
    Mutation("a late reply for a stale lease counts", Broker, "_on_transcribed", _accept_stale),
    Mutation("nobody is blamed for a loss", Leasing, "give_back", _blame_nobody),
    Mutation("a lost segment is not put in line again", Leasing, "give_back", _give_back_out_of_line),
    Mutation("the tick starts no process again", Roster, "restart_due", lambda _self, _now: None),
    Mutation("the tick finds nobody overdue", Roster, "overdue", lambda _self, _now: iter(())),
    Mutation("the tick is called too late", Roster, "next_deadline", lambda _self: float("inf")),
    Mutation("PCM is never dropped", Ledger, "take_pcm", lambda _self, segment: segment),
    Mutation("a change of a job is not saved", Ledger, "change_job", _change_unsaved),
    Mutation("a cancelled job stays in line", ReadyQueue, "remove_job", lambda _self, _job: None),
    Mutation("a leased segment stays in line", ReadyQueue, "take", _take_and_keep),
    Mutation(
        "audio given is no account",
        ReadyQueue,
        "_rank",
        lambda _self, flow: (-flow.priority, 0, flow.order, 0),
    ),
    Mutation(
        "priority counts for nothing",
        ReadyQueue,
        "_rank",
        lambda self, flow: (0, self._given_samples[flow.job], 0, 0),
    ),
    Mutation("credit has no end", Feeding, "_is_room", lambda _self, _own, _promised: True),
    Mutation(
        "a worker holds more than its credit",
        leasing_module,
        "_may_hold_more",
        lambda worker, _credit: worker.state is WorkerState.BUSY,
    ),
    Mutation("an outvoted segment without PCM is forgotten", Course, "advance", _advance_when_planned),
    Mutation("a removed slot is filled again", Roster, "exited", _exited_and_wanted),
    Mutation(
        "a slot that was put aside does not come back",
        Roster,
        "exited",
        _exited_and_put_aside_for_ever,
    ),
    Mutation(
        "a slot that crashes again and again is not put aside", Roster, "_start_again", _start_again_forgetful
    ),
    Mutation("a bad device may bury", Leasing, "_able", lambda _self, idle: idle),
    Mutation("a broken slot is tried again at once", Roster, "restart_due", _restart_the_hopeless),
    Mutation("a drained worker may stay for ever", Roster, "leaving_due", lambda _self, _now: float("inf")),
    Mutation("a feed outlives its job", Feeding, "abandon", lambda _self, _job: None),
    Mutation("a file is let go but not its worker", Feeding, "abandon", _abandon_in_silence),
    Mutation("who joins again holds its old leases", Departures, "make_way", _make_way_with_hands_full),
    Mutation("an identity is given twice", Roster, "join", _join_as_the_first),
    Mutation("a slot that was forgotten begins at one", Roster, "forget_gone", _forget_the_name_too),
    Mutation("a process is started on another host", Roster, "join", _join_as_one_of_ours),
    Mutation("who is cut off keeps its leases", Roster, "overdue", _overdue_on_this_host),
    Mutation(
        "a slow link has no time to bring a lease",
        leasing_module,
        "time_to_arrive",
        lambda policy, _pcm_bytes: policy.lease_min_s,
    ),
    Mutation("more is in flight than may be", Sizing, "_room", lambda _self, _worker: 99),
    Mutation(
        "a worker on another host is given one lease and no more", Sizing, "bounded", _bounded_to_nothing
    ),
    Mutation("workers wait for each other", sizing_module, "SOONER", 9.0),
)
