"""A simulated worker process of the daemon's host: its start, its connection, its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from action_checks import Violation
from fake_arenas import FakeArena
from fake_ports import exit_of
from fake_sockets import Connection, FakeFrame, pcm_frame
from fault_plan import WINDOW_SAMPLES, Fault
from simulated_models import DIGEST, SimulatedResidentModels
from worker_roles import PrepareRole, TranscribeRole

from subtitled.core.protocol import (
    ExitReason,
    FromWorker,
    Prepare,
    ToWorker,
    Transcribe,
    WorkerReady,
    WorkerSettings,
)
from subtitled.errors import ExitCode
from subtitled.version import VERSION
from subtitled.workers.supervisor import ProcessExit

if TYPE_CHECKING:
    from daemon_run import DaemonRun
    from history import History

HEARTBEAT_S = 11.0
"""Below half of the policy's silence_s, as in the real configuration."""


class LocalWorkerProcess:
    """Messages in each direction stay in order; each takes its time."""

    def __init__(self, run: DaemonRun, settings: WorkerSettings) -> None:
        self._run = run
        self._fault_plan = run.fault_plan
        self.identity = settings.identity
        self.slot = settings.identity.rpartition(".")[0]
        self.route = settings.identity.encode()
        self.is_alive = True
        self.has_sent_reason = False
        self._is_silent = False
        self._is_stopped = False
        self._sent_until = self._received_until = 0.0
        self.descriptors: dict[int, list[FakeArena]] = {}
        """The shared memory that was sent to it, by tag."""
        self._connection = Connection(self._receive_later, route=self.route)
        self.role: TranscribeRole | PrepareRole
        if settings.role == "transcribe":
            self.role = TranscribeRole(self, SimulatedResidentModels(run.history, settings.engine))
        elif settings.role == "translate":
            self.role = TranscribeRole(self, None)
        else:
            self.role = PrepareRole(self)
        self._has_device = settings.role == "transcribe"
        self._start()

    @property
    def history(self) -> History:
        """The history that this process belongs to."""
        return self._run.history

    @property
    def is_bad(self) -> bool:
        """Its device is bad at present."""
        return self._fault_plan.is_bad(self.slot)

    # -- messages --------------------------------------------------------------------------------------------

    def send(self, message: FromWorker, blobs: Sequence[FakeFrame] = ()) -> None:
        """Send a message; it arrives later, even when the process has ended by then."""
        if not self._is_silent:
            router = self._run.local_router
            envelope = self._connection.envelope(message, blobs)
            self._sent_until = max(self._sent_until, self._run.now + self._delay())
            self._run.at(self._sent_until, lambda: router.queue.append(envelope))

    def _receive_later(self, message: ToWorker, blobs: Sequence[FakeFrame]) -> None:
        if isinstance(message, Transcribe):
            blobs = self._audio(message, blobs)
        self._received_until = max(self._received_until, self._run.now + self._delay())
        self._run.at(self._received_until, lambda: self._receive(message, blobs))

    def _audio(self, message: Transcribe, blobs: Sequence[FakeFrame]) -> list[FakeFrame]:
        """Return the audio of a lease as it is when the lease is sent."""
        memory, sent = self.descriptors.pop(message.lease, []), iter(blobs)
        found = []
        for item in message.items:
            if (shared := item.shared) is None:
                found.append(next(sent))
            elif (key := memory[shared.descriptor].written.get(shared.place)) is None:
                raise Violation(f"lease {message.lease} names shared memory in which {item.key} is not")
            else:
                found.append(pcm_frame(shared.size // 2, key))
        if next(sent, None) is not None:
            raise Violation(f"lease {message.lease} brings PCM that is in shared memory too")
        return found

    def _receive(self, message: ToWorker, blobs: Sequence[FakeFrame]) -> None:
        if self.is_alive and not self._is_stopped:
            self.role.receive(message, blobs)

    def _delay(self) -> float:
        late = self._fault_plan.strikes(Fault.LATE)
        return self._fault_plan.between(5, 40) if late else self._fault_plan.between(0, 0.2)

    # -- start and end ---------------------------------------------------------------------------------------

    def kill(self) -> None:
        """SIGKILL; nothing happens to a process that has ended."""
        self.die("killed by SIGKILL")

    def die(self, cause: str, code: ExitCode = ExitCode.FAILED, *, is_reported: bool = False) -> None:
        """End; with `is_reported` an ExitReason is sent before. The daemon notices a little later."""
        if not self.is_alive:
            return
        if is_reported:
            self.send(ExitReason(cause=cause))
            self.has_sent_reason = not self._is_silent
        self.is_alive = False
        self._run.after(
            self._fault_plan.between(0, 0.5), lambda: self._ended(exit_of(self.identity, cause, code))
        )

    def _ended(self, end: ProcessExit) -> None:
        self._run.local_router.disconnect(self._connection)
        self._run.supervisor.ended(self, end)

    def memory_of(self, order: Prepare) -> FakeArena | None:
        """Return the shared memory for a file's PCM, if there is any."""
        return self.descriptors.pop(order.feed)[0] if order.has_memory else None

    def later(self, delay_s: float, call: Callable[[], None]) -> None:
        """Go on later, if still alive and not stopped."""
        self._run.after(delay_s, lambda: call() if self.is_alive and not self._is_stopped else None)

    def stop(self) -> None:
        """SIGSTOP: the process sends nothing more, and only SIGKILL ends it."""
        self._is_stopped = True

    def _start(self) -> None:
        plan = self._fault_plan
        self.later(0, lambda: self._run.local_router.connect(self._connection))
        if plan.strikes(Fault.START_HANG):
            return
        if plan.strikes(Fault.START_CRASH):
            self.later(plan.between(0, 5), lambda: self.die("crashed while starting"))
        elif self.is_bad and plan.random.random() < 0.3:
            self.later(plan.between(0, 5), lambda: self.die("no device", is_reported=True))
        elif plan.strikes(Fault.START_FATAL):
            self.later(
                plan.between(0, 5), lambda: self.die("no such model", ExitCode.FATAL, is_reported=True)
            )
        else:
            self.later(plan.between(0, 3), self._become_ready)

    def _become_ready(self) -> None:
        role = self.role
        is_transcriber = self._has_device
        self.send(
            WorkerReady(
                version=VERSION,
                credit=role.credit,
                streams=role.streams,
                window_samples=WINDOW_SAMPLES if is_transcriber else None,
                model_digest=DIGEST if is_transcriber else "",
                free_bytes=role.free_bytes if isinstance(role, TranscribeRole) else None,
            )
        )
        self.later(self._fault_plan.between(0, HEARTBEAT_S), self._beat)

    def _beat(self) -> None:
        if self._fault_plan.strikes(Fault.IDLE_DEATH):
            self.die("killed by SIGSEGV")
            return
        if self._fault_plan.strikes(Fault.SILENT):
            self._is_silent = True
        self.role.unload_if_idle()
        self.send(self.role.heartbeat())
        self.later(HEARTBEAT_S, self._beat)
