"""A media file, opened once, safely, by its content."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta, Struct

from subtitled.errors import MediaError
from subtitled.files.open_beneath import open_beneath

SAMPLE_RATES = range(1_000, 1_000_001)
"""Sample rates taken to be real; a header that says 1 Hz would make gigabytes of a small file."""

_FOUND_BYTES = 1 << 20
"""Bytes of one read while content is searched."""
BLOCK = 1 << 16
"""Samples, of all channels together, that are worked on at a time."""


class MediaInfo(Struct, frozen=True):
    """Facts about the audio of a media file.

    `sample_rate` (Hz) and `channels` are the track's own, before conversion; `duration_s` is None where the
    file does not say. The first decoded sample is heard `offset_samples` (at 16 kHz) after the file's start
    as players count it: add it to all times. `track` is its number among the audio tracks, from 1. `channel_names` are
    FFmpeg's ("FL"), or empty ones.
    """

    container: str
    codec: str
    sample_rate: int
    channels: int
    duration_s: float | None
    offset_samples: int
    track: int
    channel_names: tuple[str, ...]


class VideoFacts(Struct, frozen=True, kw_only=True):
    """What is known of the picture of a file."""

    width: Annotated[int, Meta(ge=0, le=2**31)] = 0
    """Width and height as they are shown: rotated, with square pixels; 0 without a picture."""
    height: Annotated[int, Meta(ge=0, le=2**31)] = 0
    media_type: Annotated[str, Meta(max_length=200)] = ""
    """With `codecs`, if a browser may play the file itself; "" if not."""
    cause: Annotated[str, Meta(max_length=2000)] = ""
    """Why the picture of a file that has one cannot be shown."""


def _open(path: str, root: str | None) -> int:
    def opened(flags: int) -> int:
        return os.open(path, flags | os.O_CLOEXEC) if root is None else open_beneath(root, path, flags)

    try:
        # Without O_NONBLOCK the opening of a pipe waits for a writer.
        return opened(os.O_RDONLY | os.O_NONBLOCK)
    except BlockingIOError:
        # Another process has a lease on the file (fcntl(2); Samba's oplocks are leases), and the kernel breaks it.
        # Only regular files have leases, so waiting is safe; it takes 45 s at most.
        return opened(os.O_RDONLY)


class MediaFile:
    """An open regular file as demuxers read it.

    `name` is one printable line for messages; `fault` is the error of the disk. Demuxers get no name, so only
    the content decides the format. Opening raises MediaError if the file does not exist or is empty.
    """

    def __init__(self, path: str, root: str | None = None) -> None:
        # As a Python literal: any name, also one with newlines or broken encoding, makes one printable line.
        self.name = repr(os.path.basename(path) or path)  # noqa: PTH119 - Path would drop a trailing slash
        self.fault: OSError | None = None
        self.start = 0
        """Byte at which demuxers see the file begin."""
        try:
            descriptor = _open(path, root)
        except FileNotFoundError as error:
            raise MediaError(f"{self.name} does not exist; put it back and submit it again") from error
        except PermissionError as error:
            raise MediaError(
                f"{self.name} cannot be read by the daemon's user; change its permissions"
            ) from error
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno == errno.EXDEV:
                raise MediaError(
                    f"{self.name} is a link that leads out of its inbox; put the file itself there"
                ) from error
            raise MediaError(f"{self.name} cannot be opened: {error}; check its path") from error
        status = os.fstat(descriptor)
        problem = None
        if stat.S_ISDIR(status.st_mode):
            problem = "is a directory, not a media file; submit the files in it"
        elif not stat.S_ISREG(status.st_mode):
            problem = "is a device or pipe, not a media file; submit a regular file"
        elif status.st_size == 0:
            problem = "is empty (0 bytes); copy it again"
        if problem is not None:
            os.close(descriptor)
            raise MediaError(f"{self.name} {problem}")
        self._raw = os.fdopen(descriptor, "rb", buffering=0)

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes; b"" at the end."""
        try:
            return self._raw.read(size) or b""
        except OSError as error:
            self.fault = error
            raise

    def seek(self, offset: int, origin: int = os.SEEK_SET) -> int:
        """Move to a byte and return its offset; -1 if there is no such byte, as FFmpeg expects."""
        try:
            return self._raw.seek(offset + (self.start if origin == os.SEEK_SET else 0), origin) - self.start
        except OSError:
            # A damaged file may refer to any byte: an offset before the first is no error of the disk.
            return -1

    def tell(self) -> int:  # prose: allow - the name that FFmpeg calls
        """Return the offset of the byte that is read next."""
        return self._raw.tell() - self.start

    @contextlib.contextmanager
    def recorded_fault(self) -> Iterator[None]:
        """Record an OSError of calls on the descriptor as `fault`, which the end of the decoding raises."""
        try:
            yield
        except OSError as error:
            self.fault = error

    def find(self, content: bytes, start: int) -> int:
        """Return the offset in the whole file of the next `content` from byte `start` on; -1 if there is none."""
        self._raw.seek(start)
        before = b""
        while part := self.read(_FOUND_BYTES):
            at = (before + part).find(content)
            if at >= 0:
                return self._raw.tell() - len(part) - len(before) + at
            before = (before + part)[1 - len(content) :]
        return -1

    def fileno(self) -> int:
        """Return the descriptor, which this object closes."""
        return self._raw.fileno()

    def no_samples(self) -> MediaError:
        """Return the error of a file whose audio track is empty."""
        return MediaError(f"{self.name} contains no audio: its audio track is empty; check the recording")

    def wrong_rate(self, rate: int) -> MediaError:
        """Return the error of a file whose sample rate cannot be true."""
        return MediaError(
            f"{self.name} declares a sample rate of {rate} Hz; known are {SAMPLE_RATES.start} to "
            f"{SAMPLE_RATES.stop - 1} Hz: the file is damaged, get another copy"
        )

    def close(self) -> None:
        """Close the file; may be repeated."""
        with contextlib.suppress(OSError):  # close(2) of a mount that has gone; the descriptor is released
            self._raw.close()
