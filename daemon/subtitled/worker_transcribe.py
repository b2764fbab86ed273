"""The transcribe role: a model loaded once, leases decoded one after the other.

Two threads: while one decodes a lease, the other computes the log-mel features of the next.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from msgspec import Struct

from subtitled import log, translated
from subtitled.backend import (
    Drain,
    Heartbeat,
    ItemResult,
    LastWords,
    Ready,
    Refused,
    ToWorker,
    Transcribe,
    Transcribed,
    WorkerSettings,
)
from subtitled.cuda import preload_libraries
from subtitled.engine import Engine, OutOfMemoryError, Request
from subtitled.errors import ExitCode, ModelError
from subtitled.model import NotReachableError, load
from subtitled.version import VERSION
from subtitled.worker import Channel, start_thread

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

CREDIT = 2
"""Leases held at once: one being decoded, one whose features are being computed."""


class _Lease(Struct, frozen=True):
    order: Transcribe
    features: list[np.ndarray]
    features_s: float


class TranscribeWork:
    """Decodes leases in threads of its own; see `worker.Work`."""

    def __init__(self, channel: Channel, engine: Engine, device: str) -> None:
        self._channel = channel
        self._engine = engine
        self._device = device
        self._orders: queue.SimpleQueue[tuple[Transcribe, Sequence[memoryview]] | None] = queue.SimpleQueue()
        self._featured: queue.Queue[_Lease | None] = queue.Queue(maxsize=1)
        start_thread(channel, "features", self._compute_features)
        start_thread(channel, "decode", self._decode)

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
            features = [self._engine.features(np.frombuffer(blob, dtype="<i2")) for blob in blobs]
            self._featured.put(_Lease(message, features, time.monotonic() - started))
        self._featured.put(None)

    def _decode(self) -> None:
        while (lease := self._featured.get()) is not None:
            order = lease.order
            started = time.monotonic()
            requests = [Request(language=item.language, task=item.task) for item in order.items]
            try:
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
                    decode_s=time.monotonic() - started,
                )
            )
        self._channel.stop(ExitCode.OK)


def run(channel: Channel, settings: WorkerSettings, *, load: Callable[..., WhisperModel] = load) -> ExitCode:
    """Load the model, say Ready, serve until drained or broken. `load` is `model.load` or does as it does."""
    started = time.monotonic()
    if settings.device != "cpu":
        preload_libraries()
    try:
        model = load(
            settings.model,
            device=settings.device,
            compute_type=settings.compute_type,
            cpu_threads=settings.cpu_threads,
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
    engine = Engine(model, beam_size=settings.beam_size, batch_size=settings.batch_size)
    work = TranscribeWork(channel, engine, settings.device)
    channel.post(
        Ready(
            version=VERSION,
            credit=CREDIT,
            device=settings.device,
            model=settings.model,
            window_samples=engine.window_samples,
            languages=engine.languages,
            load_s=time.monotonic() - started,
        )
    )
    return channel.serve(work)
