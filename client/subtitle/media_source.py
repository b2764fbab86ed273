"""The media file of an upload: hashed first, then read in pieces, with a check that it has not changed."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from subtitle.errors import FileChangedError, SubtitleError

HASHED_BYTES = 4 * 2**20
"""Bytes hashed between two updates of the progress bar."""


class MediaSource:
    """One open file; a context manager. Its calls block on the disk only."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open the file; raises OSError, and SubtitleError if it is not a regular file."""
        self.path = Path(path)
        # open() must not block on a FIFO.
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._file = os.fdopen(fd, "rb", buffering=0)
        self._stat = os.fstat(fd)
        if not stat.S_ISREG(self._stat.st_mode):
            self._file.close()
            raise SubtitleError(f"{self.path}: is not a regular file; only files can be sent")
        self.size = self._stat.st_size
        self._hash = hashlib.sha256()
        self._hashed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def name(self) -> str:
        """The file's name without its folder, with U+FFFD for what is not UTF-8."""
        return os.fsencode(self.path.name).decode("utf-8", "replace")

    @property
    def sha256(self) -> str:
        """The hash of the bytes that `hash_more` has read, in hexadecimal."""
        return self._hash.hexdigest()

    def hash_more(self) -> int:
        """Hash the next piece; return the number of bytes hashed, which is `size` at the end."""
        if self._hashed < self.size:
            piece = self.read(self._hashed, min(HASHED_BYTES, self.size - self._hashed))
            self._hash.update(piece)
            self._hashed += len(piece)
        return self._hashed

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`; raises FileChangedError if the file has changed since it was opened."""
        parts = []
        while length > 0 and (part := os.pread(self._file.fileno(), length, offset)):
            parts.append(part)
            offset += len(part)
            length -= len(part)
        now = os.fstat(self._file.fileno())
        if length or (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns):
            raise FileChangedError(
                f"{self.path}: changed while it was read ({self._stat.st_size} bytes, now {now.st_size}); "
                "submit it again when no program writes to it"
            )
        return parts[0] if len(parts) == 1 else b"".join(parts)
