"""The steps of a conversation with a server, and what comes of each: it says what is to be done, not how.

A conversation is a generator that yields steps and is sent what came of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeVar

from msgspec import Struct

from subtitle import messages as ms
from subtitle.codec import Buffer

T = TypeVar("T")


class Send(Struct, frozen=True):
    """Send a message. Comes of it: whether there was room for it in the socket until `until`."""

    message: ms.ToServer
    until: float
    blobs: tuple[Buffer, ...] = ()


class Receive(Struct, frozen=True):
    """Wait for a message until `until` (monotonic). Comes of it: a Heard."""

    until: float


class Work(Struct, frozen=True):
    """Call what blocks on a file. Comes of it: its result."""

    call: Callable[[], Any]


class Pull(Struct, frozen=True):
    """Wait for the next bytes of what is streamed: call it, in asyncio await it. Comes of it: those bytes, none at the end."""

    call: Callable[[], Any]


class Tell(Struct, frozen=True):
    """Hand something to the caller while the conversation goes on. Nothing comes of it."""

    value: Any


class Heard(Struct, frozen=True):
    """What a Receive has brought: a message, the news that the connection was lost, or neither in time."""

    message: ms.ToClient | None = None
    blobs: Sequence[Buffer] = ()
    is_lost: bool = False


Step = Send | Receive | Work | Pull | Tell
Talk = Generator[Step, Any, T]


class Conversation(Generic[T]):
    """One conversation, taken step by step by who has the socket."""

    def __init__(self, talk: Talk[T]) -> None:
        self._talk = talk
        self._result: list[T] = []

    def step(self, came: object = None) -> Step | None:
        """Return the next step, given what came of the last; None at the end. Raises what the conversation raises."""
        try:
            return self._talk.send(came)
        except StopIteration as end:
            self._result.append(end.value)
            return None

    @property
    def result(self) -> T:
        """What the conversation was about, after its last step."""
        return self._result[0]
