"""The client's sockets: keys, keep-alive, and the events of a connection."""

from __future__ import annotations

import os
import secrets
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar, assert_never

import zmq

from subtitle.codec import Buffer
from subtitle.errors import UnreachableError
from subtitle.keys import Key, find_key
from subtitle.messages import ToServer, to_client, to_server
from subtitle.requests import Call, Emit, ReadSource, Receive, Received, Requests, Send, Step

DEFAULT_SERVER = "ipc:///run/subtitled/clients.sock"
SERVER_VARIABLE = "SUBTITLE_SERVER"

SEND_HWM = 64
"""Messages that wait in the socket; the server's window limits an upload further."""
KEEPALIVE_S = 20
KEEPALIVE_COUNT = 3
"""The connection is lost after this many unanswered probes of the keep-alive; ZeroMQ then connects again."""
RECONNECT_MS = 100
MAX_RECONNECT_MS = 2_000
CONNECT_MS = 3_000
"""The kernel repeats a SYN after 1, 2, 4… 64 s: after a long outage it would notice only that much later that the network is back."""
MONITOR_POLL_S = 0.25
"""Interval at which a wait checks whether the connection was lost."""


def default_server() -> str:
    """Return the default endpoint: SUBTITLE_SERVER, else the daemon's local socket."""
    return os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER


def key_for(endpoint: str, key: Key | str | os.PathLike[str] | None) -> Key | None:
    """Return the key to use: `key` or its file, else that of `find_key`; None for "", and on the local socket.

    The local socket is protected by its file's mode. Raises KeyFileError.
    """
    if endpoint.startswith("ipc:") or key == "":
        return None
    return key if isinstance(key, Key) else find_key(Path(key) if key is not None else None)


def open_socket(context: Any, endpoint: str, key: Key | None) -> tuple[Any, ConnectionMonitor]:
    """Return a connected DEALER socket of the context's kind, and its monitor; raises UnreachableError."""
    socket = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, SEND_HWM)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, CONNECT_MS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    # Keep-alive of the kernel: ZeroMQ's own heartbeats abort the process if the queue is full when the peer disconnects
    # (libzmq 4.3.5, stream_engine_base.cpp).
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
        raise UnreachableError(
            f"{endpoint!r} is not an endpoint; write tcp://HOST:PORT or ipc:///PATH"
        ) from error
    return socket, monitor


MAX_CLOSED_HANDSHAKES = 10
"""Closed handshakes in a row, within about 2 s, after which further attempts do not help."""


class ConnectionMonitor:
    """Reads the events of a socket's connection; its calls do not block."""

    def __init__(self, context: Any, socket: Any, endpoint: str, key: Key | None) -> None:
        self._socket = socket
        self._endpoint = endpoint
        self._key = key
        self._is_up = False
        self._closed_handshakes = 0
        where = f"inproc://subtitle-{secrets.token_hex(8)}"
        socket.monitor(
            where,
            zmq.EVENT_DISCONNECTED
            | zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_HANDSHAKE_FAILED_AUTH
            | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
            | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
        )
        # A blocking socket also for asyncio: it is only read without waiting.
        self._events: zmq.Socket[bytes] = zmq.Context.shadow(context.underlying).socket(zmq.PAIR)
        self._events.connect(where)

    @property
    def is_up(self) -> bool:
        """The connection was up when `is_lost` was last called."""
        return self._is_up

    def is_lost(self) -> bool:
        """Return whether the connection was lost since the last call; raises UnreachableError if a retry cannot help."""
        is_lost = False
        while True:
            try:
                frames = self._events.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return is_lost
            # zmq_socket_monitor(3): 16 bits of event, 32 of value; zmq.utils.monitor would import asyncio to read them.
            match int.from_bytes(frames[0][:2], sys.byteorder):
                case zmq.EVENT_HANDSHAKE_SUCCEEDED:
                    self._is_up, self._closed_handshakes = True, 0
                case zmq.EVENT_DISCONNECTED if self._is_up:
                    is_lost, self._is_up = True, False
                case zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    raise UnreachableError(f"{self._endpoint}: {self._refusal()}")
                case zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                    raise UnreachableError(f"{self._endpoint}: {self._mismatch()}")
                case zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                    # A server that closes at once may do so before its greeting, which names the cause, is read.
                    self._closed_handshakes += 1
                    if self._closed_handshakes >= MAX_CLOSED_HANDSHAKES:
                        raise UnreachableError(
                            f"{self._endpoint}: the server closed the connection {self._closed_handshakes} times during "
                            f"the handshake; it has too many connections, or {self._mismatch()}"
                        )
                case _:
                    pass

    def close(self) -> None:
        """Stop monitoring; call it before the socket is closed."""
        self._socket.disable_monitor()
        self._events.close()

    def _refusal(self) -> str:
        if self._key is None:
            return "the server refuses clients without a key; give one with --key FILE or SUBTITLE_KEY"
        return (
            f"the server refuses the key {self._key.name!r}; add its line to the server's list of allowed clients and "
            "reload the daemon (SIGHUP)"
        )

    def _mismatch(self) -> str:
        if self._key is None:
            return "the server requires a key; create one there with `subtitled keys new` and give it with --key FILE or SUBTITLE_KEY"
        return f'the server uses no keys, but the key {self._key.name!r} was given; --key "" uses none'


