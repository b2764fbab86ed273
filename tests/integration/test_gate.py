"""What a host with a key may do to the daemon at the door for workers: nothing but work."""

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
from subtitled.core import protocol as be
from subtitled.core.plan import Plan
from subtitled.core.records import SegmentKey
from subtitled.core.transcription import Phrase
from subtitled.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from subtitle.keys import Key

READY = be.WorkerReady(version=VERSION, credit=2, window_samples=480_000, model_digest="0" * 64)


class Peer:
    """A connection with a key that says whatever it likes; a context manager."""

    _number = itertools.count()

    def __init__(self, endpoint: str, key: Key, *, identity: bytes = b"") -> None:
        # A place in which ten sessions have failed is put aside.
        self.said = be.JoinSession(version=VERSION, protocol=be.PROTOCOL, place=f"x{next(self._number)}")
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

    def send(self, message: be.FromWorker) -> None:
        """Send a message."""
        self.send_frames([bytes(frame) for frame in be.from_worker.encode(message)])

    def send_frames(self, frames: Sequence[bytes]) -> None:
        """Send frames."""
        self._socket.send_multipart(frames)

    def expect(self, kind: type[Any]) -> Any:
        """Return the next message of a kind, past all others."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            if self._socket.poll(200):
                message, _ = be.to_worker.decode(self._socket.recv_multipart())
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__} within {DEADLINE_S:g} s")

    def hears_nothing(self) -> bool:
        """Say whether nothing comes for a while."""
        return not self._socket.poll(500)

    def join(self) -> be.SessionAccepted:
        """Begin a session."""
        self.send(self.said)
        welcome: be.SessionAccepted = self.expect(be.SessionAccepted)
        return welcome


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with Head(tmp_path_factory.mktemp("head"), hosts=("evil", "gpu2")) as head:
        head.start()
        yield head


@pytest.fixture
def evil(head: Head) -> Iterator[Peer]:
    with Peer(head.remote, head.keys["evil"]) as peer:
        yield peer


def answer(**changes: Any) -> be.Transcribed:
    """Return an answer to a lease that nobody has given."""
    fields = {"phrases": (Phrase("x", 0, 1),), "language": "en", "language_probability": 1.0}
    result = be.SegmentResult(**{**fields, **changes})
    return be.Transcribed(
        lease=1, items=(be.ItemResult.of(SegmentKey("a", 0), result),), features_s=0.0, decode_s=0.0
    )


@pytest.mark.parametrize(
    "said",
    [
        be.Prepared(feed=1, plan=Plan(0, (), ())),
        be.PlanComplete(feed=1, media=msgspec.msgpack.encode(be.Media())),
        be.PrepareRefused(feed=1, cause="no"),
        answer(language="x" * 1000),
        answer(language_probability=float("nan")),
        answer(phrases=(Phrase("x", 0, 1, avg_logprob=float("inf")),)),
        be.Transcribed(lease=1, items=(), features_s=0.0, decode_s=-1.0),
        be.Echo(stamp_s=1.0, clock_s=float("nan")),
    ],
    ids=lambda said: type(said).__name__,
)
def test_what_no_worker_says_ends_the_session(head: Head, evil: Peer, said: be.FromWorker) -> None:
    identity = evil.join().identity
    evil.send(said)
    assert evil.expect(be.SessionRefused).cause.startswith("sent an invalid message: ")
    head.wait_for_log("worker.refused", worker=identity)
    head.wait_for_log("worker.stopped", worker=identity)
    evil.send(evil.said)
    assert evil.hears_nothing()


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
def test_nonsense_is_answered_once_and_then_not_listened_to(
    head: Head, evil: Peer, frames: list[bytes]
) -> None:
    before = head.pid
    evil.send_frames(frames)
    assert evil.expect(be.SessionRefused).cause.startswith("sent an invalid message: ")
    evil.send(evil.said)
    assert evil.hears_nothing()
    assert head.pid == before


def test_a_flood_is_not_listened_to(head: Head, evil: Peer) -> None:
    identity = evil.join().identity
    for _ in range(5000):
        evil.send(be.Heartbeat())
    assert "rate limit exceeded" in evil.expect(be.SessionRefused).cause
    head.wait_for_log("worker.stopped", worker=identity)


def test_a_routing_id_of_its_own_choosing_is_not_listened_to(head: Head) -> None:
    """It might be that of another worker, whose leases it would get."""
    with Peer(head.remote, head.keys["evil"], identity=b"gpu2/cpu0.1") as peer:
        peer.send(peer.said)
        assert peer.hears_nothing()


def test_who_has_no_session_is_told_so(evil: Peer) -> None:
    evil.send(be.Heartbeat())
    evil.expect(be.SessionUnknown)
    evil.send(answer())
    evil.expect(be.SessionUnknown)


def test_a_connection_has_one_session(evil: Peer) -> None:
    """What was sent and not read would pile up in it otherwise."""
    evil.join()
    evil.send(be.ExitReason(cause="x"))
    evil.send(evil.said)
    refused = evil.expect(be.SessionRefused)
    assert "needs a new connection" in refused.cause
    assert not refused.is_final


def test_a_late_answer_is_recognised(head: Head, evil: Peer) -> None:
    identity = evil.join().identity
    evil.send(be.ExitReason(cause="x"))
    evil.send(answer())
    evil.expect(be.SessionUnknown)
    head.wait_for_log("lease.stale", worker=identity)


def test_others_work_while_a_host_lies_about_itself(head: Head, evil: Peer, tmp_path: Path) -> None:
    """It takes leases and answers none, or with what is not theirs; what it held is done by others."""
    evil.join()
    evil.send(READY)
    source = head.drop(media.write_sound(tmp_path / "x.flac", media.speech(8)), "talk.flac")
    lease = evil.expect(be.Transcribe).lease
    evil.send(msgspec.structs.replace(answer(), lease=lease + 1))
    evil.send(msgspec.structs.replace(answer(), lease=lease))
    evil.send(be.ExitReason(cause="gone"))
    eventually(lambda: head.log("lease.stale"), "the answer to a lease that it does not hold is dropped")
    with RemoteWorker(head, "gpu2"):
        job = head.wait_for(source)
        assert job.state == "done"
    assert all(row.worker.startswith("gpu2/") for row in head.results(job.id))
