"""The other ports of the poll loop under virtual time: poller, signals, files, clients, processes."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from action_checks import Violation
from fault_plan import Fault

from subtitle.messages import OpenFile
from subtitled.config.schema import Config, InboxConfig
from subtitled.core import events as ev
from subtitled.core.actions import CheckFile
from subtitled.core.broker import Broker
from subtitled.core.protocol import WorkerSettings
from subtitled.core.records import Job, TextPlan
from subtitled.core.states import JobState
from subtitled.core.translation import TranslationRequest
from subtitled.errors import ExitCode
from subtitled.inboxes.watch import SettledFile
from subtitled.observability.metrics import Metrics
from subtitled.observability.monitor import Monitor
from subtitled.storage.rows import JournalEntry
from subtitled.workers.supervisor import ProcessExit, Supervisor

if TYPE_CHECKING:
    from daemon_run import DaemonRun
    from local_worker_process import LocalWorkerProcess

MAILBOX, SIGNALS, FIRST_PIDFD = 1, 2, 10
SHARE_AT_ONCE = 0.7
"""Of the wake-ups, those in which nothing else arrives before the loop handles what woke it."""
GATHER_S = 0.02
MAX_IDLE_TURNS = 1000


class FakePoller:
    """Lets virtual time pass until the loop has something to do."""

    def __init__(self, run: DaemonRun) -> None:
        self._run = run
        self._idle_turns = 0

    def wait(self, sockets: Iterable[Any], descriptors: Iterable[int], timeout_s: float) -> set[int]:
        """Live the history until one of them is readable, or for `timeout_s` seconds."""
        run, history = self._run, self._run.history
        sockets, wanted = list(sockets), set(descriptors)
        began, end = history.now, history.now + timeout_s
        if sockets:  # else the loop waits for space on the disk, in the middle of a commit
            if timeout_s > 0:  # else something is due that became so while a commit waited
                run.check()
            end = min(end, history.horizon)
        while not (is_ready := self._is_ready(sockets, wanted)) and history.step(end):
            pass
        if is_ready and history.fault_plan.random.random() >= SHARE_AT_ONCE:
            end = min(end, history.now + GATHER_S)
            while history.step(end):
                pass
        if not is_ready and history.now <= began < history.horizon:
            self._idle_turns += 1
            if self._idle_turns > MAX_IDLE_TURNS:
                raise Violation("the loop turns without end and does nothing")
        else:
            self._idle_turns = 0
        return self._readable() & wanted

    def _is_ready(self, sockets: list[Any], wanted: set[int]) -> bool:
        run = self._run
        for socket in sockets:
            if socket.queue:
                return True
        if not (run.mailbox.items or run.signals.pending or run.supervisor.exited):
            return False
        return not wanted.isdisjoint(self._readable())

    def _readable(self) -> set[int]:
        run = self._run
        readable = set(run.supervisor.exited)
        if run.mailbox.items:
            readable.add(MAILBOX)
        if run.signals.pending:
            readable.add(SIGNALS)
        return readable


class FakeSignals:
    """The signals of a daemon that has no process."""

    def __init__(self) -> None:
        self.pending: list[signal.Signals] = []

    def fileno(self) -> int:
        """Return the number that the poller knows."""
        return SIGNALS

    @property
    def is_pending(self) -> bool:
        """A signal was received that `take` has not returned yet."""
        return bool(self.pending)

    def take(self) -> list[signal.Signals]:
        """Return the signals received since the last call."""
        taken, self.pending = self.pending, []
        return taken


class FakeMailbox:
    """The loop's mailbox without a pipe."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self.put = self.items.append

    def fileno(self) -> int:
        """Return the number that the poller knows."""
        return MAILBOX

    def drain(self, limit: int = 1_000_000) -> Iterable[Any]:
        """Take all items."""
        for _ in range(min(limit, len(self.items))):
            yield self.items.popleft()


class FakeDiskSpace:
    """The free space that the history says."""

    cause = "the disk is full"

    def __init__(self, run: DaemonRun) -> None:
        self._run = run
        self.is_enough = True

    def check(self, now: float) -> bool:
        """Return whether the answer changed."""
        del now
        was_enough, self.is_enough = self.is_enough, self._run.history.is_space
        return was_enough != self.is_enough

    def reconfigure(self, folders: Iterable[str], reserve_bytes: int) -> None:
        """Do nothing."""


