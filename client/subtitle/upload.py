"""One upload as a state machine: told what came and what time it is, it says what to send.

It knows no socket, file or clock, so that the blocking client, the asyncio twin and the tests drive the same rules
(docs/protocol.md, "Upload").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

from msgspec import Struct
from msgspec.structs import replace

from subtitle.errors import FileChangedError, ProtocolError, ServerError
from subtitle.messages import (
    Accepted,
    Chunk,
    Commit,
    Error,
    JobFacts,
    JobInfo,
    Status,
    Submit,
    ToClient,
    UploadCredit,
)
from subtitle.progress import check_done

SILENCE_S = 5.0
"""Without a word for this long, the server is asked again where it stands; doubled each time, up to MAX_SILENCE_S."""
ACCEPT_S = 20.0
"""The same for the answer to a Submit: a server that was restarted first hashes what it has of the file."""
MAX_SILENCE_S = 80.0
AGAIN_S = 0.1
"""Pause before a Submit that follows a refusal; doubled each time, up to MAX_AGAIN_S."""
MAX_AGAIN_S = 10.0
MIN_CHUNK_BYTES = 64 * 2**10
START_BYTES = 4 * MIN_CHUNK_BYTES
"""Bytes under way at first. They double while they are acknowledged within FAST_S and halve beyond SLOW_S, so that on a slow
line no more than a few seconds of bytes stand before the next request, and a heartbeat is not taken for dead."""
FAST_S = 1.0
SLOW_S = 4.0
_LATER = frozenset({"DRAINING", "RATE_LIMITED", "NO_SPACE"})


class Phase(Enum):
    """Where an upload stands."""

    ASK = "ask"
    """The next thing to send is the Submit."""
    ASKED = "asked"
    LOOK = "look"
    """The next thing to send is a Status: a refusal says that the upload is not open, not why."""
    LOOKED = "looked"
    SENDING = "sending"
    COMMIT = "commit"
    """The next thing to send is the Commit."""
    COMMITTED = "committed"
    """The Commit is sent, not answered yet."""
    DONE = "done"


class Out(Struct, frozen=True):
    """A message to send; a Chunk with the file's `length` bytes from `offset` on as its blob."""

    message: Submit | Chunk | Commit | Status
    offset: int = 0
    length: int = 0


