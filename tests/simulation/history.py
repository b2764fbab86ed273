"""A seeded random world under virtual time: people, media, one life of the daemon after the other."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

from action_checks import Violation
from daemon_run import Killed, Life
from fault_plan import Fate, Fault, Media
from memory_store import ModelStore
from remote_worker_process import FarWorker
from simulated_users import People

from subtitled.core.broker import Broker
from subtitled.core.policy import Policy
from subtitled.core.records import Role
from subtitled.core.states import JobState

UNREST_S = 80.0
"""How long users come and faults strike."""
CALM_S = 10_000.0
"""Within this time after that, every job ends: backoffs, times to run and lines add up to far less."""
STOP_S = 300.0
"""Within this time a drained daemon is at rest."""

MakeBroker = Callable[[Policy], Broker]


class HistoryFailed(Exception):
    """A history in which a promise was broken; its text is what happened last, with the seed."""


class World:
    """One history, decided by its seed."""

    def __init__(
        self,
        seed: int,
        make_broker: MakeBroker = Broker,
        *,
        without: frozenset[Fault] = frozenset(),
        spared: frozenset[int] = frozenset(),
        remembered: int = 30,
    ) -> None:
        self.seed = seed
        self.fate = Fate(seed, without=without, spared=spared)
        self.policy = self.fate.policy()
        self.store = ModelStore()
        self.now = 0.0
        self.steps = 0
        self.roles = self._slots()
        self._make_broker = make_broker
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._last_number = 0
        self._media: dict[str, Media] = {}
        self._readings: dict[str, int] = {}
        self.people = People(self)
        self.noted: deque[tuple[float, object]] = deque(maxlen=remembered)
        self.life = Life(self, make_broker(self.policy))
        self.far = [FarWorker(self, slot) for slot in self._far_slots]

    # -- the history -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Live the history to its end; raises HistoryFailed where a promise is broken."""
        try:
            self._run()
        except Exception as error:
            raise HistoryFailed(self._story(error)) from error

    def _run(self) -> None:
        self.people.come_and_go(UNREST_S)
        self.start()
        self.pass_time(UNREST_S)
        self.finish()

    def start(self) -> None:
        """Start the first daemon, and the hosts around it."""
        self.live(self.life.start)
        for worker in self.far:
            self.at(self.now + self.fate.within(0, 20), worker.start)

    def pass_time(self, seconds: float) -> None:
        """Let happen what happens in this time."""
        self._until(self.now + seconds, lambda: False)

    def finish(self) -> None:
        """Have the faults stop and time pass; raises Violation unless every job ends and a drained daemon comes to rest."""
        self.fate.is_calm = True
        self._calm_down()
        self._until(self.now + CALM_S, self._is_all_ended)
        if faults := self.store.faults_at_the_end():
            raise Violation("; ".join(faults))
        self.live(self.people.drain)
        self._until(self.now + STOP_S, lambda: self.life.is_idle)
        if not self.life.is_idle:
            workers = self.life.broker.worker_table.workers.values()
            raise Violation(f"a drained daemon is not at rest: {[(w.identity, w.state) for w in workers]}")

    def _until(self, end: float, is_enough: Callable[[], bool]) -> None:
        """Take steps until a time, or until it is enough."""
        while not is_enough():
            soon = self._agenda[0][0] if self._agenda else end
            self.now = max(self.now, min(soon, self.life.deadline, end))
            if self.now >= end:
                return
            call = heapq.heappop(self._agenda)[2] if soon <= self.now else None
            self.live(call)

    def live(self, call: Callable[[], None] | None) -> None:
        """Take one step; where the daemon is killed in it, a new one starts."""
        self.steps += 1
        try:
            if call is not None:
                call()
            self.life.turn()
        except Killed as killed:
            self.note(f"the daemon is killed: {killed}")
            self._restart()

    def _restart(self) -> None:
        self.life.is_over = True
        self.people.removed.clear()
        self.life = Life(self, self._make_broker(self.policy))
        self.live(self.life.start)

    def _is_all_ended(self) -> bool:
        return all(
            job.state in {JobState.DONE, JobState.CANCELLED}
            or (job.state is JobState.FAILED and job.is_closed)
            for job in self.store.jobs.values()
        )

    def _calm_down(self) -> None:
        """Have a person mend what only a person can."""
        if self.life.broker.is_draining:
            self.live(lambda: self.people.kill(self.life))
        self.live(lambda: self.people.set_space(is_enough=True))
        self.live(self.people.mend)
        for worker in self.far:
            worker.start()
        # A slot that is on its way out comes back only when it is empty.
        self.at(self.now + STOP_S, self.people.mend)

    # -- what outlives the daemon ----------------------------------------------------------------------------

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at a time."""
        self._last_number += 1
        heapq.heappush(self._agenda, (when, self._last_number, call))

    def note(self, what: object) -> None:
        """Keep something for the history that is printed when it fails."""
        self.noted.append((self.now, what))

    def add_media(self, job: str, media: Media) -> None:
        """Give a job its media file."""
        self._media[job] = media
        self._readings[job] = 0

    def media(self, job: str) -> Media:
        """Return a job's media file."""
        return self._media[job]

    def readings(self, job: str) -> int:
        """Count a reading of a job's file; return how many there were before."""
        count = self._readings[job]
        self._readings[job] += 1
        return count

    def _slots(self) -> dict[str, Role]:
        random = self.fate.random
        slots = {f"prepare{place}": Role.PREPARE for place in range(random.choice((1, 2, 2)))}
        gpus = random.choice((1, 2, 3))
        self._far_slots = [f"far{place}/cuda0" for place in range(random.choice((0, 0, 1, 2, 3)))]
        if self._far_slots and random.random() < 0.4:
            gpus = 0
        return slots | {f"gpu{place}": Role.TRANSCRIBE for place in range(gpus)}

    # -- the story of a failure ------------------------------------------------------------------------------

    def _story(self, error: Exception) -> str:
        lines = [f"{at:9.2f} s  {what!r}" for at, what in self.noted]
        faults = sorted(fault.name for fault in self.fate.rates)
        return "\n".join(
            [
                f"seed {self.seed} broke a promise after {self.steps} steps:",
                f"{type(error).__name__}: {error}",
                f"policy: {self.policy}",
                f"faults: {', '.join(faults)}; they struck {len(self.fate.struck)} times",
                f"the last {len(lines)} events and actions:",
                *lines,
                f"replay: python tests/simulation/replay.py {self.seed}",
            ]
        )
