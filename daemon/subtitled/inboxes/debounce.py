"""Files that rest: the same size and time at every look, for long enough."""

from __future__ import annotations

import heapq
import math


class _Resting:
    """One file's values, since when they are so, when it is to be looked at again."""

    __slots__ = ("since", "values", "wake_at")

    def __init__(self, values: tuple[int, int], since: float) -> None:
        self.values = values
        self.since = since
        self.wake_at = -1.0


class Debouncer:
    """Decides when a file has come to rest, from looks at it and a monotonic clock, both given.

    Pure: it reads neither files nor clocks. Whoever uses it calls `look` when something happened to a file,
    and for each path of `due` when `next_deadline` has come; so no file needs another event to be taken.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._resting: dict[str, _Resting] = {}
        self._taken: dict[str, tuple[int, int]] = {}
        self._wakes: list[tuple[float, str]] = []

    def look(self, path: str, size: int, mtime_ns: int, now: float) -> bool:
        """Take in what `path` is like at `now`; return whether it is to be taken.

        True once per path, size and mtime: when they were the same at every look for `settle_s` seconds, two
        looks at least. A file that changes after it was taken comes to rest anew. `mtime_ns` is only compared
        with itself: it may lie in the future.
        """
        values = (size, mtime_ns)
        if self._taken.get(path) == values:
            self._resting.pop(path, None)
            return False
        resting = self._resting.get(path)
        if resting is None:
            resting = self._resting[path] = _Resting(values, now)
        elif resting.values != values:
            resting.values, resting.since = values, now
        elif now - resting.since >= self._settle_s:
            del self._resting[path]
            self._taken[path] = values
            return True
        if resting.wake_at < 0:
            self._wake(path, resting)
        return False

    def due(self, now: float) -> list[str]:
        """Return the paths to be looked at again because their rest is over at `now`; each once."""
        found: list[str] = []
        while self._wakes and self._wakes[0][0] <= now:
            wake_at, path = heapq.heappop(self._wakes)
            resting = self._resting.get(path)
            if resting is None or resting.wake_at != wake_at:
                continue
            resting.wake_at = -1.0
            if now - resting.since >= self._settle_s:
                found.append(path)
            else:
                self._wake(path, resting)
        return found

    def forget(self, path: str) -> None:
        """Drop what is known of `path`: it is gone. Should it come again, it is taken again."""
        self._resting.pop(path, None)
        self._taken.pop(path, None)

    @property
    def next_deadline(self) -> float | None:
        """When `due` may have something next; None while nothing settles."""
        return self._wakes[0][0] if self._wakes else None

    @property
    def taken(self) -> frozenset[str]:
        """The paths that were taken and not forgotten."""
        return frozenset(self._taken)

    def _wake(self, path: str, resting: _Resting) -> None:
        """Have `path` looked at when it has rested: one entry a file, however often it changes."""
        wake_at = resting.since + self._settle_s
        # Floating point: since + settle - since may fall short of settle by a hair.
        while wake_at - resting.since < self._settle_s:
            wake_at = math.nextafter(wake_at, math.inf)
        resting.wake_at = wake_at
        heapq.heappush(self._wakes, (wake_at, path))
