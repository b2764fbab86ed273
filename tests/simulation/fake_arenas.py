"""Shared memory under virtual time: what the simulated workers have written, by segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from action_checks import Violation
from fake_sockets import FakeFrame, pcm_frame

from subtitled.core.records import SegmentKey
from subtitled.workers.pcm_store import MAX_ARENAS, SPARE_BYTES

if TYPE_CHECKING:
    from subtitled.core.worker_table import WorkerTable
    from subtitled.workers.pcm_store import PcmStore


class FakeArena:
    """In the place of an `Arena`."""

    def __init__(self, number: int, arenas: dict[int, FakeArena]) -> None:
        """`arenas`: all that are not closed."""
        self.write_fd = self.read_fd = number
        self.written: dict[int, SegmentKey] = {}
        """The segments that use memory, by place."""
        self._arenas = arenas

    def frame(self, place: int, size: int) -> FakeFrame:
        """Return a segment's PCM; raises Violation for a place where nothing is."""
        if place not in self.written:
            raise Violation(f"place {place} is read, in which nothing is written")
        return pcm_frame(size // 2, self.written[place])

    def free(self, first: int, end: int, *, after: int = 0) -> None:
        """Drop a range of places."""
        if after:
            return
        for place in [place for place in self.written if first <= place < end]:
            del self.written[place]

    def close(self) -> None:
        """Drop everything; raises Violation the second time."""
        if self._arenas.pop(self.read_fd, None) is None:
            raise Violation("shared memory is closed twice")
        self.written.clear()


def check_arenas(
    arenas: dict[int, FakeArena], store: PcmStore, worker_table: WorkerTable, running: set[str]
) -> None:
    """Check that memory is shared for the files that are read, or have PCM that waits, and holds that PCM.

    `running`: the processes that are not reaped. One that was killed may still write.
    """
    for worker, memory in store._file_of.items():
        current = worker_table.current(worker)
        if worker not in running or (current is not None and current.feed is None):
            raise Violation(f"shared memory is kept for {worker}, which reads feed {memory.feed} no longer")
    memories = {id(memory): memory for memory in store._file_of.values()}
    memories |= {id(kept[0]): kept[0] for kept in store._kept.values() if isinstance(kept, tuple)}
    if len(arenas) > MAX_ARENAS or {memory.arena.read_fd for memory in memories.values()} != arenas.keys():
        raise Violation(f"shared memory of {sorted(arenas)} is open, {memories} is needed")
    for memory in memories.values():
        written = arenas[memory.arena.read_fd].written
        kept = {
            other[1]: key
            for key, other in store._kept.items()
            if isinstance(other, tuple) and other[0] is memory
        }
        if kept.keys() != memory.live.keys() or kept.keys() & memory.spare.keys():
            raise Violation(f"places {sorted(kept)} are kept, {memory.live} counted, {memory.spare} spare")
        if any(written.get(place) != key for place, key in kept.items()):
            raise Violation(f"segments {kept} are kept, in memory is {written}")
        if memory.spare_bytes != sum(memory.spare.values()) or memory.spare_bytes > SPARE_BYTES:
            raise Violation(f"{memory.spare} is not returned to the kernel")
