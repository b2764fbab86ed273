"""Whether a container is whole, by its own sizes, without decoding it."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_ELEMENTS = 100_000
"""Boxes or clusters that are read at most: a fragmented recording of a day has fewer."""
_TAIL = 16 * 1024
"""Compressed audio or video has no such run of zero bytes at its end."""
_RECENT_S = 3600
"""A file that was not changed for so long is not being written: its end need not be read, which a slow mount may delay."""
_PLACEHOLDERS = 1 << 16
"""Programs that write into a pipe use sizes near 2 and 4 GiB, because they cannot fill in the true one."""

_WRONG_BYTES = 1024
"""Some programs write sizes into RIFF files that are wrong by a header."""
_CREDIBLE = 100
"""A size that exceeds the present bytes by this factor is damaged itself."""

_MP4_FIRST = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
SEGMENT, CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
EBML = b"\x1a\x45\xdf\xa3"
_PCM = frozenset({b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b".snd", b"riff", b"caff"})
"""The first bytes of files whose zeros may be silence."""


class Incompleteness(Struct, frozen=True):
    """Why a file is not whole."""

    cause: str
    missing_bytes: int = 0
    """Bytes between the end of the file and the end that it declares; 0 if unknown."""
    present_bytes: int = 0

    @property
    def is_cut(self) -> bool:
        """Whether the file ends before its declared end."""
        return self.missing_bytes > 0

    def estimate_ns(self, present_ns: int) -> int:
        """Return about how long the missing part is, if the present one takes `present_ns`; 0 if that is not credible."""
        if self.missing_bytes > _CREDIBLE * self.present_bytes:
            return 0
        return present_ns * self.missing_bytes // max(1, self.present_bytes)


def incompleteness(descriptor: int) -> Incompleteness | None:
    """Return why the container in an open file is not whole; None if it is, or if its kind is unknown.

    It is not whole if it ends before its declared size, if its index is missing, or if a part of it was allocated but not
    written. The position of the file does not change. Raises OSError.
    """
    size = os.fstat(descriptor).st_size
    head = os.pread(descriptor, 64, 0)
    may_end_in_zeros = head[:4] in _PCM
    if head[4:8] in _MP4_FIRST:
        found, last = _mp4(descriptor, size)
        may_end_in_zeros = last != b"mdat"
    elif head.startswith(EBML):
        found = _matroska(descriptor, size)
    elif (declared := declared_bytes(head, descriptor)) > size + _WRONG_BYTES:
        found = _short(size, declared)
    else:
        found = None
    return found or _unwritten(descriptor, size, may_end_in_zeros=may_end_in_zeros)


def declared_bytes(head: bytes, descriptor: int) -> int:
    """Return the size of a RIFF, AIFF, AU, W64 or ASF file by its own header; 0 if it declares none."""
    kind, form = head[:4], head[8:12]
    if kind in {b"RIFF", b"RIFX"}:
        order = "big" if kind == b"RIFX" else "little"
        return _with_header(_number(head, 4, 8, order), 8)
    if kind in {b"RF64", b"BW64"} and head[12:16] == b"ds64":
        return _with_header(_number(head, 20, 28), 8)
    if kind == b"FORM" and form in {b"AIFF", b"AIFC"}:
        return _with_header(_number(head, 4, 8, "big"), 8)
    if kind == b".snd":
        return _with_header(_number(head, 8, 12, "big"), _number(head, 4, 8, "big"))
    if head.startswith(_W64_RIFF):
        return _number(head, 16, 24)
    if head.startswith(_ASF_HEADER):
        header = _number(head, 16, 24)
        if header > os.fstat(descriptor).st_size:
            return 0  # damaged, or cut within the header
        data = _number(os.pread(descriptor, 24, header), 16, 24)
        return data and header + data
    return 0


def _number(data: bytes, start: int, end: int, order: str = "little") -> int:
    return int.from_bytes(data[start:end], "big" if order == "big" else "little")


def _with_header(size: int, header: int) -> int:
    """Return a declared size with that of the header before it; 0 if it is a placeholder."""
    is_placeholder = (
        any(abs(size - known) < _PLACEHOLDERS for known in (0x7FFFFFFF, 0xFFFFFFFF)) or size >= 2**62
    )
    return 0 if is_placeholder or size <= 36 else size + header


def _short(size: int, declared: int, what: str = "it") -> Incompleteness | None:
    # A pad byte at the end may be left out.
    if declared <= size + 1:
        return None
    return Incompleteness(f"{what} declares {declared} bytes and has {size}", declared - size, size)


def _mp4(descriptor: int, size: int) -> tuple[Incompleteness | None, bytes]:
    """Return why an MP4 file is not whole, and the name of its last box."""
    at, name, has_index = 0, b"", False
    for _ in range(_MOST_ELEMENTS):
        head = os.pread(descriptor, 16, at)
        length = _number(head, 0, 4, "big")
        if len(head) < 8 or not (length or any(head[4:8])):
            break
        name = head[4:8]
        has_index |= name == b"moov"
        if length == 0:
            break
        if length == 1:
            length = _number(head, 8, 16, "big")
        if length < 8 or at + length > size:
            return _short(size, at + max(length, 8), f"its box {name.decode('latin-1')!r}"), name
        at += length
    return None if has_index else Incompleteness("its index (moov) is missing"), name


def _matroska(descriptor: int, size: int) -> Incompleteness | None:
    at = 0
    for _ in range(_MOST_ELEMENTS):
        element = ebml_element(lambda start, count: os.pread(descriptor, count, start), at)
        if element is None or at >= size:
            return None
        name, start, length = element
        if length is None:
            # A segment of unknown length is walked; the end of a cluster of unknown length is not known.
            if name != SEGMENT:
                return None
            at = start
            continue
        if start + length > size:
            what = {SEGMENT: "its segment", CLUSTER: "its last cluster"}.get(name, "its last element")
            return _short(size, start + length, what)
        at = start + length
    return None


def ebml_element(read: Callable[[int, int], bytes], at: int) -> tuple[bytes, int, int | None] | None:
    """Return the ID of the EBML element at byte `at`, the first byte of its content, and its length, None if unknown.

    `read` returns `count` bytes from `start`. None: there is no element.
    """
    head = read(at, 12)
    if not head or head[0] < 16:
        return None
    id_length = 9 - head[0].bit_length()
    if len(head) <= id_length or not head[id_length]:
        return None
    length = 9 - head[id_length].bit_length()
    raw = head[id_length : id_length + length]
    value = int.from_bytes(raw, "big") & ((1 << 7 * length) - 1)
    is_unknown = value == (1 << 7 * length) - 1
    return head[:id_length], at + id_length + length, None if is_unknown else value


def _unwritten(descriptor: int, size: int, *, may_end_in_zeros: bool) -> Incompleteness | None:
    """Return the allocated, unwritten part of a file, if any: a copy or download with preallocation in progress."""
    if size < _TAIL:
        return None
    position = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        hole = os.lseek(descriptor, 0, os.SEEK_HOLE)
        is_to_end = hole < size and _is_hole_to_end(descriptor, hole)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENXIO}:
            raise
        hole, is_to_end = size, False
    finally:
        os.lseek(descriptor, position, os.SEEK_SET)
    # Silence may be a hole on file systems that compress.
    if hole < size and (is_to_end or not may_end_in_zeros):
        return Incompleteness(f"from byte {hole} of {size} on it is allocated but not written")
    is_recent = time.time() - os.fstat(descriptor).st_mtime < _RECENT_S
    if is_recent and not may_end_in_zeros and not any(os.pread(descriptor, _TAIL, size - _TAIL)):
        return Incompleteness(f"its last {_TAIL} bytes are zeros: it is allocated but not written")
    return None


def _is_hole_to_end(descriptor: int, hole: int) -> bool:
    try:
        os.lseek(descriptor, hole, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return True
        raise
    return False
