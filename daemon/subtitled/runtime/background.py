"""Slow work in a few threads, with results handed back to the loop."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

E = TypeVar("E", bound=Exception)
CallInLoop = Callable[[Callable[[], None]], None]
"""Takes a function from any thread; the loop's thread calls it."""


class BackgroundPool:
    """Threads for work that blocks; belongs to the thread of the server's loop."""

    def __init__(self, name: str, call_in_loop: CallInLoop, *, threads: int = 1) -> None:
        self.pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        self._call_in_loop = call_in_loop
        self._pending = 0

    @property
    def pending(self) -> int:
        """Tasks of `run` that are queued or running."""
        return self._pending

    @property
    def is_idle(self) -> bool:
        """No task of `run` is queued or running."""
        return not self._pending

    def run(
        self,
        work: Callable[[], Any],
        on_result: Callable[[Any], None],
        on_error: Callable[[E], None],
        expected: type[E],
    ) -> None:
        """Run `work`; the loop then calls `on_result` with its result, or `on_error` with an `expected` error.

        Any other error is a bug and is raised in the loop.
        """
        future = self.pool.submit(work)
        self._pending += 1

        def hand_back() -> None:
            self._pending -= 1
            error = future.exception()
            if isinstance(error, expected):
                on_error(error)
            elif error is not None:
                raise error
            else:
                on_result(future.result())

        future.add_done_callback(lambda _: self._call_in_loop(hand_back))

    def submit(self, work: Callable[[], object]) -> None:
        """Run `work` and ignore its result."""
        self.pool.submit(work)

    def close(self) -> None:
        """Wait for all tasks."""
        self.pool.shutdown(wait=True)
