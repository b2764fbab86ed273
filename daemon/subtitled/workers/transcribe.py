"""The transcribe role: a model loaded once, leases decoded one after the other.

While one thread decodes a lease (or several, each a lease of its own: `streams`), another computes the log-mel features
of the next.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from subtitled import log
from subtitled.errors import ExitCode, ModelError, WireAudioError
from subtitled.speech.cuda import preload_libraries
from subtitled.speech.engine import Engine, OutOfMemoryError
from subtitled.speech.model import NotReachableError, auto_batch_size, load
from subtitled.speech.prompts import Request
from subtitled.speech.residence import Residence
from subtitled.version import VERSION
from subtitled.workers.backend import (
    Drain,
    Heartbeat,
    ItemResult,
    LastWords,
    Ready,
    Refused,
    ToWorker,
    Transcribe,
    Transcribed,
    Unloaded,
    WorkerSettings,
)
from subtitled.workers.process import Channel, start_thread
from subtitled.workers.wire_audio import unpack
from subtitled.writing import translated

if TYPE_CHECKING:
    from faster_whisper import WhisperModel


class _Lease(Struct, frozen=True):
    order: Transcribe
    features: list[np.ndarray]
    features_s: float


class TranscribeWork:
    """Decodes leases in threads of its own; see `worker.Work`."""

    def __init__(
        self, channel: Channel, engine: Engine, residence: Residence, *, device: str, streams: int
    ) -> None:
        self._channel = channel
        self._engine = engine
        self._residence = residence
        self._device = device
        self._streams = streams
        self._left = threading.Semaphore(streams - 1)
        """Threads that may end before the last one."""
        self._orders: queue.SimpleQueue[tuple[Transcribe, Sequence[memoryview]] | None] = queue.SimpleQueue()
        self._featured: queue.Queue[_Lease | None] = queue.Queue(maxsize=1)
        start_thread(channel, "features", self._compute_features)
        for number in range(streams):
            start_thread(channel, f"decode{number}", self._decode)

    def receive(self, message: ToWorker, blobs: Sequence[memoryview]) -> None:
        """Take a lease, or the order to go."""
        match message:
            case Transcribe():
                self._orders.put((message, blobs))
            case Drain():
                self._orders.put(None)
            case _:
                raise TypeError(f"a transcribe worker was sent {type(message).__name__}")

    def heartbeat(self) -> Heartbeat:
        """Say that the interpreter lives; that work moves is seen from the leases."""
        return Heartbeat()

    def _compute_features(self) -> None:
        while (order := self._orders.get()) is not None:
            started = time.monotonic()
            message, blobs = order
            try:
                features = [
                    self._engine.features(unpack(blob, item.codec))
                    for blob, item in zip(blobs, message.items, strict=True)
                ]
            except WireAudioError as error:
                self._channel.post(Refused(lease=message.lease, cause=str(error)))
                continue
            self._featured.put(_Lease(message, features, time.monotonic() - started))
        for _ in range(self._streams):
            self._featured.put(None)

    def _next(self) -> _Lease | None:
        """Wait for a lease, and free the model's memory when none comes for long; None: no more will come."""
        while True:
            try:
                return self._featured.get(timeout=self._residence.wait_s)
            except queue.Empty:
                if self._residence.leave():
                    self._channel.post(Unloaded())

    def _decode(self) -> None:
        while (lease := self._next()) is not None:
            order = lease.order
            started = time.monotonic()
            requests = [
                Request(
                    language=item.language,
                    task=item.task,
                    initial_prompt=item.initial_prompt,
                    hotwords=item.hotwords,
                )
                for item in order.items
            ]
            try:
                with self._residence.hold() as load_s:
                    results = translated.transcribe(
                        partial(self._engine.transcribe, word_timestamps=order.word_timestamps),
                        lease.features,
                        requests,
                        [item.is_translated_too for item in order.items],
                    )
            except (OutOfMemoryError, ValueError) as error:
                self._channel.post(Refused(lease=order.lease, cause=str(error)))
                continue
            except RuntimeError as error:
                if self._device == "cpu":
                    raise
                # The CUDA context may be broken: nothing is retried in it (design, section 6).
                log.get().error(log.WORKER_LOST, cause=str(error))
                self._channel.post(LastWords(cause=str(error)))
                self._channel.stop(ExitCode.CUDA)
                return
            items = tuple(
                ItemResult(job=item.job, index=item.index, result=result)
                for item, result in zip(order.items, results, strict=True)
            )
            self._channel.post(
                Transcribed(
                    lease=order.lease,
                    items=items,
                    features_s=lease.features_s,
                    decode_s=time.monotonic() - started - load_s,
                    load_s=load_s,
                )
            )
        if not self._left.acquire(blocking=False):
            self._channel.stop(ExitCode.OK)


def run(channel: Channel, settings: WorkerSettings, *, load: Callable[..., WhisperModel] = load) -> ExitCode:
    """Load the model, say Ready, serve until drained or broken. `load` is `model.load` or does as it does."""
    started = time.monotonic()
    wanted = settings.engine
    if settings.device != "cpu":
        preload_libraries()
    try:
        model = load(
            wanted.model,
            device=settings.device,
            compute_type=wanted.compute_type,
            cpu_threads=settings.cpu_threads,
            streams=wanted.streams,
        )
    except NotReachableError as error:
        channel.post(LastWords(cause=str(error)))
        return ExitCode.FAILED
    except ModelError as error:
        channel.post(LastWords(cause=str(error)))
        return ExitCode.FATAL
    except RuntimeError as error:
        channel.post(LastWords(cause=f"{settings.device}: {error}"))
        return ExitCode.CUDA
    engine = Engine(
        model,
        beam_size=wanted.beam_size,
        batch_size=wanted.batch_size
        or auto_batch_size(wanted.model, settings.device, streams=wanted.streams),
        decoding=wanted.decoding,
    )
    work = TranscribeWork(
        channel,
        engine,
        Residence(model.model, wanted.idle_unload_s),
        device=settings.device,
        streams=wanted.streams,
    )
    channel.post(
        Ready(
            version=VERSION,
            # One more than it decodes, whose features are computed meanwhile.
            credit=wanted.streams + 1,
            streams=wanted.streams,
            batch_size=engine.batch_size,
            device=settings.device,
            model=wanted.model,
            window_samples=engine.window_samples,
            languages=engine.languages,
            load_s=time.monotonic() - started,
        )
    )
    return channel.serve(work)
