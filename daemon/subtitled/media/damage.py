"""Audio that a damaged file has lost: where it was, and what is missing at the end."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from subtitled.media.completeness import CLUSTER, SEGMENT, ebml_element

if TYPE_CHECKING:
    from subtitled.media.completeness import Incompleteness
    from subtitled.media.media_file import MediaFile

_TOLERANCE_NS = 500_000_000
"""A file may end so much before its declared end: durations are rounded, and codecs have delays."""
_JOINED_NS = 250_000_000
"""Damaged spans that are nearer to each other are one."""
_MOST_SPANS = 1_000
_SEARCHED = 8 << 20
"""Bytes that are searched for the start of a cluster; a cluster has 5 MB at most."""
_MOST_BYTES = 64 << 20
"""Bytes of a gap that are examined."""

_Read = Callable[[int, int], bytes]
_TAGS = (b"ID3", b"TAG", b"APETAGEX")
"""The first bytes of tags that lie between the frames of MP3."""
_OGG_PAGE = 27
_ASF_DATA = 50
"""Bytes between the header of an ASF file and its first packet."""
_FLIPPED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_BLOCKS = frozenset(bytes.fromhex(name) for name in ["e7", "a3", "a0", "a7", "ab", "ec", "bf", "5854", "af"])
_TOP = frozenset(
    bytes.fromhex(name)
    for name in [
        "1c53bb6b",
        "1254c367",
        "1941a469",
        "1043a770",
        "114d9b74",
        "1549a966",
        "1654ae6b",
        "ec",
        "bf",
        "18538067",
        "1a45dfa3",
    ]
)
"""Elements of Matroska, inside clusters and beside them (RFC 9559)."""


class DamageLog:
    """Collects damaged spans of one track, in ns after its first audio; `bad_packets` counts damaged places and packets."""

    def __init__(self) -> None:
        self.bad_packets = 0
        self._spans: list[tuple[int, int]] = []
        self._is_pending = self._has_content = False
        self._lost_ns = 0
        self.lost_bytes = 0
        """Bytes of the packets that could not be decoded."""

    def add_packet(self, packet: Any) -> None:
        """Record a packet that could not be decoded; None: one that could not be read."""
        if packet is not None and bytes(packet)[:8].startswith(_TAGS):
            return  # of a file that was joined with the one before
        self.bad_packets += 1
        self._is_pending = True
        self._has_content |= packet is None or any(bytes(packet))
        if packet is not None:
            self.lost_bytes += packet.size
            if packet.duration and packet.time_base:
                self._lost_ns += int(packet.duration * packet.time_base * 1_000_000_000)

    @property
    def is_pending(self) -> bool:
        """Whether packets were bad since the last good frame."""
        return self._is_pending

    def place(self, at_ns: int, silence_ns: int, *, is_first: bool) -> None:
        """Add the span of the damage before the next good frame, which follows `at_ns` and the silence after it."""
        start, end = at_ns, at_ns + max(silence_ns, self._lost_ns)
        if is_first:
            start, end = -max(self._lost_ns, 0), 0
        self.add(start, end)
        self._is_pending, self._has_content, self._lost_ns = False, False, 0

    def add(self, start_ns: int, end_ns: int) -> None:
        """Add a span."""
        if self._spans and start_ns - self._spans[-1][1] < _JOINED_NS:
            first, last = self._spans[-1]
            self._spans[-1] = min(first, start_ns), max(last, end_ns)
        elif len(self._spans) < _MOST_SPANS:
            self._spans.append((start_ns, end_ns))

    def finish(self, end_ns: int, declared_ns: int | None, missing: Incompleteness | None) -> None:
        """Add what is missing at the end: up to `declared_ns`, None if the file declares no end that can be trusted."""
        if declared_ns is None and missing is not None and missing.is_cut:
            lost_ns = missing.estimate_ns(end_ns)
            if not 0 < lost_ns < _TOLERANCE_NS:
                self.add(end_ns, end_ns + lost_ns)
        elif declared_ns is not None and declared_ns - end_ns > _TOLERANCE_NS:
            self.add(end_ns, declared_ns)
        elif self._is_pending and (self._has_content or (declared_ns is None and missing is not None)):
            # Zeros that pad a whole file are no audio.
            self.add(end_ns, end_ns + self._lost_ns)

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The damaged spans, in order."""
        return tuple(self._spans)


