"""Slow work beside the loop: done in a few threads, its result brought back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

E = TypeVar("E", bound=Exception)


class BackgroundPool:
    """Threads that block so that the loop does not; belongs to the thread of the server's loop."""

    def __init__(
        self, name: str, call_back: Callable[[Callable[[], None]], None], *, threads: int = 1
    ) -> None:
        """Make the threads; `call_back`, called in one of them, has a function called in the loop's."""
        self.pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._call_back = call_back
        self._under_way = 0

    @property
    def is_at_rest(self) -> bool:
        """Nothing is being done that was asked for with `run`."""
        return not self._under_way

    @property
    def under_way(self) -> int:
        """How much is being done, or waits to be, of what was asked for with `run`."""
        return self._under_way

    def run(
        self,
        work: Callable[[], Any],
        then: Callable[[Any], None],
        failed: Callable[[E], None],
        expected: type[E],
    ) -> None:
        """Run `work`; its result goes to `then`, an `expected` error to `failed`, both in the loop.

        Any other error is a bug of ours, and is raised in the loop.
        """
        future = self.pool.submit(work)
        self._under_way += 1

        def come_back() -> None:
            self._under_way -= 1
            error = future.exception()
            if isinstance(error, expected):
                failed(error)
            elif error is not None:
                raise error
            else:
                then(future.result())

        future.add_done_callback(lambda _: self._call_back(come_back))

    def submit(self, work: Callable[[], object]) -> None:
        """Run `work`, of which nobody waits for the end."""
        self.pool.submit(work)

    def close(self) -> None:
        """Wait for what is being done."""
        self.pool.shutdown(wait=True)
