"""Encoding of leases for remote workers, with callbacks into a loop."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Self

import numpy as np
import zmq

from daemon import eventually
from subtitled.core.records import SegmentKey
from subtitled.runtime.mailbox import Mailbox
from subtitled.workers.flac import decode
from subtitled.workers.lease_sender import LeaseEncoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from subtitled.core.protocol import WireCodec

SAMPLES = 80_000


def sound(index: int) -> tuple[SegmentKey, zmq.Frame]:
    pcm = np.random.default_rng(index).normal(0, 1000, SAMPLES).astype("<i2")
    return SegmentKey("job", index), zmq.Frame(pcm.tobytes())


class Loop:
    """The server's loop, with all that `LeaseEncoder` has sent: worker, lease, blobs. A context manager."""

    def __init__(self) -> None:
        self.mailbox: Mailbox[Callable[[], None]] = Mailbox()
        self.encoder = LeaseEncoder(self.mailbox.put)
        self.sent: list[tuple[str, int, list[zmq.Frame]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.encoder.close()
        self.mailbox.close()

    def encode(
        self, worker: str, lease: int, sounds: Sequence[tuple[SegmentKey, zmq.Frame]], codec: WireCodec
    ) -> None:
        """Encode a lease for a worker."""
        self.encoder.encode(
            worker, sounds, codec, lambda blobs: self.sent.append((worker, lease, list(blobs)))
        )

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """Have nothing encoded meanwhile."""
        may_go_on = threading.Event()
        self.encoder._thread.submit(may_go_on.wait)
        try:
            yield
        finally:
            may_go_on.set()

    def wait_for(self, count: int) -> list[tuple[str, int]]:
        """Serve until so many leases have been sent; return them in their order."""

        def have_come() -> bool:
            for called in self.mailbox.drain():
                called()
            return len(self.sent) >= count

        eventually(have_come, f"{count} leases were sent")
        return [(worker, lease) for worker, lease, _ in self.sent]


def test_pcm_goes_at_once_as_it_is() -> None:
    with Loop() as loop:
        sounds = [sound(0), sound(1)]
        loop.encode("gpu0.1", 1, sounds, "pcm")
        assert [blob for _, _, blobs in loop.sent for blob in blobs] == [frame for _, frame in sounds]


def test_flac_comes_back_as_the_same_samples() -> None:
    with Loop() as loop:
        sounds = [sound(index) for index in range(5)]
        loop.encode("gpu0.1", 1, sounds, "flac")
        loop.wait_for(1)
        [(_, _, blobs)] = loop.sent
        assert [decode(blob.buffer).tobytes() for blob in blobs] == [frame.bytes for _, frame in sounds]


def test_a_workers_leases_go_in_their_order_whatever_their_codec() -> None:
    with Loop() as loop:
        with loop.held_up():
            for lease in range(6):
                codec: WireCodec = "pcm" if lease % 3 == 2 else "flac"
                loop.encode("far.1", lease, [sound(lease), sound(lease + 10)], codec)
        assert loop.wait_for(6) == [("far.1", lease) for lease in range(6)]


def test_a_lease_of_pcm_does_not_wait_for_another_workers_flac() -> None:
    with Loop() as loop:
        with loop.held_up():
            loop.encode("far.1", 1, [sound(0)], "flac")
            loop.encode("near.1", 2, [sound(1)], "pcm")
            assert loop.wait_for(1) == [("near.1", 2)]
        assert loop.wait_for(2) == [("near.1", 2), ("far.1", 1)]


def test_a_segment_is_encoded_once_though_it_goes_out_twice() -> None:
    with Loop() as loop:
        loop.encode("far.1", 1, [sound(0)], "flac")
        loop.encode("far.2", 2, [sound(0)], "flac")
        loop.wait_for(2)
        loop.encode("far.3", 3, [sound(0)], "flac")
        assert len(loop.sent) == 3, "the third had to wait for nothing"
        assert len({id(blob) for _, _, blobs in loop.sent for blob in blobs}) == 1


def test_a_segment_that_is_done_is_forgotten_and_a_waiting_lease_still_goes() -> None:
    with Loop() as loop:
        with loop.held_up():
            loop.encode("far.1", 1, [sound(0)], "flac")
            for _ in range(2):
                loop.encoder.forget(SegmentKey("job", 0))
        loop.wait_for(1)
        assert not loop.encoder._flac