def is_damaged(kind: str, descriptor: int, start: int, end: int, stream: int) -> bool:
    """Return whether bytes [start, end) of a file contain damage; False if its kind of container is unknown.

    Demuxers skip what they cannot read, without an error. `start` and `end` are positions of packets before and after a gap of
    the timestamps; `stream` is FFmpeg's id of the stream.
    """
    end = min(end, start + _MOST_BYTES)

    def read(at: int, count: int) -> bytes:
        return os.pread(descriptor, count, at)

    match kind.partition(",")[0]:
        case "flac":
            return True  # its frames are numbered without gaps
        case "ogg":
            return _is_ogg_damaged(read, start, end)
        case "matroska":
            return _is_matroska_damaged(read, start, end)
        case "mpegts":
            return _is_ts_damaged(read(start, end - start), stream)
        case "mpeg":
            return _is_ps_damaged(read(start, end - start))
        case "asf":
            return _is_asf_damaged(read, start, end)
        case _:
            return False


def _is_ogg_damaged(read: _Read, start: int, end: int) -> bool:
    """Walk the pages: each has a checksum and, for its stream, a number (RFC 3533)."""
    numbers: dict[bytes, int] = {}
    at = start
    while at <= end:
        head = read(at, _OGG_PAGE + 255)
        if len(head) < _OGG_PAGE or head[:4] != b"OggS":
            return True
        body = _OGG_PAGE + head[26]
        page = read(at, body + sum(head[_OGG_PAGE:body]))
        if _ogg_crc(page) != int.from_bytes(page[22:26], "little"):
            return True
        serial, number = page[14:18], int.from_bytes(page[18:22], "little")
        if serial in numbers and number != numbers[serial] + 1:
            return True
        numbers[serial] = number
        at += len(page)
    return False


