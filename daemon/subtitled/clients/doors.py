"""The sockets that clients connect to, by who may come in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import zmq
from msgspec import Struct

from subtitled.clients.access import ZAP_DOMAIN, ServerKey
from subtitled.sockets import bind

LOCAL_SOCKET_MODE = 0o660
MAX_FRAME_BYTES = 2 * 2**20
"""Longest frame that a client may send; a chunk has 1 MiB."""
MAX_HELD_MESSAGES = 16
"""Messages of one client that ZeroMQ holds for the loop, two windows of chunks; more wait at the client."""
MAX_HELD_ANSWERS = 256
"""Answers that ZeroMQ holds for a client that does not read; a list of jobs may have half a megabyte."""
SILENT_S = 30
PROBE_S = 10
"""A TCP connection that says nothing for so long is asked by the kernel whether it is there, three times at such distances."""
HANDSHAKE_MS = 10_000
"""Longest handshake: a stranger on the network has a connection for so long."""

Kind = Literal["local", "loopback", "keys"]
"""A local socket, which the file system guards; TCP on loopback, open to this machine; TCP with keys."""


class Door(Struct, frozen=True, kw_only=True):
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
) -> list[Door]:
    """Return a socket for each kind of endpoint; `key` where clients have keys. Raises SubtitledError.

    The authenticator must run already: ZeroMQ lets everybody in where there is none.
    """
    doors: dict[Kind, Door] = {}
    for endpoint in endpoints:
        kind = kind_of(endpoint, has_keys=key is not None)
        if kind not in doors:
            doors[kind] = Door(kind=kind, socket=_router(context, key if kind == "keys" else None))
        bind(doors[kind].socket, endpoint)
        if kind == "local":
            Path(endpoint.removeprefix("ipc://")).chmod(LOCAL_SOCKET_MODE)
    return list(doors.values())


def _router(context: zmq.Context[zmq.Socket[bytes]], key: ServerKey | None) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.RCVHWM, MAX_HELD_MESSAGES)
    socket.setsockopt(zmq.SNDHWM, MAX_HELD_ANSWERS)
    # A watcher that is gone shows as an error instead of a message dropped in silence.
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
    if key is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
        socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
        socket.setsockopt_string(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    return socket
