"""The same world, with hypothesis in the place of chance: what it finds, it makes small."""

from __future__ import annotations

from functools import partial

from fault_plan import Fault, Media, make_plan
from history import World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from subtitled.core.records import Options

LENGTHS = (4_000, 100_000, 480_000)


class People(RuleBasedStateMachine):
    """People and accidents, one after the other; every step of the world looks at every invariant."""

    jobs: Bundle[str] = Bundle("jobs")

    @initialize(seed=st.integers(0, 50))
    def start(self, seed: int) -> None:
        """Start a daemon with the settings of some seed; nothing goes wrong by itself."""
        self.world = World(seed, without=frozenset(Fault))
        self.world.start()

    @rule(
        target=jobs,
        lengths=st.lists(st.sampled_from(LENGTHS), max_size=8),
        language=st.sampled_from(["auto", "multi", "de"]),
        losers=st.sets(st.integers(0, 7), max_size=3),
        poison=st.sets(st.integers(0, 7), max_size=1),
        priority=st.integers(0, 1),
    )
    def submit(
        self, lengths: list[int], language: str, losers: set[int], poison: set[int], priority: int
    ) -> str:
        """Put a file into the inbox."""
        media = Media(
            plans=tuple(make_plan(index, samples) for index, samples in enumerate(lengths)),
            language="en",
            losers=dict.fromkeys(losers, "fr"),
            silent=frozenset(),
            poison=frozenset(poison),
            refused=frozenset(),
        )
        options = Options(language=language, priority=priority)
        names: list[str] = []
        self.world.live(lambda: names.append(self.world.people.submit(media, options)))
        return names[0]

    @rule(seconds=st.sampled_from([0.05, 0.5, 3, 15, 70]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.world.pass_time(seconds)

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        """Cancel a job."""
        self.world.live(partial(self.world.people.cancel, job))

    @rule(job=jobs)
    def retry(self, job: str) -> None:
        """Have a job tried again, if it failed."""
        self.world.live(partial(self.world.people.retry, job))

    @rule(place=st.integers(0, 4), accident=st.sampled_from(["killed", "stopped", "broken"]))
    def lose_worker(self, place: int, accident: str) -> None:
        """Kill or stop a worker's process, or have it end for good."""
        alive = [process for process in self.world.life.processes.values() if process.is_alive]
        if not alive:
            return
        process = alive[place % len(alive)]
        if accident == "killed":
            process.kill()
        elif accident == "stopped":
            process.stop()
        else:
            process.die("the device is gone", is_fatal=True)

    @rule(place=st.integers(0, 2), accident=st.sampled_from(["killed", "cut off", "wanted elsewhere"]))
    def lose_far_worker(self, place: int, accident: str) -> None:
        """Kill a worker's process on another host, cut the network to it, or have it leave."""
        if not self.world.far:
            return
        worker = self.world.far[place % len(self.world.far)]
        if accident == "killed":
            worker.end()
        elif accident == "cut off":
            worker.cut_off(60)
        else:
            worker.leave()

    @rule(place=st.integers(0, 4))
    def remove_slot(self, place: int) -> None:
        """Take a slot away."""
        slots = sorted(self.world.roles)
        self.world.live(partial(self.world.people.remove_slot, slots[place % len(slots)]))

    @rule()
    def reload(self) -> None:
        """Have the configuration read again."""
        self.world.live(self.world.people.reload)

    @rule(is_enough=st.booleans())
    def set_space(self, *, is_enough: bool) -> None:
        """Fill the disk, or make room on it."""
        self.world.live(partial(self.world.people.set_space, is_enough=is_enough))

    @rule()
    def drain(self) -> None:
        """Stop the daemon; one that is killed then starts again."""
        self.world.live(self.world.people.drain)

    @rule()
    def kill(self) -> None:
        """SIGKILL to the daemon; it starts again."""
        self.world.live(partial(self.world.people.kill, self.world.life))

    def teardown(self) -> None:
        """Whatever was done: every job ends, and a drained daemon comes to rest."""
        self.world.finish()


TestPeople = People.TestCase
TestPeople.settings = settings(max_examples=120, stateful_step_count=25)
