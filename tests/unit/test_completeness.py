"""Damaged headers do not end the check of a container's own sizes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from subtitled.media.completeness import incompleteness

_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")


@pytest.mark.parametrize("size", [2**63, 2**64 - 1, 1 << 40])
def test_asf_header_longer_than_its_file_declares_no_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "damaged.wma"
    path.write_bytes(_ASF + size.to_bytes(8, "little") + bytes(range(1, 101)))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert incompleteness(descriptor) is None
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "first",
    [_ASF, b"\0\0\0\1moov", b"\0\0\0\x18ftyp", b"\x1a\x45\xdf\xa3", b"RIFF", b"RF64", b"FORM", b".snd"],
)
def test_damaged_header_raises_nothing(tmp_path: Path, first: bytes, seed: int) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(first + bytes([255 - seed * 16]) * 200)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        incompleteness(descriptor)
    finally:
        os.close(descriptor)
