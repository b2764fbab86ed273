"""The transcribe role: loads the model once and decodes leases in order.

One thread (or several, `streams`) decodes a lease, while another thread computes the log-mel features of the next.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np
from msgspec import Struct

from subtitle.errors import ProtocolError
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
    SegmentResult,
    ToWorker,
    Transcribe,
    Transcribed,
    WorkerSettings,
)
from subtitled.core.records import SegmentKey
from subtitled.errors import ExitCode, WireAudioError
from subtitled.workers.channel import Channel, MessagePort, start_thread
from subtitled.workers.flac import unpack
from subtitled.workers.model_loader import Load, LoadedModel, ModelLoadError, load_model
from subtitled.workers.validation import check_result


class _Lease(Struct, frozen=True):
    order: Transcribe
    features: list[np.ndarray]
    features_s: float


class TranscribeRole:
    """Decodes leases in its own threads; a RoleHandler."""

    def __init__(self, port: MessagePort, loaded: LoadedModel) -> None:
        """Start the threads; they send through `port`."""
        self._port = port
        self._engine = loaded.engine
        self._idle_unload = loaded.residence
        self._device = loaded.device
        self._streams = loaded.settings.streams
        self._is_abandoned = False
        """Leases that are not started are dropped."""
        self._other_threads = threading.Semaphore(self._streams - 1)
        """Counts the decoding threads that end before the last one."""
        self._orders: queue.SimpleQueue[tuple[Transcribe, Sequence[memoryview]] | None] = queue.SimpleQueue()
        self._featured: queue.Queue[_Lease | None] = queue.Queue(maxsize=1)
        start_thread(port, "features", self._compute_features)
        for number in range(self._streams):
            start_thread(port, f"decode{number}", self._decode)

    def receive(self, message: ToWorker, blobs: Sequence[memoryview]) -> None:
        """Take a lease, or Drain."""
        match message:
            case Transcribe():
                self._orders.put((message, blobs))
            case Drain():
                self._orders.put(None)
            case _:
                raise TypeError(f"a transcribe worker received {type(message).__name__}")

    def abandon(self) -> None:
        """Drop leases that are not started, and end after the others; may be called in any thread."""
        self._is_abandoned = True
        self._orders.put(None)

    def heartbeat(self) -> Heartbeat:
        """Return a heartbeat."""
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
        """Wait for a lease, and unload the model after the idle timeout; None: there are no more."""
        while True:
            try:
                return self._featured.get(timeout=self._idle_unload.wait_s)
            except queue.Empty:
                if self._idle_unload.leave():
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
                with self._idle_unload.hold() as load_s:
                    results = dual_task.transcribe(
                        partial(self._engine.transcribe, word_timestamps=order.word_timestamps),
                        lease.features,
                        requests,
                        [item.is_translated_too for item in order.items],
                        [item.sound for item in order.items],
                    )
            except (OutOfMemoryError, ValueError) as error:
                self._port.post(LeaseRefused(lease=order.lease, cause=str(error)))
                continue
            except RuntimeError as error:
                if self._device == "cpu":
                    raise
                # The CUDA context may be broken: nothing is retried in this process.
                log.get().error(log.WORKER_LOST, cause=str(error))
                self._port.post(ExitReason(cause=str(error)))
                self._port.stop(ExitCode.CUDA)
                return
            try:
                items = tuple(
                    _item(item.key, result) for item, result in zip(order.items, results, strict=True)
                )
            except (ProtocolError, msgspec.ValidationError) as error:
                self._port.post(
                    LeaseRefused(lease=order.lease, cause=f"invalid result of the model: {error}")
                )
                continue
            self._port.post(
                Transcribed(
                    lease=order.lease,
                    items=items,
                    features_s=lease.features_s,
                    decode_s=time.monotonic() - started - load_s,
                    load_s=load_s,
                )
            )
        if not self._other_threads.acquire(blocking=False):
            self._port.stop(ExitCode.OK)


def _item(key: SegmentKey, result: SegmentResult) -> ItemResult:
    """Return a result to send; raise ValidationError or ProtocolError for one that the daemon would not accept."""
    item = ItemResult.of(key, result)
    check_result(msgspec.msgpack.decode(item.result, type=SegmentResult))
    return item


def run(channel: Channel, settings: WorkerSettings, *, load: Load = load) -> ExitCode:
    """Load the model, send WorkerReady, serve until drained or broken; `load`: see `model_loader.Load`."""
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
