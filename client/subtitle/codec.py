"""Encodes messages as frames and decodes them: `[version, msgpack header, *blobs]`.

Blobs (PCM, chunks of files) are not copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import msgspec

from subtitle.errors import ProtocolError

VERSION = b"\x01"
MAX_HEADER_BYTES = 16 * 2**20
"""Maximum length of a header; the result of a lease of 256 segments with word times has about 2 MiB."""
MAX_BLOBS = 1024
MAX_REASON = 400
"""Maximum characters of a reason: it may quote a peer's message, which may have megabytes."""

Buffer = bytes | memoryview
M = TypeVar("M")

_encoder = msgspec.msgpack.Encoder()


class Codec(Generic[M]):
    """Encodes and decodes the messages of one direction of one protocol."""

    def __init__(self, messages: type[M] | object, *, max_blobs: int = MAX_BLOBS) -> None:
        """`messages`: a union of tagged Structs; `max_blobs`: the maximum of any of them."""
        self.max_frames = 2 + max_blobs
        self._decoder = msgspec.msgpack.Decoder(messages)

    @staticmethod
    def encode(message: M, blobs: Sequence[Buffer] = ()) -> list[Buffer]:
        """Return the frames of a message."""
        return [VERSION, _encoder.encode(message), *blobs]

    def decode(self, frames: Sequence[Buffer]) -> tuple[M, Sequence[Buffer]]:
        """Return the message and its blobs; raises ProtocolError for invalid frames."""
        if len(frames) < 2 or len(frames) > self.max_frames:
            raise ProtocolError(
                "BAD_FORMAT",
                f"{len(frames)} frames; a message has 2 to {self.max_frames}: version, header, blobs",
            )
        if bytes(frames[0][:8]) != VERSION:
            raise ProtocolError("BAD_VERSION", f"version {bytes(frames[0][:8])!r}; supported: {VERSION!r}")
        if len(frames[1]) > MAX_HEADER_BYTES:
            raise ProtocolError(
                "TOO_BIG", f"header of {len(frames[1])} bytes; the limit is {MAX_HEADER_BYTES}"
            )
        try:
            return self._decoder.decode(frames[1]), frames[2:]
        except msgspec.ValidationError as error:
            code = (
                "UNKNOWN_MESSAGE"
                if "Invalid value" in str(error) and "$.type" in str(error)
                else "BAD_FORMAT"
            )
            raise ProtocolError(code, _shortened(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError("BAD_FORMAT", f"header is not msgpack: {error}") from None


def _shortened(reason: str) -> str:
    if len(reason) <= MAX_REASON:
        return reason
    return f"{reason[: MAX_REASON // 2]} … {reason[-MAX_REASON // 2 :]}"
