"""An upload arrives whole, whatever is lost, said twice, or started again in between."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from subtitle import FileChangedError, JobFailedError, ProtocolError, ServerError
from subtitle import messages as ms
from subtitle.upload import (
    MAX_SILENCE_S,
    MIN_CHUNK_BYTES,
    SILENCE_S,
    START_BYTES,
    OutgoingMessage,
    Phase,
    Upload,
)
from unit.job_facts import FACTS


def upload_of(content: bytes, *, now: float = 0.0, **words: bool) -> Upload:
    numbers = iter(range(1, 1_000_000))
    submit = ms.Submit(
        request=0, name="talk.flac", size=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    return Upload(submit, lambda: next(numbers), now=now, **words)


def all_at_once(upload: Upload, now: float) -> list[OutgoingMessage]:
    """Return all that an upload sends at one moment."""
    sent = []
    while (out := upload.next(now)) is not None:
        sent.append(out)
    return sent


def accepted(upload: Upload, now: float, offset: int = 0, window: int = 2**23, chunk: int = 2**20) -> None:
    """Have the server accept what has been submitted."""
    (out,) = all_at_once(upload, now)
    assert isinstance(out.message, ms.Submit)
    upload.receive(
        ms.Accepted(
            request=out.message.request, job="job", offset=offset, window_bytes=window, chunk_bytes=chunk
        ),
        now,
    )


def looked(upload: Upload, now: float, state: str) -> None:
    """Let the server report the state of the job."""
    (out,) = all_at_once(upload, now)
    assert isinstance(out.message, ms.Status)
    upload.receive(
        ms.JobInfo(request=out.message.request, job=replace(FACTS, state=state, cause="enough")), now
    )


def credit(out: OutgoingMessage, offset: int) -> ms.UploadCredit:
    return ms.UploadCredit(request=out.message.request, job="job", offset=offset)


# -- against a server that fails ---------------------------------------------------------------------------------


class Server:
    """A server as docs/protocol.md has it, with what has reached it and what is on its way back."""

    def __init__(self, window: int, chunk: int) -> None:
        self.window, self.chunk = window, chunk
        self.content = b""
        self.is_committed = False
        self.most_under_way = 0
        self._request: int | None = None
        self._credited = 0

    def restart(self, kept: int) -> None:
        """Forget the connection, and what was not yet written of the file."""
        if not self.is_committed:
            self.content = self.content[: len(self.content) * kept // 8]
        self._request = None

    def take(self, message: ms.Submit | ms.Chunk | ms.Commit | ms.Status, blob: bytes) -> list[ms.ToClient]:
        """Return the answers to a message."""
        request = message.request
        match message:
            case ms.Submit():
                if self.is_committed:
                    return [ms.JobInfo(request=request, job=FACTS)]
                self._request = request
                self._credited = len(self.content)
                return [
                    ms.Accepted(
                        request=request,
                        job="job",
                        offset=len(self.content),
                        window_bytes=self.window,
                        chunk_bytes=self.chunk,
                    )
                ]
            case ms.Chunk(offset=offset):
                if request != self._request or offset != len(self.content) or self.is_committed:
                    return [ms.Error(request=request, code="WRONG_STATE", message="send the Submit again")]
                assert 1 <= len(blob) <= self.chunk
                self.content += blob
                self.most_under_way = max(self.most_under_way, len(self.content) - self._credited)
                return [ms.UploadCredit(request=request, job="job", offset=len(self.content))]
            case ms.Status():
                state = "queued" if self.is_committed else "receiving"
                return [ms.JobInfo(request=request, job=replace(FACTS, state=state))]
            case ms.Commit(size=size, sha256=sha256):
                if not self.is_committed and self._request is None:
                    return [ms.Error(request=request, code="WRONG_STATE", message="send the Submit again")]
                if not self.is_committed and len(self.content) != size:
                    return [ms.Error(request=request, code="WRONG_STATE", message="bytes are missing")]
                assert hashlib.sha256(self.content).hexdigest() == sha256
                self.is_committed = True
                return [ms.JobInfo(request=request, job=FACTS)]

    def receive_answer(self, message: ms.ToClient) -> None:
        """Take note that an answer has reached the client."""
        if isinstance(message, ms.UploadCredit) and message.request == self._request:
            self._credited = max(self._credited, message.offset)


FATES = st.sampled_from(
    ["arrives"] * 6 + ["is lost", "comes twice", "is not answered", "connection lost", "restart", "is late"]
)


@settings(max_examples=300, deadline=None)
@given(
    size=st.integers(0, 40 * MIN_CHUNK_BYTES),
    window=st.integers(1, 12 * MIN_CHUNK_BYTES),
    chunk=st.integers(1_000, 4 * MIN_CHUNK_BYTES),
    fates=st.lists(FATES, max_size=60),
    kept=st.integers(0, 8),
)
def test_upload_completes_despite_lost_messages_and_connections(
    size: int, window: int, chunk: int, fates: list[str], kept: int
) -> None:
    """Messages are lost, repeated and late, connections break, the server forgets a part; then all goes well."""
    content = bytes(range(251)) * (size // 251 + 1)
    content = content[:size]
    window = max(window, size // 200 + 1)  # a window of a byte is legal, and slow
    server, upload, now, turns = Server(window, chunk), upload_of(content), 0.0, 0
    late: list[ms.ToClient] = []
    to_come = iter(fates)
    while upload.phase is not Phase.DONE:
        turns += 1
        assert turns < 20_000
        answers, late = late, []
        out = upload.next(now)
        if out is not None:
            outcome = next(to_come, "arrives")
            blob = content[out.offset : out.offset + out.length]
            if isinstance(out.message, ms.Chunk):
                assert out.message.offset == out.offset
                assert len(blob) == out.length
            if outcome == "connection lost":
                upload.connection_lost(now)
                continue
            if outcome == "restart":
                server.restart(kept)
                upload.connection_lost(now)
                continue
            if outcome != "is lost":
                came = server.take(out.message, blob)
                if outcome == "is late":
                    late += came
                elif outcome != "is not answered":
                    answers += came
                if outcome == "comes twice":
                    answers += came
        elif not answers:
            now = max(now, upload.deadline)
        for answer in answers:
            server.receive_answer(answer)
            upload.receive(answer, now)
    assert server.is_committed
    assert server.content == content
    assert server.most_under_way <= window
    assert (upload.facts, upload.acknowledged) == (FACTS, size)


# -- one thing at a time -----------------------------------------------------------------------------------------


def test_bytes_that_the_server_has_are_not_sent_again() -> None:
    content = bytes(3 * MIN_CHUNK_BYTES)
    upload = upload_of(content)
    accepted(upload, 0.0, offset=MIN_CHUNK_BYTES)
    assert [(out.offset, out.length) for out in all_at_once(upload, 0.0)] == [
        (MIN_CHUNK_BYTES, MIN_CHUNK_BYTES),
        (2 * MIN_CHUNK_BYTES, MIN_CHUNK_BYTES),
    ]


def test_bytes_in_flight_never_exceed_the_window() -> None:
    upload = upload_of(bytes(2**24))
    accepted(upload, 0.0, window=100_000, chunk=40_000)
    assert [(out.offset, out.length) for out in all_at_once(upload, 0.0)] == [(0, 40_000), (40_000, 40_000)]


def test_a_fast_line_gets_long_chunks_and_the_whole_window() -> None:
    upload = upload_of(bytes(2**26))
    accepted(upload, 0.0)
    under_way = 0
    for turn in range(10):
        sent = all_at_once(upload, turn * 0.01)
        under_way = max(under_way, sent[-1].offset + sent[-1].length - upload.acknowledged)
        upload.receive(credit(sent[-1], sent[-1].offset + sent[-1].length), turn * 0.01 + 0.005)
    assert sent[0].length == 2**20
    assert under_way == 2**23


def test_slow_connection_has_few_bytes_in_flight() -> None:
    """Else a question would stand behind minutes of bytes, and a heartbeat be taken for dead."""
    upload = upload_of(bytes(2**24))
    accepted(upload, 0.0)
    now = 0.0
    for _ in range(10):
        sent = all_at_once(upload, now)
        assert sum(out.length for out in sent) <= START_BYTES
        for out in sent:
            now += 4.5
            upload.receive(credit(out, out.offset + out.length), now)


def test_credit_for_unsent_bytes_is_ignored() -> None:
    upload = upload_of(bytes(2**20))
    accepted(upload, 0.0)
    sent = all_at_once(upload, 0.0)
    for offset in (-1, 0, 2**20, 2**60):
        upload.receive(credit(sent[0], offset), 0.1)
    assert upload.acknowledged == 0
    assert upload.phase is Phase.SENDING


def test_answers_to_an_earlier_submit_are_ignored() -> None:
    upload = upload_of(bytes(2**20))
    accepted(upload, 0.0)
    sent = all_at_once(upload, 0.0)
    upload.receive(ms.Error(request=sent[0].message.request, code="WRONG_STATE", message="not open"), 1.0)
    looked(upload, 2.0, "receiving")
    accepted(upload, 2.0, offset=0)
    upload.receive(credit(sent[0], MIN_CHUNK_BYTES), 2.0)
    upload.receive(ms.Error(request=sent[0].message.request, code="WRONG_STATE", message="again"), 2.0)
    assert upload.acknowledged == 0
    assert upload.phase is Phase.SENDING


def test_repetitions_during_silence_become_rarer() -> None:
    upload = upload_of(bytes(2**20))
    pauses = []
    now = 0.0
    for _ in range(5):
        accepted(upload, now)
        all_at_once(upload, now)
        assert upload.next(upload.deadline - 0.001) is None
        pauses.append(upload.deadline - now)
        now = upload.deadline
    assert pauses == [SILENCE_S, 2 * SILENCE_S, 4 * SILENCE_S, 8 * SILENCE_S, MAX_SILENCE_S]


def test_unanswered_commit_is_repeated_first() -> None:
    """A second Submit could make a second job, where `allow_duplicate` asks for one of its own."""
    upload = upload_of(b"")
    accepted(upload, 0.0)
    first = all_at_once(upload, 0.0)
    second = all_at_once(upload, upload.deadline)
    assert [type(out.message) for out in first + second] == [ms.Commit, ms.Commit]
    upload.connection_lost(100.0)
    (third,) = all_at_once(upload, 100.0)
    assert isinstance(third.message, ms.Commit)
    upload.receive(ms.JobInfo(request=third.message.request, job=FACTS), 101.0)
    assert upload.facts == FACTS


def test_a_known_file_is_a_job_at_once() -> None:
    upload = upload_of(bytes(100))
    (out,) = all_at_once(upload, 0.0)
    upload.receive(ms.JobInfo(request=out.message.request, job=FACTS), 0.1)
    assert (upload.phase, upload.job, upload.next(0.1)) == (Phase.DONE, "job", None)


def test_cancelled_upload_is_not_started_again() -> None:
    """The refusal is the same as after a restart; so the state is asked before the Submit is sent again."""
    upload = upload_of(bytes(2**20))
    accepted(upload, 0.0)
    sent = all_at_once(upload, 0.0)
    upload.receive(ms.Error(request=sent[0].message.request, code="WRONG_STATE", message="it is over"), 1.0)
    with pytest.raises(JobFailedError, match="was cancelled: enough"):
        looked(upload, 2.0, "cancelled")


def refused(upload: Upload, code: str, now: float = 0.0) -> None:
    (out,) = all_at_once(upload, now)
    upload.receive(ms.Error(request=out.message.request, code=code, message="not now"), now)


@pytest.mark.parametrize("code", ["DRAINING", "RATE_LIMITED"])
def test_submit_to_a_busy_server_is_repeated_later(code: str) -> None:
    upload = upload_of(bytes(100))
    pauses = []
    now = 0.0
    for _ in range(9):
        refused(upload, code, now)
        assert str(upload.refusal) == f"{code}: not now"
        assert upload.next(now) is None
        pauses.append(upload.deadline - now)
        now = upload.deadline
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0])
    accepted(upload, now)
    assert upload.refusal is None


def test_full_disk_is_waited_for_only_on_request() -> None:
    waiting = upload_of(bytes(100), waits_for_space=True)
    refused(waiting, "NO_SPACE")
    assert waiting.refusal is not None
    with pytest.raises(ServerError, match="NO_SPACE: not now"):
        refused(upload_of(bytes(100)), "NO_SPACE")
    with pytest.raises(ServerError, match="DRAINING: not now"):
        refused(upload_of(bytes(100), retries_refusals=False), "DRAINING")


@pytest.mark.parametrize(
    "code", ["TOO_BIG", "NOT_FOUND", "FORBIDDEN", "UNSUPPORTED", "BAD_FORMAT", "NEW_CODE"]
)
def test_permanent_refusal_raises(code: str) -> None:
    with pytest.raises(ServerError, match=f"{code}: not now"):
        refused(upload_of(bytes(100)), code)


def test_hash_mismatch_raises_file_changed_error() -> None:
    upload = upload_of(b"")
    accepted(upload, 0.0)
    with pytest.raises(FileChangedError, match=r"talk\.flac: changed while it was sent"):
        refused(upload, "HASH_MISMATCH")


@pytest.mark.parametrize("fields", [{"offset": 101}, {"offset": -1}, {"window": 0}, {"chunk": 0}])
def test_invalid_accepted_message_raises_protocol_error(fields: dict[str, int]) -> None:
    with pytest.raises(ProtocolError, match="the server accepted 100 bytes"):
        accepted(upload_of(bytes(100)), 0.0, **fields)


def test_upload_without_hash_raises_value_error() -> None:
    with pytest.raises(ValueError, match="SHA-256"):
        Upload(ms.Submit(request=0, size=3), lambda: 1, now=0.0)
