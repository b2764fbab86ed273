"""One client's connection, and the error that refuses its request."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitled.network.auth import Principal
from subtitled.network.sockets import ListenerKind

Send = Callable[[ms.ToClient, Iterable[Buffer]], bool]


class RefusedError(Exception):
    """A request that is answered with an Error; `code` is one of the protocol's error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Peer(Struct, frozen=True):
    """The sender of a request."""

    kind: ListenerKind
    """The kind of socket that it connected to."""
    identity: bytes
    """Its routing id on that socket."""
    principal: Principal
    send: Send
    """Sends a message with blobs; returns False when the client is gone or does not read."""
    charge: Callable[[float], None] = lambda _: None
    """Charges the client's rate limit for seconds of processor time."""

    @property
    def connection(self) -> tuple[str, bytes]:
        """Identifies the connection among all clients."""
        return (self.kind, self.identity)

    def reply(self, message: ms.ToClient, blobs: Iterable[Buffer] = ()) -> bool:
        """Send a message; return False when the client is gone or does not read."""
        return self.send(message, blobs)

    def refuse(self, request: int, code: str, message: str) -> None:
        """Send an Error."""
        self.send(ms.Error(request=request, code=code, message=message), ())
