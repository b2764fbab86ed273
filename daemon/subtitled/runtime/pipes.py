"""Messages between the daemon and a child of its own, over the child's standard input and output."""

from __future__ import annotations

import os
import select
import time
from typing import IO

_LENGTH_BYTES = 8
MAX_BYTES = 2**31
"""Longest message; ten hours with word times take some ten million bytes."""
OURS_ALONE = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What systemd tells the daemon, and no child of it."""


def child_environ() -> dict[str, str]:
    """Return the environment of such a child."""
    return {name: value for name, value in os.environ.items() if name not in OURS_ALONE}


def write(pipe: IO[bytes], data: bytes) -> None:
    """Write a message; blocks, and raises OSError where nobody reads any more."""
    pipe.write(len(data).to_bytes(_LENGTH_BYTES, "big"))
    pipe.write(data)
    pipe.flush()


def read(pipe: IO[bytes]) -> bytes | None:
    """Return the next message; None at the end of the pipe, also in the middle of one, and for what is none of ours. Blocks."""
    head = pipe.read(_LENGTH_BYTES)
    size = int.from_bytes(head, "big")
    if len(head) < _LENGTH_BYTES or size > MAX_BYTES:
        return None
    data = pipe.read(size)
    return data if len(data) == size else None


def read_until(pipe: IO[bytes], until: float) -> bytes | None:
    """Do as `read` does; raises TimeoutError when it takes until then (monotonic). `pipe` is not used otherwise."""
    head = _exactly(pipe.fileno(), _LENGTH_BYTES, until)
    size = int.from_bytes(head or b"", "big")
    return None if head is None or size > MAX_BYTES else _exactly(pipe.fileno(), size, until)


def _exactly(descriptor: int, size: int, until: float) -> bytes | None:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    data = bytearray()
    while len(data) < size:
        if not poller.poll(max(0.0, until - time.monotonic()) * 1000):
            raise TimeoutError
        piece = os.read(descriptor, size - len(data))
        if not piece:
            return None
        data += piece
    return bytes(data)
