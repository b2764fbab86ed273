"""Media files: which files are media, and the file of an upload, with a check that it does not change."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from subtitle.errors import FileChangedError, SubtitleError

_SOUND = """
    .3ga .aac .ac3 .aif .aifc .aiff .amr .ape .au .awb .caf .dsf .dss .dts .dtshd .ec3 .eac3 .flac .gsm .m4a .m4b
    .mka .mlp .mp1 .mp2 .mp3 .mpa .mpc .oga .ogg .oma .opus .qcp .ra .rf64 .shn .snd .sox .spx .tak .thd .tta
    .voc .w64 .wav .wave .weba .wma .wv
"""
_PICTURES = """
    .3g2 .3gp .asf .avi .divx .dv .f4v .flv .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .nut .ogm .ogv .qt
    .rm .rmvb .ts .vob .webm .wmv .wtv
"""
MEDIA_SUFFIXES = frozenset((_SOUND + _PICTURES).split())
"""Suffixes of media files, in lower case: containers of FFmpeg and libsndfile, no playlists."""
HASHED_BYTES = 4 * 2**20
"""Bytes hashed between two updates of the progress bar."""


def media_files(path: Path) -> Iterator[Path]:
    """Yield a file itself, whatever its suffix, or the media files of a folder and its sub-folders, sorted by path.

    Hidden files and folders are skipped, and links to folders are not followed.
    """
    if not path.is_dir():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in MEDIA_SUFFIXES:
                yield Path(folder, name)


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

    def __exit__(self, *_: object) -> None:
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
