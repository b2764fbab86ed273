"""Leases made ready for the wire: their audio as FLAC, made in a thread so that the server's loop goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import zmq
from msgspec import Struct

from subtitled.core.protocol import WireCodec
from subtitled.core.records import SegmentKey
from subtitled.workers.flac import encode

Sound = tuple[SegmentKey, zmq.Frame]
"""A segment and its PCM."""


class _Parcel(Struct, frozen=True):
    blobs: list[zmq.Frame | Future[zmq.Frame]]
    send: Callable[[Sequence[zmq.Frame]], None]

    @property
    def is_packed(self) -> bool:
        return all(blob.done() for blob in self.blobs if isinstance(blob, Future))


class LeasePacker:
    """Belongs to the thread of the server's loop; one thread of its own encodes 8,000 seconds of audio in a second."""

    def __init__(self, call_back: Callable[[Callable[[], None]], None]) -> None:
        """Start nothing yet; `call_back`, called in another thread, has a function called in the loop's."""
        self._call_back = call_back
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flac")
        self._flac: dict[SegmentKey, Future[zmq.Frame]] = {}
        self._waiting: dict[str, deque[_Parcel]] = {}
        """By worker, in the order in which they go."""

    def pack(
        self,
        worker: str,
        sounds: Sequence[Sound],
        codec: WireCodec,
        send: Callable[[Sequence[zmq.Frame]], None],
    ) -> None:
        """Have `send` called, in the loop, with the blobs of a lease; at once if there is nothing to wait for.

        A worker's leases go in the order in which they came here, whatever their codec. A segment that goes out again is not
        encoded again.
        """
        blobs = [self._encoded(*sound) if codec == "flac" else sound[1] for sound in sounds]
        parcel = _Parcel(blobs, send)
        self._waiting.setdefault(worker, deque()).append(parcel)
        if not parcel.is_packed:
            # All that was asked of the thread before this is done before it.
            self._thread.submit(int).add_done_callback(
                lambda _: self._call_back(partial(self._send_packed, worker))
            )
        self._send_packed(worker)

    def forget(self, key: SegmentKey) -> None:
        """Forget a segment's FLAC; a lease that waits with it still goes."""
        self._flac.pop(key, None)

    def close(self) -> None:
        """Wait for the segment that is being encoded; what waits behind it is dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _encoded(self, key: SegmentKey, pcm: zmq.Frame) -> Future[zmq.Frame]:
        found = self._flac.get(key)
        if found is None:
            found = self._flac[key] = self._thread.submit(_flac_of, pcm)
        return found

    def _send_packed(self, worker: str) -> None:
        waiting = self._waiting.get(worker)
        while waiting and waiting[0].is_packed:
            parcel = waiting.popleft()
            parcel.send([blob.result() if isinstance(blob, Future) else blob for blob in parcel.blobs])
        if waiting is not None and not waiting:
            self._waiting.pop(worker, None)


def _flac_of(pcm: zmq.Frame) -> zmq.Frame:
    # In ZeroMQ's own memory, as the PCM is: sending it again costs no more than a count.
    return zmq.Frame(encode(pcm.buffer), copy=True)
