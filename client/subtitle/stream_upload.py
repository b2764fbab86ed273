"""One upload of a stream, as a state machine like `subtitle.upload`.

Size and hash are sent at the end (docs/protocol.md, "Uploads"), and no byte can be sent twice: a lost connection or a
refusal after the first byte ends the upload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from msgspec.structs import replace

from subtitle import messages as ms
from subtitle.errors import ProtocolError, ServerError, UnreachableError
from subtitle.upload import MAX_RETRY_S, MAX_SILENCE_S, RETRY_S, SILENCE_S, Phase

PIECE_BYTES = 2**18
"""Bytes collected for one Chunk, except the last."""
MAX_IN_FLIGHT_BYTES = 8 * PIECE_BYTES
"""Maximum bytes in flight, whatever the server's window: many streams at once must not fill the memory."""
_TEMPORARY = frozenset({"DRAINING", "RATE_LIMITED"})


class StreamUpload:
    """Sends each byte once, and their size and hash at the end."""

    def __init__(self, submit: ms.Submit, next_request: Callable[[], int], *, now: float) -> None:
        """`submit`: without size and sha256; its request number is replaced.

        Before the first byte, the Submit is repeated while the server is draining or limits the rate.
        """
        if submit.size is not None or submit.sha256:
            raise ValueError("a stream's size and SHA-256 are sent at its end")
        self._submit = submit
        self._next_request = next_request
        self.phase = Phase.SUBMIT
        self.job = ""
        self.facts: ms.JobFacts | None = None
        """The job, once it is DONE."""
        self.sent = 0
        self.acknowledged = 0
        """Bytes that the server has acknowledged."""
        self.refusal: ServerError | None = None
        """The last temporary refusal, while the Submit is repeated."""
        self._hash = hashlib.sha256()
        self._options: ms.JobOptions | None = None
        self._request = 0
        self._window_bytes = self._chunk_bytes = 0
        self._silence_s = SILENCE_S
        self._retry_s = RETRY_S
        self.deadline = now
        """When to call `next` at the latest, even without a message."""

    def next(self, now: float) -> ms.Submit | ms.Commit | None:
        """Return the next message to send that is not a Chunk; None: wait for an answer, or send a `chunk`."""
        match self.phase:
            case Phase.SUBMIT if now >= self.deadline:
                self._request = self._next_request()
                # Not repeated without an answer: each Submit without a hash starts another upload.
                self.phase, self.deadline = Phase.SUBMITTED, float("inf")
                return replace(self._submit, request=self._request)
            case Phase.COMMIT:
                return self._commit(now)
            case Phase.COMMITTED if now >= self.deadline:
                self._silence_s = min(2 * self._silence_s, MAX_SILENCE_S)
                return self._commit(now)
            case _:
                return None

    @property
    def room(self) -> int:
        """The maximum length of the next chunk; 0 while none may be sent."""
        if self.phase is not Phase.SENDING:
            return 0
        free = self.acknowledged + min(self._window_bytes, MAX_IN_FLIGHT_BYTES) - self.sent
        return max(0, min(free, self._chunk_bytes))

    def chunk(self, piece: bytes) -> ms.Chunk:
        """Return the header for the next bytes, 1 to `room` of them."""
        chunk = ms.Chunk(request=self._request, job=self.job, offset=self.sent)
        self.sent += len(piece)
        self._hash.update(piece)
        return chunk

    def end(self, options: ms.JobOptions | None) -> None:
        """Mark the end of the stream; `options`, if any, replace those of the Submit."""
        self.phase, self._options = Phase.COMMIT, options

    def receive(self, message: ms.ToClient, now: float) -> None:
        """Process a message; raises ServerError and ProtocolError at a permanent refusal."""
        if message.request != self._request:
            return
        match self.phase, message:
            case Phase.SUBMITTED, ms.Accepted(offset=offset, window_bytes=window, chunk_bytes=chunk):
                if offset or window < 1 or chunk < 1:
                    raise ProtocolError(
                        "BAD_FORMAT",
                        f"the server accepted a new upload at offset {offset}, in chunks of {chunk}, with a window of {window}",
                    )
                self.phase, self.job, self.refusal = Phase.SENDING, message.job, None
                self._window_bytes, self._chunk_bytes = window, chunk
            case Phase.SENDING, ms.UploadCredit(offset=offset):
                self.acknowledged = max(self.acknowledged, min(offset, self.sent))
            case Phase.COMMITTED, ms.JobInfo(job=facts):
                self.phase, self.facts, self.acknowledged = Phase.DONE, facts, self.sent
            case Phase.SUBMITTED, ms.Error(code=code, message=text) if code in _TEMPORARY:
                self.refusal = ServerError(code, text)
                self.phase, self.deadline = Phase.SUBMIT, now + self._retry_s
                self._retry_s = min(2 * self._retry_s, MAX_RETRY_S)
            case _, ms.Error(code=code, message=text):
                raise ServerError(code, text)
            case _:
                pass

    def connection_lost(self, now: float) -> None:
        """Repeat the Submit or Commit: the connection was lost. Raises UnreachableError if bytes were lost with it."""
        match self.phase:
            case Phase.SUBMITTED:
                self.phase, self.deadline = Phase.SUBMIT, now
            case Phase.SENDING | Phase.COMMIT:
                raise UnreachableError(
                    f"{self._submit.name or 'the upload'}: the connection to the daemon was lost after {self.sent} bytes; "
                    "send it again"
                )
            case Phase.COMMITTED:
                self.phase = Phase.COMMIT
            case _:
                pass

    def _commit(self, now: float) -> ms.Commit:
        self._request = self._next_request()
        self.phase, self.deadline = Phase.COMMITTED, now + self._silence_s
        return ms.Commit(
            request=self._request,
            job=self.job,
            size=self.sent,
            sha256=self._hash.hexdigest(),
            options=self._options,
        )
