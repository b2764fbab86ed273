"""PCM as FLAC and back: the same samples in fewer bytes, for links that are slower than the GPU."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

from subtitle.codec import Buffer
from subtitled.config.schema import SAMPLE_RATE
from subtitled.core.protocol import WireCodec
from subtitled.errors import AudioTransferError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SAMPLES = 30 * SAMPLE_RATE
"""The longest segment (`segments.max_segment_s`): a few kilobytes of FLAC can expand to gigabytes of silence."""
HEADER_BYTES = 42
"""`fLaC`, and STREAMINFO with the four bytes before it, which must come first (RFC 9639, sections 6 and 8.2)."""


def encode(pcm: Buffer) -> bytes:
    """Return PCM (int16 little-endian, 16 kHz mono, 1 to `MAX_SAMPLES` samples) as FLAC; releases the interpreter's lock.

    The default compression level: the lowest saves a twentieth of the time and costs a thirtieth of the bytes.
    """
    import numpy as np
    import soundfile

    samples = np.frombuffer(pcm, dtype="<i2")
    if not 1 <= len(samples) <= MAX_SAMPLES:
        raise ValueError(f"{len(samples)} samples; a segment has 1 to {MAX_SAMPLES}")
    target = io.BytesIO()
    with soundfile.SoundFile(target, "w", SAMPLE_RATE, 1, subtype="PCM_16", format="FLAC") as sound:
        sound.write(samples)
    return target.getvalue()


def decode(blob: Buffer) -> NDArray[np.int16]:
    """Return the PCM of FLAC from `encode`: int16 (n,), 16 kHz mono, n at most `MAX_SAMPLES`.

    Raises AudioTransferError for any other input, and if a sample was changed.
    """
    import soundfile

    count, digest = _announced(blob)
    try:
        with soundfile.SoundFile(io.BytesIO(blob)) as sound:
            samples: NDArray[np.int16] = sound.read(count, dtype="int16", always_2d=False)
    except soundfile.SoundFileError as error:
        raise AudioTransferError(f"FLAC of {len(blob)} bytes: {error}") from error
    # The decoder accepts a stream that was cut between two frames as a shorter one.
    if hashlib.md5(samples.astype("<i2", copy=False).data, usedforsecurity=False).digest() != digest:
        raise AudioTransferError(
            f"FLAC of {len(blob)} bytes: {len(samples)} samples; the checksum does not match"
        )
    return samples


def unpack(blob: Buffer, codec: WireCodec) -> NDArray[np.int16]:
    """Return a lease's blob as pcm int16 (n,), 16 kHz mono; raises AudioTransferError."""
    import numpy as np

    return decode(blob) if codec == "flac" else np.frombuffer(blob, dtype="<i2")


def _announced(blob: Buffer) -> tuple[int, bytes]:
    """Return the number of samples in the header, and their MD5 (RFC 9639, section 8.2)."""
    header = bytes(blob[:HEADER_BYTES])
    if len(header) < HEADER_BYTES or header[:4] != b"fLaC" or header[4] & 0x7F:
        raise AudioTransferError(f"{len(blob)} bytes without a FLAC header: {header[:8].hex()}")
    fields = int.from_bytes(header[18:26], "big")
    rate, channels = fields >> 44, (fields >> 41 & 7) + 1
    bits, count = (fields >> 36 & 31) + 1, fields & (1 << 36) - 1
    if (rate, channels, bits) != (SAMPLE_RATE, 1, 16):
        raise AudioTransferError(
            f"FLAC of {rate} Hz, {channels} channels, {bits} bits; segments have {SAMPLE_RATE} Hz, 1 channel, 16 bits"
        )
    if not 1 <= count <= MAX_SAMPLES:
        raise AudioTransferError(f"FLAC of {count} samples; a segment has 1 to {MAX_SAMPLES}")
    return count, header[26:]
