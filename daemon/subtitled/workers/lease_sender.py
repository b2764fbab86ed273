"""Leases on their way to workers on other hosts: in the form that each link asks for, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import zmq
from msgspec import structs

from subtitled.core import protocol as be
from subtitled.core.broker import Broker
from subtitled.core.records import SegmentKey
from subtitled.workers.codec_choice import Mode, choose
from subtitled.workers.packing import LeasePacker, Sound
from subtitled.workers.remote_listener import RemoteListener


class LeaseSender:
    """Belongs to the thread of the server's loop."""

    def __init__(
        self,
        gate: RemoteListener,
        broker: Broker,
        mode: Mode,
        call_back: Callable[[Callable[[], None]], None],
    ) -> None:
        """Start nothing yet; `call_back`, called in another thread, has a function called in the loop's."""
        self._gate = gate
        self._broker = broker
        self._packing = LeasePacker(call_back)
        self.mode = mode
        """As configured."""

    def send(self, worker: str, message: be.Transcribe, sounds: Sequence[Sound]) -> None:
        """Send a lease with its audio, at once or when that is packed; one to a worker that is gone is dropped."""
        session = self._gate.sessions.get(worker)
        if session is None:
            return
        pcm_bytes = sum(len(pcm) for _, pcm in sounds)
        windows_per_s = self._windows_per_s(session.slot)
        session.codec = choose(
            self.mode,
            session.codec,
            link_bytes_per_s=session.meter.bytes_per_s,
            # Segments may be much shorter than the model's window, and take as long.
            pcm_bytes_per_s=windows_per_s and windows_per_s * pcm_bytes / len(sounds),
        )
        items = tuple(structs.replace(item, codec=session.codec) for item in message.items)
        send = partial(self._send_packed, worker, structs.replace(message, items=items), pcm_bytes)
        self._packing.pack(worker, sounds, session.codec, send)

    def forget(self, key: SegmentKey) -> None:
        """Forget what was made of a segment's PCM."""
        self._packing.forget(key)

    def close(self) -> None:
        """Send nothing more."""
        self._packing.close()

    def _windows_per_s(self, slot: str) -> float | None:
        """Return the segments that a worker decodes in a second; None before its first answer."""
        worker = self._broker.worker_table.workers[slot]
        return self._broker.lease_dispatch.sizing.decodes_per_s(worker) if worker.throughput.leases else None

    def _send_packed(
        self, worker: str, message: be.Transcribe, pcm_bytes: int, blobs: Sequence[zmq.Frame]
    ) -> None:
        self._gate.send_lease(worker, message, blobs, pcm_bytes=pcm_bytes)
