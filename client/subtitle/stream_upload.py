"""One upload of bytes that are known only when they come, as a state machine like `subtitle.upload`.

Neither size nor hash is said before the end (docs/protocol.md, "Uploads"), and nothing can be sent twice: a connection that
is lost after the first byte, or a refusal then, is the end of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from msgspec.structs import replace

from subtitle.errors import ProtocolError, ServerError, UnreachableError
from subtitle.messages import (
    Accepted,
    Chunk,
    Commit,
    Error,
    JobFacts,
    JobInfo,
    JobOptions,
    Submit,
    ToClient,
    UploadCredit,
)
from subtitle.upload import AGAIN_S, MAX_AGAIN_S, MAX_SILENCE_S, SILENCE_S, Phase

PIECE_BYTES = 2**18
"""Bytes that are gathered for one Chunk, as far as the source has so many."""
REACH_BYTES = 8 * PIECE_BYTES
"""Most bytes under way, however wide the server's window: many streams at once must not fill the memory between them."""
_LATER = frozenset({"DRAINING", "RATE_LIMITED"})


class StreamUpload:
    """Sends bytes as they are given, once, and says their size and hash at the end."""

    def __init__(self, submit: Submit, next_request: Callable[[], int], *, now: float) -> None:
        """`submit`: without size and sha256; its request number is replaced.

        A server that drains, or has as many uploads as it takes, is asked again as long as no byte was given.
        """
        if submit.size is not None or submit.sha256:
            raise ValueError("a stream's size and SHA-256 are said at its end")
        self._submit = submit
        self._next_request = next_request
        self.phase = Phase.ASK
        self.job = ""
        self.facts: JobFacts | None = None
        """The job, once it is DONE."""
        self.sent = 0
        self.acknowledged = 0
        """Bytes that the server has, as far as it has said so."""
        self.refusal: ServerError | None = None
        """Why the server does not take it now, while it is asked again."""
        self._hash = hashlib.sha256()
        self._options: JobOptions | None = None
        self._request = 0
        self._window_bytes = self._chunk_bytes = 0
        self._silence_s = SILENCE_S
        self._again_s = AGAIN_S
        self.deadline = now
        """When `next` has something to do at the latest, though nothing came."""

    def next(self, now: float) -> Submit | Commit | None:
        """Return the next message to send beside chunks; None: wait for an answer, or give bytes."""
        match self.phase:
            case Phase.ASK if now >= self.deadline:
                self._request = self._next_request()
                # Not asked again while it is silent: each Submit without a hash begins another upload.
                self.phase, self.deadline = Phase.ASKED, float("inf")
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
        """How many bytes the next chunk may have; 0 while none may be sent."""
        if self.phase is not Phase.SENDING:
            return 0
        free = self.acknowledged + min(self._window_bytes, REACH_BYTES) - self.sent
        return max(0, min(free, self._chunk_bytes))

    def give(self, piece: bytes) -> Chunk:
        """Return the header for the next bytes, 1 to `room` of them."""
        chunk = Chunk(request=self._request, job=self.job, offset=self.sent)
        self.sent += len(piece)
        self._hash.update(piece)
        return chunk

    def end(self, options: JobOptions | None) -> None:
        """Take note that all bytes were given; `options`, if any, in place of those of the Submit."""
        self.phase, self._options = Phase.COMMIT, options

    def heard(self, message: ToClient, now: float) -> None:
        """Take a message from the server; raises ServerError and ProtocolError when this is the end of it."""
        if message.request != self._request:
            return
        match self.phase, message:
            case Phase.ASKED, Accepted(offset=offset, window_bytes=window, chunk_bytes=chunk):
                if offset or window < 1 or chunk < 1:
                    raise ProtocolError(
                        "BAD_FORMAT",
                        f"a new upload that begins at {offset}, in chunks of {chunk}, {window} at a time",
                    )
                self.phase, self.job, self.refusal = Phase.SENDING, message.job, None
                self._window_bytes, self._chunk_bytes = window, chunk
            case Phase.SENDING, UploadCredit(offset=offset):
                self.acknowledged = max(self.acknowledged, min(offset, self.sent))
            case Phase.COMMITTED, JobInfo(job=facts):
                self.phase, self.facts, self.acknowledged = Phase.DONE, facts, self.sent
            case Phase.ASKED, Error(code=code, message=text) if code in _LATER:
                self.refusal = ServerError(code, text)
                self.phase, self.deadline = Phase.ASK, now + self._again_s
                self._again_s = min(2 * self._again_s, MAX_AGAIN_S)
            case _, Error(code=code, message=text):
                raise ServerError(code, text)
            case _:
                pass

    def lost(self, now: float) -> None:
        """Take note that the connection was lost; raises UnreachableError where bytes were lost with it."""
        match self.phase:
            case Phase.ASKED:
                self.phase, self.deadline = Phase.ASK, now
            case Phase.SENDING | Phase.COMMIT:
                raise UnreachableError(
                    f"{self._submit.name or 'the upload'}: the connection to the daemon was lost after {self.sent} bytes; "
                    "send it again"
                )
            case Phase.COMMITTED:
                self.phase = Phase.COMMIT
            case _:
                pass

    def _commit(self, now: float) -> Commit:
        self._request = self._next_request()
        self.phase, self.deadline = Phase.COMMITTED, now + self._silence_s
        return Commit(
            request=self._request,
            job=self.job,
            size=self.sent,
            sha256=self._hash.hexdigest(),
            options=self._options,
        )
