"""How the daemon is, asked once for all who look."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

from subtitle.aio import AsyncClient
from subtitle.eta import QueueSnapshot, Speed, speeds
from subtitle.messages import JobFacts, StatsInfo, Welcome
from subtitled.http.errors import RequestError

FRESH_S = 0.8
"""An answer, or that there was none, holds so long: a hundred tabs ask no more than one."""
PATIENCE_S = 3.0
"""A daemon that has not answered by then is away, to somebody who looks at a page."""
LISTED = 50
"""Jobs on one page."""
RUNNING = ("receiving", "queued", "preparing", "transcribing", "writing")
ACTIVE = ("preparing", "transcribing", "writing")
MAX_ACTIVE = 200
MAX_FAILED = 50
SPEED_S = 30.0
"""Leases end one by one: a speed over a shorter time would jump."""


class StatusSnapshot(Struct, frozen=True, kw_only=True):
    """How the daemon is at one moment."""

    welcome: Welcome
    stats: StatsInfo
    speed: Speed
    recent: tuple[JobFacts, ...]
    """The newest jobs, LISTED and one."""
    active: tuple[JobFacts, ...]
    """Those that somebody works on."""
    failed: tuple[JobFacts, ...]
    """The newest of those that failed."""


class StatusCache:
    """Asks one daemon, for all pages of one event loop."""

    def __init__(self, client: AsyncClient) -> None:
        """`client` may be used by others too."""
        self._client = client
        self._seen: deque[QueueSnapshot] = deque()
        self._asking: asyncio.Task[StatusSnapshot] | None = None
        self._asked_at = 0.0

    async def look(self) -> StatusSnapshot:
        """Return how the daemon is now; raises RequestError and SubtitleError where it is away."""
        now = time.monotonic()
        if self._asking is None or (self._asking.done() and now - self._asked_at >= FRESH_S):
            self._asked_at = now
            self._asking = asyncio.ensure_future(self._ask())
            self._asking.add_done_callback(_heed)
        return await asyncio.shield(self._asking)

    def expire(self) -> None:
        """Have the next look be a new one: something was done that shows."""
        self._asked_at = -FRESH_S

    async def _ask(self) -> StatusSnapshot:
        async with patience():
            client = self._client
            welcome, stats, recent, active, failed = await asyncio.gather(
                client.ping(),
                client.stats(),
                client.list(limit=LISTED + 1),
                client.list(ACTIVE, limit=MAX_ACTIVE),
                client.list(("failed",), limit=MAX_FAILED),
            )
        now = QueueSnapshot(at=time.monotonic(), stats=stats)
        self._seen.append(now)
        while len(self._seen) > 2 and now.at - self._seen[1].at > SPEED_S:
            self._seen.popleft()
        speed = speeds(self._seen[0], now)
        return StatusSnapshot(
            welcome=welcome, stats=stats, speed=speed, recent=recent, active=active, failed=failed
        )


@asynccontextmanager
async def patience() -> AsyncIterator[None]:
    """Give the daemon PATIENCE_S to answer; raises RequestError."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield
    except TimeoutError:
        raise RequestError(503, "unreachable", f"the daemon has not answered for {PATIENCE_S:g} s") from None


def _heed(task: asyncio.Task[StatusSnapshot]) -> None:
    """StatusSnapshot at what came of a task: those who asked may all have gone."""
    if not task.cancelled():
        task.exception()
