"""A client at the level of messages: it does only what a test requests."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Self, TypeVar

import zmq

from subtitle import messages as ms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from subtitle.keys import Key

M = TypeVar("M")
ANSWER_MS = 60_000


class WireClient:
    """One DEALER socket; a context manager."""

    def __init__(self, endpoint: str, key: Key | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        if key is not None:
            self.socket.setsockopt(zmq.CURVE_PUBLICKEY, key.public.encode())
            self.socket.setsockopt(zmq.CURVE_SECRETKEY, key.secret.encode())
            self.socket.setsockopt(zmq.CURVE_SERVERKEY, key.server.encode())
        self.socket.connect(endpoint)
        self._last = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; may be repeated."""
        self.socket.close()
        self._context.term()

    def number(self) -> int:
        """Return a request number of its own."""
        self._last += 1
        return self._last

    def send(self, message: ms.ToServer, blobs: Sequence[bytes] = ()) -> None:
        """Send a message."""
        self.socket.send_multipart(ms.to_server.encode(message, blobs))

    def receive(self, kind: type[M], timeout_ms: int = ANSWER_MS) -> M:
        """Return the next message, which must be of this kind; UploadCredit is skipped."""
        while True:
            assert self.socket.poll(timeout_ms), f"no {kind.__name__} within {timeout_ms} ms"
            message, _ = ms.to_client.decode(self.socket.recv_multipart())
            if isinstance(message, kind):
                return message
            assert isinstance(message, ms.UploadCredit), f"wanted {kind.__name__}, got {message}"

    def is_silent(self, for_ms: int = 300) -> bool:
        """Return whether no message arrives."""
        return not self.socket.poll(for_ms)

    # -- whole exchanges -------------------------------------------------------------------------------------

    def submit(self, content: bytes, name: str = "talk.flac", **fields: object) -> ms.Accepted:
        """Submit an upload, which must be accepted."""
        self.send(submit_of(self.number(), content, name, **fields))
        return self.receive(ms.Accepted)

    def refusal(self, message: ms.ToServer, blobs: Sequence[bytes] = ()) -> str:
        """Send a message and return the code of the Error that answers it."""
        self.send(message, blobs)
        error = self.receive(ms.Error)
        assert error.request == message.request
        return error.code

    def chunk(self, accepted: ms.Accepted, offset: int, blob: bytes) -> None:
        """Send a chunk without waiting for an answer."""
        self.send(ms.Chunk(request=accepted.request, job=accepted.job, offset=offset), [blob])

    def send_to(self, accepted: ms.Accepted, content: bytes, end: int | None = None) -> None:
        """Send the bytes from the accepted offset up to `end`, and wait until they are written."""
        end = len(content) if end is None else end
        offset = written = accepted.offset
        while written < end:
            while offset < end and offset - written < accepted.window_bytes - accepted.chunk_bytes:
                blob = content[offset : min(end, offset + accepted.chunk_bytes)]
                self.chunk(accepted, offset, blob)
                offset += len(blob)
            written = self.receive(ms.UploadCredit).offset

    def commit(self, job: str, **fields: object) -> ms.JobFacts:
        """Complete an upload; return its job."""
        self.send(ms.Commit(request=self.number(), job=job, **fields))  # type: ignore[arg-type]
        return self.receive(ms.JobInfo).job

    def upload(self, content: bytes, name: str = "talk.flac", **fields: object) -> ms.JobFacts:
        """Upload a file whole; return its job from the answer to Commit."""
        accepted = self.submit(content, name, **fields)
        self.send_to(accepted, content)
        return self.commit(accepted.job)

    def status(self, job: str) -> ms.JobFacts:
        """Return all about a job."""
        self.send(ms.Status(request=self.number(), job=job))
        return self.receive(ms.JobInfo).job

    def fetch(self, job: str, form: str = "srt") -> bytes:
        """Return a job's subtitles."""
        self.send(ms.Fetch(request=self.number(), job=job, format=form))
        assert self.socket.poll(ANSWER_MS)
        message, blobs = ms.to_client.decode(self.socket.recv_multipart())
        assert isinstance(message, ms.Subtitles), message
        return bytes(blobs[0])


def submit_of(request: int, content: bytes, name: str = "talk.flac", **fields: object) -> ms.Submit:
    """Return the Submit of some bytes."""
    known = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return ms.Submit(request=request, name=name, **{**known, **fields})  # type: ignore[arg-type]
