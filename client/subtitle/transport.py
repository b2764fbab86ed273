"""The client's socket."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import zmq

from subtitle.codec import Buffer
from subtitle.errors import UnreachableError
from subtitle.messages import ToClient, ToServer, to_client, to_server

DEFAULT_SERVER = "ipc:///run/subtitled/clients.sock"
SERVER_VARIABLE = "SUBTITLE_SERVER"


def default_server() -> str:
    """Return the endpoint used when none is named: SUBTITLE_SERVER, else the daemon's local socket."""
    return os.environ.get(SERVER_VARIABLE) or DEFAULT_SERVER


class Transport:
    """One DEALER socket to one server; belongs to the thread that made it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise UnreachableError(f"{endpoint}: no such endpoint: {error.strerror}") from error

    def close(self) -> None:
        """Close the socket; may be repeated."""
        self._socket.close()
        self._context.term()

    def send(self, message: ToServer) -> None:
        """Send a message; it waits in the socket while the server is away."""
        try:
            self._socket.send_multipart(to_server.encode(message), zmq.NOBLOCK)
        except zmq.Again as error:
            raise UnreachableError(f"{self.endpoint}: no connection; is the daemon running?") from error

    def receive(self, deadline: float) -> tuple[ToClient, Sequence[Buffer]] | None:
        """Return the next message and its blobs, or None when none came until `deadline` (monotonic)."""
        wait_ms = max(0, int((deadline - time.monotonic()) * 1000))
        if not self._socket.poll(wait_ms):
            return None
        return to_client.decode(self._socket.recv_multipart())
