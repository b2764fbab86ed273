"""One random history under virtual time: users, files, workers, and one run of the daemon after the other."""

from __future__ import annotations

import contextlib
import heapq
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator

import structlog
from action_checks import Violation
from daemon_run import DaemonKilled, DaemonRun
from fault_plan import Fault, FaultPlan, SimulatedMedia
from memory_store import SimulatedStore
from msgspec.structs import replace
from remote_worker_process import RemoteWorkerProcess
from simulated_models import model_config
from simulated_users import SimulatedUsers

from subtitled.asr.cuda import Device
from subtitled.config import schema
from subtitled.core.records import Job, SegmentKey
from subtitled.core.states import JobState, WorkerState
from subtitled.inboxes.watch import SettledFile

FAULTS_S = 80.0
"""How long users come and faults strike."""
CALM_S = 10_000.0
"""Within this time after that, every job ends: backoffs, times to run and waits add up to far less."""
MAX_WIDTH = 300
"""Characters of a line of the story."""
STOP_S = 300.0
"""Within this time a drained daemon ends."""
_STORES: list[SimulatedStore] = []
"""One for the process, once it is needed."""


class HistoryFailed(Exception):
    """A history in which an invariant was violated; its text is what happened last, with the seed."""


class History:
    """One history, decided by its seed."""

    def __init__(
        self,
        seed: int,
        *,
        without: frozenset[Fault] = frozenset(),
        spared: frozenset[int] = frozenset(),
        remembered: int = 30,
    ) -> None:
        self.seed = seed
        self.fault_plan = FaultPlan(seed, without=without, spared=spared)
        self.devices = self.fault_plan.devices
        self.policy = self.fault_plan.policy()
        if not _STORES:
            _STORES.append(SimulatedStore())
        self.store = _STORES[0]
        self.store.clear()
        self.now = 1.0
        self.horizon = float("inf")
        """No step is taken after this."""
        self.turns = 0
        self.is_space = True
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._last_number = 0
        self._last_route = 0
        self._media: dict[str, SimulatedMedia] = {}
        """By path."""
        self._readings: dict[str, int] = {}
        self._jobs: dict[str, Job] = {}
        self.inbox: dict[str, SettledFile] = {}
        """The files that lie in inboxes, by path."""
        self._archived: dict[str, SettledFile] = {}
        self.noted: deque[tuple[float, object]] = deque(maxlen=remembered)
        self.all_slots, hosts = self._slots()
        self.slots = set(self.all_slots)
        self.config = self._make_config(hosts)
        self.users = SimulatedUsers(self)
        with quiet_log():
            self.run_of_daemon = DaemonRun(self)
        self.remote_workers = [RemoteWorkerProcess(self, f"{host}/cuda0") for host in hosts]

    # -- the configuration -----------------------------------------------------------------------------------

    def _slots(self) -> tuple[set[str], list[str]]:
        """Return the slots of this host, and the names of the others."""
        random = self.fault_plan.random
        slots = {f"prepare{place}" for place in range(random.choice((1, 2, 2)))}
        gpus = random.choice((1, 2, 3))
        hosts = [f"far{place}" for place in range(random.choice((0, 0, 1, 2, 3)))]
        if hosts and random.random() < 0.4:
            gpus = 0
        return slots | {f"gpu{place}" for place in range(gpus)}, hosts

    def _make_config(self, hosts: list[str]) -> schema.Config:
        policy = self.policy
        return schema.Config(
            model=schema.ModelConfig(name="demo", batch_size=policy.batch_size, idle_unload_s=11.0),
            models=tuple(map(model_config, self.devices.others)),
            pool=schema.PoolConfig(queue_mb=policy.queue_bytes // 2**20, max_models=policy.max_models),
            recovery=schema.RecoveryConfig(
                attempts=policy.attempts,
                prepare_attempts=policy.prepare_attempts,
                crash_budget=policy.crash_budget,
                quarantine_s=policy.quarantine_s,
                heartbeat_s=11.0,
                silence_s=policy.silence_s,
                start_timeout_s=policy.start_timeout_s,
                lease_min_s=policy.lease_min_s,
                lease_per_audio_s=policy.lease_per_audio_s,
                prepare_stall_s=policy.prepare_stall_s,
                stop_timeout_s=self.fault_plan.between(0, 60),
            ),
            inbox=tuple(self.fault_plan.inbox(f"/inbox{place}") for place in range(3)),
            listen=schema.ListenConfig(
                workers="inproc://workers", server_key=str(self.store.folder / "server.key")
            ),
            remote=schema.RemoteConfig(
                listen="tcp://*:1" if hosts else "",
                keys={host: self.key_of(host) for host in hosts},
                wire_codec="pcm",
                max_in_flight_mb=policy.max_in_flight_bytes // 2**20,
            ),
        )

    def load(self) -> tuple[schema.Config, list[Device]]:
        """Return the configuration as it is now, and the devices."""
        gpus = sorted(slot for slot in self.slots if slot.startswith("gpu"))
        pool = replace(self.config.pool, devices=tuple(gpus), prepare_workers=len(self.slots) - len(gpus))
        devices = [Device(slot=slot, kind="cuda", visible=slot, name=slot) for slot in gpus]
        return replace(self.config, pool=pool), devices

    @staticmethod
    def key_of(host: str) -> str:
        """Return the key of a host."""
        return f"key of {host}"

    def next_route(self) -> bytes:
        """Return the routing id of another connection, as ZeroMQ makes it."""
        self._last_route += 1
        return b"\0" + self._last_route.to_bytes(4, "big")

    # -- the history -----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the history to its end; raises HistoryFailed where an invariant is violated."""
        with quiet_log():
            try:
                self.users.schedule(FAULTS_S)
                self.start()
                self.pass_time(FAULTS_S)
                self.finish()
            except Exception as error:
                raise HistoryFailed(self._story(error)) from error

    def start(self) -> None:
        """Start the first daemon, and the hosts around it."""
        self.advance(self.run_of_daemon.start)
        for worker in self.remote_workers:
            self.at(self.now + self.fault_plan.between(0, 20), worker.start)

    def pass_time(self, seconds: float) -> None:
        """Let this time pass."""
        self._until(self.now + seconds, lambda: False)

    def finish(self) -> None:
        """End all faults and let time pass; raises Violation unless every job ends and a drained daemon ends."""
        self.fault_plan.is_calm = True
        self._calm_down()
        self._until(self.now + CALM_S, self._is_all_ended)
        if faults := self.store.faults_at_the_end():
            raise Violation("; ".join(faults))
        if untranslated := self._untranslated():
            raise Violation(f"jobs are done without the translations of all sentences: {untranslated}")
        if lost := [path for path in self.inbox if self.job_at(path) is None]:
            raise Violation(f"files that lie in an inbox and are no jobs: {lost}")
        self._until(self.now + STOP_S, lambda: not self._missing_slots())
        if missing := self._missing_slots():
            raise Violation(f"slots of the configuration that have no worker: {missing}")
        run = self.run_of_daemon
        self._until(self.now + STOP_S, lambda: not run.model_checks.missing_preloads())
        if models := run.model_checks.missing_preloads():
            raise Violation(f"models that are to be kept by workers, and are not: {models}")
        self.users.stop()
        self._until(self.now + STOP_S, lambda: run.is_over)
        if not run.is_over:
            workers = run.broker.worker_table.workers.values()
            raise Violation(f"a drained daemon does not end: {[(w.identity, w.state) for w in workers]}")

    def _untranslated(self) -> set[str]:
        """Return the jobs that are done, and lack results of sentences."""
        return {
            job.id
            for job in self.store.jobs.values()
            for target in job.translate_to
            if job.state is JobState.DONE and not job.is_already_subtitled
            if job.id not in self.users.untranslated
            if {key for text in self.sentences(job, target) for key in text}
            != self.store.translations(job.id, target).keys()
        }

    def _missing_slots(self) -> set[str]:
        known = self.run_of_daemon.broker.worker_table.workers
        gone = {WorkerState.STOPPED}
        return {slot for slot in self.slots if slot not in known or known[slot].state in gone}

    def _until(self, end: float, is_enough: Callable[[], bool]) -> None:
        """Turn the loop until a time, or until it is enough."""
        self.horizon = end
        while not is_enough():
            self.advance(self.run_of_daemon.turn)
            if self.now >= end:
                return

    def advance(self, call: Callable[[], object]) -> None:
        """Take a step; where the daemon ends in it, a new one starts."""
        self.turns += 1
        try:
            code = call()
        except DaemonKilled as killed:
            self.note(f"the daemon is killed: {killed}")
        else:
            if code is None:
                return
            self.note(f"the daemon ends with status {code!r}")
        self._restart()

    def _restart(self) -> None:
        self.run_of_daemon.is_over = True
        self.store.restart()
        self.run_of_daemon = DaemonRun(self)
        self.advance(self.run_of_daemon.start)

    def step(self, end: float) -> bool:
        """Pass to the next thing that happens outside the daemon, or to `end`; return whether there was one."""
        if not self._agenda or self._agenda[0][0] > end:
            if end == float("inf"):
                raise Violation("the loop waits forever, and nothing will happen")
            self.now = max(self.now, end)
            return False
        when, _, call = heapq.heappop(self._agenda)
        self.now = max(self.now, when)
        call()
        return True

    def _is_all_ended(self) -> bool:
        return all(
            job.state in {JobState.DONE, JobState.CANCELLED}
            or (job.state is JobState.FAILED and job.is_closed)
            for job in self.store.jobs.values()
        ) and all(self.job_at(path) for path in self.inbox)

    def _calm_down(self) -> None:
        """Repair what only an operator can."""
        self.config = replace(self.config, recovery=replace(self.config.recovery, stop_timeout_s=2 * STOP_S))
        if self.run_of_daemon.is_stopping:
            self.advance(lambda: self.users.kill(self.run_of_daemon))
        self.users.set_space(is_enough=True)
        self.users.set_paused(is_paused=False)
        if self.devices.others:
            self.users.restore_models()
        self.users.reload()
        # A worker that is starting may still end permanently, and a slot that is being emptied comes back only then.
        self.at(self.now + STOP_S, self.users.reload)
        for worker in self.remote_workers:
            worker.start()

    # -- what outlives the daemon ----------------------------------------------------------------------------

    def clock(self) -> float:
        """Return the virtual time."""
        return self.now

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call at a time."""
        self._last_number += 1
        heapq.heappush(self._agenda, (when, self._last_number, call))

    def note(self, what: object) -> None:
        """Keep something for the story that is printed when the history fails."""
        self.noted.append((self.now, what))

    # -- files -----------------------------------------------------------------------------------------------

    def new_path(self, folder: str, media: SimulatedMedia) -> str:
        """Return the path of a new file."""
        path = f"{folder}/file{len(self._media)}"
        self._media[path] = media
        self._readings[path] = 0
        return path

    def put_file(self, path: str) -> None:
        """Put a file into its inbox."""
        inbox = int(path.partition("/file")[0].removeprefix("/inbox"))
        self.inbox[path] = SettledFile(inbox, path, 1, 1)
        if (watcher := self.run_of_daemon.watcher) is not None:
            watcher.notice(path)

    def remove_file(self, job: Job) -> None:
        """Note that the daemon has archived a job's source."""
        if job.options.after == "move" and (found := self.inbox.pop(job.source.decode(), None)):
            self._archived[found.path] = found

    def put_file_again(self, path: str) -> None:
        """Put an archived file back into its inbox, unchanged."""
        if self._archived.pop(path, None):
            self.put_file(path)

    def job_at(self, path: str) -> Job | None:
        """Return the job of a file."""
        source = path.encode()
        return next((job for job in self.store.jobs.values() if job.source == source), None)

    def open_file(self, path: bytes) -> tuple[SimulatedMedia, str]:
        """Return the media at a path, in the inbox or archived, and its job."""
        source = path.decode().removeprefix("/done").removeprefix("/failed")
        job = self.job_at(source)
        if job is None:
            raise Violation(f"{source} is read, and is no job")
        return self._media[source], job.id

    def media_of_job(self, job: str) -> SimulatedMedia:
        """Return the media of a job."""
        return self._media[self.store.jobs[job].source.decode()]

    def sentences(self, job: Job, target: str) -> tuple[tuple[str, ...], ...]:
        """Return the sentences of a job, which are also their keys, by text segment."""
        texts = range(self.media_of_job(job.id).texts)
        return tuple(tuple(f"{target} {text} {number}" for number in range(2)) for text in texts)

    def samples(self, key: SegmentKey) -> int:
        """Return the length of a segment."""
        return self.store.table.segments[key.job][key.index].samples

    def count_reading(self, path: bytes) -> int:
        """Count a reading of a file; return how many there were before."""
        source = path.decode().removeprefix("/done").removeprefix("/failed")
        self._readings[source] += 1
        return self._readings[source] - 1

    # -- the story of a failure ------------------------------------------------------------------------------

    def readable(self, what: object) -> str:
        """Return something noted as text, with the paths of jobs in the place of their ids, which depend on the time of day."""
        names = {job.id: job.source.decode() for job in self.store.jobs.values()}
        text = what if isinstance(what, str) else repr(what)
        return re.sub(r"[0-9a-f]{16}", lambda found: names.get(found[0], found[0]), text)[:MAX_WIDTH]

    def _story(self, error: Exception) -> str:
        lines = [f"{at:9.2f} s  {self.readable(what)}" for at, what in self.noted]
        faults = sorted(fault.name for fault in self.fault_plan.rates)
        return "\n".join(
            [
                f"seed {self.seed} violated an invariant after {self.turns} turns:",
                self.readable(f"{type(error).__name__}: {error}"),
                f"policy: {self.policy}",
                f"faults: {', '.join(faults)}; they struck {len(self.fault_plan.struck)} times",
                f"the last {len(lines)} events and actions:",
                *lines,
                f"replay: python tests/simulation/replay.py {self.seed}",
            ]
        )


@contextlib.contextmanager
def quiet_log() -> Iterator[None]:
    """Drop all log lines: jobs fail on purpose."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
