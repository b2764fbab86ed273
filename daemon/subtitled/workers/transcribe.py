"""The transcribe role: loads each model once and decodes leases of audio and of text in order.

One thread (or several, `streams`) decodes a lease, while another thread computes the log-mel features of the next, and loads
its model if necessary.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from subtitle.errors import ProtocolError
from subtitled import log
from subtitled.asr import dual_task
from subtitled.asr.engine import Engine, OutOfMemoryError
from subtitled.asr.model import load
from subtitled.asr.progress import steps_reported_to
from subtitled.asr.prompts import MIXED, PromptRequest
from subtitled.config.checks import LANGUAGES
from subtitled.core import protocol as pr
from subtitled.core.records import SegmentKey
from subtitled.errors import AudioTransferError, ExitCode
from subtitled.translation.engines.ctranslate2 import CTranslate2Engine, TranslationMemoryError
from subtitled.workers.channel import Channel, MessagePort, start_thread
from subtitled.workers.flac import unpack
from subtitled.workers.model_loader import Load, LoadedModel, ModelLoadError, load_model
from subtitled.workers.resident_models import ModelUse, ResidentModels
from subtitled.workers.validation import check_result


class _AbandonedError(Exception):
    """The lease is no longer needed."""


class _Lease(Struct, frozen=True):
    order: pr.Transcribe | pr.Translate
    use: ModelUse
    features: list[np.ndarray]
    """Features of each audio segment of the Transcribe."""
    features_s: float


class _WrongModelError(Exception):
    """The model of a lease of audio translates text, or the other way round."""


class TranscribeRole:
    """Decodes leases in its own threads; a RoleHandler."""

    def __init__(self, port: MessagePort, loaded: LoadedModel, models: ResidentModels) -> None:
        """Start the threads; they send through `port`. `loaded` is the default model, one of `models`."""
        self._port = port
        self._models = models
        self._device = loaded.device
        self._streams = loaded.streams
        self._is_abandoned = False
        """All leases are dropped."""
        self._held: set[int] = set()
        """Leases without an answer."""
        self._abandoned: set[int] = set()
        """Leases that are to be dropped."""
        self._steps: dict[int, int] = {}
        """Calls of the model that are done for each running lease."""
        self._other_threads = threading.Semaphore(self._streams - 1)
        """Counts the decoding threads that end before the last one."""
        self._orders: queue.SimpleQueue[
            tuple[pr.Transcribe | pr.Translate, Sequence[memoryview]] | pr.FreeModel | pr.KeepModel | None
        ] = queue.SimpleQueue()
        self._featured: queue.Queue[_Lease | None] = queue.Queue(maxsize=1)
        start_thread(port, "features", self._compute_features)
        for number in range(self._streams):
            start_thread(port, f"decode{number}", self._decode)

    def receive(self, message: pr.ToWorker, blobs: Sequence[memoryview]) -> None:
        """Take a lease, its withdrawal, a model to unload or to keep, or Drain."""
        match message:
            case pr.Transcribe(lease=lease) | pr.Translate(lease=lease):
                self._held.add(lease)
                self._orders.put((message, blobs))
            case pr.FreeModel() | pr.KeepModel():
                self._orders.put(message)
            case pr.AbandonLease(lease=lease):
                if lease in self._held:
                    self._abandoned.add(lease)
            case pr.Drain():
                self._orders.put(None)
            case _:
                raise TypeError(f"a transcribe worker received {type(message).__name__}")

    def abandon(self) -> None:
        """Drop all leases, and end; may be called in any thread."""
        self._is_abandoned = True
        self._orders.put(None)

    def heartbeat(self) -> pr.Heartbeat:
        """Return a heartbeat with the progress of the running leases."""
        progress = (pr.LeaseProgress(lease=lease, steps=steps) for lease, steps in self._steps.copy().items())
        return pr.Heartbeat(leases=tuple(progress))

    def _compute_features(self) -> None:
        while (order := self._orders.get()) is not None:
            if isinstance(order, pr.FreeModel):
                if self._models.free(order.model):
                    self._port.post(pr.ModelUnloaded(model=order.model))
                continue
            if isinstance(order, pr.KeepModel):
                self._models.keep(order.model, is_kept=order.is_kept)
                continue
            message, blobs = order
            if self._is_dropped(message.lease):
                continue
            try:
                use = self._models.use(message)
            except ModelLoadError as error:
                if self._device != "cpu" and error.code is ExitCode.CUDA and not error.is_out_of_memory:
                    self._stop_with(str(error))
                    return
                self._answer(
                    pr.LeaseRefused(
                        lease=message.lease, cause=str(error), is_model_fault=True, evicted=error.evicted
                    )
                )
                continue
            if use.loaded is not None or use.load_s:
                # The load counts as a step: a later end of the process is blamed on the segments.
                progress = pr.LeaseProgress(lease=message.lease, steps=1)
                self._port.post(pr.Heartbeat(leases=(progress,)))
            started = time.monotonic()
            try:
                features = _features(message, use, blobs)
            except (AudioTransferError, _WrongModelError) as error:
                use.pin.close()
                self._answer(pr.LeaseRefused(lease=message.lease, cause=str(error), **self._changes(use)))
                continue
            self._featured.put(_Lease(message, use, features, time.monotonic() - started))
        for _ in range(self._streams):
            self._featured.put(None)

    def _changes(self, use: ModelUse) -> dict[str, Any]:
        """Return what every answer to a lease reports about the worker's models."""
        is_changed = use.loaded is not None or use.evicted or use.load_s
        free_bytes = self._models.free_bytes() if is_changed else None
        return {"loaded": use.loaded, "evicted": use.evicted, "free_bytes": free_bytes}

    def _answer(self, message: pr.Transcribed | pr.Translated | pr.LeaseRefused | pr.LeaseAbandoned) -> None:
        """Send the answer to a lease."""
        self._held.discard(message.lease)
        self._abandoned.discard(message.lease)
        self._port.post(message)

    def _send_results(self, order: pr.Transcribe, results: Mapping[int, pr.SegmentResult]) -> None:
        """Send the results of some segments of a running lease."""
        if results:
            self._port.post(pr.SegmentsTranscribed(lease=order.lease, items=_items(order, results)))

    def _is_dropped(self, lease: int, use: ModelUse | None = None) -> bool:
        """Return whether a lease is no longer needed; answer it if it was abandoned.

        `use`: its model, if the worker has got to that.
        """
        if use is not None and (self._is_abandoned or lease in self._abandoned):
            use.pin.close()
        if lease in self._abandoned:
            self._answer(pr.LeaseAbandoned(lease=lease, **(self._changes(use) if use is not None else {})))
            return True
        return self._is_abandoned

    def _on_step(self, lease: int) -> None:
        """Count a call of the model; raise _AbandonedError if the lease is no longer needed."""
        self._steps[lease] += 1
        if self._is_abandoned or lease in self._abandoned:
            raise _AbandonedError

    def _next(self) -> _Lease | None:
        """Wait for a lease, and unload models after the idle timeout; None: there are no more."""
        while True:
            try:
                return self._featured.get(timeout=self._models.wait_s)
            except queue.Empty:
                for name in self._models.unload_idle():
                    self._port.post(pr.ModelUnloaded(model=name))

    def _stop_with(self, cause: str) -> None:
        """End the process: its CUDA context may be broken, so nothing is retried in it."""
        log.get().error(log.WORKER_LOST, cause=cause)
        self._port.post(pr.ExitReason(cause=cause))
        self._port.stop(ExitCode.CUDA)

    def _decode(self) -> None:
        while (lease := self._next()) is not None:
            order, loaded = lease.order, lease.use.loaded
            if self._is_dropped(order.lease, lease.use):
                continue
            self._steps[order.lease] = int(loaded is not None or lease.use.load_s > 0)
            try:
                with lease.use.pin, steps_reported_to(partial(self._on_step, order.lease)):
                    answer = (
                        self._transcribed(lease, order)
                        if isinstance(order, pr.Transcribe)
                        else self._translated(lease, order)
                    )
            except _AbandonedError:
                self._is_dropped(order.lease, lease.use)
                continue
            except (OutOfMemoryError, TranslationMemoryError, ValueError) as error:
                self._answer(pr.LeaseRefused(lease=order.lease, cause=str(error), **self._changes(lease.use)))
                continue
            except (ProtocolError, msgspec.ValidationError) as error:
                cause = f"invalid result of the model: {error}"
                self._answer(pr.LeaseRefused(lease=order.lease, cause=cause, **self._changes(lease.use)))
                continue
            except RuntimeError as error:
                if self._device == "cpu":
                    raise
                self._stop_with(str(error))
                return
            finally:
                del self._steps[order.lease]
            self._answer(answer)
        if not self._other_threads.acquire(blocking=False):
            self._port.stop(ExitCode.OK)

    def _transcribed(self, lease: _Lease, order: pr.Transcribe) -> pr.Transcribed:
        """Decode a lease of audio, and return the answer."""
        started = time.monotonic()
        loaded = lease.use.loaded
        requests = [
            PromptRequest(
                # A language that Whisper has no token for is that of the whole model, which was trained for it.
                language=item.language if item.language == MIXED or item.language in LANGUAGES else None,
                may_be_short=item.is_language_given,
                task=item.task,
                initial_prompt=item.initial_prompt,
                hotwords=item.hotwords,
            )
            for item in order.items
        ]
        results = dual_task.transcribe(
            partial(_speech_engine(lease.use).transcribe, word_timestamps=order.word_timestamps),
            lease.features,
            requests,
            [item.is_translated_too for item in order.items],
            [item.sound for item in order.items],
            # The daemon checks the weights of a model that was loaded for a lease before it takes results.
            partial(self._send_results, order) if loaded is None else lambda _: None,
        )
        return pr.Transcribed(
            lease=order.lease,
            items=_items(order, dict(enumerate(results))),
            features_s=lease.features_s,
            decode_s=time.monotonic() - started,
            load_s=lease.use.load_s,
            **self._changes(lease.use),
        )

    def _translated(self, lease: _Lease, order: pr.Translate) -> pr.Translated:
        """Translate a lease of text, and return the answer."""
        started = time.monotonic()
        engine = _text_engine(lease.use)
        rows = engine.translate([item.request for item in order.items])
        return pr.Translated(
            lease=order.lease,
            results=tuple(
                pr.TextResult(key=item.key, sentences=tuple(row), engine=engine.name, version=engine.version)
                for item, row in zip(order.items, rows, strict=True)
            ),
            decode_s=time.monotonic() - started,
            load_s=lease.use.load_s,
            **self._changes(lease.use),
        )


