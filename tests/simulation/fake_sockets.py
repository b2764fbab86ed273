"""The daemon's worker sockets under virtual time: ROUTERs with queues in memory, and the connections to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from action_checks import Violation
from msgspec import Struct

from subtitled.core.protocol import FromWorker, ToWorker, from_worker, to_worker
from subtitled.core.records import SegmentKey

MAX_PCM_BYTES = 2 * 480_000 + 4096
_AGAIN = zmq.Again()
_SILENCE = memoryview(bytes(MAX_PCM_BYTES))


class FakeFrame:
    """In the place of a `zmq.Frame`: a buffer with the properties of its connection."""

    __slots__ = ("_properties", "buffer", "has_more", "segment")

    def __init__(
        self,
        buffer: bytes | memoryview,
        properties: dict[str, str] | None = None,
        segment: SegmentKey | None = None,
    ) -> None:
        self.buffer = memoryview(buffer)
        self.has_more = False
        self.segment = segment
        """The segment whose PCM this is."""
        self._properties = properties or {}

    def __len__(self) -> int:
        return len(self.buffer)

    @property
    def bytes(self) -> bytes:
        """A copy of the buffer."""
        return bytes(self.buffer)

    def get(self, name: str) -> str:
        """Return a property, or "" as ZeroMQ does for a socket without an identity."""
        return self._properties.get(name, "")


def pcm_frame(samples: int, segment: SegmentKey) -> FakeFrame:
    """Return the frame of a segment's PCM, int16; silence, since nothing decodes it."""
    return FakeFrame(_SILENCE[: samples * 2], segment=segment)


class Envelope(Struct, frozen=True):
    """A message in a queue of the daemon."""

    route: bytes
    message: FromWorker
    frames: list[FakeFrame]


class Connection:
    """One worker's connection to a ROUTER."""

    def __init__(
        self,
        receive: Callable[[ToWorker, Sequence[FakeFrame]], None],
        *,
        route: bytes,
        key: str = "",
    ) -> None:
        """`receive` is called with each message of the daemon as it is sent."""
        self.receive = receive
        self.route = route
        self.properties = {"User-Id": key} if key else {}

    def envelope(self, message: FromWorker, blobs: Sequence[FakeFrame] = ()) -> Envelope:
        """Return a message as frames, encoded now."""
        frames = [FakeFrame(frame, self.properties) for frame in from_worker.encode(message)]
        return Envelope(self.route, message, [*frames, *blobs])


class FakeRouter:
    """In the place of a ROUTER socket."""

    def __init__(self, on_send: Callable[[bytes, ToWorker], None]) -> None:
        """`on_send` is called before each message leaves."""
        self._on_send = on_send
        self.queue: deque[Envelope] = deque()
        self.received: list[Envelope] = []
        """What the daemon has taken since `received` was last cleared."""
        self.connections: dict[bytes, Connection] = {}
        self._rest: deque[FakeFrame] = deque()

    def connect(self, connection: Connection) -> None:
        """Open a connection; nothing happens if it is open."""
        self.connections.setdefault(connection.route, connection)

    def disconnect(self, connection: Connection) -> None:
        """Close a connection; what it sent before still arrives."""
        self.connections.pop(connection.route, None)

    # -- the daemon's side -----------------------------------------------------------------------------------

    def setsockopt(self, option: int, value: object) -> None:
        """Do nothing."""

    setsockopt_string = setsockopt

    def bind(self, endpoint: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def getsockopt(self, option: int) -> int:
        """Return whether the message has more frames, the one option that is asked for."""
        assert option == zmq.RCVMORE
        return bool(self._rest)

    def poll(self, timeout_ms: int = 0) -> int:
        """Return whether a message has arrived; no time passes."""
        del timeout_ms
        return len(self.queue)

    def recv(self, flags: int = 0, *, copy: bool = True) -> FakeFrame:
        """Return the next frame."""
        assert flags == zmq.NOBLOCK
        del copy
        if not self._rest:
            self._rest.extend(self._take())
        return self._rest.popleft()

    def recv_multipart(self, flags: int = 0, *, copy: bool = True) -> list[FakeFrame]:
        """Return the next message with its route."""
        assert flags == zmq.NOBLOCK
        del copy
        return self._take()

    def send_multipart(self, frames: Sequence[Any], flags: int = 0, *, copy: bool = True) -> None:
        """Send a message to a connection; raises EHOSTUNREACH where there is none."""
        del flags, copy
        route, *parts = frames
        blobs = [part for part in parts if isinstance(part, FakeFrame)]
        message, _ = to_worker.decode([part for part in parts if not isinstance(part, FakeFrame)])
        self._on_send(route, message)
        connection = self.connections.get(route)
        if connection is None:
            raise zmq.ZMQError(zmq.EHOSTUNREACH)
        connection.receive(message, blobs)

    def _take(self) -> list[FakeFrame]:
        if not self.queue:
            raise _AGAIN.with_traceback(None)
        envelope = self.queue.popleft()
        self.received.append(envelope)
        return [FakeFrame(envelope.route), *envelope.frames]


class FakeContext:
    """In the place of a ZeroMQ context: hands out routers that exist already, in order."""

    def __init__(self, *routers: FakeRouter) -> None:
        self._routers = deque(routers)

    def socket(self, kind: int) -> FakeRouter:
        """Return the next router."""
        if kind != zmq.ROUTER or not self._routers:
            raise Violation("the daemon opens a socket that it does not need")
        return self._routers.popleft()


class FakeAuthenticator:
    """In the place of the authenticator: each connection shows the key that it was made with."""

    def allow(self, domain: str, allowed: object) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""
