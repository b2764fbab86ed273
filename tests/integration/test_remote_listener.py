"""What a host with a key may do to the daemon at the listener for workers: nothing but work."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, Self

import msgspec
import pytest
import zmq

import media
from daemon import DEADLINE_S, eventually
from head_and_workers import Head, RemoteWorker
from subtitle.codec import VERSION as WIRE_VERSION
from subtitled.core import protocol as pr
from subtitled.core.plan import Plan
from subtitled.core.records import SegmentKey
from subtitled.core.transcription import Phrase
from subtitled.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from subtitle.keys import Key

READY = pr.WorkerReady(version=VERSION, credit=2, window_samples=480_000, model_digest="0" * 64)


class Peer:
    """A connection with a key that sends arbitrary messages; a context manager."""

    _number = itertools.count()

    def __init__(self, endpoint: str, key: Key, *, identity: bytes = b"") -> None:
        # A place whose sessions failed ten times is quarantined.
        self.join_message = pr.JoinSession(
            version=VERSION, protocol=pr.PROTOCOL, place=f"x{next(self._number)}"
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDTIMEO, int(DEADLINE_S * 1000))
        if identity:
            self._socket.setsockopt(zmq.IDENTITY, identity)
        self._socket.curve_publickey = key.public.encode()
        self._socket.curve_secretkey = key.secret.encode()
        self._socket.curve_serverkey = key.server.encode()
        self._socket.connect(endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def send(self, message: pr.FromWorker) -> None:
        """Send a message."""
        self.send_frames([bytes(frame) for frame in pr.from_worker.encode(message)])

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Send frames."""
        self._socket.send_multipart(frames)

    def expect(self, kind: type[Any]) -> Any:
        """Return the next message of a kind, past all others."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if self._socket.poll(200):
                message, _ = pr.to_worker.decode(self._socket.recv_multipart())
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__} within {DEADLINE_S:g} s")

    def receives_nothing(self) -> bool:
        """Return whether no message arrives for a while."""
        return not self._socket.poll(500)

    def join(self) -> pr.SessionAccepted:
        """Open a session."""
        self.send(self.join_message)
        accepted: pr.SessionAccepted = self.expect(pr.SessionAccepted)
        return accepted


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with Head(tmp_path_factory.mktemp("head"), hosts=("evil", "gpu2")) as head:
        head.start()
        yield head


@pytest.fixture
def evil(head: Head) -> Iterator[Peer]:
    with Peer(head.remote, head.keys["evil"]) as peer:
        yield peer


def join_alone(head: Head, evil: Peer) -> None:
    """Join and be ready when no worker is there whose weights are other ones."""
    eventually(
        lambda: all(worker.state == "stopped" for worker in head.stats().workers if "gpu2/" in worker.slot),
        "the worker of the last test is gone",
    )
    evil.join()
    evil.send(READY)


def answer(**changes: Any) -> pr.Transcribed:
    """Return an answer to a lease that does not exist."""
    fields = {"phrases": (Phrase("x", 0, 1),), "language": "en", "language_probability": 1.0}
    result = pr.SegmentResult(**{**fields, **changes})
    return pr.Transcribed(
        lease=1, items=(pr.ItemResult.of(SegmentKey("a", 0), result),), features_s=0.0, decode_s=0.0
    )


@pytest.mark.parametrize(
    "message",
    [
        pr.Prepared(feed=1, plan=Plan(0, (), ())),
        pr.PlanComplete(feed=1, media=msgspec.msgpack.encode(pr.Media())),
        pr.PrepareRefused(feed=1, cause="no"),
        answer(language="x" * 1000),
        answer(language_probability=float("nan")),
        answer(phrases=(Phrase("x", 0, 1, avg_logprob=float("inf")),)),
        pr.Transcribed(lease=1, items=(), features_s=0.0, decode_s=-1.0),
        pr.Echo(stamp_s=1.0, clock_s=float("nan")),
        msgspec.structs.replace(READY, window_samples=1),
        msgspec.structs.replace(READY, languages=("klingon",)),
        pr.Transcribed(lease=1, items=(), decode_s=1e300),
    ],
    ids=lambda message: type(message).__name__,
)
def test_invalid_message_ends_the_session(head: Head, evil: Peer, message: pr.FromWorker) -> None:
    identity = evil.join().identity
    evil.send(message)
    assert evil.expect(pr.SessionRefused).cause.startswith("sent an invalid message: ")
    head.wait_for_log("worker.refused", worker=identity)
    head.wait_for_log("worker.stopped", worker=identity)
    evil.send(evil.join_message)
    assert evil.receives_nothing()


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"", b""],
        [WIRE_VERSION, b"\xc1"],
        [
            WIRE_VERSION,
            msgspec.msgpack.encode(
                {"type": "JoinSession", "version": VERSION, "protocol": 1, "place": "../x"}
            ),
        ],
        [
            WIRE_VERSION,
            msgspec.msgpack.encode(
                {"type": "JoinSession", "version": "1" * 5000, "protocol": 1, "place": "x"}
            ),
        ],
        [WIRE_VERSION, msgspec.msgpack.encode({"type": "WorkerReady", "version": VERSION, "credit": 2**40})],
        [b"x"] * 5000,
    ],
    ids=[
        "one frame",
        "empty frames",
        "no msgpack",
        "a path as place",
        "a long version",
        "endless credit",
        "frames",
    ],
)
def test_malformed_message_is_answered_once_and_the_connection_ignored(
    head: Head, evil: Peer, frames: list[bytes]
) -> None:
    before = head.pid
    evil.send_frames(frames)
    assert evil.expect(pr.SessionRefused).cause.startswith("sent an invalid message: ")
    evil.send(evil.join_message)
    assert evil.receives_nothing()
    assert head.pid == before


def test_flood_of_messages_ends_the_session(head: Head, evil: Peer) -> None:
    identity = evil.join().identity
    for _ in range(5000):
        evil.send(pr.Heartbeat())
    assert "rate limit exceeded" in evil.expect(pr.SessionRefused).cause
    head.wait_for_log("worker.stopped", worker=identity)


def test_connection_with_a_chosen_routing_id_is_ignored(head: Head) -> None:
    """It might be the id of another worker, whose leases it would receive."""
    with Peer(head.remote, head.keys["evil"], identity=b"gpu2/cpu0.1") as peer:
        peer.send(peer.join_message)
        assert peer.receives_nothing()


def test_message_without_a_session_is_answered_with_session_unknown(evil: Peer) -> None:
    evil.send(pr.Heartbeat())
    evil.expect(pr.SessionUnknown)
    evil.send(answer())
    evil.expect(pr.SessionUnknown)


def test_connection_has_one_session_only(evil: Peer) -> None:
    """Unread messages would pile up in the connection otherwise."""
    evil.join()
    evil.send(pr.ExitReason(cause="x"))
    evil.send(evil.join_message)
    refused = evil.expect(pr.SessionRefused)
    assert "needs a new connection" in refused.cause
    assert not refused.is_final


def test_result_of_a_closed_session_is_logged_as_stale(head: Head, evil: Peer) -> None:
    identity = evil.join().identity
    evil.send(pr.ExitReason(cause="x"))
    evil.send(answer())
    evil.expect(pr.SessionUnknown)
    head.wait_for_log("lease.stale", worker=identity)


def test_leases_of_a_lying_host_are_done_by_others(head: Head, evil: Peer, tmp_path: Path) -> None:
    """It answers leases that it does not hold, and none of its own; other workers do them."""
    join_alone(head, evil)
    source = head.drop(media.write_sound(tmp_path / "x.flac", media.speech(8)), "talk.flac")
    lease = evil.expect(pr.Transcribe).lease
    evil.send(msgspec.structs.replace(answer(), lease=lease + 1))
    evil.send(msgspec.structs.replace(answer(), lease=lease))
    evil.send(pr.ExitReason(cause="gone"))
    eventually(lambda: head.log("lease.stale"), "the answer to a lease that it does not hold is dropped")
    with RemoteWorker(head, "gpu2"):
        job = head.wait_for(source)
        assert job.state == "done"
    assert all(row.worker.startswith("gpu2/") for row in head.results(job.id))


def test_lease_answered_with_an_invalid_result_loses_no_attempt(
    head: Head, evil: Peer, tmp_path: Path
) -> None:
    """The job of another is done with all of its attempts left, and nothing of the answer is stored."""
    join_alone(head, evil)
    source = head.drop(media.write_sound(tmp_path / "y.flac", media.speech(8)), "talk2.flac")
    lease = evil.expect(pr.Transcribe)
    bad = pr.SegmentResult(
        phrases=(Phrase("x", 0, 1, no_speech_prob=1e300),), language="en", language_probability=1.0
    )
    items = tuple(pr.ItemResult.of(item.key, bad) for item in lease.items)
    evil.send(pr.Transcribed(lease=lease.lease, items=items))
    assert evil.expect(pr.SessionRefused).cause.startswith("sent an invalid message: ")
    with RemoteWorker(head, "gpu2"):
        job = head.wait_for(source)
        assert job.state == "done"
    assert {row[0] for row in head.query("SELECT losses, job FROM segments") if row[1] == job.id} == {0}


def test_long_exit_reason_is_stored_short(head: Head, evil: Peer) -> None:
    identity = evil.join().identity
    evil.send(pr.ExitReason(cause="x" * 15_000_000))
    head.wait_for_log("worker.stopped", worker=identity)
    assert max(row[0] for row in head.query("SELECT max(length(cause)) FROM journal")) < 2000
