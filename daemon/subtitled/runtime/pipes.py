"""Length-prefixed messages between the daemon and a child, over the child's standard input and output."""

from __future__ import annotations

import os
import select
import time
from typing import IO

_LENGTH_BYTES = 8
MAX_BYTES = 2**31
"""Longest message; ten hours of audio with word times take about 10 MB."""
_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables of systemd that are for the daemon only."""


def child_environ() -> dict[str, str]:
    """Return the environment of a child."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}


def write(pipe: IO[bytes], data: bytes) -> None:
    """Write a message. Blocks; raises OSError when the reader has closed the pipe."""
    pipe.write(len(data).to_bytes(_LENGTH_BYTES, "big"))
    pipe.write(data)
    pipe.flush()


def read(pipe: IO[bytes]) -> bytes | None:
    """Return the next message; None at the end of the pipe and for an invalid length. Blocks."""
    head = pipe.read(_LENGTH_BYTES)
    size = int.from_bytes(head, "big")
    if len(head) < _LENGTH_BYTES or size > MAX_BYTES:
        return None
    data = pipe.read(size)
    return data if len(data) == size else None


def read_until(pipe: IO[bytes], until: float) -> bytes | None:
    """Do as `read`; raises TimeoutError at `until` (monotonic). Nothing else may read `pipe`."""
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
        part = os.read(descriptor, size - len(data))
        if not part:
            return None
        data += part
    return bytes(data)
