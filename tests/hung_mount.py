"""Mounts that do not answer: a FUSE file system without a server, and one whose server can be stopped."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import threading
from pathlib import Path
from typing import Self

MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


class ForbiddenError(Exception):
    """The system does not allow mounts; the message has the reason."""


def _mounted(path: Path) -> int:
    """Mount a FUSE file system at `path`; return the descriptor that its server reads requests from."""
    try:
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ForbiddenError(f"/dev/fuse: {error.strerror}") from error
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other"
    if _libc.mount(b"hung", os.fsencode(path), b"fuse", 0, options.encode()):
        os.close(device)
        raise ForbiddenError(f"mount: {os.strerror(ctypes.get_errno())}")
    return device


class HungMount:
    """Hides what lies at `path`: every call on it waits until `close`, and then fails or finds the old folder again.

    A context manager. Folders that were opened before stay as they were.
    """

    def __init__(self, path: Path) -> None:
        """Mount it; raises ForbiddenError where the system does not allow that."""
        self._path = os.fsencode(path)
        self._is_mounted = False
        self._device = _mounted(path)
        self._is_mounted = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def lose_server(self) -> None:
        """Answer every call with ENOTCONN, as the mount of a killed server does."""
        os.close(self._device)
        self._device = -1

    def close(self) -> None:
        """Give the folder back; calls that wait fail with ENOTCONN. May be repeated."""
        if self._is_mounted:
            self._is_mounted = False
            _libc.umount2(self._path, MNT_DETACH)
            if self._device >= 0:
                os.close(self._device)


class BindMount:
    """Shows a folder at another path until `close`. A context manager."""

    def __init__(self, source: Path, path: Path) -> None:
        """Mount it; raises ForbiddenError where the system does not allow that."""
        self._path = os.fsencode(path)
        bind = 4096
        if _libc.mount(os.fsencode(source), self._path, None, bind, None):
            raise ForbiddenError(f"mount: {os.strerror(ctypes.get_errno())}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmount it, also while files are open; may be repeated."""
        _libc.umount2(self._path, MNT_DETACH)


class StoppableMount:
    """Shows a folder read-only at another path, through a server that can hang or fail in the middle of a file.

    A context manager. The server is a thread of this process, which must not touch the path while it hangs. Of the
    FUSE protocol (linux/fuse.h, version 7.31) it has what reading needs.
    """

    def __init__(self, source: Path, path: Path) -> None:
        """Mount `source` at `path`; raises ForbiddenError where the system does not allow that."""
        self._source = source
        self._path = path
        self._nodes = [Path(), Path()]
        """Paths below the source, by number; 1 is the root."""
        self._hang_at: int | None = None
        self._fail_at: int | None = None
        self.unreadable = ""
        """Name of a file whose content cannot be read."""
        self.is_failing = threading.Event()
        """Every request is answered with EIO."""
        self._may_answer = threading.Event()
        self._may_answer.set()
        self.is_hung = threading.Event()
        """A request waits."""
        self._device = _mounted(path)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.resume()
        _libc.umount2(os.fsencode(self._path), MNT_DETACH)
        self._thread.join(60)
        os.close(self._device)

    def hang_at(self, offset: int) -> None:
        """Stop answering when a file is read from `offset` bytes on."""
        self._hang_at = offset

    def fail_at(self, offset: int) -> None:
        """Answer everything with EIO as soon as a file is read from `offset` bytes on."""
        self._fail_at = offset

    def resume(self) -> None:
        """Answer again, also what was requested meanwhile."""
        self._hang_at = self._fail_at = None
        self.is_failing.clear()
        self.is_hung.clear()
        self._may_answer.set()

    def _serve(self) -> None:
        while True:
            try:
                request = os.read(self._device, 1 << 20)
            except OSError as error:
                if error.errno in {errno.EINTR, errno.ENOENT, errno.EAGAIN}:
                    continue
                return  # unmounted
            operation, unique, node = struct.unpack_from("=4xIQQ", request)
            if operation == _READ:
                (offset,) = struct.unpack_from("=8xQ", request, 40)
                if self._hang_at is not None and offset >= self._hang_at:
                    self._may_answer.clear()
                    self.is_hung.set()
                if self._fail_at is not None and offset >= self._fail_at:
                    self.is_failing.set()
            self._may_answer.wait()
            if operation in {_FORGET, _BATCH_FORGET, _INTERRUPT}:
                continue
            try:
                answer, fault = self._answer(operation, node, request[40:]), 0
            except OSError as error:
                answer, fault = b"", error.errno or errno.EIO
            try:
                os.write(self._device, struct.pack("=IiQ", 16 + len(answer), -fault, unique) + answer)
            except FileNotFoundError:
                continue  # the process that asked was killed
            except OSError:
                return

    def _answer(self, operation: int, node: int, body: bytes) -> bytes:
        place = self._source / self._nodes[node] if node else self._source
        if self.is_failing.is_set() or (operation == _READ and place.name == self.unreadable):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        match operation:
            case 26:  # INIT
                return struct.pack("=IIIIHHIIHHI28x", 7, 31, 1 << 17, 0, 12, 9, 1 << 17, 1, 32, 0, 0)
            case 1:  # LOOKUP
                child = self._nodes[node] / os.fsdecode(body.rstrip(b"\0"))
                found = os.lstat(self._source / child)
                if child not in self._nodes:
                    self._nodes.append(child)
                number = self._nodes.index(child)
                return struct.pack("=QQQQII", number, 0, 0, 0, 0, 0) + _attributes(number, found)
            case 3:  # GETATTR
                return struct.pack("=QII", 0, 0, 0) + _attributes(node, os.lstat(place))
            case 14 | 27:  # OPEN, OPENDIR
                direct_io = 1
                return struct.pack("=QII", 0, direct_io if operation == 14 else 0, 0)
            case 15:  # READ
                offset, size = struct.unpack_from("=8xQI", body)
                with place.open("rb") as file:
                    file.seek(offset)
                    return file.read(size)
            case 28:  # READDIR
                offset, size = struct.unpack_from("=8xQI", body)
                return _entries(sorted(os.scandir(place), key=lambda one: one.name), offset, size)
            case 18 | 29 | 25 | 38:  # RELEASE, RELEASEDIR, FLUSH, DESTROY
                return b""
            case 17:  # STATFS
                return struct.pack(
                    "=QQQQQIIII24x", 1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096, 0
                )
            case _:
                raise OSError(errno.ENOSYS, "")


_READ, _FORGET, _BATCH_FORGET, _INTERRUPT = 15, 2, 42, 36


def _attributes(node: int, found: os.stat_result) -> bytes:
    times = [found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns]
    return struct.pack(
        "=6Q10I",
        node,
        found.st_size,
        found.st_blocks,
        *(time // 10**9 for time in times),
        *(time % 10**9 for time in times),
        found.st_mode,
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        0,
        4096,
        0,
    )


def _entries(found: list[os.DirEntry[str]], offset: int, size: int) -> bytes:
    rows = b""
    for number, entry in enumerate(found[offset:], offset + 1):
        name = os.fsencode(entry.name)
        kind = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode) >> 12
        row = struct.pack("=QQII", number + 1, number, len(name), kind) + name
        row += bytes(-len(row) % 8)
        if len(rows) + len(row) > size:
            break
        rows += row
    return rows
