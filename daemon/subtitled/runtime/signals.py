"""Signals that a poller can wait for."""

from __future__ import annotations

import os
import signal


class Signals:
    """Catches SIGTERM, SIGINT, SIGHUP and SIGUSR1; belongs to the main thread. The handlers only append to a list."""

    def __init__(self) -> None:
        self.caught: list[int] = []
        self._read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda received, _frame: self.caught.append(received))

    def fileno(self) -> int:
        """Return a file descriptor that is readable after a signal."""
        return self._read

    @property
    def is_pending(self) -> bool:
        """A signal was received that `take` has not returned yet."""
        return bool(self.caught)

    def take(self) -> list[signal.Signals]:
        """Return and remove the caught signals, in order."""
        try:
            os.read(self._read, 4096)
        except BlockingIOError:
            return []
        numbers = list(self.caught)
        del self.caught[: len(numbers)]
        return [signal.Signals(number) for number in numbers]

    @staticmethod
    def release() -> None:
        """Stop writing to the wake-up descriptor."""
        signal.set_wakeup_fd(-1)
