"""A cache of the daemon's status, shared by all open pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec import Struct

from subtitle.aio import AsyncClient
from subtitle.eta import QueueSnapshot, Speed, SpeedMeter
from subtitle.messages import JobFacts, StatsInfo, Welcome
from subtitled.http.errors import RequestError

MAX_AGE_S = 0.8
"""A status, or the failure to get one, is reused for this long: many tabs cost the daemon as much as one."""
DAEMON_TIMEOUT_S = 3.0
PAGE_SIZE = 40
RUNNING = ("receiving", "queued", "preparing", "transcribing", "writing", "translating")
ACTIVE = ("preparing", "transcribing", "writing", "translating")
MAX_ACTIVE = 200
MAX_FAILED = 50
MAX_RUNNING = 6
"""Jobs in progress that the overview shows above the list."""
SPEED_WINDOW_S = 30.0
"""Leases end one at a time: a speed over a shorter window would fluctuate."""


class StatusSnapshot(Struct, frozen=True, kw_only=True):
    """The daemon's status at one moment."""

    welcome: Welcome
    stats: StatsInfo
    speed: Speed
    recent: tuple[JobFacts, ...]
    """The newest jobs, PAGE_SIZE and one."""
    active: tuple[JobFacts, ...]
    failed: tuple[JobFacts, ...]
    """The newest failed jobs."""
    running: tuple[JobFacts, ...] = ()
    """The first jobs in progress: those that are processed, then the next ones of the queue."""


class StatusCache:
    """Requests the status of one daemon; belongs to one event loop."""

    def __init__(self, client: AsyncClient) -> None:
        """`client` may be shared."""
        self._client = client
        self._speed_meter = SpeedMeter(SPEED_WINDOW_S)
        self._request: asyncio.Task[StatusSnapshot] | None = None
        self._requested_at = 0.0

    async def get(self) -> StatusSnapshot:
        """Return the status; raises RequestError or SubtitleError if the daemon does not respond."""
        now = time.monotonic()
        if self._request is None or (self._request.done() and now - self._requested_at >= MAX_AGE_S):
            self._requested_at = now
            self._request = asyncio.ensure_future(self._fetch())
            self._request.add_done_callback(_retrieve_exception)
        return await asyncio.shield(self._request)

    def invalidate(self) -> None:
        """Make the next `get` request a new status, after a change that it shows."""
        self._requested_at = -MAX_AGE_S

    async def _fetch(self) -> StatusSnapshot:
        client = self._client
        async with daemon_timeout():
            welcome, stats, recent, active, failed, running = await asyncio.gather(
                client.ping(),
                client.stats(),
                client.list(limit=PAGE_SIZE + 1),
                client.list(ACTIVE, limit=MAX_ACTIVE),
                client.list(("failed",), limit=MAX_FAILED),
                client.list(RUNNING, limit=MAX_RUNNING, sort="queue"),
            )
        return StatusSnapshot(
            welcome=welcome,
            stats=stats,
            speed=self._speed_meter.add(QueueSnapshot(at=time.monotonic(), stats=stats)),
            recent=recent,
            active=active,
            failed=failed,
            running=running,
        )


@asynccontextmanager
async def daemon_timeout() -> AsyncIterator[None]:
    """Raise RequestError if the daemon takes longer than a page may wait."""
    try:
        async with asyncio.timeout(DAEMON_TIMEOUT_S):
            yield
    except TimeoutError:
        message = f"the daemon has not responded for {DAEMON_TIMEOUT_S:g} s"
        raise RequestError(503, "unreachable", message) from None


def _retrieve_exception(task: asyncio.Task[StatusSnapshot]) -> None:
    """Prevent asyncio's warning where every waiter has been cancelled."""
    if not task.cancelled():
        task.exception()
