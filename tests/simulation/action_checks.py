"""What the actions of a broker show: no segment is leased twice, starves, or is counted without its lease."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from fault_plan import WINDOW_SAMPLES

from subtitled.core import actions as ac
from subtitled.core.broker import Broker
from subtitled.core.live_jobs import LiveJobs
from subtitled.core.policy import Policy
from subtitled.core.protocol import SegmentResult
from subtitled.core.records import Options, SegmentKey, model_of
from subtitled.core.states import JobState, SegmentEvent, SegmentState

_result = msgspec.msgpack.Decoder(SegmentResult)


class Violation(Exception):
    """An invariant that does not hold."""


def token(lease: int, key: SegmentKey, language: str | None, source: str) -> str:
    """Return the text of a result, which names the lease and the model that made it, so that none is counted twice unseen."""
    return f"{lease} {key.job} {key.index} {language} {source}"


class _Wait:
    """A ready segment that was not leased at once, and what was given to others since."""

    def __init__(self, priority: int, ahead_samples: int) -> None:
        self.priority = priority
        self.ahead_samples = ahead_samples
        self.given: dict[str, int] = {}


class ActionChecks:
    """Checks the actions of one run of the daemon."""

    def __init__(self, policy: Policy, live_jobs: LiveJobs, source_of: Callable[[str], str]) -> None:
        """`source_of` returns the present source of a model."""
        self._policy = policy
        self._source_of = source_of
        self._sources: dict[int, str] = {}
        """Source of each lease's model when it was sent."""
        self._live_jobs = live_jobs
        self._held: dict[SegmentKey, ac.SendLease] = {}
        self._waits: dict[SegmentKey, _Wait] = {}
        self._alive: set[str] = set()
        self._joined: set[str] = set()
        self._counted: set[str] = set()

    def decided(self, action: ac.Action) -> None:
        """Note an action; raises Violation where it breaks an invariant."""
        match action:
            case ac.SpawnWorker(slot=slot, incarnation=incarnation):
                self._alive.add(f"{slot}.{incarnation}")
            case ac.SendLease():
                self._leased(action)
            case ac.SaveJob(job=job) if job.state in {JobState.FAILED, JobState.CANCELLED, JobState.DONE}:
                # It may end in the very step in which another's segment is leased: it waits no more.
                self._waits = {key: wait for key, wait in self._waits.items() if key.job != job.id}
            case ac.SaveSegment(before=SegmentState.LEASED):
                self._released(action)
            case ac.SaveText(before=SegmentState.LEASED):
                self._released_text(action)

    def joined(self, worker: str) -> None:
        """Note that a worker on another host has joined; raises Violation if one of its name was there before."""
        if worker in self._joined:
            raise Violation(f"the identity {worker} is given a second time")
        self._joined.add(worker)
        self._alive.add(worker)

    def exited(self, worker: str) -> None:
        """Note that a worker has ended."""
        self._alive.discard(worker)

    def observe(self, broker: Broker) -> None:
        """Note which segments are ready and were not leased in this step."""
        live_jobs = broker.live_jobs
        ready = [
            segment
            for live in live_jobs.jobs.values()
            for segment in live.segments.values()
            if segment.key in broker.lease_dispatch.ready
        ]
        self._waits = {s.key: self._waits[s.key] for s in ready if s.key in self._waits}
        for segment in ready:
            if segment.key not in self._waits:
                job = live_jobs.job(segment.key.job)
                ahead = sum(other.samples for other in ready if other.key.job == job.id)
                self._waits[segment.key] = _Wait(job.priority, ahead - segment.samples)

    def _leased(self, action: ac.SendLease) -> None:
        worker = action.lease.worker
        if worker not in self._alive:
            raise Violation(f"lease {action.lease.id} was given to {worker}, which is gone")
        if len(action.message.items) > self._policy.batch_size:
            raise Violation(f"lease {action.lease.id} has {len(action.message.items)} segments")
        self._sources[action.lease.id] = self._source_of(action.lease.model)
        if not action.message.items:  # a preloaded model
            return
        if len({self._options(item.key).word_timestamps for item in action.audio}) > 1:
            raise Violation(f"lease {action.lease.id} mixes decoding options")
        for item in action.message.items:
            if item.key in self._held:
                raise Violation(f"{item.key} was leased twice: {self._held[item.key].lease}, {action.lease}")
            self._held[item.key] = action
            self._waits.pop(item.key, None)
        self._check_fairness(action)

    def _options(self, key: SegmentKey) -> Options:
        return self._live_jobs.job(key.job).options

    def _check_fairness(self, action: ac.SendLease) -> None:
        """Check the bound on waiting.

        A ready segment of the highest priority waits while any one other job of its priority is given as much audio as
        was ahead of it in its own job, and a few leases: each side may be one lease out of step. So it waits at most
        that much audio times the number of such jobs, and no lease is of less than one segment.
        """
        first = action.message.items[0]
        slack = (2 * self._policy.batch_size + 3) * WINDOW_SAMPLES
        for key, wait in self._waits.items():
            if model_of(self._live_jobs.job(key.job), self._live_jobs.segment(key)) != action.lease.model:
                continue  # its turn is checked by ModelChecks
            if wait.priority > self._options(first.key).priority:
                raise Violation(f"{key} of priority {wait.priority} waits while {first.key} is leased")
            for item in action.message.items:
                if self._options(item.key).priority != wait.priority or item.key.job == key.job:
                    continue
                samples = self._live_jobs.segment(item.key).samples
                given = wait.given.get(item.key.job, 0) + samples
                wait.given[item.key.job] = given
                if given > wait.ahead_samples + slack:
                    raise Violation(
                        f"{key} starves: it waits while job {item.key.job} is given {given} samples"
                    )

    def _released_text(self, action: ac.SaveText) -> None:
        key = action.segment.key
        held = self._held.pop(key, None)
        if action.event is not SegmentEvent.DONE:
            return
        if held is None:
            raise Violation(f"translations of {key} were counted, and no worker held it")
        for row in action.translations:
            if row.text != f"{held.lease.id} {row.source}":
                raise Violation(f"{key} is held by lease {held.lease.id}; counted was {row.text!r}")

    def _released(self, action: ac.SaveSegment) -> None:
        key = action.segment.key
        held = self._held.pop(key, None)
        if action.event not in {SegmentEvent.DONE, SegmentEvent.SKIPPED}:
            return
        if held is None:
            raise Violation(f"a result for {key} was counted, and no worker held it")
        item = next(item for item in held.audio if item.key == key)
        result = _result.decode(action.result or b"")
        text = (result.translation or result.phrases)[0].text
        if text != token(held.lease.id, key, item.language, self._sources[held.lease.id]):
            raise Violation(f"{key} is held by lease {held.lease.id}; counted was {text!r}")
        if text in self._counted:
            raise Violation(f"result {text!r} was counted twice")
        self._counted.add(text)
