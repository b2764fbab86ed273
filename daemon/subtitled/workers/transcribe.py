"""The transcribe role: a model loaded once, leases decoded one after the other.

While one thread decodes a lease (or several, each a lease of its own: `streams`), another computes the log-mel features
of the next.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
from msgspec import Struct

from subtitled import log
from subtitled.asr import dual_task
from subtitled.asr.engine import OutOfMemoryError
from subtitled.asr.model import load
from subtitled.asr.prompts import PromptRequest
from subtitled.core.protocol import (
    Drain,
    ExitReason,
    Heartbeat,
    ItemResult,
    LeaseRefused,
    ModelUnloaded,
    ToWorker,
    Transcribe,
    Transcribed,
    WorkerSettings,
)
from subtitled.errors import ExitCode, WireAudioError
from subtitled.workers.channel import Channel, MessagePort, start_thread
from subtitled.workers.flac import unpack
from subtitled.workers.model_loader import Load, LoadedModel, ModelLoadError, load_model


class _Lease(Struct, frozen=True):
    order: Transcribe
    features: list[np.ndarray]
    features_s: float


class TranscribeRole:
    """Decodes leases in threads of its own; see `worker.Work`."""

    def __init__(self, port: MessagePort, loaded: LoadedModel) -> None:
        """Start the threads; what they have to say goes to `port`."""
        self._port = port
        self._engine = loaded.engine
        self._residence = loaded.residence
        self._device = loaded.device
        self._streams = loaded.settings.streams
        self._is_abandoned = False
        """Nobody wants what is not begun yet."""
        self._left = threading.Semaphore(self._streams - 1)
        """Threads that may end before the last one."""
        self._orders: queue.SimpleQueue[tuple[Transcribe, Sequence[memoryview]] | None] = queue.SimpleQueue()
        self._featured: queue.Queue[_Lease | None] = queue.Queue(maxsize=1)
        start_thread(port, "features", self._compute_features)
        for number in range(self._streams):
            start_thread(port, f"decode{number}", self._decode)

    def receive(self, message: ToWorker, blobs: Sequence[memoryview]) -> None:
        """Take a lease, or the order to go."""
        match message:
            case Transcribe():
                self._orders.put((message, blobs))
            case Drain():
                self._orders.put(None)
            case _:
                raise TypeError(f"a transcribe worker was sent {type(message).__name__}")

    def abandon(self) -> None:
        """Forget what is not begun yet, and end when the rest is done; may be called in any thread."""
        self._is_abandoned = True
        self._orders.put(None)

    def heartbeat(self) -> Heartbeat:
        """Say that the interpreter lives; that work moves is seen from the leases."""
        return Heartbeat()

    def _compute_features(self) -> None:
        while (order := self._orders.get()) is not None:
            if self._is_abandoned:
                continue
            started = time.monotonic()
            message, blobs = order
            try:
                features = [
                    self._engine.features(unpack(blob, item.codec))
                    for blob, item in zip(blobs, message.items, strict=True)
                ]
            except WireAudioError as error:
                self._port.post(LeaseRefused(lease=message.lease, cause=str(error)))
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
                    self._port.post(ModelUnloaded())

    def _decode(self) -> None:
        while (lease := self._next()) is not None:
            if self._is_abandoned:
                continue
            order = lease.order
            started = time.monotonic()
            requests = [
                PromptRequest(
                    language=item.language,
                    task=item.task,
                    initial_prompt=item.initial_prompt,
                    hotwords=item.hotwords,
                )
                for item in order.items
            ]
            try:
                with self._residence.hold() as load_s:
                    results = dual_task.transcribe(
                        partial(self._engine.transcribe, word_timestamps=order.word_timestamps),
                        lease.features,
                        requests,
                        [item.is_translated_too for item in order.items],
                    )
            except (OutOfMemoryError, ValueError) as error:
                self._port.post(LeaseRefused(lease=order.lease, cause=str(error)))
                continue
            except RuntimeError as error:
                if self._device == "cpu":
                    raise
                # The CUDA context may be broken: nothing is retried in it (design, section 6).
                log.get().error(log.WORKER_LOST, cause=str(error))
                self._port.post(ExitReason(cause=str(error)))
                self._port.stop(ExitCode.CUDA)
                return
            items = tuple(
                ItemResult.of(item.key, result) for item, result in zip(order.items, results, strict=True)
            )
            self._port.post(
                Transcribed(
                    lease=order.lease,
                    items=items,
                    features_s=lease.features_s,
                    decode_s=time.monotonic() - started - load_s,
                    load_s=load_s,
                )
            )
        if not self._left.acquire(blocking=False):
            self._port.stop(ExitCode.OK)


def run(channel: Channel, settings: WorkerSettings, *, load: Load = load) -> ExitCode:
    """Load the model, say Ready, serve until drained or broken. `load` is `model.load` or does as it does."""
    try:
        loaded = load_model(
            settings.engine,
            device=settings.device,
            cpu_threads=settings.cpu_threads,
            wants_digest=settings.wants_digest,
            load=load,
        )
    except ModelLoadError as error:
        channel.post(ExitReason(cause=str(error)))
        return error.code
    work = TranscribeRole(channel, loaded)
    channel.post(loaded.ready(settings.device))
    return channel.serve(work)
