"""Whether the daemon is well: what its loop publishes, and the verdicts on it."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

STUCK_S = 10.0
"""A loop that has not turned for so long is stuck; no turn is meant to block longer than 50 ms."""


class HealthState(Struct, frozen=True, kw_only=True):
    """How things stood when the loop last looked; times are of the monotonic clock."""

    is_stopping: bool = False
    has_worker: bool = False
    """A transcribe worker has its model loaded."""
    workers: tuple[str, ...] = ()
    """The transcribe workers that have not, each with its state and cause."""
    waiting: int = 0
    """Segments that wait for a worker."""
    moved_at: float = 0.0
    """When a lease was last finished, or nothing was to be done."""
    patience_s: float = 0.0
    """How long after that a further one may take."""


class Health:
    """Set by the loop, asked by other threads: each value is replaced as a whole."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._turned_at = clock()
        self.condition = HealthState()

    def turned(self) -> None:
        """Note that the loop turns."""
        self._turned_at = self._clock()

    def why_not_alive(self) -> str:
        """Return in one line why the daemon is not alive; "" if it is."""
        still_s = self._clock() - self._turned_at
        return f"the loop has not turned for {still_s:.0f} s" if still_s > STUCK_S else ""

    def why_not_ready(self) -> str:
        """Return in one line why nobody should wait for subtitles; "" if work is being done."""
        condition = self.condition
        if why := self.why_not_alive():
            return why
        if condition.is_stopping:
            return "the daemon is stopping"
        if not condition.has_worker:
            return f"no transcribe worker is ready: {'; '.join(condition.workers) or 'there is none yet'}"
        idle_s = self._clock() - condition.moved_at
        if condition.waiting and idle_s > condition.patience_s:
            return f"{condition.waiting} segments wait, and no lease has been finished for {idle_s:.0f} s"
        return ""