class FakeStateFolder:
    """A state folder that stays."""

    fault = ""

    def check(self, now: float) -> bool:
        """Return that nothing changed."""
        del now
        return False


class FakeWatcher:
    """Reports the files that lie in the inboxes of the history."""

    is_alive = True
    hung_s: ClassVar[dict[str, float]] = {}
    open_files: ClassVar[list[OpenFile]] = []

    def __init__(
        self, run: DaemonRun, inboxes: Sequence[InboxConfig], report: Callable[[SettledFile], None]
    ) -> None:
        del inboxes
        self._run = run
        self._report = report

    def start(self) -> None:
        """Report all existing files."""
        self._run.watcher = self
        for path in list(self._run.history.inbox):
            self.notice(path)

    def stop(self) -> None:
        """Report nothing more."""
        self._run.watcher = None

    def notice(self, path: str) -> None:
        """Report a file once it has rested, if it is still there."""
        plan = self._run.fault_plan
        self._run.after(plan.between(0, 1), partial(self._settled, path))
        while plan.strikes(Fault.REPORTED_AGAIN):  # moved out and back, or a second report of one change
            self._run.after(plan.random.choice((0.0, 0.5, 5.0, 40.0)), partial(self._settled, path))

    def _settled(self, path: str) -> None:
        found = self._run.history.inbox.get(path)
        if found is not None and self._run.watcher is self:
            self._report(found)


class FakeApi:
    """Clients whose requests are functions; each runs in the loop's turn."""

    def __init__(self, run: DaemonRun) -> None:
        self._run = run
        self.queue: deque[Callable[[], None]] = deque()

    @property
    def sockets(self) -> list[Any]:
        """The sockets that the loop waits for."""
        return [self]

    @property
    def poll_timeout_s(self) -> float:
        """Seconds until `receive` must be called: never without a request."""
        return float("inf")

    def start(self) -> None:
        """Do nothing."""

    def receive(self) -> None:
        """Run the requests that have arrived."""
        for _ in range(len(self.queue)):
            self.queue.popleft()()

    def send_to_watchers(self, entries: list[JournalEntry]) -> None:
        """Do nothing: the entries are committed."""
        self._run.before_output()
        if not entries:
            raise Violation("clients are sent no entries")

    def job_changed(self, job: Job) -> None:
        """Check that the job is in the store."""
        self._run.before_output()
        if job.id not in self._run.store.jobs:
            raise Violation(f"clients are sent {job.id} before it is stored")

    def state_changed(self, fault: str) -> None:
        """Do nothing."""

    def reconfigure(self, config: Config) -> None:
        """Do nothing."""


class FakeFileChecks:
    """Folders that answer at once, or after a while."""

    hung_s: ClassVar[dict[str, float]] = {}

    def __init__(self, run: DaemonRun) -> None:
        self._run = run
        self._checks: dict[bytes, CheckFile] = {}

    def check(self, action: CheckFile) -> None:
        """Dispatch FileChecked when the folder answers."""
        run = self._run
        run.before_output(f"check {action.job.id}")
        if action.folder in self._checks:
            raise Violation(f"{action.folder!r} is checked twice at a time")
        self._checks[action.folder] = action
        is_hung = run.fault_plan.strikes(Fault.HUNG_FOLDER)
        blame = "" if is_hung else action.suspicion

        def answer() -> None:
            if self._checks.get(action.folder) is not action:
                return
            del self._checks[action.folder]
            run.dispatcher.dispatch(
                ev.FileChecked(
                    job=action.job.id, folder=action.folder, blame=blame, is_missing=action.is_missing
                )
            )

        delay_s = run.fault_plan.between(20, 90) if is_hung else run.fault_plan.between(0, 0.1)
        run.after(delay_s, lambda: run.mailbox.put(answer))

    def stop(self, folder: bytes) -> None:
        """Dispatch no FileChecked for this folder."""
        self._run.before_output()
        del self._checks[folder]


class FakeHooks:
    """No commands, no webhook."""

    def start(self) -> None:
        """Do nothing."""

    wake = start

    def reconfigure(self, config: Config) -> None:
        """Do nothing."""


class FakeNotifier:
    """No service manager."""

    watchdog_interval_s: float | None = None

    def ready(self) -> None:
        """Do nothing."""

    stopping = reloading = watchdog = ready

    def update(self, now: float) -> None:
        """Do nothing."""


class FakeMonitor(Monitor):
    """Counts as the real one, and sets no gauges: they would take most of the time."""

    def update(self, broker: Broker, *, is_stopping: bool, state_fault: str = "") -> None:
        """Do nothing."""


