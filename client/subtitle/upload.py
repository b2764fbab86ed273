"""One upload as a state machine without I/O: it receives messages and the time, and returns what to send.

The rules are those of docs/protocol.md, "Uploads".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from subtitle import messages as ms
from subtitle.errors import FileChangedError, ProtocolError, ServerError
from subtitle.progress import check_done

SILENCE_S = 5.0
"""After this long without a message the Submit or Commit is repeated; doubled each time, up to MAX_SILENCE_S."""
ACCEPT_S = 20.0
"""The same for the answer to a Submit: a restarted server first hashes its part of the file."""
MAX_SILENCE_S = 80.0
RETRY_S = 0.1
"""Pause before a Submit that follows a refusal; doubled each time, up to MAX_RETRY_S."""
MAX_RETRY_S = 10.0
MIN_CHUNK_BYTES = 64 * 2**10
START_BYTES = 4 * MIN_CHUNK_BYTES
"""Bytes in flight at first. They double while they are acknowledged within FAST_S and halve beyond SLOW_S, so that on a slow
line a few seconds of bytes at most delay the next request."""
FAST_S = 1.0
SLOW_S = 4.0
_TEMPORARY = frozenset({"DRAINING", "RATE_LIMITED", "NO_SPACE"})


class Phase(Enum):
    """The state of an upload."""

    SUBMIT = "submit"
    """The next message is the Submit."""
    SUBMITTED = "submitted"
    CHECK = "check"
    """The next message is a Status: the server's refusal does not say why the upload is not open."""
    CHECKED = "checked"
    SENDING = "sending"
    COMMIT = "commit"
    """The next message is the Commit."""
    COMMITTED = "committed"
    """The Commit is sent and not answered yet."""
    DONE = "done"


class OutgoingMessage(Struct, frozen=True):
    """A message to send; a Chunk with the file's `length` bytes from `offset` on as its blob."""

    message: ms.Submit | ms.Chunk | ms.Commit | ms.Status
    offset: int = 0
    length: int = 0


