"""The PCM of the segments that wait in the daemon: in the shared memory of their files, or as frames that came by the socket."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import zmq
from msgspec import Struct, field

from subtitled.core.protocol import SharedPcm
from subtitled.core.records import SegmentKey
from subtitled.workers.shared_pcm import MAX_DESCRIPTORS, MAX_PLACES, Arena

MAX_ARENAS = MAX_DESCRIPTORS
"""Arenas at once, each with two descriptors; the PCM of further files comes by the socket.

Many short files may wait together, and a system may allow 1024 descriptors.
"""
SPARE_BYTES = 8 * 2**20
"""Memory of a file's dropped segments that its worker may write to again; further memory is returned to the kernel.

Clearing and mapping new pages takes as long as copying the PCM once. Two grants of credit, since the worker learns with a
grant what is dropped.
"""


class FileMemory(Struct):
    """The arena of a file that is read, or was."""

    feed: int
    arena: Arena
    live: dict[int, int] = field(default_factory=dict)
    """Bytes of each segment that is kept, by place."""
    spare: dict[int, int] = field(default_factory=dict)
    """Bytes of dropped segments whose memory is kept, by place; until the worker has written there again."""
    spare_bytes: int = 0
    unreported: list[int] = field(default_factory=list)
    """The places that were not yet reported to the worker as free."""
    is_read: bool = True
    """A worker may still write."""


class PcmStore:
    """Belongs to the thread of the server's loop."""

    def __init__(self, create_arena: Callable[[], Arena] = Arena) -> None:
        """Create an empty store; `create_arena` raises OSError if there is no descriptor left."""
        self._create_arena = create_arena
        self._kept: dict[SegmentKey, tuple[FileMemory, int] | zmq.Frame] = {}
        """File and place, or the received frame: sending that shares ZeroMQ's memory. A view would be wrapped again, and its
        release reported to Python by a thread of pyzmq, for every segment."""
        self._file_of: dict[str, FileMemory] = {}
        """By the worker that reads it."""
        self._arenas = 0

    def open(self, worker: str, feed: int) -> Arena | None:
        """Return an arena for the file that a worker reads from now on; None: its PCM is to come by the socket."""
        self.finish(worker)
        if self._arenas >= MAX_ARENAS:
            return None
        try:
            arena = self._create_arena()
        except OSError:
            return None
        self._arenas += 1
        self._file_of[worker] = FileMemory(feed, arena)
        return arena

    def finish(self, worker: str, feed: int | None = None) -> None:
        """Record that a worker no longer reads its file, or a certain file; drops all but the segments that are kept."""
        file = self._file_of.get(worker)
        if file is None or feed not in {None, file.feed}:
            return
        del self._file_of[worker]
        file.is_read = False
        if self._close_if_done(file):
            return
        free_from = 0
        for place in (*sorted(file.live), MAX_PLACES):
            if place > free_from:
                file.arena.free(free_from, place)
            free_from = place + 1

    def keep(
        self, key: SegmentKey, worker: str, size: int, *, place: int | None, frame: zmq.Frame | None
    ) -> None:
        """Keep the PCM of a segment, unless there is some already: a frame, or what the worker has written to its arena.

        Raises LookupError if it has no arena with such a place, or has reported another segment there.
        """
        file = self._file_of.get(worker)
        if place is None:
            if frame is None:
                raise LookupError(f"no PCM of segment {key.index}")
            self._kept.setdefault(key, frame)
            return
        if file is None or not 0 <= place < MAX_PLACES or place in file.live:
            raise LookupError(f"no place {place} in shared memory for segment {key.index}")
        was = file.spare.pop(place, 0)
        file.spare_bytes -= was
        if was > size:
            file.arena.free(place, place + 1, after=size)
        if key in self._kept:
            self._release(file, place, size)
        else:
            self._kept[key] = file, place
            file.live[place] = size

    def drop(self, key: SegmentKey) -> None:
        """Drop a segment's PCM, if there is any."""
        kept = self._kept.pop(key, None)
        if isinstance(kept, tuple):
            file, place = kept
            self._release(file, place, file.live.pop(place))

    def take_free_places(self, worker: str, feed: int) -> tuple[int, ...]:
        """Return, once, the places of a file's dropped segments whose memory is to be written again."""
        file = self._file_of.get(worker)
        if file is None or file.feed != feed:
            return ()
        places, file.unreported = tuple(file.unreported), []
        return places

    def size(self, key: SegmentKey) -> int:
        """Return the bytes of a segment's PCM; raises KeyError."""
        kept = self._kept[key]
        return kept[0].live[kept[1]] if isinstance(kept, tuple) else len(kept)

    def sizes(self) -> dict[SegmentKey, int]:
        """Return the bytes of PCM by segment."""
        return {key: self.size(key) for key in self._kept}

    def frame(self, key: SegmentKey) -> zmq.Frame:
        """Return a segment's PCM to be sent by a socket; raises KeyError."""
        kept = self._kept[key]
        if isinstance(kept, tuple):
            file, place = kept
            return file.arena.frame(place, file.live[place])
        return kept

    def shared(self, keys: Iterable[SegmentKey]) -> tuple[list[int], list[SharedPcm | None]]:
        """Return descriptors, and where in their memory each segment is; None: it has to be sent as a frame."""
        descriptors: dict[int, int] = {}
        found: list[SharedPcm | None] = []
        for key in keys:
            kept = self._kept[key]
            if isinstance(kept, tuple):
                file, place = kept
                number = descriptors.setdefault(file.arena.read_fd, len(descriptors))
                found.append(SharedPcm(descriptor=number, place=place, size=file.live[place]))
            else:
                found.append(None)
        return list(descriptors), found

    def close(self) -> None:
        """Drop everything."""
        for worker in list(self._file_of):
            self.finish(worker)
        for key in list(self._kept):
            self.drop(key)

    def _release(self, file: FileMemory, place: int, size: int) -> None:
        """Free a place: for other segments of the file, or to the kernel."""
        if self._close_if_done(file):
            return
        if file.is_read and file.spare_bytes + size <= SPARE_BYTES:
            file.spare[place] = size
            file.spare_bytes += size
            file.unreported.append(place)
        else:
            file.arena.free(place, place + 1)

    def _close_if_done(self, file: FileMemory) -> bool:
        if file.live or file.is_read:
            return False
        file.arena.close()
        self._arenas -= 1
        return True