METRICS = Metrics()
"""One for all histories: nothing reads them."""


class FakeWriter:
    """Writes the files of a job in some time, or fails to."""

    def __init__(self, run: DaemonRun) -> None:
        self._run = run
        self.writing: set[str] = set()
        self.waiting: list[tuple[Job, bool]] = []

    @property
    def is_idle(self) -> bool:
        """No file is being written."""
        return not self.writing

    @property
    def jobs(self) -> set[str]:
        """The jobs whose files are being written, or wait for space."""
        return self.writing | {job.id for job, _ in self.waiting}

    hung_s: ClassVar[dict[str, float]] = {}

    def sweep(self, folders: Iterable[str]) -> None:
        """Do nothing."""

    def remove_error_texts(self, job: Job) -> None:
        """Do nothing."""

    def plan_translations(self, job: Job, number: int) -> None:
        """Plan the sentences that have no stored translation, after some time."""
        run, fault_plan = self._run, self._run.fault_plan
        run.before_output(f"plan {job.id}")
        self._begin_translation(job)

        def come_back() -> None:
            self.writing.discard(job.id)
            texts, keys = [], []
            for target in job.active_languages:
                wanted = run.history.sentences(job, target)
                stored = run.store.translations(job.id, target)
                keys.append((target, tuple(key for text in wanted for key in text)))
                model = fault_plan.text_random.choice(
                    [model.name for model in run.history.devices.others if model.is_for_text]
                )
                texts += [
                    TextPlan(
                        model=model,
                        request=TranslationRequest(source="en", target=target, sentences=missing),
                        keys=missing,
                        terms=("",) * len(missing),
                    )
                    for text in wanted
                    if (missing := tuple(key for key in text if key not in stored))
                ]
            run.dispatcher.dispatch(
                ev.TranslationsPlanned(job=job.id, number=number, texts=tuple(texts), keys=tuple(keys))
            )

        run.after(fault_plan.between(0.01, 2), lambda: run.mailbox.put(come_back))

    def write_translations(self, job: Job, number: int) -> None:
        """Write the translations after some time; each sentence has a result."""
        run = self._run
        run.before_output(f"translate {job.id}")
        self._begin_translation(job)
        for target in job.active_languages:
            wanted = {key for text in run.history.sentences(job, target) for key in text}
            if wanted != run.store.translations(job.id, target).keys():
                raise Violation(f"job {job.id} is written in {target}, and not each sentence has a result")

        def come_back() -> None:
            self.writing.discard(job.id)
            run.dispatcher.dispatch(ev.TranslationsWritten(job=job.id, number=number))

        run.after(run.fault_plan.between(0.01, 2), lambda: run.mailbox.put(come_back))

    def _begin_translation(self, job: Job) -> None:
        if self._run.store.jobs[job.id].state is not JobState.TRANSLATING:
            raise Violation(f"job {job.id} is translated before that is stored")
        self.writing.add(job.id)

    def retry_waiting(self) -> None:
        """Write the jobs that found no space before."""
        waiting, self.waiting = self.waiting, []
        for job, is_failure in waiting:
            self._begin(job, is_failure=is_failure)

    def finish(self, job: Job, *, is_failure: bool) -> None:
        """Write a job's files; ends in OutputsWritten, FailureWritten or WriteFailed."""
        self._run.before_output(f"write {job.id}")
        if self._run.store.jobs[job.id].state not in {JobState.WRITING, JobState.FAILED}:
            raise Violation(f"the files of job {job.id} are written before that is stored")
        if self._run.store.find_job(job.id) is None:
            raise Violation(f"job {job.id} is not in the database")
        self._begin(job, is_failure=is_failure)

    def _begin(self, job: Job, *, is_failure: bool) -> None:
        if job.id in self.jobs:
            raise Violation(f"the files of job {job.id} are written twice at a time")
        self.writing.add(job.id)
        run, fault_plan = self._run, self._run.fault_plan
        event: ev.Event
        if is_failure:
            event = ev.FailureWritten(job.id, _moved(job, b"failed"))
        elif fault_plan.strikes(Fault.WRITE_FAILED):
            event = ev.WriteFailed(job.id, "permission denied")
        else:
            event = ev.OutputsWritten(job.id, _moved(job, b"done"))

        def come_back() -> None:
            self.writing.discard(job.id)
            if not run.history.is_space:
                self.waiting.append((job, is_failure))
                return
            if not isinstance(event, ev.WriteFailed):
                run.history.remove_file(job)
            run.dispatcher.dispatch(event)

        run.after(fault_plan.between(0.01, 2), lambda: run.mailbox.put(come_back))


