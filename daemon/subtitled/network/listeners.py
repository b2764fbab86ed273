"""The sockets that clients connect to, by who may come in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import zmq
from msgspec import Struct

from subtitled.network.auth import ZAP_DOMAIN, ServerKey
from subtitled.network.sockets import bind, open_router

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
