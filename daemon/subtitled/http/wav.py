"""WAV headers for 16-bit mono audio at 16 kHz, and HTTP byte ranges."""

from __future__ import annotations

import re
import struct

from msgspec import Struct

SAMPLE_RATE = 16_000
BYTES_PER_SAMPLE = 2
HEADER_BYTES = 44
_UNKNOWN = 2**32 - 1
MAX_DATA_BYTES = _UNKNOWN - HEADER_BYTES
"""RIFF sizes have 32 bits: 37 hours."""
_RANGE = re.compile(r"bytes\s*=\s*(\d{0,20})-(\d{0,20})\s*", re.ASCII)


class ByteRange(Struct, frozen=True):
    """Bytes from `start` up to `end`, exclusive."""

    start: int
    end: int


def wav_header(data_bytes: int | None) -> bytes:
    """Return a WAV header; None writes an unknown length (all ones, as FFmpeg does)."""
    riff_bytes = _UNKNOWN if data_bytes is None else data_bytes + HEADER_BYTES - 8
    return struct.pack(
        "<4sI8sIHHIIHH4sI",
        b"RIFF",
        riff_bytes,
        b"WAVEfmt ",
        16,
        1,  # PCM
        1,  # channel
        SAMPLE_RATE,
        SAMPLE_RATE * BYTES_PER_SAMPLE,
        BYTES_PER_SAMPLE,
        16,  # bits per sample
        b"data",
        _UNKNOWN if data_bytes is None else data_bytes,
    )


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """Return the range that a Range header (RFC 9110, 14.2) requests of `size` bytes; empty if out of bounds.

    None means the whole file: no header, an invalid one, or several ranges.
    """
    found = _RANGE.fullmatch(header or "")
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
