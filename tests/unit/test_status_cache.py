"""However many look, the daemon is asked as for one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest
from msgspec.structs import replace

from subtitle import StatsInfo, UnreachableError
from subtitle.messages import Welcome
from subtitled.web.status_cache import MAX_SHARED, StatusCache
from unit.server_stats import STATS

if TYPE_CHECKING:
    from subtitle.aio import AsyncClient
    from subtitle.messages import JobFacts


class Fake:
    """A daemon that counts how often it is asked, and may be away."""

    def __init__(self) -> None:
        self.asked = 0
        self.lists: list[tuple[object, dict[str, object]]] = []
        self.is_away = False

    async def ping(self) -> Welcome:
        """Be there, or away."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise UnreachableError("no daemon")
        return Welcome(request=1, server="1", protocol=1, model="demo")

    async def stats(self) -> StatsInfo:
        """Give the number of the look as the time since the start."""
        return replace(STATS, uptime_s=float(self.asked), jobs={})

    async def list(self, states: object = (), **query: object) -> tuple[JobFacts, ...]:
        """Return no jobs."""
        self.lists.append((states, query))
        return ()


def test_a_hundred_concurrent_readers_cause_one_request() -> None:
    async def run() -> None:
        fake = Fake()
        cache = StatusCache(cast("AsyncClient", fake))
        looks = await asyncio.gather(*(cache.get() for _ in range(100)))
        assert (fake.asked, len(set(map(id, looks)))) == (1, 1)
        cache.invalidate()
        assert (await cache.get()).stats.uptime_s == 2.0, "what was done shows at once"

    asyncio.run(run())


def test_a_failure_is_shared_and_then_retried() -> None:
    async def run() -> None:
        fake = Fake()
        cache = StatusCache(cast("AsyncClient", fake))
        fake.is_away = True
        results = await asyncio.gather(*(cache.get() for _ in range(10)), return_exceptions=True)
        assert [type(one) for one in results] == [UnreachableError] * 10
        with pytest.raises(UnreachableError):
            await cache.get()
        assert fake.asked == 1
        fake.is_away = False
        cache.invalidate()
        assert (await cache.get()).welcome.model == "demo"

    asyncio.run(run())


def test_a_cancelled_reader_does_not_cancel_the_others() -> None:
    async def run() -> None:
        cache = StatusCache(cast("AsyncClient", Fake()))
        first, second = (asyncio.ensure_future(cache.get()) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert (await second).welcome.model == "demo"

    asyncio.run(run())


def test_readers_of_the_same_filter_cause_one_list() -> None:
    async def run() -> None:
        fake = Fake()
        cache = StatusCache(cast("AsyncClient", fake))
        for name in ("a", "b", "a"):
            await asyncio.gather(*(cache.list(("done",), name=name, sort="name") for _ in range(10)))
        assert [query["name"] for _, query in fake.lists] == ["a", "b"]
        await cache.list(("failed",), name="a", sort="name")
        assert len(fake.lists) == 3
        cache.invalidate()
        await cache.list(("done",), name="a", sort="name")
        assert len(fake.lists) == 4
        for number in range(2 * MAX_SHARED):
            await cache.list((), name=str(number))
        assert len(cache._requests) == MAX_SHARED

    asyncio.run(run())