def _moved(job: Job, folder: bytes) -> bytes:
    return b"/" + folder + job.source


class FakeSupervisor(Supervisor):
    """Starts simulated processes."""

    def __init__(self, run: DaemonRun, start: Callable[[WorkerSettings], LocalWorkerProcess]) -> None:
        self._run = run
        self._start = start
        self._last_pidfd = FIRST_PIDFD
        self.processes: dict[int, LocalWorkerProcess] = {}
        """The processes that are not reaped, by pidfd."""
        self.known: dict[str, LocalWorkerProcess] = {}
        """All processes of this run, by identity."""
        self.exited: dict[int, ProcessExit] = {}
        self._exit_reasons = {}
        self._failed_starts = []

    @property
    def pidfds(self) -> frozenset[int]:
        """The pidfds to be polled."""
        return frozenset(self.processes)

    def spawn(self, settings: WorkerSettings, *, visible_devices: str) -> None:
        """Start a process; raises Violation where its slot has one, or has had one of its name."""
        identity = settings.identity
        slot = identity.rpartition(".")[0]
        self._run.before_output(f"spawn {identity}")
        if any(other.is_alive and other.slot == slot for other in self.known.values()):
            raise Violation(f"{identity} is started while the slot's last process is alive")
        if identity in self.known:
            raise Violation(f"{identity} is started a second time")
        if {bool(visible_devices), settings.role == "transcribe"} != {slot.startswith("gpu")}:
            raise Violation(f"{identity} is started as a {settings.role} worker with {visible_devices!r}")
        if self._run.fault_plan.strikes(Fault.SPAWN_FAILED):
            self._failed_starts.append(exit_of(identity, "no process can be started", ExitCode.FAILED))
            return
        self._last_pidfd += 1
        self.processes[self._last_pidfd] = self.known[identity] = self._start(settings)

    def send_descriptors(self, worker: str, tag: int, descriptors: Sequence[int]) -> bool:
        """Send descriptors; every seventh message does not fit into the socket."""
        self._run.before_output()
        process = self.known.get(worker)
        if process is None or tag % 7 == 0:
            return False
        process.descriptors[tag] = [self._run.arenas[number] for number in descriptors]
        return True

    def take_failed_starts(self) -> list[ProcessExit]:
        """Return, once, the workers whose process could not be started."""
        failed = super().take_failed_starts()
        for end in failed:
            self._ended(end)
        return failed

    def take_stuck(self) -> list[ProcessExit]:
        """Return nothing: SIGKILL ends a simulated process."""
        return []

    def _ended(self, end: ProcessExit) -> None:
        self._run.checks.exited(end.worker)
        self._run.slot_checks.exited(end.worker, is_fatal=end.is_fatal)

    def ended(self, process: LocalWorkerProcess, end: ProcessExit) -> None:
        """Make the pidfd of a process readable."""
        pidfd = next(pidfd for pidfd, other in self.processes.items() if other is process)
        self.exited[pidfd] = end

    def is_exit_reason_missing(self, pidfd: int) -> bool:
        """Return whether a process has sent an exit reason that has not arrived."""
        process = self.processes[pidfd]
        return process.has_sent_reason and process.identity not in self._exit_reasons

    def kill(self, worker: str) -> None:
        """SIGKILL a worker; nothing happens if it is gone already."""
        self._run.before_output(f"kill {worker}")
        for process in self.processes.values():
            if process.identity == worker:
                process.kill()

    def reap(self, pidfd: int) -> ProcessExit:
        """Collect a process; raises Violation where a message of it was not received before."""
        end = self.exited.pop(pidfd)
        process = self.processes.pop(pidfd)
        if any(envelope.route == process.route for envelope in self._run.local_router.queue):
            raise Violation(f"the exit of {process.identity} is handled before its last messages")
        self._ended(end)
        return end

    def kill_all(self) -> None:
        """Do nothing: the processes of a run end with it."""


def exit_of(identity: str, cause: str, code: int) -> ProcessExit:
    """Return the end of a process."""
    return ProcessExit(
        worker=identity, is_ok=code == ExitCode.OK, is_fatal=code == ExitCode.FATAL, cause=cause
    )
