"""The daemon's own sockets: bound where the configuration says, closed to whom it does not concern."""

from __future__ import annotations

import os
import socket as unix
from pathlib import Path

import zmq

from subtitled.errors import SubtitledError

PRIVATE_FOLDER_MODE = 0o700
SILENT_S = 30
PROBE_S = 10
"""A TCP connection that says nothing for so long is asked by the kernel whether it is there, three times at such distances."""
HANDSHAKE_MS = 10_000
"""Longest handshake: a stranger on the network has a connection for so long."""


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


def open_router(
    context: zmq.Context[zmq.Socket[bytes]], *, max_frame_bytes: int, held_messages: int, held_answers: int
) -> zmq.Socket[bytes]:
    """Return a ROUTER, bound nowhere, for peers on the network.

    Of one peer ZeroMQ holds so many messages for the loop, each frame within the limit, and for it so many answers; 0: any number.
    """
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
    socket.setsockopt(zmq.RCVHWM, held_messages)
    socket.setsockopt(zmq.SNDHWM, held_answers)
    # A peer that is gone shows as an error instead of a message dropped in silence.
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, 500)
    socket.setsockopt(zmq.BACKLOG, 1024)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    # A laptop that was closed does not hang up: its connection ends when it does not answer. That is the kernel's work, not
    # ZeroMQ's: a heartbeat of 4.3.5 aborts the process (stream_engine_base.cpp, `!_io_error`) when it is due on a
    # connection that has more messages waiting than may be held, and whose client has hung up.
    for option, value in (
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, SILENT_S),
        (zmq.TCP_KEEPALIVE_INTVL, PROBE_S),
        (zmq.TCP_KEEPALIVE_CNT, 3),
    ):
        socket.setsockopt(option, value)
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
