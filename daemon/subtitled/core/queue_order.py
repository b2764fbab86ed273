"""Jobs in an order that changes: an index in which each change and each look-up takes about the same time at any length."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Iterator
from itertools import accumulate, chain, islice, takewhile

from subtitled.core.records import Job

Entry = tuple[int, float, int, str]
"""Sort key and id of a job; no two jobs have the same."""
MAX_CHUNK = 2000
MIN_STEP_ULPS = 2**16
"""Least distance of two places, in units in the last place of a float."""


def queue_entry(job: Job) -> Entry:
    """Return the entry of a job by which waiting jobs are started."""
    return (*job.queue_key, job.id)


class QueueOrder:
    """A sorted set of entries, in chunks: a change moves the entries of one chunk only."""

    def __init__(self) -> None:
        self._chunks: list[list[Entry]] = []
        """None is empty; all entries of one are below those of the next."""
        self._lasts: list[Entry] = []
        """The last entry of each chunk."""
        self._starts: list[int] | None = None
        """The number of entries before each chunk; None after a change, until it is needed."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        return chain.from_iterable(self._chunks)

    def __contains__(self, entry: Entry) -> bool:
        return next(self.after(entry, is_included=True), None) == entry

    @property
    def first(self) -> Entry:
        """The lowest entry; raises IndexError without any."""
        return self._chunks[0][0]

    def add(self, entry: Entry) -> None:
        """Add an entry, unless it is there already."""
        if entry in self:
            return
        self._count += 1
        self._starts = None
        if not self._chunks:
            self._chunks, self._lasts = [[entry]], [entry]
            return
        number = min(bisect_left(self._lasts, entry), len(self._chunks) - 1)
        chunk = self._chunks[number]
        insort(chunk, entry)
        if len(chunk) > MAX_CHUNK:
            # The first part stays full if entries are added at the end, as new jobs are.
            half = MAX_CHUNK if entry is chunk[-1] else len(chunk) // 2
            self._chunks.insert(number + 1, chunk[half:])
            self._lasts.insert(number + 1, chunk[-1])
            del chunk[half:]
        self._lasts[number] = chunk[-1]

    def discard(self, entry: Entry) -> bool:
        """Remove an entry; return whether it was there."""
        if entry not in self:
            return False
        number = bisect_left(self._lasts, entry)
        chunk = self._chunks[number]
        del chunk[bisect_left(chunk, entry)]
        self._count -= 1
        self._starts = None
        if chunk:
            self._lasts[number] = chunk[-1]
        else:
            del self._chunks[number], self._lasts[number]
        return True

    def pop_first(self) -> Entry:
        """Remove and return the lowest entry; raises IndexError without any."""
        entry = self.first
        self.discard(entry)
        return entry

    def position(self, entry: Entry) -> int:
        """Return the number of an entry, counted from 1; 0 if it is not there."""
        if entry not in self:
            return 0
        if self._starts is None:
            self._starts = [0, *accumulate(map(len, self._chunks))]
        number = bisect_left(self._lasts, entry)
        return self._starts[number] + bisect_left(self._chunks[number], entry) + 1

    def after(self, entry: Entry, *, is_included: bool = False) -> Iterator[Entry]:
        """Return the entries above one, lowest first; the one need not be there."""
        number = bisect_left(self._lasts, entry)
        if number == len(self._chunks):
            return
        at = bisect_left(self._chunks[number], entry)
        if not is_included and self._chunks[number][at] == entry:
            at += 1
        yield from islice(self._chunks[number], at, None)
        for following in range(number + 1, len(self._chunks)):
            yield from self._chunks[following]

    def before(self, entry: Entry) -> Iterator[Entry]:
        """Return the entries below one, highest first; the one need not be there."""
        number = bisect_left(self._lasts, entry)
        if number < len(self._chunks):
            at = bisect_left(self._chunks[number], entry)
            yield from reversed(self._chunks[number][:at])
        for previous in range(min(number, len(self._chunks)) - 1, -1, -1):
            yield from reversed(self._chunks[previous])


def places_beside(
    order: QueueOrder, neighbour: Entry, *, is_after: bool, moved: Entry
) -> tuple[float, dict[str, float]]:
    """Return a place for the job `moved` directly before or after another one, and new places of jobs around it.

    Between two places that are near each other there is no further float: the jobs around them make room then, twice as
    many at each attempt.
    """
    lower, higher = (
        (entry for entry in takewhile(lambda one: one[0] == neighbour[0], side) if entry != moved)
        for side in (order.before(neighbour), order.after(neighbour))
    )
    below, above = ([neighbour], list[Entry]()) if is_after else (list[Entry](), [neighbour])
    count = 0
    while True:
        below += islice(lower, count + 1 - len(below))
        above += islice(higher, count + 1 - len(above))
        renumbered = [*reversed(below[:count]), moved, *above[:count]]
        low = below[count][1] if len(below) > count else None
        high = above[count][1] if len(above) > count else None
        if low is None:
            low = (renumbered[0][1] if high is None else high) - len(renumbered) - 1
        if high is None:
            high = low + len(renumbered) + 1
        step = (high - low) / (len(renumbered) + 1)
        if step >= MIN_STEP_ULPS * math.ulp(max(abs(low), abs(high))) or count > len(order):
            places = {entry[3]: low + step * number for number, entry in enumerate(renumbered, 1)}
            return places.pop(moved[3]), places
        count = 2 * count + 1
