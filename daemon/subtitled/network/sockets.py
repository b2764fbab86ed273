"""The daemon's own sockets: bound where the configuration says, closed to whom it does not concern."""

from __future__ import annotations

import os
import socket as unix
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import zmq
from msgspec import Struct

from subtitled.errors import SubtitledError
from subtitled.network.auth import ZAP_DOMAIN, ServerKey

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


LOCAL_SOCKET_MODE = 0o660
MAX_FRAME_BYTES = 2 * 2**20
"""Longest frame that a client may send; a chunk has 1 MiB."""
MAX_HELD_MESSAGES = 16
"""Messages of one client that ZeroMQ holds for the loop, two windows of chunks; more wait at the client."""
MAX_HELD_ANSWERS = 256
"""Answers that ZeroMQ holds for a client that does not read; a list of jobs may have half a megabyte."""
Kind = Literal["local", "loopback", "keys", "workers"]
"""A local socket, which the file system guards; TCP on loopback, open to this machine; TCP with keys; the same for workers."""


class Listener(Struct, frozen=True, kw_only=True):
    """A bound ROUTER socket."""

    kind: Kind
    socket: zmq.Socket[bytes]


def kind_of(endpoint: str, *, has_keys: bool) -> Kind:
    """Return who may come in by an endpoint: with keys, every TCP endpoint asks for one."""
    if endpoint.startswith("ipc://"):
        return "local"
    return "keys" if has_keys else "loopback"


def open_doors(
    context: zmq.Context[zmq.Socket[bytes]], endpoints: Sequence[str], key: ServerKey | None
) -> list[Listener]:
    """Return a socket for each kind of endpoint; `key` where clients have keys. Raises SubtitledError.

    The authenticator must run already: ZeroMQ lets everybody in where there is none.
    """
    doors: dict[Kind, Listener] = {}
    for endpoint in endpoints:
        kind = kind_of(endpoint, has_keys=key is not None)
        if kind not in doors:
            doors[kind] = Listener(kind=kind, socket=_router(context, key if kind == "keys" else None))
        bind(doors[kind].socket, endpoint)
        if kind == "local":
            Path(endpoint.removeprefix("ipc://")).chmod(LOCAL_SOCKET_MODE)
    return list(doors.values())


def _router(context: zmq.Context[zmq.Socket[bytes]], key: ServerKey | None) -> zmq.Socket[bytes]:
    socket = open_router(
        context,
        max_frame_bytes=MAX_FRAME_BYTES,
        held_messages=MAX_HELD_MESSAGES,
        held_answers=MAX_HELD_ANSWERS,
    )
    if key is not None:
        lock(socket, key, ZAP_DOMAIN)
    return socket


def lock(socket: zmq.Socket[bytes], key: ServerKey, domain: str) -> None:
    """Have a socket ask for keys; those of the domain's list open it."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
    socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)


MAX_DROPPED_PER_TURN = 5000
"""Frames of a message with too many that are dropped at once."""


class RouterReader:
    """Reads a socket; belongs to its thread."""

    def __init__(self, socket: zmq.Socket[bytes], max_frames: int) -> None:
        """`max_frames`: of a message, its sender's identity not counted."""
        self._socket = socket
        self._max_frames = max_frames
        self._is_dropping = False
        """The rest of a message with too many frames is still to be read, and forgotten."""

    def take(self) -> list[zmq.Frame]:
        """Return the frames of the next message with its sender's identity; of too many, one more than there may be.

        ZeroMQ sets no limit: a million empty frames are 2 MB on the wire and a gigabyte as Python's objects. Raises zmq.Again
        where there is no message, or not yet.
        """
        if self._is_dropping and not self._drop():
            raise zmq.Again
        frames = [self._socket.recv(zmq.NOBLOCK, copy=False)]
        while self._socket.getsockopt(zmq.RCVMORE):
            if len(frames) > 1 + self._max_frames:
                self._is_dropping = True
                break
            frames.append(self._socket.recv(zmq.NOBLOCK, copy=False))
        return frames

    def _drop(self) -> bool:
        """Read more of a message that was answered already; say whether it is at its end."""
        for _ in range(MAX_DROPPED_PER_TURN):
            self._socket.recv(zmq.NOBLOCK)
            if not self._socket.getsockopt(zmq.RCVMORE):
                self._is_dropping = False
                return True
        return False


def is_chosen(identity: bytes, frame: zmq.Frame) -> bool:
    """Say whether the sender of a frame has chosen its identity; those that ZeroMQ gives begin with NUL."""
    return not identity.startswith(b"\0") or bool(frame.get("Identity"))
