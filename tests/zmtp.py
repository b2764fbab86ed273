"""ZMTP 3.0 by hand (ZeroMQ RFC 23), for peers that break the rules of ZeroMQ."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + b"\0" + bytes(31)
MORE, LONG, COMMAND = 1, 2, 4


def frame(body: bytes, flags: int = 0) -> bytes:
    """Return an encoded frame."""
    if len(body) > 255:
        return struct.pack(">BQ", flags | LONG, len(body)) + body
    return struct.pack(">BB", flags, len(body)) + body


def ready(identity: bytes = b"") -> bytes:
    """Return the command that ends the handshake of a DEALER."""
    properties = {b"Socket-Type": b"DEALER", b"Identity": identity}
    body = b"\x05READY" + b"".join(
        struct.pack(">B", len(name)) + name + struct.pack(">I", len(value)) + value
        for name, value in properties.items()
    )
    return frame(body, COMMAND)


class Wire:
    """A connection to a daemon's socket file, or `tcp://HOST:PORT`, that sends any bytes; a context manager."""

    def __init__(self, where: Path | str, *, is_greeting: bool = True, identity: bytes = b"") -> None:
        if isinstance(where, str):
            host, _, port = where.removeprefix("tcp://").rpartition(":")
            self.socket = socket.create_connection((host, int(port)))
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            try:
                self.socket.connect(str(where))
            except OSError:
                self.socket.close()
                raise
        self.socket.settimeout(60)
        if is_greeting:
            # ZeroMQ accepts no message before it has sent its own half of the handshake.
            self.socket.sendall(GREETING + ready(identity))
            self._read(len(GREETING))
            _, length = self._read(2)
            self._read(length)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, data: bytes) -> bool:
        """Send bytes; False if the daemon has closed the connection."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def hang_up_half(self) -> None:
        """Close the sending direction."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def read_to_end(self) -> bytes:
        """Return all bytes until the daemon closes the connection."""
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while some := self.socket.recv(65_536):
                found += some
        return found

    def _read(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            some = self.socket.recv(count - len(found))
            if not some:
                raise ConnectionResetError
            found += some
        return found

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()
