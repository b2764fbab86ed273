"""The client's sockets: keys, heartbeats, and what becomes of a connection."""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zmq

from subtitle.codec import Buffer
from subtitle.errors import UnreachableError
from subtitle.keys import Key, find_key
from subtitle.messages import ToServer, to_client, to_server
from subtitle.steps import Heard

DEFAULT_SERVER = "ipc:///run/subtitled/clients.sock"
SERVER_VARIABLE = "SUBTITLE_SERVER"

SEND_HWM = 64
"""Messages that wait in the socket; an upload keeps no more under way than the server's window in any case."""
KEEPALIVE_S = 20
KEEPALIVE_COUNT = 3
"""A peer whose machine has not answered the kernel so often, so many seconds apart, is gone, and ZeroMQ connects anew."""
RECONNECT_MS = 100
MAX_RECONNECT_MS = 2_000
CONNECT_MS = 3_000
"""The kernel asks a host that does not answer again after 1, 2, 4… 64 s: after a long absence it would be as long unnoticed
that the network is back."""
LOOK_S = 0.25
"""How often a wait looks whether the connection was lost."""


def default_server() -> str:
    """Return the endpoint used when none is named: SUBTITLE_SERVER, else the daemon's local socket."""
    return os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER


def key_for(endpoint: str, key: Key | str | os.PathLike[str] | None) -> Key | None:
    """Return the key to show: `key` or its file, else as `find_key` says; none for "", or on the local socket.

    That one is guarded by its file's mode. Raises KeyFileError.
    """
    if endpoint.startswith("ipc:") or key == "":
        return None
    return key if isinstance(key, Key) else find_key(Path(key) if key is not None else None)


def open_socket(context: Any, endpoint: str, key: Key | None) -> tuple[Any, ConnectionMonitor]:
    """Return a DEALER socket of the context's kind, connected, and what watches it; raises UnreachableError."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, SEND_HWM)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    # The kernel asks who is still there. ZeroMQ's own heartbeats abort the process where the queue is full when the peer
    # hangs up (libzmq 4.3.5, stream_engine_base.cpp).
    socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, KEEPALIVE_S)
    socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, KEEPALIVE_COUNT)
    if key is not None:
        socket.curve_publickey = key.public.encode()
        socket.curve_secretkey = key.secret.encode()
        socket.curve_serverkey = key.server.encode()
    monitor = ConnectionMonitor(context, socket, endpoint, key)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        monitor.close()
        socket.close()
        raise UnreachableError(f"{endpoint}: no such endpoint: {error.strerror}") from error
    return socket, monitor


class ConnectionMonitor:
    """Hears what becomes of a socket's connection; its calls do not block."""

    def __init__(self, context: Any, socket: Any, endpoint: str, key: Key | None) -> None:
        self._socket = socket
        self._endpoint = endpoint
        self._key = key
        self._is_up = False
        where = f"inproc://subtitle-{secrets.token_hex(8)}"
        socket.monitor(
            where,
            zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
        )
        # A plain socket beside one of asyncio too: it is only ever read without waiting.
        self._events: zmq.Socket[bytes] = zmq.Context.shadow(context.underlying).socket(zmq.PAIR)
        self._events.connect(where)

    @property
    def is_up(self) -> bool:
        """The connection was there when `is_lost` was last called."""
        return self._is_up

    def is_lost(self) -> bool:
        """Say whether the connection was lost since the last call; raises UnreachableError where no other try will help."""
        is_lost = False
        while True:
            try:
                frames = self._events.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return is_lost
            # zmq_socket_monitor(3): 16 bits of event, 32 of value; zmq.utils.monitor would import asyncio to read them.
            match int.from_bytes(frames[0][:2], sys.byteorder):
                case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self._is_up = True
                case zmq.EVENT_DISCONNECTED if self._is_up:
                    is_lost, self._is_up = True, False
                case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    raise UnreachableError(f"{self._endpoint}: the server refuses {self._shown()}")
                case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                    raise UnreachableError(f"{self._endpoint}: {self._mismatch()}")
                case _:
                    pass

    def close(self) -> None:
        """Stop listening; before the socket is closed."""
        self._socket.disable_monitor()
        self._events.close()

    def _shown(self) -> str:
        if self._key is None:
            return "clients without a key; name yours with --key FILE or SUBTITLE_KEY"
        return f"the key {self._key.name!r}; is its line in the server's allow-list, and was that read again (SIGHUP)?"

    def _mismatch(self) -> str:
        if self._key is None:
            return "the server wants a key; `subtitled keys new` makes one there: name it with --key FILE or SUBTITLE_KEY"
        return f'the server has no keys, and you show the key {self._key.name!r}; --key "" shows none'


class Connection:
    """One DEALER socket to one server; belongs to the thread that made it."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, key: Key | None) -> None:
        self._socket: zmq.Socket[bytes]
        self._socket, self._monitor = open_socket(context, endpoint, key)

    def forget(self) -> None:
        """Forget what became of the connection so far: it is no news to the next conversation. Raises UnreachableError."""
        self._monitor.is_lost()

    def close(self) -> None:
        """Close the socket, and forget what it has not sent; may be repeated."""
        if not self._socket.closed:
            self._monitor.close()
            self._socket.close()

    def send(self, message: ToServer, blobs: Sequence[Buffer], until: float) -> bool:
        """Send a message, which waits in the socket while the server is away; False when there was no room until `until`."""
        frames = to_server.encode(message, blobs)
        while True:
            try:
                self._socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                if self._monitor.is_lost() or time.monotonic() >= until:
                    return False
                self._socket.poll(slice_ms(until), zmq.POLLOUT)
            else:
                return True

    def receive(self, until: float) -> Heard:
        """Return the next message, or what else is to be known until `until` (monotonic)."""
        while not self._socket.poll(slice_ms(until)):
            if self._monitor.is_lost():
                return Heard(is_lost=True)
            if time.monotonic() >= until:
                return Heard()
        return Heard(*to_client.decode(self._socket.recv_multipart()))


def slice_ms(until: float) -> int:
    """Return how long to wait at once, in milliseconds, for what may come until `until` (monotonic)."""
    return max(0, int(min(LOOK_S, until - time.monotonic()) * 1000 + 0.999))
