"""A cache of the daemon's status, shared by all open pages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from msgspec import Struct

from subtitle.aio import AsyncClient
from subtitle.eta import QueueSnapshot, Speed, SpeedMeter
from subtitle.messages import JobFacts, StatsInfo, Welcome
from subtitled.http.errors import RequestError

MAX_AGE_S = 0.8
"""A status, or the failure to get one, is reused for this long: many tabs cost the daemon as much as one."""
MAX_SHARED = 64
"""Answers that are kept: the status, and lists of different filters."""
DAEMON_TIMEOUT_S = 3.0
PAGE_SIZE = 40
OLDER_PAGE_SIZE = 100
"""Page size of older jobs, which the page adds while it is scrolled: fewer requests to the end of a long list."""
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


class _Request(Struct):
    """A request, in progress or answered."""

    task: asyncio.Task[Any]
    requested_at: float
    """Monotonic time."""


class StatusCache:
    """Requests the status of one daemon; belongs to one event loop."""

    def __init__(self, client: AsyncClient) -> None:
        """`client` may be shared."""
        self._client = client
        self._speed_meter = SpeedMeter(SPEED_WINDOW_S)
        self._requests: dict[object, _Request] = {}
        """By what is requested; the newest last."""

    async def get(self) -> StatusSnapshot:
        """Return the status; raises RequestError or SubtitleError if the daemon does not respond."""
        status: StatusSnapshot = await self._share("status", self._fetch)
        return status

    async def list(self, states: tuple[str, ...], **query: Any) -> tuple[JobFacts, ...]:
        """Return one job more than a page of a filter has, given as for `Client.list`; raises as `get`."""

        async def fetch() -> tuple[JobFacts, ...]:
            async with daemon_timeout():
                return await self._client.list(states, limit=page_size(query.get("before", "")) + 1, **query)

        jobs: tuple[JobFacts, ...] = await self._share((states, *sorted(query.items())), fetch)
        return jobs

    def invalidate(self) -> None:
        """Make the next `get` and `list` request new answers, after a change that they show."""
        for request in self._requests.values():
            request.requested_at = -MAX_AGE_S

    async def _share(self, key: object, fetch: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Return the answer of a request with this key that is in progress or younger than MAX_AGE_S, else of a new one."""
        now = time.monotonic()
        request = self._requests.get(key)
        if request is None or (request.task.done() and now - request.requested_at >= MAX_AGE_S):
            self._requests.pop(key, None)
            request = self._requests[key] = _Request(asyncio.ensure_future(fetch()), now)
            request.task.add_done_callback(_retrieve_exception)
            while len(self._requests) > MAX_SHARED:
                del self._requests[next(iter(self._requests))]
        return await asyncio.shield(request.task)

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


def page_size(before: str) -> int:
    """Return the number of jobs on a page of the list: the first one, or one that begins after the job `before`."""
    return OLDER_PAGE_SIZE if before else PAGE_SIZE


@asynccontextmanager
async def daemon_timeout() -> AsyncIterator[None]:
    """Raise RequestError if the daemon takes longer than a page may wait."""
    try:
        async with asyncio.timeout(DAEMON_TIMEOUT_S):
            yield
    except TimeoutError:
        message = f"the daemon has not responded for {DAEMON_TIMEOUT_S:g} s"
        raise RequestError(503, "unreachable", message) from None


def _retrieve_exception(task: asyncio.Task[Any]) -> None:
    """Prevent asyncio's warning where every waiter has been cancelled."""
    if not task.cancelled():
        task.exception()
