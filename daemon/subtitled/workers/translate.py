"""The translate role: sends the sentences of leases to a chat endpoint. It has no device."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from subtitled.core import protocol as pr
from subtitled.core.translation import SentenceTranslation
from subtitled.errors import ExitCode
from subtitled.translation.engines.chat import EndpointError
from subtitled.translation.engines.openai import EndpointResult, OpenAiEngine
from subtitled.version import VERSION
from subtitled.workers.channel import Channel, MessagePort, start_thread


class _DroppedError(Exception):
    """The lease is no longer needed."""


class TranslateRole:
    """Translates leases in as many threads as the endpoint may have requests at once; a RoleHandler."""

    def __init__(self, port: MessagePort, engine: OpenAiEngine, threads: int) -> None:
        """Start the threads; they send through `port`."""
        self._port = port
        self._engine = engine
        self._threads = threads
        self._lock = threading.Lock()
        self._dropped: dict[int, threading.Event] = {}
        """For each lease without an answer, whether it is no longer needed."""
        self._steps: dict[int, int] = {}
        """For each lease without an answer, and each that still runs, how often it was found there: the engine limits its time."""
        self._ended_threads = 0
        self._orders: queue.SimpleQueue[pr.Translate | None] = queue.SimpleQueue()
        for number in range(threads):
            start_thread(port, f"endpoint{number}", self._work)

    def receive(self, message: pr.ToWorker, _blobs: Sequence[memoryview]) -> None:
        """Take a lease, its withdrawal, or Drain."""
        match message:
            case pr.Translate(lease=lease):
                with self._lock:
                    self._dropped[lease] = threading.Event()
                    self._steps[lease] = 1
                self._orders.put(message)
            case pr.AbandonLease(lease=lease):
                # Answered at once: a call that runs cannot be stopped, and its answer is dropped.
                if self._close(lease):
                    self._port.post(pr.LeaseAbandoned(lease=lease))
            case pr.Drain():
                for _ in range(self._threads):
                    self._orders.put(None)
            case _:
                raise TypeError(f"a translate worker received {type(message).__name__}")

    def heartbeat(self) -> pr.Heartbeat:
        """Return a heartbeat; each one counts as progress of all leases.

        A lease waits while the call of an abandoned one runs, which the daemon no longer counts.
        """
        with self._lock:
            for lease in self._steps:
                self._steps[lease] += 1
            progress = tuple(
                pr.LeaseProgress(lease=lease, steps=steps) for lease, steps in self._steps.items()
            )
        return pr.Heartbeat(leases=progress)

    def _close(self, lease: int) -> bool:
        """Return whether a lease has no answer yet; it has from now on."""
        with self._lock:
            dropped = self._dropped.pop(lease, None)
        if dropped is not None:
            dropped.set()
        return dropped is not None

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            with self._lock:
                dropped = self._dropped.get(order.lease)
                if dropped is None:
                    del self._steps[order.lease]
            if dropped is None:
                continue
            started = time.monotonic()
            try:
                results = tuple(self._result(order, at, dropped) for at in range(len(order.items)))
            except _DroppedError:
                continue
            finally:
                with self._lock:
                    del self._steps[order.lease]
            if self._close(order.lease):
                decode_s = time.monotonic() - started
                self._port.post(pr.Translated(lease=order.lease, results=results, decode_s=decode_s))
        with self._lock:
            self._ended_threads += 1
            is_last = self._ended_threads == self._threads
        if is_last:
            self._port.stop(ExitCode.OK)

    def _result(self, order: pr.Translate, at: int, dropped: threading.Event) -> pr.TextResult:
        """Return the result of one text segment: its sentences untranslated if the endpoint does not work."""

        def pause(seconds: float) -> None:
            if dropped.wait(seconds):
                raise _DroppedError

        item = order.items[at]
        try:
            made = self._engine.translate_one(item.request, pause)
        except _DroppedError:
            raise
        except Exception as error:  # noqa: BLE001 - an answer that the engine cannot handle costs no other request
            problem = str(error) if isinstance(error, EndpointError) else f"the engine failed: {error!r}"
            untranslated = (
                SentenceTranslation.untranslated(sentence, problem) for sentence in item.request.sentences
            )
            made = EndpointResult(sentences=tuple(untranslated), version=self._engine.version, tokens=0)
        return pr.TextResult(
            key=item.key,
            sentences=made.sentences,
            engine=self._engine.name,
            version=made.version[:200],
            tokens=made.tokens,
        )


def run(channel: Channel, settings: pr.WorkerSettings) -> ExitCode:
    """Send WorkerReady, serve until drained; the endpoint is called when there is a lease."""
    endpoint = settings.engine.endpoint or pr.EndpointSettings(url="", model="")
    if not endpoint.url:
        channel.post(pr.ExitReason(cause="the configuration has no endpoint"))
        return ExitCode.FATAL
    work = TranslateRole(channel, OpenAiEngine(endpoint), endpoint.max_concurrent)
    channel.post(
        pr.WorkerReady(
            version=VERSION,
            credit=endpoint.max_concurrent,
            streams=endpoint.max_concurrent,
            model=endpoint.model[:200],
        )
    )
    return channel.serve(work)