class Upload:
    """Sends one file of known size and hash, from the offset that the server gives, with as many retries as necessary."""

    def __init__(
        self,
        submit: ms.Submit,
        next_request: Callable[[], int],
        *,
        now: float,
        retries_refusals: bool = True,
        waits_for_space: bool = False,
    ) -> None:
        """`submit`: with size and sha256; its request number is replaced.

        `retries_refusals`: the Submit is repeated while the server is draining or limits the rate, else the refusal is raised;
        `waits_for_space`: also while its disk is full.
        """
        if submit.size is None or not submit.sha256:
            raise ValueError("an upload needs the file's size and SHA-256")
        self._submit = submit
        self._next_request = next_request
        self.size = submit.size
        self.phase = Phase.SUBMIT
        self.job = ""
        self.facts: ms.JobFacts | None = None
        """The job, once it is DONE."""
        self.acknowledged = 0
        """Bytes that the server has acknowledged."""
        self.refusal: ServerError | None = None
        """The last temporary refusal, while the Submit is repeated."""
        self._temporary = (
            _TEMPORARY - (set() if waits_for_space else {"NO_SPACE"})
            if retries_refusals
            else frozenset[str]()
        )
        self._request = 0
        self._sent = 0
        self._window_bytes = self._chunk_bytes = 0
        self._limit_bytes = START_BYTES
        self._in_flight: deque[tuple[int, float]] = deque()
        """End of each Chunk without acknowledgement, and when it was sent."""
        self._silence_s = SILENCE_S
        self._accept_s = ACCEPT_S
        self._retry_s = RETRY_S
        self.deadline = now
        """When to call `next` at the latest, even without a message."""

    def next(self, now: float) -> OutgoingMessage | None:
        """Return the next message to send; None: wait for an answer, until `deadline`."""
        if now >= self.deadline:
            self._on_silence()
        match self.phase:
            case Phase.SUBMIT if now >= self.deadline:
                self._request = self._next_request()
                self.phase, self.deadline = Phase.SUBMITTED, now + self._accept_s
                return OutgoingMessage(replace(self._submit, request=self._request))
            case Phase.CHECK if now >= self.deadline:
                self._request = self._next_request()
                self.phase, self.deadline = Phase.CHECKED, now + self._silence_s
                return OutgoingMessage(ms.Status(request=self._request, job=self.job))
            case Phase.COMMIT:
                self._request = self._next_request()
                self.phase, self.deadline = Phase.COMMITTED, now + self._silence_s
                return OutgoingMessage(
                    ms.Commit(request=self._request, job=self.job, size=self.size, sha256=self._submit.sha256)
                )
            case Phase.SENDING if length := self._sendable():
                chunk = ms.Chunk(request=self._request, job=self.job, offset=self._sent)
                self._sent += length
                self._in_flight.append((self._sent, now))
                self.deadline = now + self._silence_s
                return OutgoingMessage(chunk, chunk.offset, length)
            case _:
                return None

    def receive(self, message: ms.ToClient, now: float) -> None:
        """Process a message; raises ServerError, ProtocolError, FileChangedError and (cancelled) JobFailedError at a permanent refusal."""
        if message.request != self._request:
            return  # an answer to an earlier request, which has been repeated
        match self.phase, message:
            case Phase.SUBMITTED, ms.Accepted():
                self._on_accepted(message, now)
            case Phase.SENDING, ms.UploadCredit(job=self.job, offset=offset):
                self._on_credit(offset, now)
            case Phase.SUBMITTED | Phase.COMMITTED, ms.JobInfo(job=facts):
                self.phase, self.facts, self.job, self.acknowledged = Phase.DONE, facts, facts.id, self.size
            case Phase.CHECKED, ms.JobInfo(job=facts):
                self._on_state(facts, now)
            case Phase.CHECKED, ms.Error():
                self._resubmit(now)
            case Phase.SUBMITTED | Phase.SENDING | Phase.COMMITTED, ms.Error(code=code, message=text):
                self._on_error(code, text, now)
            case _:
                pass

    def connection_lost(self, now: float) -> None:
        """Repeat what was not answered: the connection was lost."""
        match self.phase:
            case Phase.SUBMITTED | Phase.SENDING | Phase.CHECKED:
                self._resubmit(now)
            case Phase.COMMITTED:
                self.phase = Phase.COMMIT
            case _:
                pass

    def _sendable(self) -> int:
        """Return the length of the next Chunk; 0 while the windows are full, or at the end of the file."""
        room = self.acknowledged + min(self._window_bytes, self._limit_bytes) - self._sent
        length = min(self._chunk_bytes, max(self._limit_bytes // 4, MIN_CHUNK_BYTES), self.size - self._sent)
        # Whole chunks only, unless the window has no room for one at all.
        return max(0, length if room >= length else room if not self._in_flight else 0)

    def _on_accepted(self, message: ms.Accepted, now: float) -> None:
        if not 0 <= message.offset <= self.size or message.window_bytes < 1 or message.chunk_bytes < 1:
            raise ProtocolError(
                "BAD_FORMAT",
                f"the server accepted {self.size} bytes from offset {message.offset}, in chunks of {message.chunk_bytes}, "
                f"with a window of {message.window_bytes}",
            )
        self.phase, self.job, self.refusal = Phase.SENDING, message.job, None
        self.acknowledged = self._sent = message.offset
        self._window_bytes, self._chunk_bytes = message.window_bytes, message.chunk_bytes
        self._in_flight.clear()
        self._accept_s = ACCEPT_S
        self._extend(now)

    def _on_credit(self, offset: int, now: float) -> None:
        if not self.acknowledged < offset <= self._sent:
            return  # a repeated or outdated one
        self.acknowledged = offset
        elapsed_s = 0.0
        while self._in_flight and self._in_flight[0][0] <= offset:
            elapsed_s = now - self._in_flight.popleft()[1]
        if elapsed_s < FAST_S:
            self._limit_bytes = min(2 * self._limit_bytes, max(self._window_bytes, START_BYTES))
        elif elapsed_s > SLOW_S:
            self._limit_bytes = max(self._limit_bytes // 2, START_BYTES)
        self._silence_s, self._retry_s = SILENCE_S, RETRY_S
        self._extend(now)

    def _extend(self, now: float) -> None:
        self.deadline = now + self._silence_s
        if self.acknowledged == self.size:
            self.phase = Phase.COMMIT

    def _on_state(self, facts: ms.JobFacts, now: float) -> None:
        """Resume an interrupted upload; a cancelled one is not started again."""
        if facts.state == "receiving":
            self._resubmit(now)
        elif facts.state == "cancelled":
            check_done(facts)
        else:
            self.phase, self.facts, self.acknowledged = Phase.DONE, facts, self.size

    def _on_error(self, code: str, text: str, now: float) -> None:
        if code == "WRONG_STATE" and self.phase is not Phase.SUBMITTED:
            self.phase, self.deadline = Phase.CHECK, now + self._pause()
        elif code in self._temporary:
            self.refusal = ServerError(code, text)
            self._resubmit(now + self._pause())
        elif code == "HASH_MISMATCH":
            raise FileChangedError(
                f"{self._submit.name}: changed while it was sent: {text}; submit it again when no program writes to it"
            )
        else:
            raise ServerError(code, text)

    def _on_silence(self) -> None:
        match self.phase:
            case Phase.SENDING:
                self._silence_s = min(2 * self._silence_s, MAX_SILENCE_S)
                self.phase = Phase.SUBMIT
            case Phase.SUBMITTED:
                self._accept_s = min(2 * self._accept_s, MAX_SILENCE_S)
                self.phase = Phase.SUBMIT
            case Phase.CHECKED:
                self.phase = Phase.SUBMIT
            case Phase.COMMITTED:
                # A repeated Commit is harmless, and its answer gives the state.
                self._silence_s = min(2 * self._silence_s, MAX_SILENCE_S)
                self.phase = Phase.COMMIT
            case _:
                pass

    def _resubmit(self, at: float) -> None:
        self.phase, self.deadline = Phase.SUBMIT, at

    def _pause(self) -> float:
        pause_s, self._retry_s = self._retry_s, min(2 * self._retry_s, MAX_RETRY_S)
        return pause_s
