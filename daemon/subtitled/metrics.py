"""Prometheus metrics of the daemon, and the port that serves them."""

from __future__ import annotations

from collections.abc import Iterable
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from subtitled.backend import SegmentResult
from subtitled.core.broker import Broker
from subtitled.core.records import Role
from subtitled.core.states import WorkerState
from subtitled.cues.decisions import Verdict
from subtitled.errors import SubtitledError

_SHARES = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics:
    """The daemon's metrics; values are set from the server's loop."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.model_loads = Counter(
            "subtitled_model_loads",
            "Models loaded, once in the life of each transcribe worker, and again after each unloading.",
            ["slot"],
            registry=self.registry,
        )
        self.model_unloads = Counter(
            "subtitled_model_unloads",
            "Models that left the memory because there was nothing to do.",
            ["slot"],
            registry=self.registry,
        )
        self.segments = Counter(
            "subtitled_segments", "Segments by what became of them.", ["event"], registry=self.registry
        )
        self.jobs = Counter(
            "subtitled_jobs", "Jobs by what became of them.", ["event"], registry=self.registry
        )
        self.audio_seconds = Counter(
            "subtitled_audio_seconds", "Audio transcribed, in seconds.", ["slot"], registry=self.registry
        )
        self.lease_seconds = Histogram(
            "subtitled_lease_seconds",
            "Time that a worker decoded a lease, in seconds.",
            ["slot"],
            registry=self.registry,
            buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100),
        )
        self.window_fill = Histogram(
            "subtitled_window_fill_ratio",
            "Share of the model's window that a leased segment fills.",
            registry=self.registry,
            buckets=_SHARES,
        )
        self.batch_fill = Histogram(
            "subtitled_batch_fill_ratio",
            "Segments of a lease as a share of the worker's batch size.",
            ["slot"],
            registry=self.registry,
            buckets=_SHARES,
        )
        self.languages = Counter(
            "subtitled_segment_languages",
            "Segments with speech by the language they were decoded in.",
            ["language"],
            registry=self.registry,
        )
        self.fallbacks = Counter(
            "subtitled_fallbacks",
            "Windows decoded again, by the measure that looked wrong and the temperature that followed.",
            ["cause", "temperature"],
            registry=self.registry,
        )
        self.silences = Counter(
            "subtitled_silences_dropped",
            "Windows whose text was dropped because nobody speaks there.",
            registry=self.registry,
        )
        self.loops = Counter(
            "subtitled_loops_cut",
            "Windows whose text said one thing again and again, and was cut.",
            registry=self.registry,
        )
        self.worker_restarts = Counter(
            "subtitled_worker_restarts", "Worker processes started again.", ["slot"], registry=self.registry
        )
        self.workers = Gauge(
            "subtitled_workers", "Workers by role and state.", ["role", "state"], registry=self.registry
        )
        self.ready_segments = Gauge(
            "subtitled_ready_segments", "Segments that wait for a worker.", registry=self.registry
        )
        self.queued_bytes = Gauge(
            "subtitled_queued_bytes", "PCM in the daemon's memory.", registry=self.registry
        )
        self.uploads = Counter(
            "subtitled_uploads", "Uploads by what became of them.", ["event"], registry=self.registry
        )
        self.upload_bytes = Counter(
            "subtitled_upload_bytes", "Bytes of uploads received.", registry=self.registry
        )
        self.uploads_open = Gauge(
            "subtitled_uploads_open", "Uploads that are not complete.", registry=self.registry
        )
        self.spool_bytes = Gauge(
            "subtitled_spool_bytes", "Bytes kept for files that clients send.", registry=self.registry
        )
        self.refused_keys = Counter(
            "subtitled_refused_keys", "Connections with a key that is not allowed.", registry=self.registry
        )
        self.refused_requests = Counter(
            "subtitled_refused_requests",
            "Requests that were answered with an Error.",
            ["code"],
            registry=self.registry,
        )
        self.hung_up = Counter(
            "subtitled_hung_up",
            "Connections of clients that were ended because of their number, or the memory they took.",
            ["reason"],
            registry=self.registry,
        )
        self._server: WSGIServer | None = None

    def serve(self, endpoint: str) -> None:
        """Serve /metrics at `host:port` in a thread of its own; "" serves nothing.

        Raises SubtitledError when the port cannot be bound.
        """
        if not endpoint:
            return
        host, _, port = endpoint.rpartition(":")
        try:
            self._server, _ = start_http_server(int(port), addr=host.strip("[]"), registry=self.registry)
        except OSError as error:
            raise SubtitledError(
                f'listen.metrics = "{endpoint}": {error.strerror}; choose another port, or "" to turn metrics off'
            ) from error

    def update(self, broker: Broker) -> None:
        """Set the gauges to what is so now."""
        self.ready_segments.set(len(broker.leasing.ready))
        self.queued_bytes.set(broker.ledger.queued_bytes)
        counts: dict[tuple[str, str], int] = {
            (role.value, state.value): 0 for role in Role for state in WorkerState
        }
        for worker in broker.roster.workers.values():
            counts[worker.role.value, worker.state.value] += 1
        for labels, count in counts.items():
            self.workers.labels(*labels).set(count)

    def count_results(self, results: Iterable[SegmentResult]) -> None:
        """Count the languages of an answered lease, and what was decided about its windows."""
        for result in results:
            if result.is_speech:
                self.languages.labels(result.language).inc()
            for decision in result.decisions:
                match decision.verdict:
                    case Verdict.FALLBACK:
                        self.fallbacks.labels(decision.cause, f"{decision.temperature:g}").inc()
                    case Verdict.SILENCE:
                        self.silences.inc()
                    case Verdict.LOOP:
                        self.loops.inc()

    def count_lease(self, slot: str, samples: Iterable[int], *, window_samples: int, batch_size: int) -> None:
        """Count how full the windows and the batch of a lease are; `samples` are the lengths of its segments."""
        lengths = tuple(samples)
        for length in lengths:
            self.window_fill.observe(length / window_samples)
        self.batch_fill.labels(slot).observe(len(lengths) / batch_size)

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
