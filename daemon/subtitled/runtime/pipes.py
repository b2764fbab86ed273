"""Children of the daemon: their start and end, and length-prefixed messages over standard input and output."""

from __future__ import annotations

import math
import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any

from subtitled.runtime.processes import start_process

_LENGTH_BYTES = 8
_PART_BYTES = 65_536
MAX_BYTES = 2**31
"""Longest message; ten hours of audio with word times take about 10 MB."""
_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables of systemd that are for the daemon only."""


def child_environ() -> dict[str, str]:
    """Return the environment of a child."""
    return {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}


def start_child(
    command: Sequence[str], until: float, is_over: Callable[[], bool], **options: Any
) -> subprocess.Popen[bytes]:
    """Start a process with pipes to its standard input and output, as `start_process` does; gives up if `is_over`."""

    def pause(seconds: float) -> bool:
        time.sleep(seconds)
        return is_over()

    return start_process(
        command,
        until,
        pause,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=child_environ(),
        cwd="/",
        **options,
    )


def end_child(child: subprocess.Popen[bytes]) -> int:
    """Kill a process, wait for its end, and close its pipes; return its exit status."""
    child.kill()
    status = child.wait()
    for pipe in pipes_of(child):
        with suppress(OSError):
            pipe.close()
    return status


def pipes_of(child: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    """Return the pipes to a child's standard input and output."""
    if child.stdin is None or child.stdout is None:
        raise TypeError("the child has no pipes")
    return child.stdin, child.stdout


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


def write_until(pipe: IO[bytes], data: bytes, until: float, stall_s: float) -> None:
    """Write a message to an unbuffered pipe that does not block.

    Raises TimeoutError at `until` (monotonic), or when the reader accepts nothing for `stall_s`; OSError when it has closed the
    pipe.
    """
    poller = select.poll()
    poller.register(pipe.fileno(), select.POLLOUT)
    rest = memoryview(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
    while rest:
        if not poller.poll(max(0.0, min(stall_s, until - time.monotonic())) * 1000):
            raise TimeoutError
        rest = rest[os.write(pipe.fileno(), rest[:_PART_BYTES]) :]


def read_until(pipe: IO[bytes], until: float, stall_s: float = math.inf) -> bytes | None:
    """Do as `read`; raises TimeoutError at `until` (monotonic), or when nothing arrives for `stall_s`.

    Nothing else may read `pipe`.
    """
    head = _exactly(pipe.fileno(), _LENGTH_BYTES, until, stall_s)
    size = int.from_bytes(head or b"", "big")
    return None if head is None or size > MAX_BYTES else _exactly(pipe.fileno(), size, until, stall_s)


def _exactly(descriptor: int, size: int, until: float, stall_s: float) -> bytes | None:
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    data = bytearray()
    while len(data) < size:
        if not poller.poll(max(0.0, min(stall_s, until - time.monotonic())) * 1000):
            raise TimeoutError
        part = os.read(descriptor, size - len(data))
        if not part:
            return None
        data += part
    return bytes(data)
