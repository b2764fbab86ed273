"""Slow work in a few threads, with results handed back to the loop."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

E = TypeVar("E", bound=Exception)
CallInLoop = Callable[[Callable[[], None]], None]
"""Takes a function from any thread; the loop's thread calls it."""


class Background:
    """Runs work in other threads and hands its results back; belongs to the thread of the server's loop."""

    def __init__(self, submit: Callable[[Callable[[], object]], object], call_in_loop: CallInLoop) -> None:
        """`submit` runs a function in another thread."""
        self._submit = submit
        self._call_in_loop = call_in_loop
        self.pending = 0
        """Tasks of `run` that are queued or running."""

    @property
    def is_idle(self) -> bool:
        """No task of `run` is queued or running."""
        return not self.pending

    def run(
        self,
        work: Callable[[], Any],
        on_result: Callable[[Any], None],
        on_error: Callable[[E], None] | None = None,
        expected: type[E] | None = None,
    ) -> None:
        """Run `work`; the loop then calls `on_result` with its result, or `on_error` with an `expected` error.

        Any other error, and without `expected` any error, is a bug and is raised in the loop.
        """

        def hand_back(result: Any, error: Exception | None) -> None:
            self.pending -= 1
            if expected is not None and on_error is not None and isinstance(error, expected):
                on_error(error)
            elif error is not None:
                raise error
            else:
                on_result(result)

        def call() -> None:
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 - raised in the loop
                self._call_in_loop(partial(hand_back, None, error))
            else:
                self._call_in_loop(partial(hand_back, result, None))

        self._submit(call)
        self.pending += 1

    def submit(self, work: Callable[[], object]) -> None:
        """Run `work`, which must not raise, and ignore its result."""
        self._submit(work)


class BackgroundPool(Background):
    """A few threads for work that blocks."""

    def __init__(self, name: str, call_in_loop: CallInLoop, *, threads: int = 1) -> None:
        self.pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=name)
        super().__init__(self.pool.submit, call_in_loop)

    def close(self) -> None:
        """Wait for all tasks."""
        self.pool.shutdown(wait=True)


def busy_folders(
    threads: Mapping[str, FolderThread] | Mapping[bytes, FolderThread], least_s: float
) -> dict[str, float]:
    """Return the seconds that the present call of each thread has been running, by folder; at least `least_s`."""
    busy = {os.fsdecode(folder): thread.busy_s for folder, thread in threads.items()}
    return {folder: seconds for folder, seconds in busy.items() if seconds >= least_s}


class FolderThread(Background):
    """Runs calls on one folder in order, in a separate thread: on a mount that hangs a call may never return.

    The thread does not keep the process from exiting.
    """

    def __init__(self, name: str, call_in_loop: CallInLoop) -> None:
        super().__init__(self._put, call_in_loop)
        self._name = name
        self._queue: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._busy_since: float | None = None

    @property
    def busy_s(self) -> float:
        """Seconds that the present call has been running; 0 if there is none."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self, timeout_s: float) -> None:
        """Wait for all calls, at most for `timeout_s` seconds."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(timeout_s)

    def _put(self, work: Callable[[], object]) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._serve, name=self._name, daemon=True)
            self._thread.start()
        self._queue.put(work)

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            self._busy_since = time.monotonic()
            work()
            self._busy_since = None


class FolderThreads:
    """A FolderThread for each folder, which is started at its first call; belongs to the thread of the server's loop."""

    def __init__(self, name: str, call_in_loop: CallInLoop) -> None:
        self._name = name
        self._call_in_loop = call_in_loop
        self._threads: dict[str, FolderThread] = {}

    def of(self, folder: str) -> FolderThread:
        """Return the thread of a folder."""
        if folder not in self._threads:
            self._threads[folder] = FolderThread(self._name, self._call_in_loop)
        return self._threads[folder]

    @property
    def is_idle(self) -> bool:
        """No call of `run` is queued or running in any thread."""
        return all(thread.is_idle for thread in self._threads.values())

    def busy_s(self, least_s: float) -> dict[str, float]:
        """Return the seconds that present calls have been running, by folder; at least `least_s`."""
        return busy_folders(self._threads, least_s)

    def close(self, timeout_s: float) -> None:
        """Wait for all calls of all threads, at most for `timeout_s` seconds."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads.values():
            thread.close(deadline - time.monotonic())
