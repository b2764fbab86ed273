"""The daemon's own sockets: bound where the configuration says, closed to whom it does not concern."""

from __future__ import annotations

import os
import socket as unix
from pathlib import Path

import zmq

from subtitled.errors import SubtitledError

CLIENT_SOCKET_MODE = 0o660
PRIVATE_FOLDER_MODE = 0o700
MAX_CLIENT_FRAME_BYTES = 4 * 2**20
"""Longest frame that a client may send; a chunk has 1 MiB."""


def bind_clients(context: zmq.Context[zmq.Socket[bytes]], endpoints: tuple[str, ...]) -> zmq.Socket[bytes]:
    """Return the ROUTER that clients connect to. Raises SubtitledError when an endpoint cannot be bound."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_CLIENT_FRAME_BYTES)
    # A watcher that is gone shows as an error instead of a message dropped in silence.
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, 500)
    for endpoint in endpoints:
        _bind(socket, endpoint)
        if endpoint.startswith("ipc://"):
            Path(endpoint.removeprefix("ipc://")).chmod(CLIENT_SOCKET_MODE)
    return socket


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
    _bind(socket, endpoint)
    return socket


def _is_served(path: Path) -> bool:
    """Say whether a process listens at `path`: ZeroMQ would take the socket from it without a word."""
    with unix.socket(unix.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    try:
        if endpoint.startswith("ipc://"):
            path = Path(endpoint.removeprefix("ipc://"))
            path.parent.mkdir(parents=True, exist_ok=True)
            if _is_served(path):
                raise SubtitledError(
                    f"{endpoint}: another daemon serves it; stop that one, or give this one sockets of its own"
                )
        socket.bind(endpoint)
    except (zmq.ZMQError, OSError) as error:
        raise SubtitledError(
            f"{endpoint}: cannot be bound: {error.strerror}; is another daemon using it?"
        ) from error