def _features(
    order: pr.Transcribe | pr.Translate, use: ModelUse, blobs: Sequence[memoryview]
) -> list[np.ndarray]:
    """Return the features of a lease's audio; raises AudioTransferError, and _WrongModelError for a model of the other kind."""
    if isinstance(order, pr.Translate):
        _text_engine(use)
        return []
    engine = _speech_engine(use)
    return [engine.features(unpack(blob, item.codec)) for blob, item in zip(blobs, order.items, strict=True)]


def _speech_engine(use: ModelUse) -> Engine:
    engine = use.model.engine
    if isinstance(engine, CTranslate2Engine):
        raise _WrongModelError(
            f"the model {use.model.settings.model!r} translates text and does not transcribe"
        )
    return engine


def _text_engine(use: ModelUse) -> CTranslate2Engine:
    engine = use.model.engine
    if not isinstance(engine, CTranslate2Engine):
        raise _WrongModelError(
            f"the model {use.model.settings.model!r} transcribes and does not translate text"
        )
    return engine


def _items(order: pr.Transcribe, results: Mapping[int, pr.SegmentResult]) -> tuple[pr.ItemResult, ...]:
    """Return results, by the place of their segments in a lease, to send; raise what `_item` raises."""
    return tuple(_item(order.items[at].key, result) for at, result in results.items())


def _item(key: SegmentKey, result: pr.SegmentResult) -> pr.ItemResult:
    """Return a result to send; raise ValidationError or ProtocolError for one that the daemon would not accept."""
    item = pr.ItemResult.of(key, result)
    check_result(msgspec.msgpack.decode(item.result, type=pr.SegmentResult))
    return item


def run(channel: Channel, settings: pr.WorkerSettings, *, load: Load = load) -> ExitCode:
    """Load the models, send WorkerReady, serve until drained or broken; `load`: see `model_loader.Load`."""
    load_one = partial(
        load_model,
        device=settings.device,
        cpu_threads=settings.cpu_threads,
        wants_digest=settings.wants_digest,
        load=load,
    )
    try:
        loaded = load_one(settings.engine)
    except ModelLoadError as error:
        channel.post(pr.ExitReason(cause=str(error)))
        return error.code
    work = TranscribeRole(
        channel, loaded, ResidentModels(loaded, partial(load_one, max_streams=loaded.streams))
    )
    channel.post(loaded.ready(settings.device))
    return channel.serve(work)
