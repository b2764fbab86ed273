"""A thread-safe queue that a poller can wait for."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """`put` and `wake` are thread-safe; the rest belongs to the owner's thread."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """Return a file descriptor that is readable while items may be queued."""
        return self._read

    def put(self, item: T) -> None:
        """Add an item and wake the owner; does not block."""
        self._items.append(item)
        self.wake()

    def wake(self) -> None:
        """Make the file descriptor readable."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full, so it is readable already
            os.write(self._write, b"\0")

    def drain(self, limit: int = 1_000_000) -> Iterator[T]:
        """Yield and remove up to `limit` queued items; remaining items keep the descriptor readable."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 65_536)
        for _ in range(limit):
            try:
                yield self._items.popleft()
            except IndexError:
                return
        if self._items:
            self.wake()

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self._read)
        os.close(self._write)
