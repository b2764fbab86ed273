"""PCM in memory that the worker processes of this host share: written once by a prepare worker, never copied by the daemon.

The daemon makes an arena for each file that is read: a memfd (memfd_create(2)), with places for segments, `PLACE_BYTES`
apart. Its descriptor is passed to the prepare worker for writing, and with each lease to the transcribe worker
for reading. Pages exist only where something is written, until the daemon frees them.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import zmq

from subtitle.codec import Buffer
from subtitled.core.protocol import SharedPcm, Transcribe

PLACE_BYTES = 2**20
"""Distance between two places: a window of 960,000 bytes, in whole pages of any size."""
MAX_PLACES = 2**20
"""Places in an arena."""
MAX_DESCRIPTORS = 64
"""Most descriptors in a message; the kernel allows 253."""

_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2
_MFD_NOEXEC_SEAL = 0x0008
"""Linux 6.3; a kernel may be configured to require it (vm.memfd_noexec)."""
_TAG = struct.Struct("=Q")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class Arena:
    """The daemon's end of the memory for the PCM of one file."""

    def __init__(self) -> None:
        """Create it, empty; raises OSError."""
        self.write_fd = _create_memfd()
        try:
            os.ftruncate(self.write_fd, PLACE_BYTES * MAX_PLACES)
            # No process can make it shorter: reading a mapping beyond the end would kill the reader.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.write_fd, fcntl.F_ADD_SEALS, seals)
            self.free(0, MAX_PLACES)  # fails here, where PCM still has another way
            self.read_fd = os.open(f"/proc/self/fd/{self.write_fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(self.write_fd)
            raise

    def frame(self, place: int, size: int) -> zmq.Frame:
        """Return a copy of a segment's PCM, to be sent by a socket."""
        return zmq.Frame(os.pread(self.read_fd, size, place * PLACE_BYTES), copy=False)

    def free(self, first: int, end: int, *, after: int = 0) -> None:
        """Return the memory of the places `first` to `end` (exclusive) to the kernel, but for `after` bytes at its start."""
        mode, offset = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, first * PLACE_BYTES + after
        if _libc.fallocate(self.write_fd, mode, offset, end * PLACE_BYTES - offset):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Return all of its memory to the kernel, even if a process still has it open."""
        self.free(0, MAX_PLACES)
        os.close(self.write_fd)
        os.close(self.read_fd)


def _create_memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("subtitled-pcm", flags | _MFD_NOEXEC_SEAL)
    except OSError:
        return os.memfd_create("subtitled-pcm", flags)


class ArenaWriter:
    """A prepare worker's end of the memory for one file; for one thread, but `free` for any."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor."""
        self._descriptor = descriptor
        self._free: deque[int] = deque()
        self._next = 0

    def free(self, places: Iterable[int]) -> None:
        """Record places whose segments were dropped."""
        self._free.extend(places)

    def write(self, pcm: Buffer) -> int | None:
        """Write a segment, and return its place; None if there is no place or no memory for it."""
        rest = memoryview(pcm).cast("B")
        place = self._free.popleft() if self._free else self._next
        if place >= MAX_PLACES or len(rest) > PLACE_BYTES:
            return None
        self._next = max(self._next, place + 1)
        offset = place * PLACE_BYTES
        try:
            while rest:
                count = os.pwrite(self._descriptor, rest, offset)
                rest, offset = rest[count:], offset + count
        except OSError:
            return None
        return place

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class DescriptorSenders:
    """The daemon's ends of the Unix sockets through which its worker processes receive descriptors."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}

    def open(self, worker: str) -> socket.socket:
        """Return the worker's end of a new socket; raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._sockets[worker] = ours
        return theirs

    def send(self, worker: str, tag: int, descriptors: Sequence[int]) -> bool:
        """Send descriptors, to arrive before any message that is sent after this; return False if that is not possible."""
        ours = self._sockets.get(worker)
        if ours is None:
            return False
        try:
            socket.send_fds(ours, [_TAG.pack(tag)], descriptors, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def close(self, worker: str) -> None:
        """Close the socket to a worker that has ended; does nothing if there is none."""
        if (ours := self._sockets.pop(worker, None)) is not None:
            ours.close()


class DescriptorReceiver:
    """A worker's end of that socket."""

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor that the process was started with."""
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)

    def receive(self, tag: int) -> list[int]:
        """Return the descriptors of a tag, to be closed by the caller; those sent before are closed.

        Raises OSError if they were not sent.
        """
        while True:
            data, descriptors, _, _ = socket.recv_fds(
                self._socket, _TAG.size, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
            )
            if data == _TAG.pack(tag):
                return descriptors
            close_all(descriptors)
            if not data:
                raise OSError(f"no descriptors with the tag {tag}: the daemon has closed the socket")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def lease_audio(
    lease: Transcribe, blobs: Sequence[Buffer], receive: Callable[[int], list[int]]
) -> Sequence[Buffer]:
    """Return the audio of each item of a lease: a blob, or PCM in shared memory, mapped for reading.

    `receive`: see DescriptorReceiver. Raises OSError.
    """
    if len(blobs) == len(lease.items):
        return blobs
    descriptors, sent = receive(lease.lease), iter(blobs)
    try:
        return [
            next(sent) if item.shared is None else _map(descriptors[item.shared.descriptor], item.shared)
            for item in lease.items
        ]
    finally:
        close_all(descriptors)


def _map(descriptor: int, pcm: SharedPcm) -> memoryview:
    """Return a segment's PCM; unmapped with the last view of it."""
    offset = pcm.place * PLACE_BYTES
    return memoryview(mmap.mmap(descriptor, pcm.size, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset))


def close_all(descriptors: Sequence[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
