"""Debouncing of files: a file has settled when its size and time no longer change."""

from __future__ import annotations

import heapq
import math


class _Candidate:
    """A file that has not settled: its values, since when it has them, its next deadline."""

    __slots__ = ("due_at", "since", "values")

    def __init__(self, values: tuple[int, int], since: float) -> None:
        self.values = values
        self.since = since
        self.due_at = -1.0


class Debouncer:
    """Decides when a file has settled, from observations and a monotonic clock that the caller passes in.

    It reads neither files nor clocks. The caller calls `observe` after each event of a file, and for each path of `due` at
    `next_deadline`, so that no file needs another event to settle.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._candidates: dict[str, _Candidate] = {}
        self._settled: dict[str, tuple[int, int]] = {}
        self._deadlines: list[tuple[float, str]] = []

    def observe(self, path: str, size: int, mtime_ns: int, now: float) -> bool:
        """Record the size and time of a file at `now`; return whether it has settled.

        True once per path, size and time: when they were equal in all observations, two at least, for `settle_s` seconds. A
        file that changes later settles again. `mtime_ns` is only compared with itself and may lie in the future.
        """
        values = (size, mtime_ns)
        if self._settled.get(path) == values:
            self._candidates.pop(path, None)
            return False
        candidate = self._candidates.get(path)
        if candidate is None:
            candidate = self._candidates[path] = _Candidate(values, now)
        elif candidate.values != values:
            candidate.values, candidate.since = values, now
        elif now - candidate.since >= self._settle_s:
            del self._candidates[path]
            self._settled[path] = values
            return True
        if candidate.due_at < 0:
            self._schedule(path, candidate)
        return False

    def postpone(self, path: str, size: int, mtime_ns: int, now: float, delay_s: float) -> None:
        """Take back that a file has settled: it is due again after `delay_s`."""
        self._settled.pop(path, None)
        candidate = _Candidate((size, mtime_ns), now + delay_s - self._settle_s)
        self._candidates[path] = candidate
        self._schedule(path, candidate)

    def due(self, now: float) -> list[str]:
        """Return the paths to observe again, because their wait is over at `now`; each once."""
        found: list[str] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            due_at, path = heapq.heappop(self._deadlines)
            candidate = self._candidates.get(path)
            if candidate is None or candidate.due_at != due_at:
                continue
            candidate.due_at = -1.0
            if now - candidate.since >= self._settle_s:
                found.append(path)
            else:
                self._schedule(path, candidate)
        return found

    def forget(self, path: str) -> None:
        """Drop the state of `path`, which is gone; a file that reappears there settles again."""
        self._candidates.pop(path, None)
        self._settled.pop(path, None)

    @property
    def next_deadline(self) -> float | None:
        """When `due` may return something; None while no file settles."""
        return self._deadlines[0][0] if self._deadlines else None

    @property
    def settled(self) -> frozenset[str]:
        """The paths that have settled and were not forgotten."""
        return frozenset(self._settled)

    def _schedule(self, path: str, candidate: _Candidate) -> None:
        """Add the deadline of a file: one entry a file, however often it changes."""
        due_at = candidate.since + self._settle_s
        # Floating point: since + settle - since may be slightly less than settle.
        while due_at - candidate.since < self._settle_s:
            due_at = math.nextafter(due_at, math.inf)
        candidate.due_at = due_at
        heapq.heappush(self._deadlines, (due_at, path))
