"""A remote worker's end of one session with the daemon."""

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
from subtitled.core import protocol as pr
from subtitled.version import VERSION

JOIN_S = 2.0
"""Seconds between two JoinSession messages until one is answered."""
SILENCE_S = 30.0
"""The daemon's default, used until it sends its own."""
LINGER_MS = 2000
"""Time limit for sending the last messages on close."""


class WorkerPlace(Struct, frozen=True, kw_only=True):
    """A worker's name and device, sent on joining."""

    name: str
    """Name on its host, such as "cuda0"."""
    device: str
    """Display name."""


class SessionEndedError(Exception):
    """The session has ended; the message is the reason."""


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
        """Start to connect; `previous`: identity in the last session. Raises UnreachableError."""
        self._join = pr.JoinSession(
            version=VERSION,
            protocol=pr.PROTOCOL,
            place=place.name,
            device=place.device[:200],
            hostname=plain.gethostname()[:200],
            previous=previous,
        )
        self._socket, self._monitor = open_socket(context, endpoint, key)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self.accepted: pr.SessionAccepted | None = None
        """The daemon's answer; None until it arrives."""
        self._received_at = time.monotonic()
        self._due = 0.0

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """Socket to poll."""
        found: zmq.Socket[bytes] = self._socket
        return found

    @property
    def is_connected(self) -> bool:
        """There is a connection; the daemon may not have answered yet."""
        return self._monitor.is_up

    @property
    def silence_s(self) -> float:
        """Silence after which the daemon counts as gone."""
        return self.accepted.silence_s if self.accepted else SILENCE_S

    def tick(self, now: float) -> float:
        """Send what is due, and return the next due time; raises SessionEndedError, UnreachableError."""
        if self._monitor.is_lost():
            raise SessionEndedError("the connection was lost")
        if not self._monitor.is_up:
            return now + 0.1
        self.check_silence(now)
        if now >= self._due:
            interval_s = self.accepted.heartbeat_s if self.accepted else JOIN_S
            self.send(pr.Heartbeat() if self.accepted else self._join)
            self._due = now + interval_s
        return self._due

    def check_silence(self, now: float) -> None:
        """Raise SessionEndedError if the daemon was silent for too long: it has leased this work to other workers."""
        if self.accepted and now - self._received_at > self.silence_s:
            raise SessionEndedError(f"no message from the daemon for {now - self._received_at:.0f} s")

    def send(self, message: pr.FromWorker, blobs: Sequence[Buffer] = ()) -> None:
        """Send a message; raises SessionEndedError if the daemon does not accept it."""
        try:
            self._socket.send_multipart(pr.from_worker.encode(message, blobs), zmq.NOBLOCK, copy=False)
        except zmq.Again:
            raise SessionEndedError("the daemon does not read its messages") from None

    def receive(self) -> tuple[pr.ToWorker, list[memoryview]] | None:
        """Return the next message that is not answered here; None if there is none. Raises SessionEndedError."""
        while True:
            try:
                frames: list[Any] = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return None
            try:
                message, blobs = pr.to_worker.decode([frame.buffer for frame in frames])
            except ProtocolError as error:
                raise SessionEndedError(f"the daemon sent an invalid message: {error}") from error
            now = time.monotonic()
            self._received_at = now
            match message:
                case pr.Probe(stamp_s=stamp_s):
                    if stamp_s:
                        self.send(pr.Echo(stamp_s=stamp_s, clock_s=time.time()))
                    continue
                case pr.SessionAccepted():
                    self.accepted = self.accepted or message
                    self._due = now
                case pr.Transcribe(lease=lease) | pr.Translate(lease=lease):
                    self.send(pr.LeaseReceived(lease=lease))
                case _:
                    pass
            return message, [memoryview(blob) for blob in blobs]

    def close(self) -> None:
        """Close; queued messages are sent first, within `LINGER_MS`, if there is a connection. May be repeated."""
        if not self._socket.closed:
            self._monitor.close()
            self._socket.close()
