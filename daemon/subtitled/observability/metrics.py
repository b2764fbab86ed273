"""Prometheus metrics of the daemon."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from platform import python_version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from subtitled.core.protocol import ResultSummary
from subtitled.core.transcription import DecisionKind
from subtitled.observability.gpu import GpuCollector
from subtitled.version import VERSION

STAGE_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 2.5, 10, 60, 300, 1800)
"""From the features of a clip to the decoding of a ten-hour file."""

_SHARES = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics:
    """The daemon's metrics; values are set from the server's loop, the time of writing from the thread that writes."""

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
        self.retries = Counter(
            "subtitled_retries",
            "Work to be done again: segments and files whose worker was lost, failed jobs that somebody retried.",
            ["subject"],
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "subtitled_stage_seconds",
            "Time that a stage took, in seconds: decode and vad of a file, features and transcribe of a lease, "
            "write of a job.",
            ["stage"],
            registry=self.registry,
            buckets=STAGE_BUCKETS_S,
        )
        self.queue_audio_seconds = Gauge(
            "subtitled_queue_audio_seconds",
            "Audio of the segments that wait for a worker, in seconds.",
            registry=self.registry,
        )
        self.oldest_ready_seconds = Gauge(
            "subtitled_oldest_ready_seconds",
            "How long the oldest of the segments that wait for a worker has waited, in seconds; 0 if none waits.",
            registry=self.registry,
        )
        self.busy_ratio = Gauge(
            "subtitled_worker_busy_ratio",
            "Share of the last minute in which a worker decoded.",
            ["slot"],
            registry=self.registry,
        )
        self.worker_broken = Gauge(
            "subtitled_worker_broken",
            "1 for a worker that cannot work, or is put aside for its failures; else 0.",
            ["slot"],
            registry=self.registry,
        )
        self.worker_round_trip = Gauge(
            "subtitled_worker_round_trip_seconds",
            "How long a worker on another host takes to answer, in seconds: a moving mean.",
            ["slot"],
            registry=self.registry,
        )
        self.worker_bytes = Counter(
            "subtitled_worker_bytes",
            "Bytes sent to workers on other hosts, and received from them.",
            ["slot", "direction"],
            registry=self.registry,
        )
        self.gpus = GpuCollector(self.registry)
        build = Info("subtitled_build", "What runs here.", registry=self.registry)
        engines = {name.replace("-", "_"): version(name) for name in ("ctranslate2", "faster-whisper")}
        build.info({"version": VERSION, "python": python_version(), **engines})

    def count_results(self, results: Iterable[ResultSummary]) -> None:
        """Count the languages of an answered lease, and what was decided about its windows."""
        for result in results:
            if result.is_speech:
                self.languages.labels(result.language).inc()
            for decision in result.decisions:
                match decision.verdict:
                    case DecisionKind.FALLBACK:
                        self.fallbacks.labels(decision.cause, f"{decision.temperature:g}").inc()
                    case DecisionKind.SILENCE:
                        self.silences.inc()
                    case DecisionKind.LOOP:
                        self.loops.inc()

    def count_lease(self, slot: str, samples: Iterable[int], *, window_samples: int, batch_size: int) -> None:
        """Count how full the windows and the batch of a lease are; `samples` are the lengths of its segments."""
        lengths = tuple(samples)
        for length in lengths:
            self.window_fill.observe(length / window_samples)
        self.batch_fill.labels(slot).observe(len(lengths) / batch_size)
