"""When the daemon stops: at a signal, at once or after the running leases; or at a fault that a restart may repair."""

from __future__ import annotations

from collections.abc import Callable

from subtitled.errors import ExitCode
from subtitled.server.ports import Poller, ReadServer, ServiceNotifier, SignalSource

DISK_FULL_RETRY_S = 2.0
"""Seconds between two tries to write to a full disk."""


class Shutdown:
    """Belongs to the thread of the server's loop."""

    def __init__(self, signals: SignalSource, clock: Callable[[], float]) -> None:
        """Make one for a daemon that runs."""
        self._signals = signals
        self._clock = clock
        self.deadline: float | None = None
        """When the daemon ends whatever is running; None while it is not stopping."""
        self.exit_code: ExitCode | None = None
        """Set when the loop is to end."""

    @property
    def is_stopping(self) -> bool:
        """The daemon drains and takes no new work."""
        return self.deadline is not None

    @property
    def is_overdue(self) -> bool:
        """The time for running leases is over."""
        return self.deadline is not None and self._clock() >= self.deadline

    def begin(self, timeout_s: float) -> None:
        """Stop within `timeout_s` seconds."""
        self.deadline = self._clock() + timeout_s

    def finish(self, code: ExitCode = ExitCode.OK) -> None:
        """End the loop; the first exit code stays."""
        if self.exit_code is None:
            self.exit_code = code

    def wait_for_space(
        self,
        poller: Poller,
        notifier: ServiceNotifier,
        turned: Callable[[], None],
        reads: ReadServer | None = None,
    ) -> bool:
        """Wait until the next try to write to a full disk; False: the daemon is to stop, do not try again.

        The loop is held up here on purpose: nothing may be sent that is not committed. Requests that change nothing are
        answered meanwhile.
        """
        if self._signals.is_pending or self.is_overdue:
            return False
        until = self._clock() + DISK_FULL_RETRY_S
        while (left_s := until - self._clock()) > 0 and not self._signals.is_pending:
            notifier.watchdog()
            turned()
            if reads is None:
                poller.wait((), (self._signals.fileno(),), left_s)
                break
            poller.wait(reads.sockets, (self._signals.fileno(), reads.result_descriptor), left_s)
            reads.serve_reads()
        return True
