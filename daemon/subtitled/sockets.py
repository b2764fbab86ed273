"""The daemon's own sockets: bound where the configuration says, closed to whom it does not concern."""

from __future__ import annotations

import os
import socket as unix
from pathlib import Path

import zmq

from subtitled.errors import SubtitledError

PRIVATE_FOLDER_MODE = 0o700


def bind_workers(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    """Return the ROUTER that workers connect to; its folder is closed to all but the daemon's user."""
    if endpoint.startswith("ipc://"):
        folder = Path(endpoint.removeprefix("ipc://")).parent
        folder.mkdir(mode=PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
        folder.chmod(PRIVATE_FOLDER_MODE)
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, 0)
    # What is under way is bounded by leases and credit; a full pipe would drop a lease.
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    bind(socket, endpoint)
    return socket


def is_served(path: Path) -> bool:
    """Say whether a process listens at `path`: ZeroMQ would take the socket from it without a word."""
    with unix.socket(unix.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True


def bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind a socket, never where another daemon's is; raises SubtitledError when that cannot be done."""
    try:
        if endpoint.startswith("ipc://"):
            path = Path(endpoint.removeprefix("ipc://"))
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_served(path):
                raise SubtitledError(
                    f"{endpoint}: another daemon serves it; stop that one, or give this one sockets of its own"
                )
        socket.bind(endpoint)
    except (zmq.ZMQError, OSError) as error:
        raise SubtitledError(
            f"{endpoint}: cannot be bound: {error.strerror}; is another daemon using it?"
        ) from error
