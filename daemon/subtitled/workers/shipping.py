"""Leases on their way to workers on other hosts: in the form that each link asks for, and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import zmq
from msgspec import structs

from subtitled.config import SAMPLE_RATE
from subtitled.core.broker import Broker
from subtitled.core.records import SegmentKey
from subtitled.workers import backend as be
from subtitled.workers.gate import Gate
from subtitled.workers.packing import Packing, Sound
from subtitled.workers.wire_codec import Mode, choose


class Shipping:
    """Belongs to the thread of the server's loop."""

    def __init__(
        self, gate: Gate, broker: Broker, mode: Mode, call_back: Callable[[Callable[[], None]], None]
    ) -> None:
        """Start nothing yet; `call_back`, called in another thread, has a function called in the loop's."""
        self._gate = gate
        self._broker = broker
        self._packing = Packing(call_back)
        self.mode = mode
        """As configured."""

    def send(self, worker: str, message: be.Transcribe, sounds: Sequence[Sound]) -> None:
        """Send a lease with its audio, at once or when that is packed; one to a worker that is gone is dropped."""
        session = self._gate.sessions.get(worker)
        if session is None:
            return
        session.codec = choose(
            self.mode,
            session.codec,
            bytes_per_s=session.meter.bytes_per_s,
            audio_per_s=self._audio_per_s(session.slot),
        )
        items = tuple(structs.replace(item, codec=session.codec) for item in message.items)
        pcm_bytes = sum(len(pcm) for _, pcm in sounds)
        send = partial(self._send_packed, worker, structs.replace(message, items=items), pcm_bytes)
        self._packing.pack(worker, sounds, session.codec, send)

    def forget(self, key: SegmentKey) -> None:
        """Forget what was made of a segment's PCM."""
        self._packing.forget(key)

    def close(self) -> None:
        """Send nothing more."""
        self._packing.close()

    def _audio_per_s(self, slot: str) -> float | None:
        """Return the seconds of audio that a worker decodes in a second, in full windows; None before its first answer."""
        worker = self._broker.roster.workers[slot]
        if not worker.pace.leases:
            return None
        window_s = (self._broker.window_samples or 0) / SAMPLE_RATE
        return self._broker.leasing.sizing.decodes_per_s(worker) * window_s

    def _send_packed(
        self, worker: str, message: be.Transcribe, pcm_bytes: int, blobs: Sequence[zmq.Frame]
    ) -> None:
        self._gate.send_lease(worker, message, blobs, pcm_bytes=pcm_bytes)
