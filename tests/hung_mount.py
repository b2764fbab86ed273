"""A mount that never answers: a FUSE file system without a server, over a folder that exists."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Self

MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


class ForbiddenError(Exception):
    """The system does not allow mounts; the message has the reason."""


class HungMount:
    """Hides what lies at `path`: every call on it waits until `close`, and then fails or finds the old folder again.

    A context manager. Folders that were opened before stay as they were.
    """

    def __init__(self, path: Path) -> None:
        """Mount it; raises ForbiddenError where the system does not allow that."""
        self._path = os.fsencode(path)
        self._is_mounted = False
        try:
            self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise ForbiddenError(f"/dev/fuse: {error.strerror}") from error
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if _libc.mount(b"hung", self._path, b"fuse", 0, options.encode()):
            os.close(self._device)
            raise ForbiddenError(f"mount: {os.strerror(ctypes.get_errno())}")
        self._is_mounted = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back; calls that wait fail with ENOTCONN. May be repeated."""
        if self._is_mounted:
            self._is_mounted = False
            _libc.umount2(self._path, MNT_DETACH)
            os.close(self._device)
