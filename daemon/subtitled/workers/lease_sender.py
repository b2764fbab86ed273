"""Leases on their way to workers on other hosts: each link gets PCM or FLAC, encoded outside the server's loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import zmq
from msgspec import Struct, structs

from subtitled.core.broker import Broker
from subtitled.core.protocol import Transcribe, WireCodec
from subtitled.core.records import SegmentKey
from subtitled.workers.codec_choice import Mode, choose
from subtitled.workers.flac import encode
from subtitled.workers.remote_listener import RemoteListener

SegmentPcm = tuple[SegmentKey, zmq.Frame]
"""A segment and its PCM."""


class _QueuedLease(Struct, frozen=True):
    blobs: list[zmq.Frame | Future[zmq.Frame]]
    send: Callable[[Sequence[zmq.Frame]], None]

    @property
    def is_encoded(self) -> bool:
        return all(blob.done() for blob in self.blobs if isinstance(blob, Future))


class LeaseEncoder:
    """Belongs to the thread of the server's loop; its own thread encodes 8,000 seconds of audio per second."""

    def __init__(self, call_back: Callable[[Callable[[], None]], None]) -> None:
        """Create an idle encoder; `call_back` may be called in any thread, and calls a function in the loop's."""
        self._call_back = call_back
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="flac")
        self._flac: dict[SegmentKey, Future[zmq.Frame]] = {}
        self._queues: dict[str, deque[_QueuedLease]] = {}
        """By worker, in the order of sending."""

    def encode(
        self,
        worker: str,
        segments: Sequence[SegmentPcm],
        codec: WireCodec,
        send: Callable[[Sequence[zmq.Frame]], None],
    ) -> None:
        """Call `send` in the loop with the blobs of a lease; immediately if nothing has to be encoded.

        A worker's leases are sent in the order of these calls, whatever their codec. A segment that is sent again is not
        encoded again.
        """
        blobs = [self._encoded(*segment) if codec == "flac" else segment[1] for segment in segments]
        lease = _QueuedLease(blobs, send)
        self._queues.setdefault(worker, deque()).append(lease)
        if not lease.is_encoded:
            # The thread works in order: everything requested before this is done before it.
            self._thread.submit(int).add_done_callback(
                lambda _: self._call_back(partial(self._send_encoded, worker))
            )
        self._send_encoded(worker)

    def forget(self, key: SegmentKey) -> None:
        """Drop a segment's FLAC; a queued lease with it is still sent."""
        self._flac.pop(key, None)

    def close(self) -> None:
        """Wait for the segment that is being encoded; queued ones are dropped."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _encoded(self, key: SegmentKey, pcm: zmq.Frame) -> Future[zmq.Frame]:
        found = self._flac.get(key)
        if found is None:
            found = self._flac[key] = self._thread.submit(_flac_of, pcm)
        return found

    def _send_encoded(self, worker: str) -> None:
        queue = self._queues.get(worker)
        while queue and queue[0].is_encoded:
            lease = queue.popleft()
            lease.send([blob.result() if isinstance(blob, Future) else blob for blob in lease.blobs])
        if queue is not None and not queue:
            del self._queues[worker]


class LeaseSender:
    """Chooses the codec of each lease by the worker's link; belongs to the thread of the server's loop."""

    def __init__(
        self,
        remote: RemoteListener,
        broker: Broker,
        mode: Mode,
        call_back: Callable[[Callable[[], None]], None],
    ) -> None:
        """`mode`: as configured; `call_back`: see LeaseEncoder."""
        self.mode = mode
        self.encoder = LeaseEncoder(call_back)
        self._remote = remote
        self._broker = broker

    def send(self, worker: str, message: Transcribe, segments: Sequence[SegmentPcm]) -> None:
        """Send a lease with its audio once that is encoded; one to a worker that is gone is dropped."""
        session = self._remote.sessions.get(worker)
        if session is None:
            return
        pcm_bytes = sum(len(pcm) for _, pcm in segments)
        record = self._broker.worker_table.workers[session.slot]
        is_known = record.resident(message.model).throughput.leases
        sizing = self._broker.lease_dispatch.sizing(message.model)
        decodes_per_s = sizing.decodes_per_s(record) if is_known else None
        session.codec = choose(
            self.mode,
            session.codec,
            link_bytes_per_s=session.meter.bytes_per_s,
            # A segment that is shorter than the model's window takes as long as a full one.
            pcm_bytes_per_s=decodes_per_s and decodes_per_s * pcm_bytes / max(1, len(segments)),
        )
        items = tuple(structs.replace(item, codec=session.codec) for item in message.items)
        lease = structs.replace(message, items=items)
        send = partial(self._remote.send_lease, worker, lease, pcm_bytes=pcm_bytes)
        self.encoder.encode(worker, segments, session.codec, send)


def _flac_of(pcm: zmq.Frame) -> zmq.Frame:
    # In ZeroMQ's own memory, as the PCM is: sending it again only increases a reference count.
    return zmq.Frame(encode(pcm.buffer), copy=True)
