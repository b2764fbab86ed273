"""What is streamed is sent once, in order, under the server's window and within its own."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from subtitle import ProtocolError, ServerError, UnreachableError
from subtitle import messages as ms
from subtitle.stream_upload import MAX_IN_FLIGHT_BYTES, StreamUpload
from unit.job_facts import FACTS


def stream_of(window: int = 2**23, chunk: int = 2**20) -> StreamUpload:
    """Return a stream that the server has accepted."""
    numbers = iter(range(1, 1_000_000))
    stream = StreamUpload(ms.Submit(request=0, name="talk.wav"), lambda: next(numbers), now=0.0)
    accept(stream, window, chunk)
    return stream


def accept(
    stream: StreamUpload, window: int = 2**23, chunk: int = 2**20, now: float = 0.0, offset: int = 0
) -> None:
    submit = stream.next(now)
    assert isinstance(submit, ms.Submit)
    answer = ms.Accepted(
        request=submit.request, job="job", offset=offset, window_bytes=window, chunk_bytes=chunk
    )
    stream.receive(answer, now)


@given(
    st.lists(st.integers(1, 2**21), max_size=30),
    st.integers(1, 2**23),
    st.integers(1, 2**20),
)
def test_bytes_go_out_in_order_and_never_beyond_the_window(sizes: list[int], window: int, chunk: int) -> None:
    stream = stream_of(window, chunk)
    sent = b""
    for number, size in enumerate(sizes):
        if not stream.room:
            stream.receive(ms.UploadCredit(request=1, job="job", offset=stream.sent), 0.0)
        piece = bytes([number]) * min(size, stream.room)
        assert 1 <= len(piece) <= chunk
        assert stream.chunk(piece).offset == len(sent)
        sent += piece
        assert stream.sent - stream.acknowledged <= min(window, MAX_IN_FLIGHT_BYTES)
    stream.end(None)
    commit = stream.next(0.0)
    assert isinstance(commit, ms.Commit)
    assert (commit.size, commit.sha256) == (len(sent), hashlib.sha256(sent).hexdigest())
    stream.receive(ms.JobInfo(request=commit.request, job=FACTS), 0.0)
    assert stream.facts == FACTS


def test_rate_limited_submit_is_repeated_only_before_the_first_byte() -> None:
    numbers = iter(range(1, 100))
    stream = StreamUpload(ms.Submit(request=0), lambda: next(numbers), now=0.0)
    first = stream.next(0.0)
    assert first is not None
    full = ms.Error(request=first.request, code="RATE_LIMITED", message="32 uploads are in progress")
    stream.receive(full, 0.0)
    assert (stream.next(0.0), stream.room) == (None, 0)
    accept(stream, now=stream.deadline)
    stream.chunk(b"x")
    with pytest.raises(ServerError, match="NO_SPACE"):
        stream.receive(ms.Error(request=2, code="NO_SPACE", message="the disk is full"), 1.0)


def test_lost_connection_ends_a_stream_after_the_first_byte() -> None:
    stream = stream_of()
    stream.chunk(b"abc")
    with pytest.raises(
        UnreachableError, match=r"talk\.wav: the connection to the daemon was lost after 3 bytes"
    ):
        stream.connection_lost(1.0)


def test_a_commit_whose_answer_was_lost_is_sent_again() -> None:
    stream = stream_of()
    stream.end(ms.JobOptions(language="en"))
    first = stream.next(0.0)
    assert stream.next(0.0) is None
    stream.connection_lost(1.0)
    again = stream.next(1.0)
    assert isinstance(first, ms.Commit)
    assert isinstance(again, ms.Commit)
    assert (again.options, again.sha256) == (first.options, first.sha256)
    assert stream.next(stream.deadline) is not None


def test_new_stream_accepted_at_an_offset_raises_protocol_error() -> None:
    numbers = iter(range(1, 100))
    stream = StreamUpload(ms.Submit(request=0), lambda: next(numbers), now=0.0)
    with pytest.raises(ProtocolError, match="upload at offset 7"):
        accept(stream, offset=7)
    with pytest.raises(ValueError, match="at its end"):
        StreamUpload(ms.Submit(request=0, size=3), lambda: 1, now=0.0)
