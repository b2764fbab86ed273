"""WAV files of mono 16-bit samples at 16 kHz, and ranges of their bytes."""

from __future__ import annotations

import re
import struct

from msgspec import Struct

SAMPLE_RATE = 16_000
BYTES_PER_SAMPLE = 2
_UNKNOWN = 2**32 - 1
HEADER_BYTES = 44
MAX_DATA_BYTES = _UNKNOWN - HEADER_BYTES
"""RIFF counts with 32 bits: 37 hours."""
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,20})-(\d{0,20})\s*", re.ASCII)


class ByteRange(Struct, frozen=True):
    """Bytes from `start` up to `end`."""

    start: int
    end: int


def header(data_bytes: int | None) -> bytes:
    """Return the header of a WAV file; None: of unknown length (all ones, as FFmpeg writes it)."""
    form = struct.pack("<HHIIHH", 1, 1, SAMPLE_RATE, SAMPLE_RATE * BYTES_PER_SAMPLE, BYTES_PER_SAMPLE, 16)
    whole = _UNKNOWN if data_bytes is None else data_bytes + HEADER_BYTES - 8
    data = _UNKNOWN if data_bytes is None else data_bytes
    return b"".join(
        (
            b"RIFF",
            struct.pack("<I", whole),
            b"WAVEfmt ",
            struct.pack("<I", len(form)),
            form,
            b"data",
            struct.pack("<I", data),
        )
    )


def asked_range(text: str | None, size: int) -> ByteRange | None:
    """Return what a Range header (RFC 9110, 14.2) asks of `size` bytes; an empty ByteRange where there are no such bytes.

    None: the whole is sent, as it may be: it asks nothing, or nothing that is understood, or for several ranges.
    """
    found = _RANGE.fullmatch(text or "")
    if found is None or found[1] == found[2] == "":
        return None
    first, last = found[1], found[2]
    if not first:
        return ByteRange(max(0, size - int(last)), size)
    start = int(first)
    if last and int(last) < start:
        return None
    end = min(int(last) + 1, size) if last else size
    return ByteRange(start, end) if start < size else ByteRange(size, size)
