"""The daemon's ZeroMQ sockets: created, secured, bound, and read within limits."""

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
KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3
"""TCP keepalive: silence before the first probe, time between probes, lost probes that end a connection."""
MAX_BACKLOG = 1024
"""Connections that the kernel accepts before ZeroMQ does."""
HANDSHAKE_MS = 10_000
"""Time in which a client must complete the handshake."""


def bind_workers(context: zmq.Context[zmq.Socket[bytes]], endpoint: str) -> zmq.Socket[bytes]:
    """Return the bound ROUTER of the local workers; only the daemon's user may enter its folder."""
    if endpoint.startswith("ipc://"):
        folder = Path(endpoint.removeprefix("ipc://")).parent
        folder.mkdir(mode=PRIVATE_FOLDER_MODE, parents=True, exist_ok=True)
        folder.chmod(PRIVATE_FOLDER_MODE)
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, 0)
    # Leases and credit bound the messages in flight; a full pipe would drop a lease.
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    bind(socket, endpoint)
    return socket


def open_router(
    context: zmq.Context[zmq.Socket[bytes]],
    *,
    max_frame_bytes: int,
    held_messages: int,
    held_answers: int,
    backlog: int = MAX_BACKLOG,
) -> zmq.Socket[bytes]:
    """Return an unbound ROUTER for peers on the network.

    ZeroMQ queues up to `held_messages` from a peer and `held_answers` to it (0: no limit).
    """
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, max_frame_bytes)
    socket.setsockopt(zmq.RCVHWM, held_messages)
    socket.setsockopt(zmq.SNDHWM, held_answers)
    # Sending to a peer that is gone raises an error instead of dropping the message.
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, 500)
    socket.setsockopt(zmq.BACKLOG, backlog)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    # A suspended laptop does not close its connection. The kernel's keepalive detects that, not ZeroMQ's heartbeat, which
    # in 4.3.5 aborts the process (stream_engine_base.cpp, `!_io_error`) when it is due on a connection that has more
    # messages queued than allowed and that the client has closed.
    for option, value in (
        (zmq.TCP_KEEPALIVE, 1),
        (zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S),
        (zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_INTERVAL_S),
        (zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_PROBES),
    ):
        socket.setsockopt(option, value)
    return socket


def is_served(path: Path) -> bool:
    """Return whether a process listens at `path`: ZeroMQ would replace its socket without an error."""
    with unix.socket(unix.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True


def bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind a socket, but never replace another daemon's; raises SubtitledError."""
    try:
        if endpoint.startswith("ipc://"):
            path = Path(endpoint.removeprefix("ipc://"))
            path.parent.mkdir(parents=True, exist_ok=True)
            if is_served(path):
                raise SubtitledError(
                    f"{endpoint}: another daemon uses it; stop that daemon, or configure another socket"
                )
        socket.bind(endpoint)
    except (zmq.ZMQError, OSError) as error:
        raise SubtitledError(
            f"{endpoint}: cannot be bound: {error.strerror}; is another daemon using it?"
        ) from error


LOCAL_SOCKET_MODE = 0o660
MAX_FRAME_BYTES = 2 * 2**20
"""Largest frame that a client may send; a chunk has 1 MiB."""
MAX_HELD_MESSAGES = 16
"""Messages of one client that ZeroMQ queues, two windows of chunks; more wait at the client."""
MAX_HELD_ANSWERS = 256
"""Answers that ZeroMQ queues for a client that does not read; a list of jobs may have half a megabyte."""
ListenerKind = Literal["local", "loopback", "keys", "workers"]
"""Unix socket, protected by the file system; TCP on loopback; TCP with keys; TCP with keys for workers."""


class Listener(Struct, frozen=True, kw_only=True):
    """A bound ROUTER socket."""

    kind: ListenerKind
    socket: zmq.Socket[bytes]


def kind_of(endpoint: str, *, has_keys: bool) -> ListenerKind:
    """Return the kind of an endpoint; with keys configured, every TCP endpoint requires one."""
    if endpoint.startswith("ipc://"):
        return "local"
    return "keys" if has_keys else "loopback"


def open_listeners(
    context: zmq.Context[zmq.Socket[bytes]],
    endpoints: Sequence[str],
    key: ServerKey | None,
    *,
    backlog: int = MAX_BACKLOG,
) -> list[Listener]:
    """Return a bound socket for each kind of endpoint; `key` is the server's, if clients have keys. Raises SubtitledError.

    The authenticator must run already: without one ZeroMQ accepts every client.
    """
    listeners: dict[ListenerKind, Listener] = {}
    for endpoint in endpoints:
        kind = kind_of(endpoint, has_keys=key is not None)
        if kind not in listeners:
            listeners[kind] = Listener(
                kind=kind, socket=_router(context, key if kind == "keys" else None, backlog)
            )
        bind(listeners[kind].socket, endpoint)
        if kind == "local":
            Path(endpoint.removeprefix("ipc://")).chmod(LOCAL_SOCKET_MODE)
    return list(listeners.values())


def _router(
    context: zmq.Context[zmq.Socket[bytes]], key: ServerKey | None, backlog: int
) -> zmq.Socket[bytes]:
    socket = open_router(
        context,
        max_frame_bytes=MAX_FRAME_BYTES,
        held_messages=MAX_HELD_MESSAGES,
        held_answers=MAX_HELD_ANSWERS,
        backlog=backlog,
    )
    if key is not None:
        require_keys(socket, key, ZAP_DOMAIN)
    return socket


def require_keys(socket: zmq.Socket[bytes], key: ServerKey, domain: str) -> None:
    """Make a socket accept only clients whose key is on the domain's allow-list."""
    socket.setsockopt(zmq.CURVE_SERVER, 1)
    socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
    socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
    socket.setsockopt_string(zmq.ZAP_DOMAIN, domain)


MAX_DROPPED_PER_TURN = 5000
"""Frames of an oversized message that are discarded in one call."""


class RouterReader:
    """Reads messages of a ROUTER whose senders may be hostile; belongs to the socket's thread."""

    def __init__(self, socket: zmq.Socket[bytes], max_frames: int) -> None:
        """`max_frames`: largest number of frames of a message, without the routing id."""
        self._socket = socket
        self._max_frames = max_frames
        self._is_dropping = False
        """The rest of a message with too many frames must be read and discarded."""

    def read(self) -> list[zmq.Frame]:
        """Return the routing id and the frames of the next message, at most one frame more than allowed.

        ZeroMQ sets no limit: a million empty frames are 2 MB on the wire and a gigabyte of Python objects. Raises zmq.Again
        when no message is complete.
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
        """Discard more of an oversized message; return whether its end is reached."""
        for _ in range(MAX_DROPPED_PER_TURN):
            self._socket.recv(zmq.NOBLOCK)
            if not self._socket.getsockopt(zmq.RCVMORE):
                self._is_dropping = False
                return True
        return False


def has_own_routing_id(identity: bytes, frame: zmq.Frame) -> bool:
    """Return whether the sender of a frame set its own routing id; those of ZeroMQ begin with NUL."""
    return not identity.startswith(b"\0") or bool(frame.get("Identity"))
