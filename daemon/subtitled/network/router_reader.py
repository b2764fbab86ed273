"""Messages of a ROUTER socket whose senders may be hostile."""

from __future__ import annotations

import zmq

MAX_DROPPED_PER_TURN = 5000
"""Frames of a message with too many that are dropped at once."""


class RouterReader:
    """Reads a socket; belongs to its thread."""

    def __init__(self, socket: zmq.Socket[bytes], max_frames: int) -> None:
        """`max_frames`: of a message, its sender's identity not counted."""
        self._socket = socket
        self._max_frames = max_frames
        self._is_dropping = False
        """The rest of a message with too many frames is still to be read, and forgotten."""

    def take(self) -> list[zmq.Frame]:
        """Return the frames of the next message with its sender's identity; of too many, one more than there may be.

        ZeroMQ sets no limit: a million empty frames are 2 MB on the wire and a gigabyte as Python's objects. Raises zmq.Again
        where there is no message, or not yet.
        """
        if self._is_dropping and not self._drop():
            raise zmq.Again
        frames = [self._socket.recv(zmq.NOBLOCK, copy=False)]
        while self._socket.getsockopt(zmq.RCVMORE):
            if len(frames) > 1 + self._max_frames:
                self._is_dropping = True
                break
            frames.append(self._socket.recv(zmq.NOBLOCK, copy=False))
        return frames

    def _drop(self) -> bool:
        """Read more of a message that was answered already; say whether it is at its end."""
        for _ in range(MAX_DROPPED_PER_TURN):
            self._socket.recv(zmq.NOBLOCK)
            if not self._socket.getsockopt(zmq.RCVMORE):
                self._is_dropping = False
                return True
        return False


def is_chosen(identity: bytes, frame: zmq.Frame) -> bool:
    """Say whether the sender of a frame has chosen its identity; those that ZeroMQ gives begin with NUL."""
    return not identity.startswith(b"\0") or bool(frame.get("Identity"))