def _ogg_crc(page: bytes) -> int:
    """Return the checksum of a page: zlib's polynomial, with the bits of each byte in the other order."""
    content = page[:22] + bytes(4) + page[26:]
    flipped = zlib.crc32(content.translate(_FLIPPED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{flipped:032b}"[::-1], 2)


def _is_matroska_damaged(read: _Read, start: int, end: int) -> bool:
    """Walk the blocks of the clusters, from the cluster that contains `start`."""
    first = max(0, start - _SEARCHED)
    offset = read(first, start - first).rfind(CLUSTER)
    if offset < 0:
        return False
    at, inner = first + offset, 0
    while at < end:
        element = ebml_element(read, at)
        if element is None:
            return True
        name, content, length = element
        if name in {CLUSTER, SEGMENT}:
            if at < inner:
                return True
            inner = 0 if length is None else content + length  # its end is unknown in a live recording
            at = content
        elif (
            length is None
            or (name not in _BLOCKS and name not in _TOP)
            or (name in _BLOCKS and 0 < inner < content + length)
        ):
            return True
        else:
            at = content + length
    return False


def _is_ts_damaged(data: bytes, pid: int) -> bool:
    """Check the packets of a transport stream: each begins with 0x47, and those of one stream are numbered (ISO 13818-1)."""
    first, stride = _ts_packets(data)
    last = -1
    for at in range(first, len(data) - 4, stride):
        if data[at] != 0x47:
            return True
        has_payload = data[at + 3] & 0x10
        if (data[at + 1] & 0x1F) << 8 | data[at + 2] != pid or not has_payload:
            continue
        number = data[at + 3] & 15
        if last >= 0 and number not in {last, (last + 1) & 15}:
            return True
        last = number
    return False


def _ts_packets(data: bytes) -> tuple[int, int]:
    """Return where the first packet begins, and the bytes from one packet to the next."""
    if data[:377:188] == b"GGG":
        return 0, 188
    if data[4:389:192] == b"GGG":
        return 4, 192  # in .m2ts four bytes of time precede each packet
    return 0, 192 if data[192:385:192] == b"GG" and data[188:189] != b"G" else 188


def _is_ps_damaged(data: bytes) -> bool:
    """Walk the packs and packets of a program stream (ISO 13818-1)."""
    at = 0
    while at + 6 <= len(data):
        if data[at : at + 3] != b"\x00\x00\x01" or data[at + 3] < 0xB9:
            return True
        if data[at + 3] == 0xBA:
            at += 14 + (data[at + 13] & 7) if data[at + 4] >> 6 == 1 and at + 13 < len(data) else 12
        else:
            at += 4 if data[at + 3] == 0xB9 else 6 + int.from_bytes(data[at + 4 : at + 6], "big")
    return False


def _is_asf_damaged(read: _Read, start: int, end: int) -> bool:
    """Check that each packet of an ASF file begins as the first one does."""
    header = read(0, 64 << 10)
    at = header.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    packet = int.from_bytes(header[at + 92 : at + 96], "little")
    packets_at = int.from_bytes(header[16:24], "little") + _ASF_DATA
    if at < 0 or packet < 64 or start < packets_at:
        return False
    first = read(start, 3)
    return any(read(place, 3) != first for place in range(start, end, packet))


def declared_end_ns(
    container: Any, stream: Any, file: MediaFile, begins_ns: int, lost_bytes: int, *, is_cut: bool
) -> int | None:
    """Return where a track should end by its own declaration, in ns after its first audio; None if that is unknown.

    `begins_ns` is its first timestamp; `lost_bytes` of it could not be decoded. Durations that FFmpeg has estimated are not
    used, nor, unless the file is cut, that of a file with other tracks, which may be longer.
    """
    own_ns: int | None = (
        None if stream.duration is None else int(stream.duration * stream.time_base * 1_000_000_000)
    )
    whole_ns: int | None = None if container.duration is None else container.duration * 1000
    is_alone = len(container.streams) == 1
    match container.format.name.partition(",")[0]:
        case "matroska" if whole_ns is not None:
            tag_ns = _tag_ns(stream.metadata.get("DURATION", ""))
            if tag_ns is None and not (is_alone or is_cut):
                return None
            # A tag that was copied from a longer file is ignored. FFmpeg counts both from 0, other programs from the first.
            return min(whole_ns, tag_ns or whole_ns) - begins_ns
        case "asf" if is_cut:
            return None  # FFmpeg has replaced it
        case "asf" if is_alone:
            return whole_ns
        case "mov" | "tta" | "wv" | "ape" | "tak" | "mpc" | "mpc8":
            return own_ns
        case "flac" if _flac_samples(os.pread(file.fileno(), 42, 0)):
            return own_ns
        case "mp3" if own_ns is not None and _declares_frames(file):
            # Lost frames shorten the rest: they are not missing at the end.
            return own_ns - own_ns * lost_bytes // max(1, os.fstat(file.fileno()).st_size)
        case "ogg" if is_alone and (granule := _cut_ogg_end(file.fileno())) is not None:
            return int(granule * stream.time_base * 1_000_000_000) - begins_ns
        case _:
            return None


def _cut_ogg_end(descriptor: int) -> int | None:
    """Return the granule position of the last page of an Ogg file, if the file ends in the middle of that page."""
    size = os.fstat(descriptor).st_size
    tail_at = max(0, size - (_OGG_PAGE + 255 * 256))
    tail = os.pread(descriptor, size - tail_at, tail_at)
    at = tail.rfind(b"OggS\x00")
    if at < 0 or len(tail) < at + _OGG_PAGE:
        return None
    body = at + _OGG_PAGE + tail[at + 26]
    granule = int.from_bytes(tail[at + 6 : at + 14], "little", signed=True)
    return granule if granule >= 0 and len(tail) < body + sum(tail[at + _OGG_PAGE : body]) else None


def _flac_samples(head: bytes) -> int:
    """Return the samples that a FLAC file declares (RFC 9639); 0 if it declares none."""
    return int.from_bytes(head[21:26], "big") & ((1 << 36) - 1) if head.startswith(b"fLaC") else 0


def id3_bytes(head: bytes) -> int:
    """Return the length of the ID3v2 tag at the start of a file, given its first 10 bytes; 0 if there is none."""
    if not head.startswith(b"ID3") or len(head) < 10:
        return 0
    return 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])


def _declares_frames(file: MediaFile) -> bool:
    """Return whether an MP3 file declares how many frames it has, in a Xing or VBRI header."""
    first = os.pread(file.fileno(), 4096, id3_bytes(os.pread(file.fileno(), 10, 0)))
    place = max(first.find(b"Xing"), first.find(b"Info"))
    if place >= 0:
        return bool(first[place + 7 : place + 8] and first[place + 7] & 1)
    return b"VBRI" in first


def _tag_ns(text: str) -> int | None:
    """Return the duration of a Matroska tag ("00:01:02.111000000") in ns; None if it is none."""
    try:
        hours, minutes, seconds = text.strip("\x00 ").split(":")
        return int((int(hours) * 3600 + int(minutes) * 60 + float(seconds)) * 1_000_000_000)
    except (ValueError, OverflowError):
        return None
