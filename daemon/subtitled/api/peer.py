"""One client's connection, as those see it who answer it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from subtitle import messages as ms
from subtitle.codec import Buffer
from subtitled.network.auth import Principal

Reply = Callable[[ms.ToClient, Iterable[Buffer]], bool]


class Peer(Struct, frozen=True):
    """Principal has asked, and how it is answered."""

    door: str
    """The kind of socket that it came in by."""
    identity: bytes
    who: Principal
    send: Reply
    """Sends it a message with blobs; False when it is gone, or does not read."""

    @property
    def connection(self) -> tuple[str, bytes]:
        """What tells it from all others that are connected."""
        return (self.door, self.identity)

    def reply(self, message: ms.ToClient, blobs: Iterable[Buffer] = ()) -> bool:
        """Send a message; False when the client is gone, or does not read."""
        return self.send(message, blobs)

    def refuse(self, request: int, code: str, message: str) -> None:
        """Send an Error."""
        self.send(ms.Error(request=request, code=code, message=message), ())


class RefusedError(Exception):
    """A request cannot be done; `code` is one of the protocol's error codes."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