class ClientSocket:
    """One DEALER socket to one server, blocking or of asyncio."""

    def __init__(self, context: Any, endpoint: str, key: Key | None) -> None:
        """`context`: decides the socket's kind. Raises UnreachableError for an invalid endpoint."""
        self.socket, self.monitor = open_socket(context, endpoint, key)

    def discard_events(self) -> None:
        """Discard the connection's past events, which do not concern the next request; raises UnreachableError."""
        self.monitor.is_lost()

    def close(self) -> None:
        """Close the socket and discard unsent messages; may be repeated."""
        if not self.socket.closed:
            self.monitor.close()
            self.socket.close()


C = TypeVar("C", bound=ClientSocket)


class BaseClient(Generic[C]):
    """The connections of a client, blocking or of asyncio, and what makes its requests."""

    def __init__(
        self,
        make: Callable[[Any, str, Key | None], C],
        make_context: Callable[[], Any],
        endpoint: str | None,
        key: Key | str | os.PathLike[str] | None,
        timeout_s: float,
    ) -> None:
        """`make` connects, with a context, an endpoint and a key; the other arguments are those of `Client`."""
        self.endpoint = endpoint or default_server()
        self._key = key_for(self.endpoint, key)
        self._requests = Requests(self.endpoint, timeout_s)
        self._make = make
        self._context = make_context()
        self._open: set[C] = set()
        self._idle: list[C] = []
        # A client that is dropped without `close` must not keep the interpreter waiting for its context.
        self._closer = weakref.finalize(self, _close_connections, self._context, self._open)

    def close(self) -> None:
        """Close all connections and discard unsent messages; may be repeated. Pending calls end with an error."""
        self._idle.clear()
        self._closer()

    @contextmanager
    def _connection(self) -> Iterator[C]:
        """Give a connection that no other request uses, so that requests may be interleaved.

        After an error the connection is closed: answers to the aborted request may still arrive on it.
        """
        connection = self._idle.pop() if self._idle else self._connect()
        try:
            connection.discard_events()
            yield connection
        except BaseException:
            self._open.discard(connection)
            connection.close()
            raise
        self._idle.append(connection)

    def _connect(self) -> C:
        connection = self._make(self._context, self.endpoint, self._key)
        self._open.add(connection)
        return connection


def _close_connections(context: Any, connections: set[Any]) -> None:
    for connection in connections:
        connection.close()
    connections.clear()
    context.term()


class Connection(ClientSocket):
    """One socket to one server, whose waits block; belongs to the thread that made it."""

    def perform(self, step: Step) -> Any:
        """Perform a step of a request and return its outcome."""
        match step:
            case Send(message=message, until=until, blobs=blobs):
                return self._send(message, blobs, until)
            case Receive(until=until):
                return self._receive(until)
            case Call(function=function) | ReadSource(function=function):
                return function()
            case Emit():
                raise TypeError("a request that yields values is iterated over, not run")
            case _:
                assert_never(step)

    def _send(self, message: ToServer, blobs: Sequence[Buffer], until: float) -> bool:
        # While the server is away the message waits in the socket.
        frames = to_server.encode(message, blobs)
        while True:
            try:
                self.socket.send_multipart(frames, zmq.NOBLOCK)
            except zmq.Again:
                if self.monitor.is_lost() or time.monotonic() >= until:
                    return False
                self.socket.poll(poll_ms(until), zmq.POLLOUT)
            else:
                return True

    def _receive(self, until: float) -> Received:
        while not self.socket.poll(poll_ms(until)):
            if self.monitor.is_lost():
                return Received(is_lost=True)
            if time.monotonic() >= until:
                return Received()
        return Received(*to_client.decode(self.socket.recv_multipart()))


def poll_ms(until: float) -> int:
    """Return the timeout of one poll, in milliseconds, within a wait that ends at `until` (monotonic)."""
    return max(0, int(min(MONITOR_POLL_S, until - time.monotonic()) * 1000 + 0.999))
