"""A remote worker's end of its connection to the daemon: one session."""

from __future__ import annotations

import socket as plain
import time
from collections.abc import Sequence
from typing import Any

import zmq
from msgspec import Struct

from subtitle.codec import Buffer
from subtitle.errors import ProtocolError
from subtitle.keys import Key
from subtitle.transport import open_socket
from subtitled.core import protocol as be
from subtitled.version import VERSION

JOIN_S = 2.0
"""Seconds between two Joins until one is answered."""
BEAT_S = 1.0
SILENCE_S = 30.0
"""As the daemon's defaults are, until it has told its own."""
LINGER_MS = 2000
"""How long what was said last may take to leave."""


class WorkerPlace(Struct, frozen=True, kw_only=True):
    """What a worker says of itself."""

    name: str
    """On its host, such as "cuda0"."""
    device: str
    """For people."""


class SessionEndedError(Exception):
    """The session is over; the message says why."""


class RemoteConnection:
    """Belongs to one thread. After SessionEndedError, or an UnreachableError of the connection, only `close` may be called."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoint: str,
        key: Key,
        *,
        place: WorkerPlace,
        previous: str,
    ) -> None:
        """Begin to connect; `previous` is what the worker was called before. Raises UnreachableError."""
        self._join = be.JoinSession(
            version=VERSION,
            protocol=be.PROTOCOL,
            place=place.name,
            device=place.device[:200],
            hostname=plain.gethostname()[:200],
            previous=previous,
        )
        self._socket, self._monitor = open_socket(context, endpoint, key)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self.welcome: be.SessionAccepted | None = None
        """The daemon's answer; None before it."""
        self.opened_at = self._heard_at = time.monotonic()
        self._due = 0.0

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """What a poller waits for."""
        found: zmq.Socket[bytes] = self._socket
        return found

    @property
    def is_up(self) -> bool:
        """There is a connection, whether or not the daemon has answered."""
        return self._monitor.is_up

    @property
    def silence_s(self) -> float:
        """The daemon is gone when nothing was heard of it for so long."""
        return self.welcome.silence_s if self.welcome else SILENCE_S

    def tick(self, now: float) -> float:
        """Say what is due, and return when something is due next; raises SessionEndedError, UnreachableError."""
        if self._monitor.is_lost():
            raise SessionEndedError("the connection was lost")
        if not self._monitor.is_up:
            return now + 0.1
        self.check_silence(now)
        if now >= self._due:
            beat_s = self.welcome.heartbeat_s if self.welcome else JOIN_S
            self.send(be.Heartbeat() if self.welcome else self._join)
            self._due = now + beat_s
        return self._due

    def check_silence(self, now: float) -> None:
        """Raise SessionEndedError if nothing was heard of the daemon for too long: what it gave is others' by now."""
        if self.welcome and now - self._heard_at > self.silence_s:
            raise SessionEndedError(f"nothing was heard of the daemon for {now - self._heard_at:.0f} s")

    def send(self, message: be.FromWorker, blobs: Sequence[Buffer] = ()) -> None:
        """Send a message; raises SessionEndedError where the daemon does not take it."""
        try:
            self._socket.send_multipart(be.from_worker.encode(message, blobs), zmq.NOBLOCK, copy=False)
        except zmq.Again:
            raise SessionEndedError("the daemon reads nothing") from None

    def receive(self) -> tuple[be.ToWorker, list[memoryview]] | None:
        """Return the next message that is not answered here; None where there is none. Raises SessionEndedError."""
        while True:
            try:
                frames: list[Any] = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return None
            try:
                message, blobs = be.to_worker.decode([frame.buffer for frame in frames])
            except ProtocolError as error:
                raise SessionEndedError(f"the daemon spoke nonsense: {error}") from error
            now = time.monotonic()
            self._heard_at = now
            match message:
                case be.Probe(stamp_s=stamp_s):
                    if stamp_s:
                        self.send(be.Echo(stamp_s=stamp_s, clock_s=time.time()))
                    continue
                case be.SessionAccepted():
                    self.welcome = self.welcome or message
                    self._due = now
                case be.Transcribe(lease=lease):
                    self.send(be.LeaseReceived(lease=lease))
                case _:
                    pass
            return message, [memoryview(blob) for blob in blobs]

    def close(self) -> None:
        """Hang up; what was said is sent first, within `LINGER_MS`, if there is a connection. May be repeated."""
        if not self._socket.closed:
            self._monitor.close()
            self._socket.close()
