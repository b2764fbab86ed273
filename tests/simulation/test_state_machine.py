"""The same simulation driven by Hypothesis, which shrinks what it finds."""

from __future__ import annotations

from contextlib import ExitStack

from fault_plan import Fault, SimulatedMedia, make_plan
from history import History, quiet_log
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from subtitled.core.records import Options
from subtitled.errors import ExitCode

LENGTHS = (4_000, 100_000, 480_000)


class Daemon(RuleBasedStateMachine):
    """Requests of users and accidents, one after the other; every turn checks every invariant."""

    jobs: Bundle[str] = Bundle("jobs")

    @initialize(seed=st.integers(0, 50))
    def start(self, seed: int) -> None:
        """Start a daemon with the settings of a seed; no fault strikes by chance."""
        self.resources = ExitStack()
        self.resources.enter_context(quiet_log())
        self.history = History(seed, without=frozenset(Fault))
        self.users = self.history.users
        self.history.start()

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
        """Submit a file by its path."""
        media = SimulatedMedia(
            plans=tuple(make_plan(index, samples) for index, samples in enumerate(lengths)),
            language="en",
            losers=dict.fromkeys(losers, "fr"),
            silent=frozenset(),
            poison=frozenset(poison),
            refused=frozenset(),
        )
        options = Options(language=language, priority=priority)
        path = self.users.submit(media, options, is_upload=False)
        self.wait(0)
        return path

    @rule(target=jobs, lengths=st.lists(st.sampled_from(LENGTHS), max_size=3))
    def drop(self, lengths: list[int]) -> str:
        """Put a file into an inbox."""
        return self.users.drop(
            SimulatedMedia(
                plans=tuple(make_plan(index, samples) for index, samples in enumerate(lengths)),
                language="en",
                losers={},
                silent=frozenset(),
                poison=frozenset(),
                refused=frozenset(),
            )
        )

    @rule(seconds=st.sampled_from([0.05, 0.5, 3, 15, 70]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.history.pass_time(seconds)

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        """Cancel a job."""
        self.users.cancel(job)
        self.wait(0)

    @rule(job=jobs)
    def retry(self, job: str) -> None:
        """Have a job tried again, if it failed."""
        self.users.retry(job)
        self.wait(0)

    @rule(job=jobs)
    def drop_again(self, job: str) -> None:
        """Put an archived file into its inbox again."""
        self.history.put_file_again(job)

    @rule(place=st.integers(0, 4), accident=st.sampled_from(["killed", "stopped", "broken"]))
    def lose_worker(self, place: int, accident: str) -> None:
        """Kill or stop a worker's process, or have it end permanently."""
        processes = self.history.run_of_daemon.supervisor.processes.values()
        alive = [process for process in processes if process.is_alive]
        if not alive:
            return
        process = alive[place % len(alive)]
        if accident == "killed":
            process.kill()
        elif accident == "stopped":
            process.stop()
        else:
            process.die("the device is gone", ExitCode.FATAL, is_reported=True)

    @rule(place=st.integers(0, 2), accident=st.sampled_from(["killed", "cut off", "asked to leave"]))
    def lose_remote_worker(self, place: int, accident: str) -> None:
        """Kill a worker's process on another host, cut the network to it, or tell it to leave."""
        workers = self.history.remote_workers
        if not workers:
            return
        worker = workers[place % len(workers)]
        if accident == "killed":
            worker.end()
        elif accident == "cut off":
            worker.cut_off(60)
        else:
            worker.leave()

    @rule(place=st.integers(0, 4))
    def remove_slot(self, place: int) -> None:
        """Take a slot out of the configuration."""
        slots = sorted(self.history.slots)
        self.users.remove_slot(slots[place % len(slots)])
        self.wait(0)

    @rule()
    def reload(self) -> None:
        """Have the configuration read again."""
        self.users.reload()
        self.wait(0)

    @rule(is_enough=st.booleans())
    def set_space(self, *, is_enough: bool) -> None:
        """Fill the disk, or make room on it."""
        self.users.set_space(is_enough=is_enough)
        self.wait(0)

    @rule()
    def stop(self) -> None:
        """Stop the daemon; it starts again when it has ended."""
        self.users.stop()
        self.wait(0)

    @rule()
    def kill(self) -> None:
        """Kill the daemon; it starts again."""
        self.history.advance(lambda: self.users.kill(self.history.run_of_daemon))

    def teardown(self) -> None:
        """Whatever was done: every job ends, and a drained daemon ends."""
        with self.resources:
            self.history.finish()


TestDaemon = Daemon.TestCase
TestDaemon.settings = settings(max_examples=60, stateful_step_count=25)