class Upload:
    """Sends one file whose size and hash are known, from wherever the server says, as often as it must be asked."""

    def __init__(
        self,
        submit: Submit,
        next_request: Callable[[], int],
        *,
        now: float,
        is_patient: bool = True,
        waits_for_space: bool = False,
    ) -> None:
        """`submit`: with size and sha256; its request number is replaced.

        `is_patient`: a server that drains, or wants fewer requests, is asked again, else the refusal is raised;
        `waits_for_space` says the same of one whose disk is full.
        """
        if submit.size is None or not submit.sha256:
            raise ValueError("an upload needs the file's size and SHA-256")
        self._submit = submit
        self._next_request = next_request
        self.size = submit.size
        self.phase = Phase.ASK
        self.job = ""
        self.facts: JobFacts | None = None
        """The job, once it is DONE."""
        self.acknowledged = 0
        """Bytes that the server has, as far as it has said so."""
        self.refusal: ServerError | None = None
        """Why the server does not take it now, while it is asked again."""
        self._later = (
            _LATER - (set() if waits_for_space else {"NO_SPACE"}) if is_patient else frozenset[str]()
        )
        self._request = 0
        self._sent = 0
        self._window_bytes = self._chunk_bytes = 0
        self._reach_bytes = START_BYTES
        self._under_way: deque[tuple[int, float]] = deque()
        """End of each Chunk that is not acknowledged, and when it was sent."""
        self._silence_s = SILENCE_S
        self._accept_s = ACCEPT_S
        self._again_s = AGAIN_S
        self.deadline = now
        """When `next` has something to do at the latest, though nothing came."""

    def next(self, now: float) -> Out | None:
        """Return the next message to send at once; None: wait for an answer, until `deadline`."""
        if now >= self.deadline:
            self._on_silence()
        match self.phase:
            case Phase.ASK if now >= self.deadline:
                self._request = self._next_request()
                self.phase, self.deadline = Phase.ASKED, now + self._accept_s
                return Out(replace(self._submit, request=self._request))
            case Phase.LOOK if now >= self.deadline:
                self._request = self._next_request()
                self.phase, self.deadline = Phase.LOOKED, now + self._silence_s
                return Out(Status(request=self._request, job=self.job))
            case Phase.COMMIT:
                self._request = self._next_request()
                self.phase, self.deadline = Phase.COMMITTED, now + self._silence_s
                return Out(
                    Commit(request=self._request, job=self.job, size=self.size, sha256=self._submit.sha256)
                )
            case Phase.SENDING if length := self._sendable():
                chunk = Chunk(request=self._request, job=self.job, offset=self._sent)
                self._sent += length
                self._under_way.append((self._sent, now))
                self.deadline = now + self._silence_s
                return Out(chunk, chunk.offset, length)
            case _:
                return None

    def heard(self, message: ToClient, now: float) -> None:
        """Take a message from the server.

        Raises ServerError, ProtocolError, FileChangedError and (it was cancelled) JobFailedError when this is the end of it.
        """
        if message.request != self._request:
            return  # an answer to an earlier question: all that it says has been asked anew
        match self.phase, message:
            case Phase.ASKED, Accepted():
                self._on_accepted(message, now)
            case Phase.SENDING, UploadCredit(job=self.job, offset=offset):
                self._on_credit(offset, now)
            case Phase.ASKED | Phase.COMMITTED, JobInfo(job=facts):
                self.phase, self.facts, self.job, self.acknowledged = Phase.DONE, facts, facts.id, self.size
            case Phase.LOOKED, JobInfo(job=facts):
                self._on_state(facts, now)
            case Phase.LOOKED, Error():
                self._ask_again(now)
            case Phase.ASKED | Phase.SENDING | Phase.COMMITTED, Error(code=code, message=text):
                self._on_error(code, text, now)
            case _:
                pass

    def lost(self, now: float) -> None:
        """Take note that the connection was lost: what was under way on it will not be answered."""
        match self.phase:
            case Phase.ASKED | Phase.SENDING | Phase.LOOKED:
                self._ask_again(now)
            case Phase.COMMITTED:
                self.phase = Phase.COMMIT
            case _:
                pass

    def _sendable(self) -> int:
        """Return the length of the next Chunk; 0 while the server, the line or the file has room for no other."""
        room = self.acknowledged + min(self._window_bytes, self._reach_bytes) - self._sent
        length = min(self._chunk_bytes, max(self._reach_bytes // 4, MIN_CHUNK_BYTES), self.size - self._sent)
        # Whole chunks only, unless the window has no room for one at all.
        return max(0, length if room >= length else room if not self._under_way else 0)

    def _on_accepted(self, message: Accepted, now: float) -> None:
        if not 0 <= message.offset <= self.size or message.window_bytes < 1 or message.chunk_bytes < 1:
            raise ProtocolError(
                "BAD_FORMAT",
                f"the server wants {self.size} bytes from {message.offset} on, in chunks of {message.chunk_bytes}, "
                f"{message.window_bytes} at a time",
            )
        self.phase, self.job, self.refusal = Phase.SENDING, message.job, None
        self.acknowledged = self._sent = message.offset
        self._window_bytes, self._chunk_bytes = message.window_bytes, message.chunk_bytes
        self._under_way.clear()
        self._accept_s = ACCEPT_S
        self._heard_on(now)

    def _on_credit(self, offset: int, now: float) -> None:
        if not self.acknowledged < offset <= self._sent:
            return  # repeated, or overtaken by a later one
        self.acknowledged = offset
        took_s = 0.0
        while self._under_way and self._under_way[0][0] <= offset:
            took_s = now - self._under_way.popleft()[1]
        if took_s < FAST_S:
            self._reach_bytes = min(2 * self._reach_bytes, max(self._window_bytes, START_BYTES))
        elif took_s > SLOW_S:
            self._reach_bytes = max(self._reach_bytes // 2, START_BYTES)
        self._silence_s, self._again_s = SILENCE_S, AGAIN_S
        self._heard_on(now)

    def _heard_on(self, now: float) -> None:
        self.deadline = now + self._silence_s
        if self.acknowledged == self.size:
            self.phase = Phase.COMMIT

    def _on_state(self, facts: JobFacts, now: float) -> None:
        """Go on with an upload that was let go of; but one that somebody has cancelled is not begun anew."""
        if facts.state == "receiving":
            self._ask_again(now)
        elif facts.state == "cancelled":
            check_done(facts)
        else:
            self.phase, self.facts, self.acknowledged = Phase.DONE, facts, self.size

    def _on_error(self, code: str, text: str, now: float) -> None:
        if code == "WRONG_STATE" and self.phase is not Phase.ASKED:
            self.phase, self.deadline = Phase.LOOK, now + self._pause()
        elif code in self._later:
            self.refusal = ServerError(code, text)
            self._ask_again(now + self._pause())
        elif code == "HASH_MISMATCH":
            raise FileChangedError(
                f"{self._submit.name}: changed while it was sent: {text}; submit it again when nothing writes to it"
            )
        else:
            raise ServerError(code, text)

    def _on_silence(self) -> None:
        match self.phase:
            case Phase.SENDING:
                self._silence_s = min(2 * self._silence_s, MAX_SILENCE_S)
                self.phase = Phase.ASK
            case Phase.ASKED:
                self._accept_s = min(2 * self._accept_s, MAX_SILENCE_S)
                self.phase = Phase.ASK
            case Phase.LOOKED:
                self.phase = Phase.ASK
            case Phase.COMMITTED:
                # To commit twice is no harm, and the answer to it says how things are.
                self._silence_s = min(2 * self._silence_s, MAX_SILENCE_S)
                self.phase = Phase.COMMIT
            case _:
                pass

    def _ask_again(self, at: float) -> None:
        self.phase, self.deadline = Phase.ASK, at

    def _pause(self) -> float:
        pause_s, self._again_s = self._again_s, min(2 * self._again_s, MAX_AGAIN_S)
        return pause_s
