"""Structures of containers that are whole are no damage."""

from __future__ import annotations

import os
from pathlib import Path

import av
import pytest

from subtitled.media.completeness import CLUSTER, Incompleteness
from subtitled.media.damage import DamageLog, is_damaged

_UNKNOWN = b"\x01" + b"\xff" * 7
_BLOCK = b"\xa3\x84\x81\0\0\x80"
_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def is_damaged_file(path: Path, kind: str, content: bytes, start: int = 0, stream: int = 1) -> bool:
    path.write_bytes(content)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return is_damaged(kind, descriptor, start, len(content), stream)
    finally:
        os.close(descriptor)


def test_clusters_of_unknown_length_are_whole(tmp_path: Path) -> None:
    cluster = CLUSTER + _UNKNOWN + b"\xe7\x81\0" + _BLOCK * 3
    assert not is_damaged_file(tmp_path / "a", "matroska", cluster * 3, start=len(cluster))
    broken = cluster + b"\x02" * 20 + cluster
    assert is_damaged_file(tmp_path / "a", "matroska", broken, start=len(cluster))


@pytest.mark.parametrize("time", [b"", b"GGGG", b"\1\2\3\4"])
def test_packets_of_a_transport_stream_may_follow_four_bytes_of_time(tmp_path: Path, time: bytes) -> None:
    packets = [time + bytes([0x47, 1, 0, 0x10 | at & 15]) + bytes(184) for at in range(20)]
    assert not is_damaged_file(tmp_path / "a", "mpegts", b"".join(packets), stream=256)
    assert is_damaged_file(tmp_path / "a", "mpegts", b"".join(packets[:9] + packets[12:]), stream=256)


def test_header_of_asf_is_no_damaged_packet(tmp_path: Path) -> None:
    packets = (b"\x82\0\0" + bytes(97)) * 5
    properties = _PROPERTIES + bytes(76) + (100).to_bytes(4, "little") * 2
    header = bytes(16) + (24 + len(properties)).to_bytes(8, "little") + properties
    content = header + bytes(50) + packets
    start = len(header) + 50
    assert not is_damaged_file(tmp_path / "a", "asf", content)
    assert not is_damaged_file(tmp_path / "a", "asf", content, start=start)
    assert is_damaged_file(tmp_path / "a", "asf", content[:-150] + b"x" * 150, start=start)


@pytest.mark.parametrize(
    ("content", "declared_ns", "missing", "is_lost"),
    [
        (bytes(400), None, None, False),
        (bytes(400), 1_000_000_000, Incompleteness("zeros"), False),
        (bytes(400), None, Incompleteness("zeros"), True),
        (bytes(400), 9_000_000_000, None, True),
        (b"audio", None, None, True),
    ],
)
def test_zeros_after_the_end_are_no_lost_audio(
    content: bytes, declared_ns: int | None, missing: Incompleteness | None, is_lost: bool
) -> None:
    damage = DamageLog()
    damage.add_packet(av.Packet(content))
    damage.finish(1_000_000_000, declared_ns, missing)
    assert bool(damage.spans) is is_lost
